"""Delivering at the node whose sessions want it: each event once, in time, in order, one member of each group."""

from __future__ import annotations

from unit.core.bridged_worlds import build

from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader


def test_a_duplicate_of_a_batch_is_not_delivered_twice() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "t")
    world.run(1.0)
    carried: list[tuple[BatchHeader, bytes]] = []
    world.on_batch.append(lambda a, b, header, body: carried.append((header, body)))
    nodes["a-1"].publish("t", "t")
    world.run(1.0)
    [(header, body)] = carried
    machine = nodes["b-1"].machine
    [session] = machine.sessions.values()
    machine.forwarder.receive(session, header, body, world.now)
    assert machine.take_deliveries() == {}
    assert machine.counters.drops == {Drop.DUPLICATE: 2}
