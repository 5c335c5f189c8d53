"""Meshes with more than one way: exactly one delivery for each subscriber, and one copy per link at most."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import trio
from processes import Mesh, NodeProcess, Subscriber, bridge, items, publish_many, running, sees_regions, total

RING = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]
FULL = list(combinations("abcde", 2))
EVENTS = 50


async def build(mesh: Mesh, edges: list[tuple[str, str]]) -> dict[str, NodeProcess]:
    """One node a region; the later one of each pair dials."""
    nodes: dict[str, NodeProcess] = {}
    for region in sorted({region for edge in edges for region in edge}):
        dials = [nodes[low] for low, high in edges if high == region]
        nodes[region] = await mesh.start(f"{region}-1", region, *bridge(*dials))
    async with trio.open_nursery() as nursery:
        for node in nodes.values():
            nursery.start_soon(sees_regions, node, *(nodes.keys() - {node.region}))
    return nodes


async def link_counts(nodes: dict[str, NodeProcess]) -> dict[tuple[str, str], int]:
    """Events sent so far over each link, by (from, to)."""
    counts = {}
    for node in nodes.values():
        for link in await items(node, "links"):
            if link["node"] == node.name and link["state"] == "open":
                counts[node.region, link["region"]] = link["events_out"]
    return counts


@pytest.mark.parametrize("edges", [RING, FULL], ids=["ring of four", "full mesh of five"])
async def test_one_publish_is_one_delivery_per_subscriber_and_at_most_one_copy_per_link(
    tmp_path: Path, edges: list[tuple[str, str]]
) -> None:
    async with running(tmp_path) as mesh:
        nodes = await build(mesh, edges)
        subscribers = {region: Subscriber() for region in nodes}
        async with trio.open_nursery() as nursery:
            for region, subscriber in subscribers.items():
                await nursery.start(subscriber.run, nodes[region].events, "filter=orders/%2B&wait=mesh")
                assert subscriber.receipt["complete"], subscriber.receipt
            before = await link_counts(nodes)
            answers = await publish_many(nodes["a"], [(f"orders/{n}", "k") for n in range(EVENTS)], batch=10)
            for subscriber in subscribers.values():
                await subscriber.wait(EVENTS)
            sent = {pair: count - before[pair] for pair, count in (await link_counts(nodes)).items()}
            for subscriber in subscribers.values():
                assert subscriber.ids == [answer["mesh_id"] for answer in answers]
            assert max(sent.values()) == EVENTS
            assert sum(sent.values()) == EVENTS * (len(nodes) - 1), "a spanning tree, no copy more"
            assert await total(nodes.values(), "mesh_drops_total") == 0
            nursery.cancel_scope.cancel()
