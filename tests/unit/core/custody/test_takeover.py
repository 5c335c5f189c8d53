"""What a mirror does with the records of a node that is gone, on whole nodes in virtual time."""

from __future__ import annotations

from unit.core.custody.copied_region import copied_region, events_of, unacknowledged

from mesh.model.topic_rules import TopicRules


def test_records_of_a_node_whose_disk_is_gone_arrive_flagged() -> None:
    world, nodes = copied_region()
    nodes["b-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    nodes["b-1"].crash(), nodes["b-2"].crash()
    world.run(1.0)
    ids = [mesh_id for _ in range(5) for mesh_id in nodes["a-1"].publish_kept("orders/x", key="k")]
    world.run(0.5)
    assert len(nodes["a-1"].accepted) == 5
    nodes["a-1"].crash(wiped=True)
    nodes["b-1"].start(), nodes["b-2"].start()
    world.run(40.0)
    assert [one.mesh_id for one in world.delivered] == ids
    assert all(one.delivery.redelivered for one in world.delivered)
    assert nodes["a-2"].machine.counters.copies_taken == 5
    assert not len(nodes["a-2"].store)


def test_without_a_sibling_nobody_takes_over_and_the_rule_without_copies_makes_none() -> None:
    world, nodes = copied_region(rules=TopicRules())
    nodes["b-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    nodes["b-1"].crash(), nodes["b-2"].crash()
    world.run(1.0)
    nodes["a-1"].publish_kept("orders/x")
    world.run(0.5)
    nodes["a-1"].crash(wiped=True)
    nodes["b-1"].start(), nodes["b-2"].start()
    world.run(40.0)
    assert world.delivered == []


def test_an_owner_that_comes_back_in_time_delivers_itself_and_its_mirror_drops_the_copies() -> None:
    world, nodes = copied_region()
    client = unacknowledged(nodes["a-1"], "shop")
    world.run(2.0)
    nodes["b-1"].publish_kept("orders/x")
    world.run(1.0)
    assert len(nodes["a-2"].machine.custody.pairs.mirror.kept["a-1"]) == 1
    nodes["a-1"].crash()
    world.run(1.0)
    nodes["a-1"].start()
    world.run(30.0)
    assert nodes["a-2"].machine.counters.copies_taken == 0
    assert {one.node.node for one in events_of(world, "shop")} == {"a-1"}
    nodes["a-1"].clients.disconnect(client)
    nodes["a-1"].machine.remove_client("shop", nodes["a-1"].now)
    nodes["a-1"].after()
    world.run(1.0)
    assert not nodes["a-2"].machine.custody.pairs.mirror.kept


def test_a_groups_share_goes_to_members_elsewhere() -> None:
    world, nodes = copied_region()
    nodes["a-1"].join("worker", ("orders/#", "workers"))
    world.run(2.0)
    nodes["a-1"].clients.disconnect(nodes["a-1"].durable["worker"])
    nodes["b-1"].publish_kept("orders/x")
    world.run(1.0)
    assert world.delivered == []
    nodes["b-2"].subscribe(4, 1, "orders/#", "workers")
    nodes["a-1"].crash(wiped=True)
    world.run(40.0)
    (one,) = world.delivered
    assert (one.node.node, one.delivery.redelivered) == ("b-2", True)
