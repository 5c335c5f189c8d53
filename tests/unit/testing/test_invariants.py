"""What keeps a world from having settled is named, and deliveries, explanations and losses are held against the truth."""

from __future__ import annotations

from collections import Counter

import pytest

from mesh.model.ids import NodeKey
from mesh.model.reasons import Drop
from mesh.testing import invariants
from mesh.testing.oracle import Oracle
from mesh.testing.walk import follow
from mesh.testing.world import SimNode, Taken, World
from mesh.wire.frames import Leg


def line() -> tuple[World, dict[str, SimNode]]:
    """a - b, two nodes in each, settled: everybody in b wants "t", two of them in a group want "work"."""
    world = World(1)
    nodes = {name: world.node(name[0], name) for name in ("a1", "a2", "b1", "b2")}
    for one, other in (("a1", "a2"), ("b1", "b2"), ("a1", "b1")):
        world.seed_link(nodes[one], nodes[other])
    for node in nodes.values():
        node.start()
    nodes["b1"].subscribe(1, 1, "t")
    nodes["b2"].subscribe(1, 1, "t")
    nodes["b1"].subscribe(2, 2, "work", "g")
    nodes["b2"].subscribe(2, 2, "work", "g")
    world.run(8.0)
    return world, nodes


def problem(world: World) -> str:
    return invariants.unsettled(world, Oracle(world), ["t", "x"])


def test_a_world_in_peace_is_settled() -> None:
    world, _ = line()
    assert problem(world) == ""
    assert invariants.sessions_returned(world)
    assert invariants.roots_differ(world) == ""
    assert list(invariants.dishonest_summaries(world, Oracle(world), ["t", "x"])) == []
    assert invariants.waiting(world) == 0


def test_a_missing_link_a_believed_dead_member_and_a_missing_bridge_are_named() -> None:
    world, nodes = line()
    nodes["a2"].crash()
    assert problem(world).startswith("a/a1 is linked to ['a2'], not []")
    assert not invariants.sessions_returned(world)
    world.run(0.5)
    assert problem(world) == "a/a1 believes in ['a1', 'a2'], alive are ['a1']"
    nodes["b1"].crash()
    nodes["b1"].start()
    assert "has no bridge to b/b1" in problem(world) or "is linked to" in problem(world)


def test_a_missing_and_an_invented_route_are_named() -> None:
    world, nodes = line()
    nodes["a2"].machine.control.routes._rib._fib.pop("b")
    assert problem(world) == "a/a2 lacks routes to ['b'] and has some to []"


def test_unequal_tables_are_named() -> None:
    world, nodes = line()
    nodes["b1"].machine.control.tables.put("fnews", b"", world.now)
    assert problem(world) == "b/b2 holds the table of b/b1 at another version than its owner"
    assert invariants.roots_differ(world) == "b/b1 and b/b2 have different roots"


def test_interest_that_is_not_the_truth_is_named_also_inside_the_region() -> None:
    world, nodes = line()
    del nodes["b1"].subscriptions[1, 1]
    del nodes["b2"].subscriptions[1, 1]
    assert "sends 't' to ['b'], wanted by []" in problem(world)
    nodes["b1"].subscriptions[1, 1] = ("t", "")
    assert "sends 't' to members ('b2',), wanted by []" in problem(world)


def test_p10_a_summary_that_lacks_or_adds_a_filter_is_dishonest() -> None:
    world, nodes = line()
    del nodes["b1"].subscriptions[1, 1]
    del nodes["b2"].subscriptions[1, 1]
    found = list(invariants.dishonest_summaries(world, Oracle(world), ["t"]))
    assert [(one.prop, one.detail) for one in found] == [
        ("P10", "b/b1 exports 't', wanted by nobody, without merging")
    ]
    nodes["b1"].subscriptions[1, 1] = ("x", "")
    found = list(invariants.dishonest_summaries(world, Oracle(world), ["x"]))
    assert [one.detail for one in found] == ["b/b1 does not export 'x', wanted in its region"]


def publish(world: World, node: SimNode, topic: str) -> Taken:
    node.publish(topic)
    world.run(1.0)
    return world.taken[-1]


