"""The route machine as a whole: the examples of RFC 8966 section 2 on real machines, and one node between hand-made ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim.route_world import Name, World
from unit.federation.route_tester import OneNode, gone, update

from federation.core.route_settings import RouteSettings
from federation.core.routes import RouteMachine
from mesh.model.limits import Limits
from mesh.model.reasons import Close, NotDelivered, RouteReason
from mesh.wire.frames import (
    INFINITY,
    Hello,
    Routes,
    RoutesAck,
    RoutesDigest,
    RoutesPull,
    RouteUpdate,
    SeqnoRequest,
)

S, A, B, C = (("s", "s1"), ("a", "a1"), ("b", "b1"), ("c", "c1"))


def world(*lines: tuple[Name, Name, int], seqno: int = 1) -> World:
    """One node a region; lines with their metric. The origin s starts with `seqno`."""
    made = World(1)
    for name in dict.fromkeys(end for line in lines for end in line[:2]):
        made.node(*name)
    made.nodes[S].machine._announcements.seqno = seqno
    for a, b, metric in lines:
        made.line(a, b, cost=metric - 1)
    made.run(2.0)
    return made


def distance(made: World, name: Name) -> int | None:
    entry = made.nodes[name].machine.fib.get("s")
    return None if entry is None else entry.metric


def kept(made: World, name: Name) -> tuple[int, int]:
    """The feasibility distance for s: (seqno, metric)."""
    distance_ = made.nodes[name].machine._rib.sources[S].kept
    assert distance_ is not None
    return distance_.seqno, distance_.metric


# -- RFC 8966 section 2 ------------------------------------------------------------------------------------------


def test_section_2_3_losing_the_only_line_to_s_is_known_at_once_and_nobody_counts_to_infinity() -> None:
    """s - a 1, a - b 1, a - c 1, b - c 1: Bellman-Ford would send b's 2 round and round and upwards."""
    made = world((S, A, 1), (A, B, 1), (A, C, 1), (B, C, 1))
    assert [distance(made, name) for name in (A, B, C)] == [1, 2, 2]
    assert [made.nodes[name].machine.fib["s"].hops[0].node for name in (B, C)] == ["a1", "a1"]
    before = made.frames
    made.cut(made.lines[(S, A)])
    made.run(0.0)
    assert distance(made, A) is None
    made.run(0.2)
    assert [distance(made, name) for name in (A, B, C)] == [None, None, None]
    assert made.frames - before < 20
    assert made.cycles == []


def test_section_2_4_the_feasibility_distance_is_the_least_ever_advertised() -> None:
    made = world((S, A, 1), (A, B, 1), (A, C, 1), (B, C, 1))
    assert [kept(made, name)[1] for name in (A, B, C)] == [1, 2, 2]
    rows = {row.next_hop: row for row in made.nodes[B].machine.rib(made.now) if row.region == "s"}
    assert (rows["c1"].state.value, rows["c1"].detail) == ("infeasible", "2 >= 2")


def test_section_2_5_a_starved_node_is_fed_by_a_newer_seqno() -> None:
    """s - a 1, s - b 2, a - b 1. When s - a breaks, b's route of 2 is not below the 1 that a advertised."""
    made = world((S, A, 1), (S, B, 2), (A, B, 1), seqno=137)
    assert (distance(made, A), kept(made, A)) == (1, (137, 1))
    assert (distance(made, B), kept(made, B)) == (2, (137, 2))
    made.cut(made.lines[(S, A)])
    made.run(0.0)
    (row,) = [row for row in made.nodes[A].machine.rib(made.now) if row.region == "s"]
    assert (row.state.value, row.reason, row.detail) == (
        "infeasible",
        RouteReason.METRIC_NOT_FEASIBLE,
        "2 >= 1",
    )
    assert made.nodes[A].machine.absence("s") is NotDelivered.INFEASIBLE_ONLY
    made.run(0.3)
    assert (distance(made, A), kept(made, A)) == (3, (138, 3))
    assert (distance(made, B), kept(made, B)) == (2, (138, 2))
    assert made.nodes[S].machine.statistics().seqno == 138
    assert made.cycles == []


