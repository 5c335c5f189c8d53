"""An explained way through a world, held against the way an event then takes."""

from __future__ import annotations

from mesh.testing.walk import explainer, follow
from mesh.testing.world import SimNode, World
from mesh.wire.frames import Leg


def line() -> tuple[World, dict[str, SimNode]]:
    """a - b - c; two nodes in a and in c, and the bridges are not where the clients are."""
    world = World(1)
    nodes = {name: world.node(name[0], name) for name in ("a1", "a2", "b1", "c1", "c2")}
    for one, other in (("a1", "a2"), ("c1", "c2"), ("a2", "b1"), ("b1", "c1")):
        world.seed_link(nodes[one], nodes[other])
    for node in nodes.values():
        node.start()
    nodes["b1"].subscribe(1, 1, "t")
    nodes["c2"].subscribe(2, 5, "t/#")
    nodes["c2"].subscribe(2, 6, "t", "g")
    world.run(5.0)
    return world, nodes


def test_a_walk_names_every_copy_client_and_group_and_changes_nothing() -> None:
    world, nodes = line()
    walk = follow(world, nodes["a1"], "t", ("a", "a1", nodes["a1"].epoch, 1))
    a1, a2, b1, c1, c2 = (nodes[name].key for name in ("a1", "a2", "b1", "c1", "c2"))
    assert walk.copies == [
        (a1, a2, Leg.TRANSIT),
        (a2, b1, Leg.BRIDGE),
        (b1, c1, Leg.BRIDGE),
        (c1, c2, Leg.LOCAL),
    ]
    assert walk.clients == {(b1, 1): (1,), (c2, 2): (5,)}
    assert walk.groups == {("g", "t"): [c2]}
    assert walk.missed == []
    assert world.delivered == []
    assert nodes["a1"].machine.forwarder.ingress.seq == 0


def test_what_was_explained_happens() -> None:
    world, nodes = line()
    copies = []
    world.on_batch.append(lambda a, b, header, body: copies.append((a.key, b.key, header.leg)))
    walk = follow(world, nodes["a1"], "t", ("a", "a1", nodes["a1"].epoch, 1))
    nodes["a1"].publish("t")
    world.run(2.0)
    assert copies == walk.copies
    assert {(one.node, one.session) for one in world.delivered} == set(walk.clients)


def test_who_misses_an_event_is_named_with_the_reason() -> None:
    world, nodes = line()
    world.cut(nodes["b1"].key, nodes["c1"].key)
    world.run(10.0)
    walk = follow(world, nodes["a1"], "t", ("a", "a1", nodes["a1"].epoch, 1))
    assert [(str(at), missed.region) for at, missed in walk.missed if missed.region == "c"] == [("a/a1", "c")]
    assert (nodes["c2"].key, 2) not in walk.clients


def test_an_explainer_uses_the_nodes_own_tables() -> None:
    _, nodes = line()
    step = explainer(nodes["c2"]).published("t", "c/c2/1/1")
    assert [session for session, _ in step.sessions] == [2]
    assert explainer(nodes["a1"]).published("none", "a/a1/1/1").copies == ()
