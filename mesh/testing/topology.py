"""Seeded shapes of meshes: regions at real places, their nodes, and the bridges between them.

Decides which regions and nodes exist, who bridges to whom and in which role; starts nothing.
Invariant: the graph of regions is connected, and which region may reach which other one follows from the roles alone,
whatever the metrics are: roles other than transit are given only to leaves, or in graphs without a circle.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from mesh.core.opening import Terms
from mesh.model.ids import NodeKey
from mesh.testing.world import SimNode, World


class Place(NamedTuple):
    """Somewhere real: degrees north and east."""

    name: str
    north: float
    east: float


PLACES: Final = (
    Place("frankfurt", 50.1, 8.7),
    Place("ashburn", 39.0, -77.5),
    Place("singapore", 1.35, 103.8),
    Place("sao-paulo", -23.5, -46.6),
    Place("sydney", -33.9, 151.2),
    Place("london", 51.5, -0.1),
    Place("tokyo", 35.7, 139.7),
    Place("mumbai", 19.1, 72.9),
    Place("johannesburg", -26.2, 28.0),
    Place("oregon", 45.6, -121.2),
    Place("paris", 48.9, 2.4),
    Place("stockholm", 59.3, 18.1),
    Place("dublin", 53.3, -6.3),
    Place("milan", 45.5, 9.2),
    Place("madrid", 40.4, -3.7),
    Place("warsaw", 52.2, 21.0),
    Place("zurich", 47.4, 8.5),
    Place("tel-aviv", 32.1, 34.8),
    Place("dubai", 25.2, 55.3),
    Place("bahrain", 26.1, 50.6),
    Place("hyderabad", 17.4, 78.5),
    Place("jakarta", -6.2, 106.8),
    Place("hong-kong", 22.3, 114.2),
    Place("seoul", 37.6, 127.0),
    Place("osaka", 34.7, 135.5),
    Place("taipei", 25.0, 121.5),
    Place("melbourne", -37.8, 145.0),
    Place("auckland", -36.8, 174.8),
    Place("montreal", 45.5, -73.6),
    Place("toronto", 43.7, -79.4),
    Place("columbus", 40.0, -83.0),
    Place("dallas", 32.8, -96.8),
    Place("los-angeles", 34.1, -118.2),
    Place("queretaro", 20.6, -100.4),
    Place("bogota", 4.7, -74.1),
    Place("santiago", -33.4, -70.7),
    Place("buenos-aires", -34.6, -58.4),
    Place("lagos", 6.5, 3.4),
    Place("nairobi", -1.3, 36.8),
    Place("cape-town", -33.9, 18.4),
)


class Shape(StrEnum):
    """How the regions hang together."""

    LINE = "line"
    RING = "ring"
    STAR = "star"
    HUBS = "hubs"
    """Hub and spoke: two hubs, joined, each with its own spokes."""
    FULL = "full"
    """Each region with each other one."""
    RANDOM = "random"


TREES: Final = (Shape.LINE, Shape.STAR, Shape.HUBS)


class Size(StrEnum):
    """How large a world is drawn."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


REGIONS: Final = {Size.SMALL: (3, 6), Size.MEDIUM: (8, 14), Size.LARGE: (30, 100)}
NODES: Final = {Size.SMALL: (1, 3), Size.MEDIUM: (1, 4), Size.LARGE: (1, 4)}
MOST: Final = {Shape.LINE: 14, Shape.RING: 14, Shape.FULL: 8}
"""Regions in shapes that do not grow for ever: the hop limit is 16, and who bridges to everybody has many bridges."""


class Bridge(NamedTuple):
    """A link between two regions, dialled by `a`. role_a: what `a` configures b's region to be, role_b: the reverse."""

    a: NodeKey
    b: NodeKey
    role_a: str = "transit"
    role_b: str = "transit"


