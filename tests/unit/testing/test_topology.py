"""Drawn meshes are what a shape promises: connected, each pair once, roles that never cut the mesh in two."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from mesh.model.geo import one_way_ms
from mesh.testing.oracle import Oracle
from mesh.testing.topology import MOST, NODES, PLACES, REGIONS, Shape, Size, Topology, draw, edges
from mesh.testing.world import World


def reached(count: int, pairs: list[tuple[int, int]]) -> set[int]:
    """Regions that hang together with region 0."""
    seen, queue = {0}, [0]
    while queue:
        at = queue.pop()
        for pair in pairs:
            if at in pair:
                other = pair[0] + pair[1] - at
                if other not in seen:
                    seen.add(other)
                    queue.append(other)
    return seen


@pytest.mark.parametrize("shape", list(Shape))
@pytest.mark.parametrize("count", [3, 7, 14])
def test_every_shape_is_connected_and_names_each_pair_once(shape: Shape, count: int) -> None:
    pairs = edges(shape, count, random.Random(count))
    assert reached(count, pairs) == set(range(count))
    assert len(set(pairs)) == len(pairs)
    assert all(0 <= a < b < count for a, b in pairs)


def test_shapes_are_what_they_are_called() -> None:
    dice = random.Random(1)
    assert edges(Shape.LINE, 4, dice) == [(0, 1), (1, 2), (2, 3)]
    assert sorted(edges(Shape.RING, 4, dice)) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert edges(Shape.STAR, 4, dice) == [(0, 1), (0, 2), (0, 3)]
    assert edges(Shape.HUBS, 5, dice) == [(0, 1), (0, 2), (1, 3), (0, 4)]
    assert edges(Shape.FULL, 5, dice) == list(combinations(range(5), 2))


@pytest.mark.parametrize("size", list(Size))
def test_a_size_bounds_regions_and_nodes(size: Size) -> None:
    for seed in range(20):
        topology = draw(random.Random(seed), size)
        count = len(topology.places)
        assert REGIONS[size][0] <= count <= min(REGIONS[size][1], MOST.get(topology.shape, 1_000))
        for region in topology.places:
            assert NODES[size][0] <= len(topology.of(region)) <= NODES[size][1]


def test_one_seed_draws_one_mesh() -> None:
    assert draw(random.Random(5), Size.MEDIUM) == draw(random.Random(5), Size.MEDIUM)


def test_bridges_join_other_regions_and_two_between_a_pair_differ() -> None:
    for seed in range(30):
        bridges = draw(random.Random(seed)).bridges
        assert all(bridge.a.region != bridge.b.region for bridge in bridges)
        assert len({(bridge.a, bridge.b) for bridge in bridges}) == len(bridges)


def test_with_roles_every_region_still_reaches_its_neighbours_and_transit_reaches_all() -> None:
    with_roles = 0
    for seed in range(40):
        topology = draw(random.Random(seed))
        world = World(1)
        for node in topology.build(world):
            node.start()
        oracle = Oracle(world)
        plain = all((b.role_a, b.role_b) == ("transit", "transit") for b in topology.bridges)
        with_roles += not plain
        for bridge in topology.bridges:
            assert bridge.b.region in oracle.reachable(bridge.a.region)
            assert bridge.a.region in oracle.reachable(bridge.b.region)
        if plain:
            assert all(oracle.reachable(region) == set(topology.places) for region in topology.places)
    assert with_roles >= 5


def test_pairs_are_the_bridges_and_the_full_mesh_of_each_region() -> None:
    topology = draw(random.Random(2), Size.SMALL)
    inside = [pair for pair in topology.pairs() if pair[0].region == pair[1].region]
    for region in topology.places:
        assert len([p for p in inside if p[0].region == region]) == len(
            list(combinations(topology.of(region), 2))
        )
    assert len(topology.pairs()) == len(inside) + len(topology.bridges)


def test_built_nodes_dial_their_seeds_and_their_bridges() -> None:
    topology = draw(random.Random(3), Size.SMALL)
    world = World(1)
    built = {node.key: node for node in topology.build(world)}
    assert list(built) == topology.nodes
    for bridge in topology.bridges:
        assert bridge.b in [key for key, _ in built[bridge.a].targets]
        assert built[bridge.b].bridges[bridge.a.region].role == bridge.role_b
    for region in topology.places:
        first, *others = topology.of(region)
        assert all(first in [key for key, _ in built[other].targets] for other in others)


def test_places_are_as_far_apart_as_on_earth() -> None:
    at = {place.name: (place.north, place.east) for place in PLACES}
    assert len(at) == len(PLACES)
    assert one_way_ms(at["frankfurt"], at["singapore"]) > 5 * one_way_ms(at["frankfurt"], at["london"])
    assert Topology(Shape.LINE).pairs() == []
