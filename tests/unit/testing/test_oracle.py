"""The naive model: who can reach whom by links and roles, and who must get what, by a scan of everything."""

from __future__ import annotations

import pytest

from mesh.core.opening import Terms
from mesh.testing.oracle import Oracle, topics_of
from mesh.testing.world import SimNode, World


def meshed(*bridges: tuple[str, str, str, str]) -> tuple[World, dict[str, SimNode]]:
    """One node per region. bridges: (a, b, what b is to a, what a is to b)."""
    world = World(1)
    nodes: dict[str, SimNode] = {}
    for a, b, role_a, role_b in bridges:
        for region in (a, b):
            if region not in nodes:
                nodes[region] = world.node(region, "n")
        nodes[a].bridges[b] = Terms(b, role_a)
        nodes[b].bridges[a] = Terms(a, role_b)
        world.seed_link(nodes[a], nodes[b], Terms(b, role_a))
    for node in nodes.values():
        node.start()
    return world, nodes


def line(*roles: tuple[str, str]) -> tuple[World, dict[str, SimNode]]:
    names = "abcdef"
    return meshed(*((names[n], names[n + 1], *role) for n, role in enumerate(roles)))


@pytest.mark.parametrize(
    ("roles", "reach"),
    [
        ([("transit", "transit")] * 3, {"a": "abcd", "d": "abcd"}),
        ([("peer", "peer")] * 2, {"a": "ab", "b": "abc", "c": "bc"}),
        ([("transit", "stub"), ("stub", "transit")], {"a": "abc", "b": "abc", "c": "abc"}),
        ([("stub", "transit"), ("transit", "stub")], {"a": "ab", "b": "abc", "c": "bc"}),
        ([("dmz", "transit"), ("transit", "transit")], {"a": "a", "b": "bc", "c": "bc"}),
    ],
    ids=["transit", "peers", "stubs of b", "b is a stub of both", "dmz"],
)
def test_reach_follows_the_roles(roles: list[tuple[str, str]], reach: dict[str, str]) -> None:
    world, _ = line(*roles)
    oracle = Oracle(world)
    assert {region: "".join(sorted(oracle.reachable(region))) for region in reach} == reach


def test_nodes_that_are_down_and_cut_lines_carry_nothing() -> None:
    world, nodes = line(*[("transit", "transit")] * 2)
    world.cut(nodes["c"].key, nodes["b"].key, both=False)
    assert Oracle(world).reachable("a") == {"a", "b"}
    world.heal()
    assert Oracle(world).reachable("a") == {"a", "b", "c"}
    nodes["b"].crash()
    assert Oracle(world).reachable("a") == {"a"}


def test_receivers_are_all_matching_clients_in_reach_and_the_members_of_each_group() -> None:
    world, nodes = line(*[("transit", "transit")] * 2)
    nodes["a"].subscribe(1, 1, "t/#")
    nodes["a"].subscribe(1, 2, "t/x")
    nodes["b"].subscribe(4, 1, "t/x", "g")
    nodes["c"].subscribe(5, 1, "t/x", "g")
    nodes["c"].subscribe(5, 2, "other")
    got = Oracle(world).receivers("t/x", nodes["a"].key)
    assert got.clients == {(nodes["a"].key, 1): (1, 2)}
    assert got.groups == {("g", "t/x"): {((nodes["b"].key, 4), 1), ((nodes["c"].key, 5), 1)}}
    world.cut(nodes["b"].key, nodes["c"].key)
    assert Oracle(world).receivers("t/x", nodes["a"].key).groups == {("g", "t/x"): {((nodes["b"].key, 4), 1)}}


def test_what_a_region_wants_is_plain_interest_only() -> None:
    world, nodes = line(("transit", "transit"))
    nodes["a"].subscribe(1, 1, "t/+")
    nodes["a"].subscribe(1, 2, "only/group", "g")
    oracle = Oracle(world)
    assert oracle.wants("a", "t/x")
    assert not oracle.wants("a", "only/group")
    assert not oracle.wants("b", "t/x")
    assert oracle.filters("a") == [(nodes["a"].key, "t/+")]


def test_topics_tell_filters_apart() -> None:
    assert topics_of(["a/+", "b/#", "a/+"], ("x", "y")) == ["a/x", "a/y", "b/x", "b/y"]
    assert topics_of([], ("x",)) == []