@dataclass(slots=True)
class Topology:
    """A mesh on paper. nodes: in the order in which they start. bridges: links between regions."""

    shape: Shape
    places: dict[str, tuple[float, float]] = field(default_factory=dict)
    nodes: list[NodeKey] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)

    def of(self, region: str) -> list[NodeKey]:
        """A region's nodes."""
        return [key for key in self.nodes if key.region == region]

    def pairs(self) -> list[tuple[NodeKey, NodeKey]]:
        """All pairs of nodes that are to be linked: bridges, and the full mesh inside each region."""
        inside = [(a, b) for a in self.nodes for b in self.nodes if a < b and a.region == b.region]
        return [(bridge.a, bridge.b) for bridge in self.bridges] + inside

    def build(self, world: World) -> list[SimNode]:
        """Add all nodes to a world, not started. A node's seeds are its region's first node and the one before it."""
        built = {key: world.node(key.region, key.node, self.places[key.region]) for key in self.nodes}
        for region in self.places:
            members = self.of(region)
            for before, key in pairwise(members):
                for seed in sorted({members[0], before}):
                    world.seed_link(built[key], built[seed])
        for bridge in self.bridges:
            built[bridge.a].bridges[bridge.b.region] = Terms(bridge.b.region, bridge.role_a)
            built[bridge.b].bridges[bridge.a.region] = Terms(bridge.a.region, bridge.role_b)
            world.seed_link(built[bridge.a], built[bridge.b], Terms(bridge.b.region, bridge.role_a))
        return list(built.values())


def edges(shape: Shape, regions: int, dice: random.Random) -> list[tuple[int, int]]:
    """Which regions are neighbours, by index. Connected, each pair once, smaller index first."""
    if shape is Shape.LINE:
        return [(i, i + 1) for i in range(regions - 1)]
    if shape is Shape.RING:
        return [(i, i + 1) for i in range(regions - 1)] + [(0, regions - 1)]
    if shape is Shape.STAR:
        return [(0, i) for i in range(1, regions)]
    if shape is Shape.HUBS:
        return [(0, 1)] + [(i % 2, i) for i in range(2, regions)]
    if shape is Shape.FULL:
        return list(combinations(range(regions), 2))
    found = {(dice.randrange(i), i) for i in range(1, regions)}
    for _ in range(max(1, regions // 2)):
        a, b = sorted(dice.sample(range(regions), 2))
        found.add((a, b))
    return sorted(found)


def draw(dice: random.Random, size: Size = Size.SMALL, shape: Shape | None = None) -> Topology:
    """A random mesh. Cost: O(nodes)."""
    count = dice.randint(*REGIONS[size])
    fits = [one for one in Shape if MOST.get(one, count) >= REGIONS[size][0]]
    shape = shape or dice.choice(fits)
    count = min(count, MOST.get(shape, count))
    topology = Topology(shape)
    names: list[str] = []
    for index in range(count):
        place = PLACES[index % len(PLACES)] if index >= len(PLACES) else dice.choice(PLACES)
        name = f"{place.name}-{index}"
        names.append(name)
        topology.places[name] = (place.north, place.east)
        topology.nodes += [NodeKey(name, f"n{n}") for n in range(1, 1 + dice.randint(*NODES[size]))]
    neighbours = edges(shape, count, dice)
    roles = _roles(neighbours, shape, dice) if dice.random() < 0.3 else {}
    for a, b in neighbours:
        role_a, role_b = roles.get((a, b), ("transit", "transit"))
        topology.bridges += _bridges(topology.of(names[a]), topology.of(names[b]), role_a, role_b, dice)
    return topology


def _bridges(
    near: list[NodeKey], far: list[NodeKey], role_a: str, role_b: str, dice: random.Random
) -> list[Bridge]:
    """One link between two regions, or two of them that share at most one end."""
    first = Bridge(dice.choice(near), dice.choice(far), role_a, role_b)
    if dice.random() < 0.5 or len(near) + len(far) == 2:
        return [first]
    second = Bridge(dice.choice(near), dice.choice(far), role_a, role_b)
    return [first] if second == first else [first, second]


def _roles(
    neighbours: list[tuple[int, int]], shape: Shape, dice: random.Random
) -> dict[tuple[int, int], tuple[str, str]]:
    """Roles for some of the links: any in a tree, stubs at the leaves elsewhere."""
    degree: dict[int, int] = {}
    for a, b in neighbours:
        degree[a] = degree.get(a, 0) + 1
        degree[b] = degree.get(b, 0) + 1
    roles: dict[tuple[int, int], tuple[str, str]] = {}
    for a, b in neighbours:
        if shape in TREES and dice.random() < 0.3:
            roles[a, b] = dice.choice(
                [("peer", "peer"), ("peer", "transit"), ("stub", "transit"), ("transit", "stub")]
            )
        elif degree[b] == 1 and dice.random() < 0.5:
            roles[a, b] = ("stub", "transit")
        elif degree[a] == 1 and dice.random() < 0.5:
            roles[a, b] = ("transit", "stub")
    return roles