def test_an_exact_event_reaches_everybody_once_and_a_group_once() -> None:
    world, nodes = line()
    for topic in ("t", "work", "nobody"):
        taken = publish(world, nodes["a2"], topic)
        got = invariants.delivered_to(world, taken.mesh_id)
        assert list(invariants.inexact(world, Oracle(world), taken, got)) == []
        assert sum(got.values()) == {"t": 2, "work": 1, "nobody": 0}[topic]


@pytest.mark.parametrize(
    ("topic", "change", "prop"),
    [
        ("t", -1, "exact"),
        ("t", 1, "exact"),
        ("work", -1, "P6"),
        ("work", 1, "P6"),
        ("nobody", 1, "exact"),
    ],
)
def test_one_delivery_too_few_or_too_many_is_named(topic: str, change: int, prop: str) -> None:
    world, nodes = line()
    taken = publish(world, nodes["a2"], topic)
    got = invariants.delivered_to(world, taken.mesh_id)
    who = next(iter(got), (nodes["b1"].key, 7, 7))
    got[who] += change
    found = list(invariants.inexact(world, Oracle(world), taken, got))
    assert [one.prop for one in found] == [prop]
    assert str(taken.mesh_id) in found[0].detail


def test_p9_copies_and_deliveries_that_were_not_explained_or_did_not_happen() -> None:
    world, nodes = line()
    mesh_id = ("a", "a2", nodes["a2"].epoch, nodes["a2"].machine.forwarder.ingress.seq + 1)
    walk = follow(world, nodes["a2"], "t", mesh_id)
    taken = publish(world, nodes["a2"], "t")
    got = invariants.delivered_to(world, taken.mesh_id)

    def found(
        got: Counter[tuple[NodeKey, int, int]], copies: list[tuple[NodeKey, NodeKey, Leg]]
    ) -> list[str]:
        return [one.detail for one in invariants.unexplained(world, walk, taken, got, copies)]

    assert found(got, walk.copies) == []
    assert "sent []" in found(got, walk.copies[1:])[0]
    assert "explained []" in found(got, [*walk.copies, walk.copies[0]])[0]
    stranger = (nodes["a1"].key, 3, 3)
    assert "which nobody explained" in found(got + Counter([stranger]), walk.copies)[0]
    first = next(iter(got))
    assert "and did not" in found(got - Counter([first]), walk.copies)[0]


def test_promises_are_counted_once_for_a_destination_as_drops_are() -> None:
    world, nodes = line()
    nodes["b1"].subscribe(3, 3, "t", "g")
    nodes["b1"].subscribe(3, 4, "+", "h")
    world.run(1.0)
    kept = publish(world, nodes["a1"], "t")
    assert invariants.lost(world, [kept]) == 0
    world.cut(nodes["a1"].key, nodes["b1"].key)
    nodes["a1"].publish("t")
    lost = world.taken[-1]
    assert {(one.region, one.group) for one in lost.assigned} == {("b", "g"), ("b", "h")}
    world.run(10.0)
    assert invariants.lost(world, [lost]) == 1, "one region saw nothing, whatever was wanted there"
    assert invariants.counted(world) == 1
    nodes["a1"].publish("t")
    assert invariants.lost(world, world.taken) == 2
    assert world.drops() == {
        Drop.LINK_DOWN_UNKNOWN.value: 1,
        Drop.NO_ROUTE.value: 1,
        Drop.NO_MEMBERS.value: 2,
    }


def test_duplicates_are_no_loss_and_the_dead_are_counted() -> None:
    world, nodes = line()
    nodes["a1"].machine.counters.drop(Drop.DUPLICATE, 5)
    nodes["a1"].machine.counters.drop(Drop.EXPIRED, 2)
    nodes["a1"].crash()
    assert invariants.counted(world) == 2


def test_batches_that_wait_in_links_are_counted() -> None:
    world, nodes = line()
    [session] = [s for s in nodes["a1"].machine.sessions.values() if s.peer_key.region == "b"]
    session._may_bytes = session._may_events = 0
    nodes["a1"].publish("t", "t")
    assert invariants.waiting(world) == 1
