"""At-least-once over whole meshes in virtual time: accepted is delivered, whatever crashes or is cut."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest

from mesh.core.custody.store import StoreRefusedError
from mesh.model.event import NewEvent
from mesh.model.reasons import Refuse
from mesh.testing.world import SimNode, World
from mesh.wire.frames import Flag

LINE = [("a", "b"), ("b", "c"), ("c", "d")]


def build(
    edges: list[tuple[str, str]], per_region: int = 1, seed: int = 7
) -> tuple[World, dict[str, SimNode]]:
    """Regions joined by bridges between all their nodes of the same number, started and converged."""
    world = World(seed)
    regions = sorted({region for edge in edges for region in edge})
    nodes: dict[str, SimNode] = {}
    for at, region in enumerate(regions):
        listed = [b for a, b in edges if a == region]
        for number in range(1, per_region + 1):
            name = f"{region}-{number}"
            nodes[name] = world.node(region, name, (0.0, 3.0 * at), listed)
            for other in range(1, number):
                world.seed_link(nodes[name], nodes[f"{region}-{other}"])
    for a, b in edges:
        for number in range(1, per_region + 1):
            world.seed_link(nodes[f"{a}-{number}"], nodes[f"{b}-{number}"])
    for node in nodes.values():
        node.start()
    world.run(4.0)
    return world, nodes


def seen(world: World) -> Counter[object]:
    return Counter(one.mesh_id for one in world.delivered)


def test_a_line_of_four_delivers_each_accepted_event_once_and_ends_with_empty_stores() -> None:
    world, nodes = build(LINE)
    nodes["d-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    ids = [
        mesh_id for _ in range(20) for mesh_id in nodes["a-1"].publish_kept("orders/x", "orders/y", key="k")
    ]
    assert not nodes["a-1"].accepted, "nothing is accepted before it is synced"
    world.run(3.0)
    assert [mesh_id for _, mesh_id in nodes["a-1"].accepted] == ids
    assert [one.mesh_id for one in world.delivered] == ids
    assert not any(one.delivery.redelivered for one in world.delivered)
    assert {name: len(node.store) for name, node in nodes.items()} == dict.fromkeys(nodes, 0)


def test_a_region_that_is_away_gets_what_was_kept_for_it_oldest_first() -> None:
    world, nodes = build(LINE)
    nodes["d-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    nodes["d-1"].crash(told=False)
    world.run(10.0)
    ids = []
    for _ in range(50):
        ids += nodes["a-1"].publish_kept("orders/x")
        world.run(0.1)
    assert len(nodes["a-1"].accepted) == 50
    assert not world.delivered
    nodes["d-1"].start()
    assert world.run_until(lambda: len(world.delivered) >= 50, 30.0) is not None
    assert [one.mesh_id for one in world.delivered] == ids
    world.run(1.0)
    assert sum(len(node.store) for node in nodes.values()) == 0


@pytest.mark.parametrize("seed", range(20))
def test_crashes_of_any_node_at_any_moment_lose_nothing_that_was_accepted(seed: int) -> None:
    world, nodes = build(LINE[:2], per_region=2, seed=seed)
    dice = random.Random(seed)
    nodes["c-1"].subscribe(1, 1, "orders/#")
    nodes["c-2"].subscribe(2, 1, "orders/#")
    world.run(3.0)
    for round in range(40):
        for name in ("a-1", "a-2"):
            if nodes[name].serves:
                with contextlib.suppress(
                    StoreRefusedError
                ):  # just started: it does not know yet who wants what
                    nodes[name].publish_kept("orders/x", "orders/y")
        world.run(dice.uniform(0.0, 0.05))
        victim = nodes[dice.choice(["a-1", "a-2", "b-1", "b-2"])]
        if round % 4 == 0 and victim.up:
            victim.crash(told=dice.random() < 0.5)
            world.at(world.now + dice.uniform(0.05, 3.0), victim.start)
    world.run(60.0)
    accepted = [mesh_id for node in nodes.values() for _, mesh_id in node.accepted]
    got = {(one.node.node, one.mesh_id) for one in world.delivered}
    missing = [
        (name, mesh_id) for name in ("c-1", "c-2") for mesh_id in accepted if (name, mesh_id) not in got
    ]
    assert accepted
    assert not missing, f"{len(missing)} of {len(accepted)}"
    unflagged = Counter((one.session, one.mesh_id) for one in world.delivered if not one.delivery.redelivered)
    assert [key for key, count in unflagged.items() if count > 1] == []
    assert {name: len(node.store) for name, node in nodes.items()} == dict.fromkeys(nodes, 0)


@pytest.mark.parametrize("full", ["b-1", "b-2"])
def test_a_transit_node_with_a_full_disk_refuses_and_its_sibling_takes_over_at_once(full: str) -> None:
    world, nodes = build(LINE[:2], per_region=2)
    nodes["c-1"].subscribe(1, 1, "orders/#")
    world.run(3.0)
    nodes[full].store.fault = Refuse.NO_SPACE
    for name in ("a-1", "a-2"):
        for _ in range(20):
            nodes[name].publish_kept("orders/x")
            world.run(0.02)
    assert world.run_until(lambda: len(world.delivered) == 40, 1.0) is not None
    refused = sum(nodes[name].machine.counters.refused.get("no_space", 0) for name in ("a-1", "a-2"))
    assert 0 < refused <= 40


def test_two_transit_nodes_with_full_disks_refuse_until_there_is_room() -> None:
    world, nodes = build(LINE[:2], per_region=2)
    nodes["c-1"].subscribe(1, 1, "orders/#")
    world.run(3.0)
    nodes["b-1"].store.fault = Refuse.NO_SPACE
    nodes["b-2"].store.fault = Refuse.NO_SPACE
    nodes["a-1"].publish_kept("orders/x")
    world.run(5.0)
    assert not world.delivered
    assert sum(nodes[name].machine.counters.refused.get("no_space", 0) for name in ("a-1", "a-2")) > 1
    nodes["b-1"].store.fault = nodes["b-2"].store.fault = None
    assert world.run_until(lambda: len(world.delivered) == 1, 10.0) is not None


def test_a_node_that_cannot_store_refuses_its_publishers() -> None:
    _, nodes = build(LINE[:1])
    nodes["a-1"].store.fault = Refuse.NO_SPACE
    with pytest.raises(StoreRefusedError) as refused:
        nodes["a-1"].publish_kept("orders/x")
    assert refused.value.reason is Refuse.NO_SPACE
    assert nodes["a-1"].machine.counters.published == 0


def test_an_event_past_its_deadline_is_a_dead_letter() -> None:
    world, nodes = build(LINE[:2])
    nodes["c-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    nodes["c-1"].crash()
    world.run(10.0)
    nodes["a-1"].publish_kept("orders/x", ttl_ms=3_000)
    world.run(10.0)
    letters = nodes["a-1"].machine.custody.letters
    [number] = letters.numbers()
    found = letters.get(number)
    assert found is not None
    assert (found.reason, found.part, found.event.topic) == ("expired", "r/c", "orders/x")
    nodes["c-1"].start()
    world.run(10.0)
    assert not world.delivered


def test_a_region_says_that_it_has_an_event_once_it_is_on_its_disk() -> None:
    world, nodes = build(LINE)
    nodes["d-1"].subscribe(1, 1, "orders/#")
    nodes["c-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    machine = nodes["a-1"].machine
    _, _, call = machine.publish_kept(
        [NewEvent("orders/x", "", 0, (), b"x")] * 3, nodes["a-1"].now, Flag.RECEIPT
    )
    machine.flush(nodes["a-1"].now)
    nodes["a-1"].after()
    assert call is not None
    assert call.acknowledgement().missing == ("r/c", "r/d")
    nodes["d-1"].store.fault = Refuse.NO_SPACE
    world.run(3.0)
    assert call.acknowledgement().missing == ("r/d",)
    assert machine.custody.missing(call) == [
        ("d", "not_acknowledged", "it has not said that it has stored it")
    ]
    nodes["d-1"].store.fault = None
    world.run(8.0)
    assert call.acknowledgement().complete
    assert {name: len(node.store) for name, node in nodes.items()} == dict.fromkeys(nodes, 0)


def test_a_groups_event_without_a_member_in_reach_goes_to_the_first_region_that_is() -> None:
    world, nodes = build(LINE[:2])
    nodes["b-1"].subscribe(1, 1, "jobs/#", "workers")
    nodes["c-1"].subscribe(1, 1, "jobs/#", "workers")
    world.run(2.0)
    nodes["b-1"].crash()
    nodes["c-1"].crash()
    world.run(10.0)
    nodes["a-1"].publish_kept("jobs/1", "jobs/2")
    held = nodes["a-1"].machine.custody.stranded
    assert len(held) == 1
    world.run(1.0)
    nodes["a-1"].crash()
    world.run(1.0)
    nodes["a-1"].start()
    nodes["c-1"].start()
    world.run(10.0)
    assert not world.delivered
    del nodes["b-1"].subscriptions[1, 1]
    nodes["b-1"].start()
    assert world.run_until(lambda: len(world.delivered) >= 2, 60.0) is not None
    assert {one.node.region for one in world.delivered} == {"c"}
    world.run(5.0)
    assert len(world.delivered) == 2
    assert sum(len(node.store) for node in nodes.values()) == 0


def test_a_full_disk_does_not_lose_what_a_group_on_a_dead_member_had_to_get() -> None:
    world, nodes = build([("a", "b")], per_region=3)
    for name in ("b-2", "b-3"):
        nodes[name].subscribe(1, 1, "jobs/#", "workers")
    world.run(3.0)
    nodes["b-2"].crash(told=False)
    nodes["b-3"].crash(told=False)
    ids = nodes["b-1"].publish_kept("jobs/1", "jobs/2", "jobs/3", "jobs/4")
    world.run(0.5)
    nodes["b-1"].store.fault = Refuse.NO_SPACE
    nodes["b-3"].start()
    world.run(30.0)
    nodes["b-1"].store.fault = None
    assert world.run_until(lambda: {one.mesh_id for one in world.delivered} == {*ids}, 60.0) is not None
