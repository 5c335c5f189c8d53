"""Destinations of a topic and the split of destination sets by next hop, over tables made for the test."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.core.planner_bench import Bench, Line, Way

from mesh.core.plan import PART_REGIONS, Part, Plan, PlanMemory
from mesh.model.reasons import NotDelivered
from mesh.wire.frames import Leg


def covered(parts: list[Part], lost: list[str]) -> list[str]:
    return sorted([region for part in parts for region in part.regions] + lost)


# -- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_names_local_sessions_linked_nodes_and_routed_regions_and_gives_the_others_a_reason() -> None:
    bench = Bench({"us": Line((Way(link=7),))}, {"ap": ["sibling"]})
    bench.links.peers |= {"n2": 1, "sibling": 2}
    bench.links.bridges[7] = "us"
    for name in ("n/me", "n/n2", "n/n3", "r/us", "r/ap", "r/zz"):
        bench.want(name, "t")
    bench.subscriptions.subscribe(4, 1, "t", "")
    plan = bench.planner.plan("t")
    assert plan.local == ((4, (1,)),)
    assert plan.nodes == ("n2",)
    assert plan.regions == ("ap", "us"), "ap has no line, but a sibling that leads out to it"
    assert [(u.region, u.node, u.reason) for u in plan.unreached] == [
        ("r0", "n3", NotDelivered.LINK_DOWN),
        ("zz", "", NotDelivered.NO_ROUTE),
    ]
    assert not plan.split


def test_an_exit_without_a_link_is_none() -> None:
    bench = Bench({}, {"ap": ["gone", "sibling"]})
    bench.want("r/ap", "t")
    assert [u.region for u in bench.planner.plan("t").unreached] == ["ap"]
    bench.links.peers["sibling"] = 2
    assert bench.planner.plan("t").regions == ("ap",)


def test_a_plan_says_that_the_flow_matters_only_where_a_region_has_several_equal_hops() -> None:
    bench = Bench({"us": Line((Way(link=7),), (Way(link=8),))})
    bench.want("r/us", "t")
    assert not bench.planner.plan("t").split
    bench.fib["us"] = Line((Way(link=7), Way(link=8)))
    assert bench.planner.plan("t").split


def test_a_region_plan_has_no_regions_and_names_this_node_only_when_a_session_wants_the_topic() -> None:
    bench = Bench({"us": Line((Way(link=7),))})
    bench.links.peers["n2"] = 1
    bench.want("n/n2", "t")
    bench.want("r/us", "t")
    bench.want("r/zz", "t")
    plan = bench.planner.region_plan("t")
    assert (plan.regions, plan.targets, plan.unreached) == ((), ("n2",), ())
    bench.subscriptions.subscribe(4, 1, "#", "")
    assert bench.planner.region_plan("t").targets == ("n2", "me")


# -- splitting a set -------------------------------------------------------------------------------------------------

REGIONS = [f"r{n}" for n in range(1, 8)]
WAY = st.one_of(
    st.builds(Way, link=st.integers(1, 4)),
    st.builds(lambda node: Way(node=node), st.sampled_from(["s1", "s2", "s3"])),
)
LINE = st.builds(
    Line,
    st.lists(WAY, min_size=1, max_size=3).map(tuple),
    st.lists(WAY, max_size=2).map(tuple),
)
FIB = st.dictionaries(st.sampled_from(REGIONS), LINE)
EXITS = st.dictionaries(st.sampled_from(REGIONS), st.lists(st.sampled_from(["s1", "s2", "s3"]), max_size=2))
PEERS = st.dictionaries(st.sampled_from(["s1", "s2", "s3"]), st.integers(11, 13))
BRIDGES = st.dictionaries(st.integers(1, 4), st.sampled_from(REGIONS))
SET = st.lists(st.sampled_from(REGIONS), unique=True)


def made(
    fib: dict[str, Line], exits: dict[str, list[str]], peers: dict[str, int], bridges: dict[int, str]
) -> Bench:
    bench = Bench(fib, exits)
    bench.links.peers |= peers
    bench.links.bridges |= bridges
    return bench


@settings(max_examples=40, derandomize=True, deadline=None)
@given(FIB, EXITS, PEERS, BRIDGES, SET, SET, st.integers(0, 7))
def test_a_split_is_disjoint_complete_and_goes_only_over_open_links_and_into_no_region_of_the_path(
    fib: dict[str, Line],
    exits: dict[str, list[str]],
    peers: dict[str, int],
    bridges: dict[int, str],
    regions: list[str],
    path: list[str],
    flow: int,
) -> None:
    bench = made(fib, exits, peers, bridges)
    parts, lost = bench.planner.partition(regions, "r0/me", flow, path)
    assert covered(parts, lost) == sorted(regions)
    assert len({(part.link, part.leg) for part in parts}) == len(parts)
    for part in parts:
        if part.leg is Leg.BRIDGE:
            assert bridges[part.link] not in path
        else:
            assert part.leg is Leg.TRANSIT
            assert part.link in peers.values()
    for region in lost:
        line = fib.get(region)
        if line is None:
            assert not any(node in peers for node in exits.get(region, ()))
        else:
            for way in (*line.hops, *line.alternates):
                assert way.node not in peers
                assert way.link is None or way.link not in bridges or bridges[way.link] in path


@settings(max_examples=40, derandomize=True, deadline=None)
@given(FIB, EXITS, PEERS, BRIDGES, SET, SET, st.booleans())
def test_a_transit_set_is_split_over_own_bridges_and_siblings_only_where_it_may_be_redirected(
    fib: dict[str, Line],
    exits: dict[str, list[str]],
    peers: dict[str, int],
    bridges: dict[int, str],
    regions: list[str],
    path: list[str],
    redirect: bool,
) -> None:
    bench = made(fib, exits, peers, bridges)
    own, siblings, lost = bench.planner.own_partition(regions, path, redirect=redirect)
    assert covered(own + siblings, lost) == sorted(regions)
    assert all(part.leg is Leg.BRIDGE and bridges[part.link] not in path for part in own)
    assert all(part.leg is Leg.TRANSIT and part.link in peers.values() for part in siblings)
    assert redirect or not siblings
    overs = {region for part in own for region in part.regions}
    for region, line in fib.items():
        has_own = any(
            way.link in bridges and bridges[way.link] not in path
            for way in (*line.hops, *line.alternates)
            if way.link is not None
        )
        if has_own and region in regions:
            assert region in overs, "an own bridge, even an alternate one, comes before a sibling"


def test_a_hop_into_a_region_of_the_path_is_passed_over_for_the_alternate() -> None:
    bench = made({"c": Line((Way(link=1),), (Way(link=2),))}, {}, {}, {1: "b", 2: "d"})
    assert bench.planner.partition(["c"], "o", 0, ())[0] == [Part(1, Leg.BRIDGE, ("c",))]
    assert bench.planner.partition(["c"], "o", 0, ("b",))[0] == [Part(2, Leg.BRIDGE, ("c",))]
    assert bench.planner.partition(["c"], "o", 0, ("b", "d")) == ([], ["c"])


def test_regions_that_share_a_next_hop_share_a_part() -> None:
    bench = made(
        {"c": Line((Way(link=1),)), "d": Line((Way(link=1),)), "e": Line((Way(link=2),))},
        {},
        {},
        {1: "b", 2: "e"},
    )
    parts, _ = bench.planner.partition(["c", "d", "e"], "o", 0, ())
    assert sorted(parts) == [Part(1, Leg.BRIDGE, ("c", "d")), Part(2, Leg.BRIDGE, ("e",))]


def test_flows_of_one_origin_spread_over_equal_hops_and_each_flow_keeps_its_own() -> None:
    bench = made({"c": Line((Way(link=1), Way(link=2)))}, {}, {}, {1: "b", 2: "d"})

    def link(origin: str, flow: int) -> int:
        [part], _ = bench.planner.partition(["c"], origin, flow, ())
        return part.link

    assert {link("o", flow) for flow in range(8)} == {1, 2}
    assert all(link("o", flow) == link("o", flow) for flow in range(8))
    del bench.links.bridges[1]
    assert {link("o", flow) for flow in range(8)} == {2}


def test_a_redirect_takes_the_sibling_of_the_fib_first_and_an_exit_where_there_is_none() -> None:
    bench = made({"c": Line((Way(node="s1"),))}, {"c": ["s2"], "d": ["s2"]}, {"s1": 11, "s2": 12}, {})
    own, siblings, lost = bench.planner.own_partition(["c", "d", "e"], (), redirect=True)
    assert (own, lost) == ([], ["e"])
    assert sorted(siblings) == [Part(11, Leg.TRANSIT, ("c",)), Part(12, Leg.TRANSIT, ("d",))]


def test_more_regions_than_a_header_holds_go_in_several_parts() -> None:
    many = [f"r{n:04}" for n in range(2 * PART_REGIONS + 1)]
    bench = made({region: Line((Way(link=1),)) for region in many}, {}, {}, {1: "b"})
    parts, lost = bench.planner.partition(many, "o", 0, ())
    assert [len(part.regions) for part in parts] == [PART_REGIONS, PART_REGIONS, 1]
    assert covered(parts, lost) == many
    own, _, _ = bench.planner.own_partition(many, (), redirect=False)
    assert [len(part.regions) for part in own] == [PART_REGIONS, PART_REGIONS, 1]


# -- plans in memory -------------------------------------------------------------------------------------------------


def test_topics_that_lead_to_the_same_places_share_a_plan_until_it_is_forgotten() -> None:
    made_for: list[str] = []

    def make(topic: str) -> Plan:
        made_for.append(topic)
        return Plan((), (), (topic[0],), (), (), False)

    memory = PlanMemory(make)
    assert memory.known_all(["a1", "a2"]) is None
    [plan] = memory.of_all(["a1", "a2", "a1"])
    assert memory.known_all(["a2", "a1"]) == [plan]
    assert memory.known_all(["a2", "b1"]) is None
    other = memory.of("b1")
    assert other.regions == ("b",)
    assert set(memory.of_all(["b1", "a1"])) == {plan, other}
    assert sorted(made_for) == ["a1", "a2", "b1"]
    memory.forget()
    assert (len(memory), memory.known("a1")) == (0, None)
    assert memory.of("a1") is not plan


@pytest.mark.parametrize("field", ["local", "nodes", "regions", "groups", "unreached", "split", "targets"])
def test_plans_that_differ_in_anything_are_not_shared(field: str) -> None:
    def make(topic: str) -> Plan:
        plan = Plan((), (), (), (), (), False)
        if topic == "other":
            setattr(plan, field, (("x",),))
        return plan

    memory = PlanMemory(make)
    assert memory.of("one") is memory.of("two")
    assert memory.of("one") is not memory.of("other")


# -- queue groups ----------------------------------------------------------------------------------------------------


def test_near_members_are_the_own_node_and_linked_nodes_that_were_not_tried() -> None:
    bench = Bench({"us": Line((Way(link=7),))})
    bench.links.peers["n2"] = 1
    for name in ("n/me", "n/n2", "n/unlinked", "r/us"):
        bench.group(name, 1)
    assert sorted(bench.planner.near_members("g", "t")) == ["me", "n2"]
    assert bench.planner.near_members("g", "t", ("me",)) == ["n2"]
    assert bench.planner.near_members("other", "t") == []


def test_far_members_are_regions_with_a_route_that_were_not_tried_with_metric_and_count() -> None:
    bench = Bench({"us": Line((Way(link=7),), metric=42), "ap": Line((Way(link=8),), metric=9)})
    for name, members in (("n/me", 1), ("r/us", 4), ("r/ap", 2), ("r/unrouted", 8)):
        bench.group(name, members)
    assert sorted(tuple(far) for far in bench.planner.far_members("g", "t")) == [("ap", 9, 2), ("us", 42, 4)]
    assert [far[0] for far in bench.planner.far_members("g", "t", ("us",))] == ["ap"]
