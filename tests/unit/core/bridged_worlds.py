"""Small worlds of regions joined by bridges, for the tests of the data plane."""

from __future__ import annotations

from collections import Counter

from mesh.model.limits import Limits
from mesh.testing.world import SimNode, World
from mesh.wire.frames import Leg


def build(
    edges: list[tuple[str, str]], per_region: int = 1, limits: Limits | None = None
) -> tuple[World, dict[str, SimNode]]:
    """A world of regions joined by bridges between their first nodes, started and converged."""
    world = World(7, limits=limits)
    regions = sorted({region for edge in edges for region in edge})
    nodes: dict[str, SimNode] = {}
    for at, region in enumerate(regions):
        listed = [b for a, b in edges if a == region]
        for number in range(1, per_region + 1):
            name = f"{region}-{number}"
            nodes[name] = world.node(region, name, (0.0, 3.0 * at), listed if number == 1 else ())
            if number > 1:
                world.seed_link(nodes[name], nodes[f"{region}-1"])
    for a, b in edges:
        world.seed_link(nodes[f"{a}-1"], nodes[f"{b}-1"])
    for node in nodes.values():
        node.start()
    world.run(4.0)
    return world, nodes


def copies(world: World) -> Counter[tuple[str, str, Leg]]:
    """Counts batches carried per (from, to, leg) from now on."""
    seen: Counter[tuple[str, str, Leg]] = Counter()
    world.on_batch.append(lambda a, b, header, body: seen.update([(a.key.node, b.key.node, header.leg)]))
    return seen


RING = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]


def members(world: World, nodes: dict[str, SimNode], *names: str) -> None:
    for name in names:
        nodes[name].subscribe(1, 1, "jobs/#", "workers")
    world.run(1.0)
