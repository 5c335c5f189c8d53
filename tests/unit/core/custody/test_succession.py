"""Durable clients whose home is gone, on whole nodes in virtual time."""

from __future__ import annotations

from unit.core.custody.copied_region import copied_region, events_of, unacknowledged

from mesh.testing.sim_client import Habit
from mesh.testing.sim_node import SimNode
from mesh.testing.world import World

DEAD_S = 25.0
"""Until a node of two is declared dead, and taken over from."""


def keeps(node: SimNode, name: str) -> bool:
    return node.machine.consumers.durable.of_name(name) is not None


def published(world: World, node: SimNode, count: int = 3) -> list[tuple[str, str, int, int]]:
    ids = [mesh_id for _ in range(count) for mesh_id in node.publish_kept("orders/x", key="k")]
    world.run(1.0)
    return ids


def test_the_mirror_becomes_the_home_and_has_what_was_not_acknowledged() -> None:
    world, nodes = copied_region()
    unacknowledged(nodes["a-1"], "shop")
    world.run(2.0)
    ids = published(world, nodes["b-1"])
    nodes["a-1"].crash(wiped=True)
    late = published(world, nodes["b-1"])
    world.run(DEAD_S)
    assert keeps(nodes["a-2"], "shop")
    got = [one for one in events_of(world, "shop") if one.node.node == "a-2"]
    assert [one.mesh_id for one in got] == ids + late
    assert all(one.delivery.redelivered for one in got if one.mesh_id in ids)
    assert not len(nodes["b-1"].store), "nothing waits for the home that is gone"
    assert published(world, nodes["b-1"])[-1] == events_of(world, "shop")[-1].mesh_id


def test_a_home_that_comes_back_with_its_journal_gives_the_client_up() -> None:
    world, nodes = copied_region()
    nodes["a-1"].join("shop", ("orders/#", ""))
    world.run(2.0)
    ids = published(world, nodes["b-1"])
    nodes["a-1"].crash()
    ids += published(world, nodes["b-1"])
    world.run(DEAD_S)
    assert keeps(nodes["a-2"], "shop")
    nodes["a-1"].start()
    world.run(5.0)
    assert not keeps(nodes["a-1"], "shop")
    ids += published(world, nodes["a-1"])
    world.run(5.0)
    got = [one.mesh_id for one in events_of(world, "shop")]
    assert set(got) == set(ids)
    plain = [one.mesh_id for one in events_of(world, "shop") if not one.delivery.redelivered]
    assert len(plain) == len(set(plain))
    world.run(80.0)
    assert not nodes["a-2"].machine.custody.pairs.succession.taken, "the old home knows by now"
    assert all(not len(node.store) for node in nodes.values())


def test_clients_that_copies_do_not_concern_stay_with_their_home() -> None:
    world, nodes = copied_region()
    nodes["a-1"].join("other", ("tickets/#", ""))
    world.run(2.0)
    nodes["a-1"].crash()
    world.run(DEAD_S)
    assert not keeps(nodes["a-2"], "other")
    assert nodes["a-2"].machine.home_of("other") == ("a-1", "", False)


def test_what_a_home_held_alone_goes_to_the_new_one() -> None:
    """The mirror was away when the home took it."""
    world, nodes = copied_region()
    unacknowledged(nodes["a-1"], "shop")
    world.run(2.0)
    nodes["a-2"].crash()
    alone = published(world, nodes["b-1"])
    nodes["a-1"].crash()
    nodes["a-2"].start()
    world.run(DEAD_S)
    nodes["a-2"].habit = Habit()
    nodes["a-1"].habit = Habit()
    nodes["a-1"].start()
    world.run(20.0)
    assert {one.mesh_id for one in events_of(world, "shop") if one.node.node == "a-2"} == set(alone)
    assert keeps(nodes["a-2"], "shop") != keeps(nodes["a-1"], "shop")


def test_of_two_nodes_that_made_the_same_client_the_first_by_name_keeps_it() -> None:
    world, nodes = copied_region()
    nodes["a-1"].join("shop", ("orders/#", ""))
    machine = nodes["a-2"].machine
    machine.connect_client("shop", nodes["a-1"].durable["shop"].terms, nodes["a-2"].now)
    machine.subscribe(machine.consumers.durable.of_name("shop").number, 1, "orders/#", "", nodes["a-2"].now)  # type: ignore[union-attr]
    nodes["a-2"].after()
    world.run(3.0)
    assert (keeps(nodes["a-1"], "shop"), keeps(nodes["a-2"], "shop")) == (True, False)
    ids = published(world, nodes["b-1"])
    assert [one.mesh_id for one in events_of(world, "shop")] == ids
