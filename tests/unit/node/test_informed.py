"""From when on a node that has just started takes events at least once."""

from __future__ import annotations

import random

import msgspec
import pytest
from unit.core.custody.test_custody import build
from unit.node.wired_machines import settings

from mesh.core.custody.store import StoreRefusedError
from mesh.model.event import NewEvent
from mesh.model.reasons import Refuse
from mesh.node.informed import FIRST_INFORM_S, INFORM_S, MEMBERS_S, NOTE
from mesh.node.machine import NodeMachine
from mesh.testing.memory_store import MemoryStore

NOW = 100.0
EVENT = NewEvent("t", "", 0, (), b"x")


def machine(store: MemoryStore, *, alone: bool) -> NodeMachine:
    return NodeMachine(settings("eu", "n1", alone=alone), random.Random(1), NOW, store=store)


def test_who_has_nobody_to_ask_is_informed_at_once_who_has_waits_a_moment_the_first_time() -> None:
    assert machine(MemoryStore(), alone=True).informed(NOW)
    first = machine(MemoryStore(), alone=False)
    assert not first.informed(NOW + FIRST_INFORM_S - 0.01)
    with pytest.raises(StoreRefusedError) as refused:
        first.publish_kept([EVENT], NOW)
    assert refused.value.reason is Refuse.STARTING
    assert first.publish([EVENT], NOW).first_seq == 1, "at most once it takes whatever comes"
    assert first.informed(NOW + FIRST_INFORM_S)


def test_who_knew_somebody_waits_for_them_also_when_it_is_configured_to_be_alone() -> None:
    store = MemoryStore()
    store.notes[NOTE] = msgspec.msgpack.encode((["us"], []))
    again = machine(store, alone=True)
    assert not again.informed(NOW + INFORM_S - 0.01)
    assert again.informed(NOW + INFORM_S)


@pytest.mark.parametrize("note", [b"\xc1", b"\x91\x90", msgspec.msgpack.encode(([], []))])
def test_a_note_that_says_nobody_or_nothing_that_can_be_read_is_a_first_start(note: bytes) -> None:
    store = MemoryStore()
    store.notes[NOTE] = note
    assert machine(store, alone=True).informed(NOW)
    assert machine(store, alone=False).informed(NOW + FIRST_INFORM_S)


def test_who_is_informed_stays_so() -> None:
    one = machine(MemoryStore(), alone=False)
    assert one.informed(NOW + FIRST_INFORM_S)
    assert one.informed(NOW)


def test_a_node_that_comes_back_is_informed_when_every_region_and_member_it_knew_has_spoken() -> None:
    world, nodes = build([("a", "b")], per_region=2)
    node = nodes["a-1"]
    assert msgspec.msgpack.decode(node.store.notes[NOTE]) == [["b"], ["a-2"]]
    world.run(2.0)
    node.crash()
    world.run(1.0)
    node.start()
    assert not node.machine.informed(node.now)
    took = world.run_until(lambda: node.machine.informed(node.now), INFORM_S)
    assert took is not None
    assert took < INFORM_S - 1.0
    control = node.machine.control
    assert control.tables.position("a-2") is not None
    assert any(owner.startswith("b/") for owner in control.world.owners())


@pytest.mark.parametrize("missing", [("a-2",), ("a-2", "b-1", "b-2")])
def test_one_of_them_that_says_nothing_is_waited_for_and_then_given_up(missing: tuple[str, ...]) -> None:
    world, nodes = build([("a", "b")], per_region=2)
    world.run(2.0)
    for name in (*missing, "a-1"):
        nodes[name].crash()
    nodes["a-1"].start()
    begun = nodes["a-1"].now
    patience_s = MEMBERS_S if "a-2" in missing else INFORM_S
    world.run(patience_s - 0.2)
    assert not nodes["a-1"].machine.informed(begun + patience_s - 0.01)
    assert nodes["a-1"].machine.informed(begun + patience_s)


def test_what_is_noted_follows_who_is_known_and_not_more_than_once_a_second() -> None:
    world, nodes = build([("a", "b")], per_region=2)
    world.run(2.0)
    node = nodes["a-1"]
    now = node.now
    informed = node.machine.informed
    assert informed.remember(now) == float("inf"), "all is noted"
    nodes["a-2"].crash()
    assert informed.remember(now + 0.5) == now + 1.0
    left = world.run_until(lambda: "a-2" not in node.machine.control.live_members(), 60.0)
    assert left is not None
    world.run(2.0)
    assert msgspec.msgpack.decode(node.store.notes[NOTE]) == [["b"], []]


def test_without_room_for_notes_it_asks_to_be_called_again() -> None:
    class Full(MemoryStore):
        def note(self, key: str, value: bytes | None) -> None:
            raise StoreRefusedError(Refuse.NOTES_FULL)

    one = machine(Full(), alone=True)
    one.control._live.add("n2")
    assert one.informed.remember(NOW + 5.0) == NOW + 6.0
    assert one.informed.remember(NOW + 5.5) == NOW + 6.0
