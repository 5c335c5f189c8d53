"""Events as they enter: numbered, matched once, put into the batches of their next hops; the same one by one or together."""

from __future__ import annotations

from collections import Counter

from unit.core.bridged_worlds import build, members

from mesh.model.event import NewEvent
from mesh.model.reasons import Drop


def test_events_of_one_key_stay_in_order_although_their_topics_go_to_different_regions() -> None:
    world, nodes = build([("a", "b"), ("b", "c")])
    nodes["b-1"].subscribe(1, 1, "#")
    nodes["c-1"].subscribe(1, 1, "wide/#")
    world.run(1.0)
    events = [NewEvent(("wide/x", "narrow/x")[n % 2], "k", 0, (), b"%d" % n) for n in range(20)]
    nodes["a-1"].machine.publish(events, world.now)
    nodes["a-1"].machine.flush(world.now)
    nodes["a-1"].after()
    world.run(1.0)
    at_b = [int(one.event.data) for one in world.delivered if one.node.node == "b-1"]
    assert at_b == list(range(20))


def test_without_a_way_publishing_reports_the_region_as_unreached_and_keeps_its_interest() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "t")
    world.run(1.0)
    nodes["b-1"].crash()
    world.run(6.0)
    [plan] = nodes["a-1"].machine.publish([NewEvent("t", "", 0, (), b"")], world.now).plans
    assert [(u.region, u.reason.value) for u in plan.unreached] == [("b", "no_route")]
    assert "b" in nodes["a-1"].machine.control.reach.kept
    assert nodes["a-1"].machine.counters.drops[Drop.NO_ROUTE] == 1


def test_each_event_of_a_group_goes_to_exactly_one_member_and_local_members_come_first() -> None:
    world, nodes = build([("a", "b"), ("b", "c")], per_region=2)
    members(world, nodes, "a-1", "a-2", "b-1", "c-2")
    ids = [nodes["a-2"].publish(f"jobs/{n}")[0] for n in range(40)]
    world.run(1.0)
    assert Counter(one.mesh_id for one in world.delivered) == Counter(ids)
    assert {one.node.node for one in world.delivered} == {"a-1", "a-2"}


def test_the_nearest_region_takes_over_when_the_local_members_stop() -> None:
    world, nodes = build([("a", "b"), ("b", "c")])
    members(world, nodes, "a-1", "b-1", "c-1")
    nodes["a-1"].unsubscribe(1, 1)
    ids = [nodes["a-1"].publish(f"jobs/{n}")[0] for n in range(10)]
    world.run(1.0)
    assert Counter(one.mesh_id for one in world.delivered) == Counter(ids)
    assert {one.node.node for one in world.delivered} == {"b-1"}