def test_a_metric_that_rises_makes_no_black_hole_anywhere_behind_it() -> None:
    """s - a - b - c: the line s - a becomes ever slower. At every step everybody keeps a route."""
    made = world((S, A, 1), (A, B, 1), (B, C, 1))
    seen: set[int | None] = set()

    def look() -> None:
        seen.update(distance(made, name) for name in (A, B, C))
        made.at(0.005, look)

    made.at(0.0, look)
    line = made.lines[(S, A)]
    for n in range(30):
        rtt_ms = 20.0 * n
        for end in (S, A):
            made.act(end, lambda m: m.neighbour_rtt(line.session, rtt_ms, made.now))  # noqa: B023
        made.run(1.0)
    assert None not in seen
    assert distance(made, C) == distance(made, A) + 2 > 100
    assert made.cycles == []


# -- one node ----------------------------------------------------------------------------------------------------


def test_a_link_that_is_lost_leaves_the_fib_before_the_call_returns() -> None:
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.tell(2, update("z", 5, 12, "b,z"))
    seen = node.machine.fib_generation
    node.machine.neighbour_down(1, node.now)
    assert node.hop("z") == (2, "b1")
    assert node.machine.fib_generation > seen
    node.machine.neighbour_down(2, node.now)
    node.machine.neighbour_down(2, node.now)
    assert dict(node.machine.fib) == {}


def test_a_region_without_bridges_appears_nowhere() -> None:
    made = World(1)
    for name in ("n1", "n2"):
        made.node("alone", name)
    made.run(100)
    for node in made.nodes.values():
        assert dict(node.machine.fib) == {}
        assert node.machine.rib(made.now) == []
        assert node.machine.take_published() == []


def test_a_node_without_a_bridge_selects_among_those_of_its_siblings() -> None:
    node = OneNode()
    for name, metric in (("n2", 30), ("n3", 10)):
        node.machine.sibling_entry(name, "z", "o", [1, 5, metric, ["m", "z"]], node.now)
    assert node.hop("z") is None
    assert [row.reason for row in node.routes("z")] == [RouteReason.NODE_UNREACHABLE] * 2
    node.machine.sibling_link("n2", True, 1, node.now)
    assert node.hop("z") == (None, "n2")
    node.machine.sibling_link("n3", True, 1, node.now)
    assert node.hop("z") == (None, "n3")
    entry = node.machine.fib["z"]
    assert (entry.metric, [hop.node for hop in entry.alternates]) == (11, ["n2"])
    node.machine.sibling_gone("n3", node.now)
    assert node.hop("z") == (None, "n2")
    node.machine.sibling_entry("n2", "z", "o", None, node.now)
    assert node.hop("z") is None


def test_two_bridges_of_a_region_with_one_neighbour_region_stand_in_for_each_other_at_once() -> None:
    """Neither announces z to m, where it came from, so neither gave up its own way by using the sibling's."""
    node = OneNode()
    node.up(1, "m")
    node.machine.sibling_link("n2", True, 1, node.now)
    node.machine.sibling_entry("n2", "z", "o", (1, 5, 5, ("m", "z"), "transit"), node.now)
    node.tell(1, update("z", 5, 30, "m,z"))
    node.wait(1.0)
    assert node.hop("z") == (None, "n2")
    assert [hop.link for hop in node.machine.fib["z"].alternates] == [1]
    node.machine.sibling_link("n2", False, 1, node.now)
    assert node.hop("z") == (1, "m1")


def test_a_bridge_publishes_its_own_route_whichever_it_selected() -> None:
    node = OneNode()
    node.up(1, "a")
    node.machine.sibling_link("n2", True, 1, node.now)
    node.machine.sibling_entry("n2", "z", "o", (1, 5, 3, ("a", "z"), "transit"), node.now)
    node.tell(1, update("z", 5, 10, "a,z"))
    node.wait(1.0)
    assert node.hop("z") == (None, "n2")
    assert node.machine.take_published() == [("z", "o", (1, 5, 11, ("a", "z"), "transit"))]
    node.machine.neighbour_down(1, node.now)
    assert node.machine.take_published() == [("z", "o", None)]


