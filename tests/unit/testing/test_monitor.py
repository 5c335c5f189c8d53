"""The watcher of every step: what it must report, from doctored steps, and what it must not, from a sound world."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
from msgspec.structs import replace

from federation.core.selection import FibEntry
from mesh.model.ids import NodeKey
from mesh.testing.monitor import KEPT, Monitor, sizes
from mesh.testing.sim_client import Delivered
from mesh.testing.world import SimNode, World
from mesh.wire.frames import BatchHeader


def ring() -> tuple[World, Monitor, dict[str, SimNode]]:
    """Four regions of one node in a ring, settled, a subscriber in c."""
    world = World(1)
    monitor = Monitor(world)
    nodes = {name: world.node(name, "n") for name in "abcd"}
    for one, other in ("ab", "bc", "cd", "da"):
        world.seed_link(nodes[one], nodes[other])
    for node in nodes.values():
        node.start()
    nodes["c"].subscribe(1, 1, "t")
    world.run(5.0)
    return world, monitor, nodes


def props(monitor: Monitor) -> list[str]:
    return [violation.prop for violation in monitor.violations]


def delivered(world: World, nodes: dict[str, SimNode]) -> Delivered:
    nodes["a"].publish("t")
    world.run(1.0)
    return world.delivered[-1]


def carried(world: World, nodes: dict[str, SimNode]) -> tuple[SimNode, SimNode, BatchHeader, bytes]:
    """A batch as it crossed a link."""
    seen: list[tuple[SimNode, SimNode, BatchHeader, bytes]] = []

    def note(a: SimNode, b: SimNode, header: BatchHeader, body: bytes) -> None:
        seen.append((a, b, header, body))

    world.on_batch.append(note)
    nodes["a"].publish("t")
    world.on_batch.remove(note)
    return seen[0]


def test_a_sound_world_has_no_violation_and_its_figures_are_counted() -> None:
    world, monitor, nodes = ring()
    for _ in range(5):
        delivered(world, nodes)
    assert monitor.violations == []
    seen = monitor.seen
    assert (seen.deliveries, seen.copies, seen.hops) == (5, 10, 2)
    assert seen.largest["sessions"][0] == 2
    assert seen.largest["route.sources"] == (3, nodes["a"].machine.settings.routes.sources)
    assert monitor.still_looping() == []


def test_p5_a_second_delivery_to_a_subscription() -> None:
    world, monitor, nodes = ring()
    one = delivered(world, nodes)
    world.delivered.append(one._replace(session=9))
    world.delivered.append(one._replace(delivery=one.delivery._replace(redelivered=True)))
    world.run(1.0)
    assert props(monitor) == [], "another session, and one that is flagged as redelivered"
    world.delivered.append(one)
    world.run(1.0)
    assert props(monitor) == ["P5"]
    assert "subscription 1 of c/n#1" in monitor.violations[0].detail


def test_p3_paths_beyond_the_hop_limit_or_with_a_region_twice() -> None:
    world, monitor, nodes = ring()
    one = delivered(world, nodes)
    far = tuple(f"r{n}" for n in range(world.limits.hop_limit + 1))
    world.delivered.append(one._replace(session=9, delivery=one.delivery._replace(path=far)))
    world.run(1.0)
    a, b, header, body = carried(world, nodes)
    monitor._carried(a, b, replace(header, path=far), body)
    monitor._carried(a, b, replace(header, path=("a", "b", "a")), body)
    assert props(monitor) == ["P3", "P3", "P3"]
    assert monitor.seen.hops == len(far)


def test_p11_a_second_copy_on_a_link_is_noted_only_in_peace() -> None:
    world, monitor, nodes = ring()
    batch = carried(world, nodes)
    monitor._carried(*batch)
    assert props(monitor) == []
    monitor.strict_copies = True
    monitor._carried(*batch)
    monitor._carried(*batch)
    assert props(monitor) == ["P11"]


def looking(node: SimNode, region: str, towards: str) -> None:
    """Bend a node's line for a region so that it leads over its link to another region."""
    rib = node.machine.control.routes._rib
    link = next(link for link, name in node.machine.links.bridges.items() if name == towards)
    line: FibEntry = rib._fib[region]
    hop = line.hops[0]._replace(link=link, bridge="n", node="n")
    rib._fib[region] = changed(line, hops=(hop,), alternates=())
    rib.generation += 1
    node.world.settled(node)


def test_p2_next_hops_of_one_source_in_a_circle() -> None:
    _, monitor, nodes = ring()
    looking(nodes["a"], "c", "b")
    looking(nodes["b"], "c", "c")
    assert props(monitor) == []
    looking(nodes["b"], "c", "a")
    assert props(monitor) == ["P2"]
    assert "('c', 'n'" in monitor.violations[0].detail
    assert monitor.seen.loops == 1
    assert monitor.still_looping() == ["c"]


def test_a_transient_circle_is_counted_with_how_long_it_lasted() -> None:
    world, monitor, nodes = ring()
    looking(nodes["a"], "c", "b")
    looking(nodes["b"], "c", "a")
    world.run(0.5)
    looking(nodes["b"], "c", "c")
    assert monitor.seen.loops == 1
    assert monitor.seen.loop_s == pytest.approx(0.5)
    assert monitor.still_looping() == []
    looking(nodes["b"], "c", "a")
    assert monitor.seen.loops == 2


def test_p8_a_size_past_its_bound() -> None:
    world, monitor, nodes = ring()
    size, bound = sizes(nodes["b"], world.limits)["requests"]
    assert (size, bound) == (0, world.limits.pending_requests)
    nodes["b"].machine.inboxes._waiting = dict.fromkeys(map(str, range(bound + 1)))  # type: ignore[assignment]
    world.run(3.0)
    assert set(props(monitor)) == {"P8"}
    assert monitor.violations[0].detail == f"requests of b/n is {bound + 1}, bound {bound}"
    assert monitor.seen.largest["requests"] == (bound + 1, bound)


def test_every_size_has_a_bound_above_what_a_small_world_needs() -> None:
    world, _, nodes = ring()
    for node in nodes.values():
        for what, (size, bound) in sizes(node, world.limits).items():
            assert 0 <= size <= bound, what


def test_only_the_first_violations_are_kept() -> None:
    _, monitor, _ = ring()
    for n in range(KEPT + 10):
        monitor.note("P1", str(n))
    assert len(monitor.violations) == KEPT
    assert str(monitor.violations[0]) == f"P1 at {monitor.world.now:.3f} s: 0"


def test_a_new_process_is_looked_at_anew() -> None:
    world, monitor, nodes = ring()
    nodes["b"].crash()
    world.run(3.0)
    nodes["b"].start()
    world.run(8.0)
    assert monitor.violations == []
    assert monitor._fib_seen[NodeKey("b", "n")][1] == nodes["b"].generation == 2
