"""What a hop does to a header: hops left and remaining time only ever become less, and the exact deadline is exact."""

from __future__ import annotations

from unit.core.bridged_worlds import build

from mesh.model.ids import NodeKey


def test_an_event_past_its_deadline_is_dropped_with_its_reason() -> None:
    world, nodes = build([("a", "b")])
    nodes["b-1"].subscribe(1, 1, "t")
    world.run(1.0)
    world.cut(NodeKey("a", "a-1"), NodeKey("b", "b-1"), both=False)
    nodes["a-1"].publish("t", ttl_ms=100)
    nodes["a-1"].publish("t", ttl_ms=60_000)
    world.run(1.0)
    world.heal()
    world.run(0.2)
    assert len(world.delivered) == 2, (
        "a stalled stream is no time the mesh can see: half a round trip is what is taken off"
    )
