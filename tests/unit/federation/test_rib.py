"""The tables: compiling, live bridges, forgetting, and the rows an operator sees."""

from __future__ import annotations

from federation.core.feasible import Distance
from federation.core.policy.roles import Role
from federation.core.rib import Rib
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteState, Verdict
from mesh.model.reasons import NotDelivered, RouteReason

BARRED = Verdict(RouteState.WITHHELD, RouteReason.IMPORT_DENIED, "no-hr")


def learn(
    rib: Rib, bridge: str, hop: int | str, metric: int, now: float = 0.0, barred: Verdict | None = None
) -> None:
    source = rib.source(("us", bridge))
    assert source is not None
    advert = Distance(7, 118, metric)
    source.learn(hop, f"x{hop}", advert, ("us",), Role.TRANSIT, 1, barred, now)
    source.evaluate()
    rib.note(source, now)


def test_a_region_comes_changes_and_goes_with_its_routes_and_each_is_said_once() -> None:
    rib = Rib(RouteSettings())
    learn(rib, "us-1", 3, 83)
    came = rib.compile("us")
    assert came is not None
    assert (came.what, came.about, came.reason) == ("route_selected", "us", "only_route")
    assert came.detail == "84 via x3, path us"
    assert rib.compile("us") is None
    learn(rib, "us-2", 5, 200)
    assert rib.compile("us") is None  # an alternate more: the selected route is as it was
    assert rib.generation == 2
    rib.forget(("us", "us-1"), 3)
    rib.sources[("us", "us-1")].evaluate()
    changed = rib.compile("us")
    assert changed is not None
    assert (changed.what, rib.fib["us"].metric) == ("route_changed", 201)
    rib.forget(("us", "us-2"), 5)
    rib.sources[("us", "us-2")].evaluate()
    lost = rib.compile("us")
    assert lost is not None
    assert (lost.what, lost.reason) == ("route_lost", "no_route")
    assert "us" not in rib.fib


def test_the_region_is_the_best_of_its_sources_and_tells_which() -> None:
    rib = Rib(RouteSettings())
    for bridge, hop, metric in (("us-1", 3, 90), ("us-2", 3, 80), ("us-2", 5, 95)):
        learn(rib, bridge, hop, metric)
    rib.compile("us")
    assert rib.fib["us"].source == ("us", "us-2", 7)
    assert [(hop.link, hop.bridge) for hop in rib.fib["us"].alternates] == [(5, "us-2")]


def test_a_bridge_is_live_while_somebody_announces_a_way_to_it() -> None:
    rib = Rib(RouteSettings())
    learn(rib, "us-1", 3, 83)
    learn(rib, "us-2", 3, 83, barred=BARRED)
    rib.compile("us")
    assert rib.live_bridges("us") == {"us-1"}
    seen = rib.live_generation
    rib.forget(("us", "us-1"), 3)
    rib.sources[("us", "us-1")].evaluate()
    rib.compile("us")
    assert rib.live_bridges("us") == frozenset()
    assert rib.live_generation == seen + 1


def test_a_source_without_routes_is_forgotten_after_its_time_and_not_before() -> None:
    rib = Rib(RouteSettings(source_keep_s=100))
    learn(rib, "us-1", 3, 83, now=5.0)
    source = rib.sources[("us", "us-1")]
    source.advertised(Distance(7, 118, 84))
    assert rib.next_deadline() is None
    source.forget(3)
    source.evaluate()
    rib.note(source, 10.0)
    rib.note(source, 20.0)
    assert rib.next_deadline() == 110.0
    assert rib.expire(109.0) == []
    assert rib.expire(110.0) == [("us", "us-1")]
    assert rib.sources == {}
    assert rib.compile("us") is None


def test_a_source_whose_routes_were_long_infeasible_starts_afresh() -> None:
    rib = Rib(RouteSettings(source_keep_s=100))
    learn(rib, "us-1", 3, 83)
    source = rib.sources[("us", "us-1")]
    source.advertised(Distance(7, 10**6, 1))
    source.evaluate()
    rib.note(source, 10.0)
    assert rib.absence("us") is NotDelivered.INFEASIBLE_ONLY
    assert rib.expire(110.0) == [("us", "us-1")]
    source.evaluate()
    assert source.selected is source.candidates[3]


def test_there_is_no_room_for_more_sources_than_the_bound() -> None:
    rib = Rib(RouteSettings(sources=2))
    assert [rib.source((f"r{n}", "o")) is not None for n in range(4)] == [True, True, False, False]
    assert rib.source(("r1", "o")) is not None


def test_rows_carry_what_the_comparison_left_best_first() -> None:
    rib = Rib(RouteSettings())
    learn(rib, "us-1", 5, 254)
    learn(rib, "us-1", 3, 83)
    learn(rib, "us-1", 7, 10, barred=BARRED)
    learn(rib, "us-1", "us-9", 300, now=20.0)
    rib.compile("us")
    rows = rib.views(30.0)
    assert [(row.next_hop, row.via, row.metric, row.state.value) for row in rows] == [
        ("x3", "bridge#3", 84, "selected"),
        ("x5", "bridge#5", 255, "in_use"),
        ("xus-9", "peer", 301, "in_use"),
        ("x7", "bridge#7", 11, "withheld"),
    ]
    assert rows[1].detail == "+171"
    assert (rows[3].reason, rows[3].detail) == (RouteReason.IMPORT_DENIED, "no-hr")
    assert [row.age_s for row in rows[:3]] == [30.0, 30.0, 10.0]
    assert (rows[0].region, rows[0].bridge, rows[0].epoch, rows[0].seqno) == ("us", "us-1", 7, 118)


def test_an_unknown_region_has_no_route() -> None:
    assert Rib(RouteSettings()).absence("nowhere") is NotDelivered.NO_ROUTE
