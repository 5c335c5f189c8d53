"""What other regions wanted is known again after a start, counts until they speak, and is forgotten with them."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.node.remembered import EVERYTHING, MEMBERS_NOTE, MOST, NOTE
from mesh.testing.world import SimNode, World


def line() -> tuple[World, SimNode, SimNode]:
    world = World(5)
    a, b = world.node("a", "a-1", bridges=["b"]), world.node("b", "b-1", (0.0, 3.0))
    world.seed_link(a, b)
    a.start()
    b.start()
    world.run(4.0)
    return world, a, b


def noted(node: SimNode) -> Any:
    value = node.store.notes.get(NOTE + "b")
    return None if value is None else msgspec.msgpack.decode(value)


def regions(node: SimNode, topic: str) -> set[str]:
    plan = node.machine.planner.plan(topic)
    return {*plan.regions, *(away.region for away in plan.unreached)}


def test_a_region_that_is_away_at_the_start_is_remembered_and_heard_when_it_is_back() -> None:
    world, a, b = line()
    b.subscribe(1, 1, "orders/#")
    b.subscribe(1, 2, "jobs/+", "workers")
    world.run(3.0)
    assert noted(a) == {"forders/#": 0, "gworkers/jobs/+": 1}
    b.crash()
    a.crash()
    world.run(1.0)
    a.start()
    assert regions(a, "orders/x") == {"b"}
    assert a.machine.planner.member_out_of_reach("workers", "jobs/+") is not None
    assert not a.machine.informed(a.now)
    world.run(8.0)
    assert a.machine.informed(a.now), "it goes on with what it remembers"
    del b.subscriptions[1, 1]
    b.start()
    world.run(8.0)
    assert regions(a, "orders/x") == set()
    assert noted(a) == {"gworkers/jobs/+": 1}


def test_a_change_is_noted_within_a_second_though_nothing_else_happens() -> None:
    world, a, b = line()
    b.subscribe(1, 1, "x/1")
    world.run(0.3)
    b.subscribe(1, 2, "x/2")
    world.run(1.5)
    assert noted(a) == {"fx/1": 0, "fx/2": 0}


def test_a_region_that_wants_more_than_is_noted_wants_everything() -> None:
    world, a, b = line()
    for sid in range(MOST + 1):
        b.subscribe(1, sid, f"x/{sid}")
    world.run(3.0)
    assert noted(a) == EVERYTHING
    b.crash()
    a.crash()
    a.start()
    assert regions(a, "anything/else") == {"b"}


def test_a_note_that_does_not_decode_stands_for_everything() -> None:
    _, a, b = line()
    b.crash()
    a.crash()
    a.store.notes[NOTE + "b"] = b"\xc1"
    a.start()
    assert regions(a, "orders/x") == {"b"}


def pair() -> tuple[World, SimNode, SimNode]:
    """Two nodes of one region; a durable client is at home on the second one, a session listens there, too."""
    world = World(5)
    one, two = world.node("a", "a-1"), world.node("a", "a-2")
    world.seed_link(one, two)
    one.start()
    two.start()
    world.run(3.0)
    two.join("ledger", ("orders/#", ""), ("jobs/+", "workers"))
    two.subscribe(1, 1, "live/#")
    world.run(3.0)
    return world, one, two


def keepers(node: SimNode, topic: str) -> tuple[str, ...]:
    plan = node.machine.planner.plan(topic)
    return (*plan.nodes, *(away.node for away in plan.unreached))


def test_what_durable_clients_of_a_member_that_is_away_want_is_known_after_a_start() -> None:
    world, one, two = pair()
    two.crash()
    one.crash()
    world.run(1.0)
    one.start()
    assert keepers(one, "orders/x") == ("a-2",)
    assert keepers(one, "live/x") == (), "a session does not outlive its node"
    two.durable["ledger"].subscriptions.pop(1)
    two.store.notes.clear()  # as if its disk had been lost: it comes back without the client
    two.durable.clear()
    two.start()
    world.run(20.0)
    assert keepers(one, "orders/x") == ()
    assert one.machine.planner.member_out_of_reach("workers", "jobs/+") is None
    assert MEMBERS_NOTE not in one.store.notes


def test_a_member_that_is_heard_again_says_itself_what_it_wants() -> None:
    world, one, _two = pair()
    one.crash()
    world.run(1.0)
    one.start()
    world.run(5.0)
    assert keepers(one, "orders/x") == ("a-2",)
    assert keepers(one, "live/x") == ("a-2",)


def test_members_that_cannot_be_read_are_nobodies() -> None:
    _world, one, two = pair()
    two.crash()
    one.crash()
    one.store.notes[MEMBERS_NOTE] = b"\xc1"
    one.start()
    assert keepers(one, "orders/x") == ()
