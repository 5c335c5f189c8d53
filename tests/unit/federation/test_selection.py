"""The order of routes to a region, the line compiled from them, and the reason written on each."""

from __future__ import annotations

from federation.core.feasible import Distance
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteState, Verdict
from federation.core.selection import Candidate, FibEntry, NextHop, SourceId, least, rank
from mesh.model.reasons import RouteReason

SETTINGS = RouteSettings()


def route(hop: int | str, metric: int, path: str = "us", bridge: str = "us-1", node: str = "") -> Candidate:
    made = Candidate(hop, node or (hop if isinstance(hop, str) else f"x{hop}"), bridge)
    made.advert = Distance(7, 118, metric)
    made.path = tuple(path.split(","))
    made.price(0, 0.0)
    return made


def ranked(*routes: Candidate, settings: RouteSettings = SETTINGS) -> FibEntry:
    entry = rank("us", routes, settings)
    assert entry is not None
    return entry


def test_no_usable_route_compiles_to_nothing_and_keeps_each_refusal() -> None:
    refused = route(1, 5)
    refused.refusal = Verdict(RouteState.INFEASIBLE, RouteReason.STALE_SEQNO, "117 < 118")
    assert rank("us", [refused], SETTINGS) is None
    assert refused.verdict == refused.refusal


def test_the_only_route_says_so() -> None:
    one = route(1, 84)
    entry = ranked(one)
    assert entry.hops == (NextHop(1, "x1", 84, "us-1", 7),)
    assert entry.source == SourceId("us", "us-1", 7)
    assert (entry.metric, entry.path, entry.alternates) == (84, ("us",), ())
    assert one.verdict == (RouteState.SELECTED, RouteReason.ONLY_ROUTE, "")


def test_a_higher_metric_stands_by_as_an_alternate_and_says_by_how_much() -> None:
    best, other = route(3, 84), route(5, 255, "ap,us")
    entry = ranked(other, best)
    assert entry.alternates[0].link == 5
    assert best.verdict == (RouteState.SELECTED, RouteReason.LOWEST_METRIC, "")
    assert other.verdict == (RouteState.IN_USE, RouteReason.HIGHER_METRIC, "+171")


def test_equal_metrics_share_the_flows() -> None:
    first, second = route(3, 84, node="a"), route(5, 84, node="b")
    assert [hop.link for hop in ranked(second, first).hops] == [3, 5]
    assert second.verdict == (RouteState.IN_USE, RouteReason.EQUAL_METRIC, "")


def test_one_next_hop_is_compiled_once_however_many_sources_lead_through_it() -> None:
    first, second, third = route(3, 84), route(3, 84, bridge="us-2"), route(3, 90, bridge="us-3")
    entry = ranked(first, second, third)
    assert len(entry.hops) == 1
    assert entry.alternates == ()
    assert second.verdict == (RouteState.FEASIBLE, RouteReason.SAME_METRIC_LATER_NAME, "")
    assert third.verdict == (RouteState.FEASIBLE, RouteReason.HIGHER_METRIC, "+6")


def test_at_equal_metric_an_own_link_goes_before_a_sibling_and_a_short_path_before_a_long_one() -> None:
    sibling, long, short = route("n2", 10), route(2, 10, "m,us"), route(9, 10)
    assert [hop.node for hop in ranked(sibling, long, short).hops] == ["x9", "x2", "n2"]
    assert least([sibling, long, short]) is short
    assert least([]) is None


def test_an_own_link_is_compiled_even_when_siblings_fill_the_line() -> None:
    settings = RouteSettings(alternates=1, equal_hops=1)
    siblings = [route(f"n{n}", 10 + n) for n in range(4)]
    own, spare = route(1, 50), route(2, 60)
    entry = ranked(*siblings, own, spare, settings=settings)
    assert [hop.link for hop in entry.alternates] == [None, 1]
    assert own.verdict.state is RouteState.IN_USE
    assert spare.verdict == (RouteState.FEASIBLE, RouteReason.HIGHER_METRIC, "+50")


def test_the_order_of_routes_does_not_depend_on_the_order_of_their_arrival() -> None:
    routes = [route(n, 10 + n % 3, node=f"z{n % 4}") for n in range(9)]
    assert ranked(*routes) == ranked(*reversed(routes))


def test_a_route_held_after_its_metric_rose_says_so() -> None:
    held = route(1, 40)
    held.held, held.certificate = True, Distance(7, 118, 10)
    ranked(held)
    assert held.verdict.reason is RouteReason.METRIC_ROSE
    assert held.verdict.detail.startswith("10 -> 40")


def test_a_metric_grows_up_to_infinity_and_not_beyond() -> None:
    far = route(1, 2**32 - 10)
    assert far.price(100, 0.0)
    assert far.metric == 2**32 - 1
