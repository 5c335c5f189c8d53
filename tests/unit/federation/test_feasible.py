"""The feasibility condition: the figures of RFC 8966 section 2, and what makes it free of loops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.feasible import Distance, after_advertising, comparison, feasible
from mesh.model.reasons import RouteReason
from mesh.wire.frames import INFINITY

distances = st.builds(Distance, st.integers(1, 3), st.integers(0, 4), st.integers(0, 6))
quick = settings(max_examples=40, derandomize=True, deadline=None)


def test_section_2_4_a_router_that_advertised_1_refuses_2_from_the_routers_behind_it() -> None:
    assert feasible(Distance(1, 0, 2), Distance(1, 0, 1)) is RouteReason.METRIC_NOT_FEASIBLE


def test_section_2_4_a_smaller_metric_than_ever_advertised_is_feasible() -> None:
    assert feasible(Distance(1, 0, 1), Distance(1, 0, 2)) is None


def test_section_2_5_an_equal_metric_is_not_feasible_and_a_newer_seqno_is() -> None:
    kept = Distance(1, 137, 1)
    assert feasible(Distance(1, 137, 1), kept) is RouteReason.METRIC_NOT_FEASIBLE
    assert feasible(Distance(1, 137, 2), kept) is RouteReason.METRIC_NOT_FEASIBLE
    assert feasible(Distance(1, 138, 2), kept) is None
    assert after_advertising(kept, Distance(1, 138, 3)) == Distance(1, 138, 3)


@pytest.mark.parametrize(
    ("advert", "reason", "figures"),
    [
        (Distance(2, 117, 5), RouteReason.STALE_SEQNO, "117 < 118"),
        (Distance(2, 118, 30), RouteReason.METRIC_NOT_FEASIBLE, "30 >= 11"),
        (Distance(1, 900, 1), RouteReason.OLD_EPOCH, "1 < 2"),
        (Distance(2, 119, INFINITY), RouteReason.RETRACTED, ""),
    ],
)
def test_each_refusal_names_the_figures_it_compared(
    advert: Distance, reason: RouteReason, figures: str
) -> None:
    kept = Distance(2, 118, 11)
    assert feasible(advert, kept) is reason
    assert comparison(reason, advert, kept) == figures


def test_whoever_never_advertised_may_use_anything_reachable() -> None:
    assert feasible(Distance(1, 1, 10**6), None) is None
    assert feasible(Distance(1, 1, INFINITY), None) is RouteReason.RETRACTED


def test_a_new_epoch_replaces_every_seqno_of_the_old_one() -> None:
    assert feasible(Distance(2, 0, 50), Distance(1, 999, 1)) is None


@quick
@given(distances, distances, st.integers(1, 5))
def test_a_used_route_stays_feasible_when_it_is_advertised_on(
    advert: Distance, kept: Distance, cost: int
) -> None:
    if feasible(advert, kept) is None:
        fallen = after_advertising(kept, advert._replace(metric=advert.metric + cost))
        assert feasible(advert, fallen) is None


@quick
@given(distances, distances, st.lists(distances, max_size=3), st.lists(distances, max_size=3))
def test_two_nodes_are_never_feasible_next_hops_of_each_other(
    told_a: Distance, told_b: Distance, later_a: list[Distance], later_b: list[Distance]
) -> None:
    """Whatever each advertised since, and however old a copy the other one holds."""
    kept_a, kept_b = told_a, told_b
    for distance in later_a:
        kept_a = after_advertising(kept_a, distance)
    for distance in later_b:
        kept_b = after_advertising(kept_b, distance)
    assert feasible(told_b, kept_a) is not None or feasible(told_a, kept_b) is not None


@quick
@given(distances, distances)
def test_the_feasibility_distance_never_rises(kept: Distance, advertised: Distance) -> None:
    fallen = after_advertising(kept, advertised)
    assert fallen == kept or feasible(kept, fallen) is not None
