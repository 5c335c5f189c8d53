"""Second copies as one node has them, whole: refusals, a disk that is full, a node that leaves or has just started."""

from __future__ import annotations

from unit.core.custody.copied_region import copied_region, unacknowledged

from mesh.model.reasons import Refuse, Short
from mesh.wire.frames import CopiesHeld

DEAD_S = 25.0


def test_a_publisher_is_told_when_two_disks_have_the_event() -> None:
    world, nodes = copied_region()
    unacknowledged(nodes["b-1"], "shop")
    world.run(2.0)
    nodes["a-2"].fsync_s = 0.4  # the mirror's disk is slow
    nodes["b-1"].fsync_s = nodes["b-2"].fsync_s = 3.0  # and nobody else has it before
    begun = world.now
    (mesh_id,) = nodes["a-1"].publish_kept("orders/x")
    assert world.run_until(lambda: bool(nodes["a-1"].accepted), 5.0, 0.01) is not None
    assert nodes["a-1"].accepted == [(nodes["a-1"].accepted[0][0], mesh_id)]
    assert nodes["a-1"].accepted[0][0] - begun > 0.1
    assert not nodes["a-1"].machine.counters.copies_short


def test_a_mirror_whose_disk_is_full_is_counted_and_holds_up_nobody() -> None:
    world, nodes = copied_region()
    unacknowledged(nodes["a-1"], "shop")
    world.run(2.0)
    nodes["a-2"].store.fault = Refuse.NO_SPACE
    nodes["a-1"].publish_kept("orders/x")
    world.run(1.0)
    assert len(nodes["a-1"].accepted) == 1
    assert nodes["a-1"].machine.counters.copies_short == {Short.REFUSED: 1}
    assert nodes["a-1"].machine.custody.copies.alone()[0] == 1
    nodes["a-2"].store.fault = None
    world.run(10.0)
    assert nodes["a-1"].machine.custody.copies.alone()[0] == 0, "made up for when there is room"


def test_what_the_store_does_not_take_over_is_tried_again() -> None:
    world, nodes = copied_region()
    unacknowledged(nodes["a-1"], "shop")
    world.run(2.0)
    nodes["b-1"].publish_kept("orders/x")
    world.run(1.0)
    nodes["a-1"].crash(wiped=True)
    nodes["a-2"].store.fault = Refuse.NO_SPACE
    world.run(DEAD_S)
    mirror = nodes["a-2"].machine.custody.pairs.mirror
    assert len(mirror.kept["a-1"]) == 1
    nodes["a-2"].store.fault = None
    world.run(3.0)
    assert not mirror.kept
    assert [one.node.node for one in world.delivered if one.client == "shop"][-1] == "a-2"


def test_a_node_that_leaves_takes_nothing_over() -> None:
    world, nodes = copied_region()
    unacknowledged(nodes["a-1"], "shop")
    world.run(2.0)
    nodes["b-1"].publish_kept("orders/x")
    world.run(1.0)
    nodes["a-1"].crash(wiped=True)
    nodes["a-2"].leave()
    world.run(DEAD_S)
    assert len(nodes["a-2"].machine.custody.pairs.mirror.kept["a-1"]) == 1
    assert nodes["a-2"].machine.counters.copies_taken == 0


def test_a_region_of_one_node_goes_on() -> None:
    world, nodes = copied_region()
    nodes["a-2"].crash(wiped=True)
    nodes["b-1"].subscribe(1, 1, "orders/#")
    world.run(DEAD_S)
    ids = [mesh_id for _ in range(3) for mesh_id in nodes["a-1"].publish_kept("orders/x")]
    world.run(0.1)
    assert len(nodes["a-1"].accepted) == 3
    assert nodes["a-1"].machine.counters.copies_short[Short.NO_SIBLING] == 3
    world.run(2.0)
    assert [one.mesh_id for one in world.delivered] == ids
    assert not len(nodes["a-1"].store)


def test_copies_over_a_bridge_are_refused() -> None:
    _, nodes = copied_region()
    machine = nodes["a-1"].machine
    link = next(iter(machine.links.bridges))
    machine.receive(link, [CopiesHeld(())], nodes["a-1"].now)
    assert link not in machine.sessions
