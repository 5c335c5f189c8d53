"""How tables travel: who is sent which delta or digest, and how much one link may ask."""

from __future__ import annotations

import pytest
from unit.node.wired_machines import hear, linked, tight

from mesh.testing.world import World
from mesh.wire.frames import Delta, Digest, Frame, Pull, Scope


@pytest.mark.parametrize("frame", [Digest(Scope.REGION, 5), Pull(Scope.REGION, (("n1", 1, 0),))])
def test_a_question_about_the_regions_tables_from_outside_is_not_answered(frame: Frame) -> None:
    net, a, _, link = linked("us")
    hear(net, a, link, frame)
    answers = [f for burst in net.pipes[0].queues[0] for f in burst or ()]
    assert all(f.scope is not Scope.REGION for f in answers if isinstance(f, Delta | Digest | Pull))


@pytest.mark.parametrize("region", ["eu", "us"])
@pytest.mark.parametrize("frame", [Digest(Scope.WORLD, 5, ()), Pull(Scope.WORLD, ())])
def test_a_flood_of_questions_costs_the_link_and_a_steady_pace_does_not(region: str, frame: Frame) -> None:
    net, a, _, link = linked(region, tight(updates_per_s=10.0, updates_burst=200))
    for _ in range(300):
        net.now += 0.11
        hear(net, a, link, frame)
    assert a.closed() == []
    for _ in range(205):
        hear(net, a, link, frame)
    assert a.closed() == [(f"{region}/n2", "limit")]
    assert a.machine.control.exchange.links_remembered == 0, "nothing is remembered of a link that is gone"


def test_a_summary_crosses_a_transit_region_unmodified_and_once() -> None:
    world = World(5)
    a, b, c = (
        world.node("a", "a1", bridges=["b"]),
        world.node("b", "b1", bridges=["c"]),
        world.node("c", "c1"),
    )
    world.seed_link(a, b)
    world.seed_link(b, c)
    for node in (a, b, c):
        node.start()
    world.run(3.0)
    a.subscribe(1, 1, "x/#")
    world.run(1.0)
    for node in (b, c):
        assert dict(node.machine.control.world.items("a/a1")) == dict(a.machine.control.world.items("a/a1"))
    assert c.machine.interest.holders("x/#") == c.machine.destinations.find("r/a")