def test_what_happens_to_routes_is_told_with_its_reason() -> None:
    node = OneNode()
    node.up(1, "a")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.tell(1, update("z", 6, 10, "a,z"))
    node.tell(1, update("z", 6, 8, "a,z"))
    node.tell(1, gone("z"))
    assert [(notice.what, notice.about, notice.reason) for notice in node.notices] == [
        ("route_selected", "z", "only_route"),
        ("route_changed", "z", "only_route"),
        ("route_lost", "z", "no_route"),
    ]


def test_draining_withdraws_everything_said_and_keeps_the_routes_in_use() -> None:
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.wait(1.0)
    node.take(Routes)
    node.machine.take_published()
    node.machine.retract_all(node.now)
    node.collect()
    assert {(told.region, told.metric) for told in node.updates(2)} == {("h", INFINITY), ("z", INFINITY)}
    assert node.machine.take_published() == [("z", "o", None)]
    assert node.hop("z") == (1, "a1")
    node.tell(1, update("z", 6, 9, "a,z"))
    node.wait(100.0)
    assert node.updates(2) == []
    assert node.machine.take_published() == []


def test_a_restarted_origin_replaces_its_earlier_life_and_cannot_be_undone_by_it() -> None:
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b")
    node.tell(1, update("z", 900, 3, "a,z", epoch=1))
    node.wait(1.0)
    node.tell(2, update("z", 1, 50, "b,z", epoch=2))
    assert node.hop("z") == (2, "b1")
    node.tell(1, update("z", 901, 3, "a,z", epoch=1))
    assert node.hop("z") == (2, "b1")
    old = next(row for row in node.routes("z") if row.epoch == 1)
    assert (old.reason, old.detail) == (RouteReason.OLD_EPOCH, "1 < 2")


def test_a_neighbour_whose_digest_differs_is_asked_for_its_table() -> None:
    node = OneNode()
    node.up(1, "a")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.wait(2.0)
    node.receive(1, RoutesDigest(12345))
    assert len(node.take(RoutesPull, 1)) == 1
    node.tell(1, update("y", 5, 10, "a,y"), full=True)
    assert node.machine.fib.keys() == {"y"}


def test_withheld_routes_are_listed_with_their_reason() -> None:
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b", role="peer")
    node.tell(1, update("z", 5, 10, "a,z"))
    node.wait(1.0)
    rows = {(row.region, row.to_region): row.reason for row in node.machine.withheld()}
    assert rows == {("z", "a"): RouteReason.SPLIT_HORIZON, ("z", "b"): RouteReason.VALLEY_FREE}


def test_a_route_with_the_own_region_in_its_path_is_shown_and_not_used() -> None:
    node = OneNode()
    node.up(1, "a")
    node.tell(1, update("z", 5, 10, "a,h,z"))
    (row,) = node.routes("z")
    assert (row.state.value, row.reason) == ("infeasible", RouteReason.OWN_REGION_IN_PATH)
    assert node.machine.absence("z") is NotDelivered.NO_ROUTE


def test_the_bounds_of_a_neighbour_refuse_surplus_and_count_it() -> None:
    node = OneNode(limits=Limits(regions=3))
    node.up(1, "a")
    node.tell(1, *(update(f"z{n}", 5, 10, f"a,z{n}") for n in range(10)))
    assert len(node.machine.fib) == 3
    assert node.machine.statistics().refused == {"too_many_regions": 7}
    assert node.closed == []


def test_a_link_is_up_once_and_never_to_the_own_region() -> None:
    node = OneNode()
    node.up(1, "a")
    for link, region in ((1, "b"), (2, "h")):
        with pytest.raises(ValueError, match="already or leads to the own region"):
            node.up(link, region)
    with pytest.raises(ValueError, match="emperor"):
        node.up(3, "c", role="emperor")
    assert node.machine.statistics().neighbours == 1


