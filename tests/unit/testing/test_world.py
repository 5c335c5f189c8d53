"""Virtual time: what is due happens in order, once, and the same seed gives the same run."""

from __future__ import annotations

import pytest

from mesh.core.effects import Notify
from mesh.model.ids import NodeKey
from mesh.model.reasons import Drop
from mesh.testing.world import SimNode, World, events_of


def pair(seed: int = 1) -> tuple[World, SimNode, SimNode]:
    world = World(seed)
    a, b = world.node("eu", "a"), world.node("eu", "b")
    world.seed_link(a, b)
    a.start()
    b.start()
    world.run(2.0)
    return world, a, b


def test_actions_happen_at_their_time_and_in_order() -> None:
    world = World(1)
    seen: list[tuple[str, float]] = []
    for name, at in (("late", 2.0), ("first", 1.0), ("second", 1.0), ("never", 9.0)):
        world.at(at, lambda name=name: seen.append((name, world.now)))  # type: ignore[misc]
    world.run(1.0)
    assert seen == [("first", 1.0), ("second", 1.0)]
    world.run(1.5)
    assert seen[2:] == [("late", 2.0)]
    assert (world.now, world.steps) == (2.5, 3)


def test_running_until_a_condition_tells_how_long_it_took_or_that_it_never_did() -> None:
    world = World(1)
    done: list[int] = []
    world.at(0.32, lambda: done.append(1))
    assert world.run_until(lambda: bool(done), 5.0) == pytest.approx(0.35)
    assert world.run_until(lambda: False, 1.0, 0.5) is None
    assert world.now == pytest.approx(1.35)
    assert world.run_until(lambda: True, 1.0) == 0.0


def test_the_same_seed_and_calls_give_the_same_deliveries() -> None:
    def lived(seed: int) -> list[tuple[float, tuple[str, str, int, int]]]:
        world, a, b = pair(seed)
        world.chaos.jitter = 1.0
        b.subscribe(1, 1, "t/#")
        for n in range(20):
            world.run(0.1)
            a.publish(f"t/{n}")
        world.run(1.0)
        return [(one.at, one.mesh_id) for one in world.delivered]

    assert lived(3) == lived(3)
    assert len(lived(3)) == 20


def test_watchers_see_batches_notices_and_settled_nodes() -> None:
    world, a, b = pair()
    batches: list[tuple[NodeKey, NodeKey, int]] = []
    notices: list[str] = []
    settled: set[NodeKey] = set()

    def noticed(node: SimNode, notify: Notify) -> None:
        notices.append(f"{node.key} {notify.what} {notify.about}")

    world.on_batch.append(lambda x, y, header, body: batches.append((x.key, y.key, header.count)))
    world.on_notice.append(noticed)
    world.on_settled.append(lambda node: settled.add(node.key))
    b.subscribe(1, 1, "t")
    world.run(0.5)
    a.publish("t", "t")
    assert batches == [(a.key, b.key, 2)]
    assert world.batched_at == world.now
    world.run(0.1)
    assert [event.topic for event in events_of(world.delivered)] == ["t", "t"]
    assert settled == {a.key, b.key}
    b.crash()
    world.run(0.5)
    assert "eu/a link_closed eu/b" in notices


def test_drops_are_summed_over_live_nodes_and_with_those_that_are_gone() -> None:
    world, a, b = pair()
    a.machine.counters.drop(Drop.NO_ROUTE, 2)
    b.machine.counters.drop(Drop.NO_ROUTE, 3)
    assert world.drops() == {"no_route": 5}
    b.crash()
    assert world.drops() == {"no_route": 2}
    assert world.drops(buried=True)["no_route"] == 5
    assert world.live_nodes() == [a]
