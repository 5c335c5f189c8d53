"""One source at one node: feasibility distance, holding, epochs, and when a newer seqno is wanted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.feasible import Distance, feasible
from federation.core.policy.roles import Role
from federation.core.route_views import RouteState, Verdict
from federation.core.source import Need, Source, Why
from mesh.model.reasons import RouteReason
from mesh.wire.frames import INFINITY

BARRED = Verdict(RouteState.WITHHELD, RouteReason.IMPORT_DENIED, "rule")


def learn(
    source: Source,
    hop: int | str,
    seqno: int,
    metric: int,
    cost: int = 1,
    epoch: int = 1,
    barred: Verdict | None = None,
) -> bool:
    source.learn(hop, f"x{hop}", Distance(epoch, seqno, metric), ("m", "z"), Role.TRANSIT, cost, barred, 0.0)
    return source.evaluate()


def advertise(source: Source) -> None:
    assert source.selected is not None
    source.advertised(Distance(*source.selected.advert[:2], source.selected.metric))
    source.evaluate()


def using(*routes: tuple[int | str, int, int]) -> Source:
    """A source that learned (hop, seqno, metric) and advertised its choice."""
    source = Source(("z", "o"))
    for hop, seqno, metric in routes:
        learn(source, hop, seqno, metric)
    advertise(source)
    return source


def test_the_nearest_usable_route_is_selected_and_the_nearest_own_one_is_known() -> None:
    source = using((1, 5, 30), ("n2", 5, 10), (3, 5, 20))
    assert source.selected is source.candidates["n2"]
    assert source.external is None  # 20 and 30 are not below the 11 that was advertised
    assert source.candidates[3].refusal == (
        RouteState.INFEASIBLE,
        RouteReason.METRIC_NOT_FEASIBLE,
        "20 >= 11",
    )


def test_a_node_that_advertises_nothing_may_use_every_route() -> None:
    source = Source(("z", "o"))
    for hop, metric in ((1, 30), ("n2", 10), (3, 20)):
        learn(source, hop, 5, metric)
    assert all(route.refusal is None for route in source.candidates.values())
    assert source.external is source.candidates[3]
    assert source.need() is None


def test_a_mere_new_seqno_does_not_ask_for_a_new_line_in_the_fib() -> None:
    source = using((1, 5, 10))
    assert learn(source, 1, 6, 10) is False
    assert learn(source, 1, 6, 9) is True


def test_the_selected_route_is_held_when_its_metric_rises_and_its_true_metric_counts() -> None:
    source = using((1, 5, 10))
    learn(source, 1, 5, 40)
    assert source.selected is source.candidates[1]
    assert source.selected.held
    assert source.shape is not None
    assert source.shape.metric == 41
    assert source.kept == Distance(1, 5, 11)
    assert source.need() == Need(Why.ROSE, 1, 6, (1,))


def test_a_held_route_is_free_again_with_a_newer_seqno() -> None:
    source = using((1, 5, 10))
    learn(source, 1, 5, 40)
    assert learn(source, 1, 6, 40) is True
    assert not source.candidates[1].held
    assert source.need() is None


def test_a_held_route_gives_way_to_a_feasible_one_and_is_then_judged_like_any_other() -> None:
    source = using((1, 5, 10))
    learn(source, 1, 5, 40)
    learn(source, 2, 5, 9, cost=5)
    assert source.selected is source.candidates[2]
    assert source.candidates[1].refusal is not None
    source.forget(2)
    source.evaluate()
    assert source.selected is None
    assert source.need() == Need(Why.STARVED, 1, 6, (1,))


def test_a_held_route_is_dropped_when_it_is_released_or_retracted() -> None:
    for drop in (Source.release, lambda source: source.forget(1)):
        source = using((1, 5, 10))
        learn(source, 1, 5, 40)
        drop(source)
        source.evaluate()
        assert source.selected is None


def test_a_rise_of_a_route_that_is_not_selected_is_not_held() -> None:
    source = using((1, 5, 10), (2, 5, 10))
    assert source.candidates[2].refusal is None
    learn(source, 2, 5, 12)
    assert source.candidates[2].refusal is not None


def test_a_new_epoch_puts_every_older_one_out_of_use() -> None:
    source = using((1, 900, 10), (2, 900, 10))
    learn(source, 2, 1, 50, epoch=2)
    assert source.selected is source.candidates[2]
    assert source.candidates[1].refusal == (RouteState.INFEASIBLE, RouteReason.OLD_EPOCH, "1 < 2")


def test_what_is_barred_is_never_used_and_never_asked_for() -> None:
    source = Source(("z", "o"))
    learn(source, 1, 5, 10, barred=BARRED)
    assert source.selected is None
    assert source.candidates[1].refusal == BARRED
    source.advertised(Distance(1, 5, 3))
    source.evaluate()
    assert source.need() is None


def test_a_better_route_that_is_not_feasible_is_asked_for_unless_it_merely_lags() -> None:
    source = using((1, 5, 10))
    learn(source, 2, 5, 11)
    assert source.need() is None  # 12 is no better than 11
    learn(source, 1, 6, 30)
    advertise(source)
    learn(source, 2, 5, 11)
    assert source.candidates[2].refusal is not None
    assert source.need() is None
    source.advertised(Distance(1, 6, 8))
    learn(source, 1, 6, 5, cost=20)
    learn(source, 2, 6, 12)
    assert source.need() == Need(Why.BETTER, 1, 7, (2,))


def test_a_metric_that_would_pass_infinity_is_as_good_as_retracted() -> None:
    source = Source(("z", "o"))
    learn(source, 1, 5, INFINITY - 1, cost=50)
    assert source.selected is None
    assert source.candidates[1].refusal == (RouteState.INFEASIBLE, RouteReason.RETRACTED, "")


def test_after_renewal_everything_left_is_feasible_again() -> None:
    source = using((1, 5, 10), (2, 5, 30))
    source.forget(1)
    source.evaluate()
    assert source.selected is None
    source.renew()
    source.evaluate()
    assert source.selected is source.candidates[2]


def test_requests_are_passed_to_the_best_route_not_through_the_asker() -> None:
    source = using((1, 5, 10), ("n2", 5, 10), (3, 5, 30))
    assert source.towards(3) is source.candidates[1]
    assert source.towards(1) is source.candidates["n2"]
    assert source.towards("n2") is source.candidates[1]
    source.forget(1)
    source.evaluate()
    assert source.towards("n2") is source.candidates[3]  # a sibling's request leaves the region
    assert Source(("z", "o")).towards(1) is None


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("learn"),
            st.sampled_from([1, 2, "n3"]),
            st.integers(1, 3),
            st.integers(0, 6),
            st.integers(1, 3),
        ),
        st.tuples(st.just("forget"), st.sampled_from([1, 2, "n3"])),
        st.tuples(st.just("advertise")),
    ),
    max_size=25,
)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(steps)
def test_the_selected_route_always_has_a_feasible_certificate(script: list[tuple]) -> None:
    source = Source(("z", "o"))
    for step in script:
        match step:
            case ("learn", hop, seqno, metric, cost):
                learn(source, hop, seqno, metric, cost)
            case ("forget", hop):
                source.forget(hop)
                source.evaluate()
            case _ if source.selected is not None:
                before = source.selected
                advertise(source)
                assert source.selected is before
        for route in source.candidates.values():
            if route.refusal is None:
                assert feasible(route.certificate, source.kept) is None
                assert not route.held or route is source.selected