def test_a_node_long_without_neighbours_forgets_what_it_once_advertised() -> None:
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b")
    node.tell(1, update("z", 5, 3, "a,z"))
    node.wait(1.0)
    node.machine.neighbour_down(1, node.now)
    node.machine.neighbour_down(2, node.now)
    node.machine.sibling_link("n2", True, 1, node.now)
    node.machine.sibling_entry("n2", "z", "o", (1, 5, 30, ("m", "z"), "transit"), node.now)
    assert node.hop("z") is None
    node.wait(RouteSettings().source_keep_s + 1)
    assert node.hop("z") == (None, "n2")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (Routes(1, False, (update("z", 5, 10, "x,z"),)), Close.MALFORMED),
        (Routes(1, False, (update("z", -5, 10, "a,z"),)), Close.MALFORMED),
        (Routes(1 << 40, False, ()), Close.PROTOCOL_ERROR),
        (Hello(1, 1), Close.UNEXPECTED_FRAME),
    ],
)
def test_nonsense_closes_the_link_and_its_routes_leave_use(frame: object, reason: Close) -> None:
    node = OneNode()
    node.up(1, "a")
    node.machine.receive(1, Routes(0, False, ()), node.now)
    node.tell(1, update("y", 5, 10, "a,y"))
    node.receive(
        1, frame if not isinstance(frame, Routes) or frame.n > 1 else Routes(2, False, frame.updates)
    )
    assert [(closed.to, closed.reason) for closed in node.closed] == [(1, reason)]
    assert dict(node.machine.fib) == {}
    node.receive(1, RoutesAck(1))
    assert node.machine.statistics().refused == {reason.value: 1, "unknown_link": 1}


@pytest.mark.parametrize(
    "frame", [RoutesPull(), RoutesAck(77), RoutesDigest(5), SeqnoRequest("z", "o", 1, 1, 1)]
)
def test_a_flood_of_small_frames_closes_the_link(frame: object) -> None:
    node = OneNode()
    node.up(1, "a")
    for _ in range(3_000):
        node.receive(1, frame)
    assert [(closed.reason, closed.detail) for closed in node.closed] == [(Close.LIMIT, "updates_per_s")]


names = st.sampled_from(["a", "h", "z", "y", "", "bad name", "x" * 70])
updates = st.builds(
    RouteUpdate,
    names,
    names,
    st.integers(-1, 3),
    st.integers(-1, 2**60),
    st.integers(-1, INFINITY + 1),
    st.lists(names, max_size=4).map(tuple),
)
good = st.builds(
    update,
    st.sampled_from(["y", "z"]),
    st.integers(1, 4),
    st.integers(0, 20),
    st.sampled_from(["a,z", "a,h,z", "a,y"]),
    epoch=st.integers(1, 2),
).filter(lambda told: told.path[-1] == told.region)
frames = st.one_of(
    st.builds(Routes, st.integers(-2, 2000), st.booleans(), st.lists(good | updates, max_size=3).map(tuple)),
    st.builds(Routes, st.integers(1, 30), st.booleans(), st.lists(good, max_size=3).map(tuple)),
    st.builds(RoutesAck, st.integers(-1, 5)),
    st.builds(RoutesDigest, st.integers(0, 2)),
    st.builds(RoutesPull),
    st.builds(SeqnoRequest, names, names, st.integers(-1, 1_001), st.integers(-1, 99), st.integers(-9, 99)),
    st.builds(Hello, st.integers(0, 9), st.integers(0, 9)),
)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 7, "n2"]), frames, st.floats(0, 3)), max_size=25))
def test_no_input_makes_the_machine_raise_or_use_what_it_must_not(script: list[tuple]) -> None:
    machine = RouteMachine("h", "n0", 1_000, RouteSettings(), Limits(), random.Random(2), 0.0)
    machine.sibling_link("n2", True, 1, 0.0)
    for link in (1, 2):
        machine.neighbour_up(link, "a", f"a{link}", "transit", 0, 0.0, 0.0)
    now = 0.0
    for link, frame, wait_s in script:
        if link == "n2":
            if isinstance(frame, SeqnoRequest):
                machine.receive_sibling("n2", frame, now)
            elif isinstance(frame, Routes):
                for told in frame.updates:
                    value = [told.epoch, told.seqno, told.metric, list(told.path)]
                    machine.sibling_entry("n2", told.region, told.bridge, value, now)
        else:
            machine.receive(link, frame, now)
        machine.drain()
        now += wait_s
        due = machine.next_deadline()
        if due is not None and due <= now:
            machine.handle_deadline(now)
        machine.rib(now)
        for region, entry in machine.fib.items():
            assert region != "h"
            assert "h" not in entry.path or entry.hops[0].link is None
            assert 0 < entry.metric < INFINITY
