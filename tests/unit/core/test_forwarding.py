"""The data plane over real machines in a small world: legs, splits, groups, and what is counted when it goes wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from unit.core.bridged_worlds import RING, build, copies, members

from mesh.core.opening import Terms
from mesh.model.event import Event, NewEvent
from mesh.model.reasons import Drop
from mesh.testing.world import World
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg


def test_one_publish_in_a_ring_of_four_is_one_delivery_per_subscriber_and_one_copy_per_link() -> None:
    world, nodes = build(RING)
    for session, name in enumerate(("b-1", "c-1", "d-1", "a-1")):
        nodes[name].subscribe(session, 1, "orders/#")
    world.run(1.0)
    seen = copies(world)
    nodes["a-1"].publish("orders/x")
    world.run(1.0)
    assert Counter(one.node.node for one in world.delivered) == {"a-1": 1, "b-1": 1, "c-1": 1, "d-1": 1}
    assert max(seen.values()) == 1
    assert sum(seen.values()) == 3


def test_events_for_several_regions_share_a_copy_until_their_ways_part() -> None:
    world, nodes = build([("a", "b"), ("b", "c"), ("b", "d")])
    for name in ("c-1", "d-1"):
        nodes[name].subscribe(1, 1, "t")
    world.run(1.0)
    seen = copies(world)
    nodes["a-1"].publish("t")
    world.run(1.0)
    assert seen == {
        ("a-1", "b-1", Leg.BRIDGE): 1,
        ("b-1", "c-1", Leg.BRIDGE): 1,
        ("b-1", "d-1", Leg.BRIDGE): 1,
    }


def test_inside_a_region_the_publisher_sends_local_to_each_interested_node_and_transit_to_the_exit() -> None:
    world, nodes = build([("a", "b")], per_region=3)
    nodes["a-3"].subscribe(1, 1, "t")
    nodes["b-2"].subscribe(1, 1, "t")
    world.run(1.0)
    seen = copies(world)
    nodes["a-2"].publish("t")
    world.run(1.0)
    assert seen == {
        ("a-2", "a-3", Leg.LOCAL): 1,
        ("a-2", "a-1", Leg.TRANSIT): 1,
        ("a-1", "b-1", Leg.BRIDGE): 1,
        ("b-1", "b-2", Leg.LOCAL): 1,
    }
    assert sorted(one.node.node for one in world.delivered) == ["a-3", "b-2"]


def test_a_batch_that_was_in_this_region_before_is_dropped_as_a_loop() -> None:
    world, nodes = build([("a", "b")])
    header = BatchHeader(Leg.BRIDGE, 0, "z", "z-1", 1, ("b",), 0, 9, 0, ("b", "a"), 1, 1)
    [session] = nodes["b-1"].machine.sessions.values()
    nodes["b-1"].machine.forwarder.receive(session, header, b"", world.now)
    assert nodes["b-1"].machine.counters.drops == {Drop.LOOP: 1}


def test_a_batch_whose_hops_are_used_up_is_dropped_where_it_would_leave() -> None:
    world, nodes = build([("a", "b"), ("b", "c")])
    header = BatchHeader(Leg.BRIDGE, 0, "a", "a-1", 1, ("c",), 0, 0, 0, ("a",), 1, 1)
    session = next(s for s in nodes["b-1"].machine.sessions.values() if s.peer_key.region == "a")
    nodes["b-1"].machine.forwarder.receive(session, header, b"", world.now)
    assert nodes["b-1"].machine.counters.drops == {Drop.HOP_LIMIT: 1}


def test_a_body_that_does_not_decode_is_counted_and_harms_nobody() -> None:
    world, nodes = build([("a", "b")])
    [session] = nodes["b-1"].machine.sessions.values()
    header = BatchHeader(Leg.BRIDGE, 0, "a", "a-1", 1, ("b",), 0, 9, 0, ("a",), 1, 3)
    nodes["b-1"].machine.forwarder.receive(session, header, b"\xc1garbage", world.now)
    assert nodes["b-1"].machine.counters.drops == {Drop.MALFORMED: 3}


def test_a_topic_that_the_grammar_does_not_allow_is_counted_and_not_remembered() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "#")
    machine = nodes["b-1"].machine
    [session] = machine.sessions.values()
    topics = ["x" * 100_000, "", "a/#", "fine"]
    events = [Event(n + 1, topic, "", 0, None, (), b"") for n, topic in enumerate(topics)]
    header = BatchHeader(Leg.BRIDGE, 0, "a", "a-1", 1, ("b",), 0, 9, 0, ("a",), 1, len(events))
    machine.forwarder.receive(session, header, encode_body(events), world.now)
    assert machine.counters.drops == {Drop.MALFORMED: 3}
    assert [e.topic for one in machine.take_deliveries()[1] for e in one.events] == ["fine"]


# -- queue groups --------------------------------------------------------------------------------------------------


def test_a_region_that_finds_its_group_empty_hands_the_event_to_another_region() -> None:
    world, nodes = build([("a", "b"), ("b", "c")])
    members(world, nodes, "b-1", "c-1")
    nodes["b-1"].unsubscribe(1, 1)  # a learns it 5 s later: it still chooses b
    ids = nodes["a-1"].publish("jobs/1", "jobs/2")
    world.run(1.0)
    assert Counter(one.mesh_id for one in world.delivered) == Counter(ids)
    assert {one.node.node for one in world.delivered} == {"c-1"}


def test_with_nobody_left_in_any_region_the_event_is_counted_as_no_members_once() -> None:
    world, nodes = build([("a", "b")])
    members(world, nodes, "b-1")
    nodes["b-1"].unsubscribe(1, 1)
    nodes["a-1"].publish("jobs/1")
    world.run(1.0)
    assert world.drops() == {"no_members": 1}


def test_a_plain_subscriber_gets_what_a_group_gets_too() -> None:
    world, nodes = build([("a", "b")], per_region=2)
    members(world, nodes, "b-2")
    nodes["b-2"].subscribe(2, 1, "jobs/+")
    nodes["b-1"].subscribe(3, 1, "#")
    world.run(1.0)
    nodes["a-1"].publish("jobs/1")
    world.run(1.0)
    assert sorted((one.node.node, one.session) for one in world.delivered) == [
        ("b-1", 3),
        ("b-2", 1),
        ("b-2", 2),
    ]


# -- one node ------------------------------------------------------------------------------------------------------


def test_mail_for_a_node_that_is_not_linked_is_counted_and_the_sender_is_told() -> None:
    world, nodes = build([("a", "b")])
    assert nodes["a-1"].machine.ask("a", "a-9", "$mesh/ask/x", b"", ("", ""), world.now) is Drop.LINK_DOWN
    assert nodes["a-1"].machine.ask("zz", "z-1", "$mesh/ask/x", b"", ("", ""), world.now) is Drop.NO_ROUTE


def test_mail_for_another_node_is_never_delivered_here() -> None:
    world, nodes = build([("a", "b")], per_region=2)
    session = nodes["b-2"].machine.sessions[nodes["b-2"].machine.links.peers["b-1"]]
    header = BatchHeader(Leg.LOCAL, Flag.TO_NODE, "a", "a-1", 1, ("b",), 0, 9, 0, (), 1, 1, (), "b-7")
    event = NewEvent("t", "", 0, (), b"")
    nodes["b-2"].machine.forwarder.receive(
        session,
        header,
        encode_body([(1, event.topic, "", 0, None, (), b"")]),
        world.now,  # type: ignore[list-item]
    )
    assert nodes["b-2"].machine.counters.drops == {Drop.NOT_FOR_US: 1}


@pytest.mark.parametrize("redirected", [False, True])
def test_a_bridge_without_its_own_way_redirects_a_transit_once(redirected: bool) -> None:
    world = World(3)
    a1, a2, b1 = (
        world.node("a", "a-1", bridges=["b"]),
        world.node("a", "a-2", bridges=["b"]),
        world.node("b", "b-1"),
    )
    a3 = world.node("a", "a-3")
    world.seed_link(a2, a1)
    world.seed_link(a3, a1)
    world.seed_link(a1, b1, Terms("b"))
    world.seed_link(a2, b1, Terms("b"))
    for node in (a1, a2, a3, b1):
        node.start()
    b1.subscribe(1, 1, "t")
    world.run(4.0)
    # a-1 loses its bridge; a batch that a-3 addressed to it before it knew arrives now.
    a1.targets.clear()
    link = next(iter(a1.machine.links.bridges))
    world.sever(a1.connections[link], told=True)
    world.run(0.001)
    session = a1.machine.sessions[a1.machine.links.peers["a-3"]]
    flags = Flag.REDIRECTED if redirected else Flag.NONE
    header = BatchHeader(Leg.TRANSIT, flags, "a", "a-3", a3.epoch, ("b",), 0, 16, 0, (), 1, 1)
    a1.machine.forwarder.receive(session, header, encode_body([(1, "t", "", 0, None, (), b"")]), world.now)  # type: ignore[list-item]
    a1.after()
    world.run(1.0)
    assert len(world.delivered) == (0 if redirected else 1)
    assert a1.machine.counters.drops == ({Drop.NO_ROUTE: 1} if redirected else {})
