"""What a node takes over from its links, what it refuses, and when it says so: real machines, whose world stands still while one
batch is looked at."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from unit.core.custody.test_custody import LINE, build

from mesh.core.effects import Send
from mesh.core.session import LinkSession
from mesh.model.event import Event
from mesh.model.reasons import Refuse
from mesh.testing.world import SimNode
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, CustodyAck, Data, Flag, Leg

FAR = BatchHeader(Leg.BRIDGE, Flag.CUSTODY, "a", "a-1", 7, ("b",), 0, 9, 0, ("a",), 0, 1)


class Door:
    """b-1 in the middle of a line of three regions; batches come over its link from a-1."""

    def __init__(self, interest: bool = True) -> None:
        self.world, nodes = build(LINE[:2])
        self.node: SimNode = nodes["b-1"]
        if interest:
            self.node.subscribe(1, 1, "orders/#")
            nodes["c-1"].subscribe(1, 1, "orders/#")
        self.world.run(2.0)
        machine = self.node.machine
        [link] = [link for link, region in machine.links.bridges.items() if region == "a"]
        self.session: LinkSession = machine.sessions[link]
        self.first = self.session._in_batch + 1
        self.node.store.finish()
        machine.drain()

    def arrives(self, header: BatchHeader, *topics: str, first_seq: int = 1) -> int:
        """A batch arrives. Returns its number, counted from 1."""
        events = [Event(first_seq + at, topic, "", 0, None, (), b"x") for at, topic in enumerate(topics)]
        number = self.session._in_batch + 1
        header = replace(header, batch=number, count=len(events))
        self.node.machine.receive(self.session.link, [Data(header, encode_body(events))], self.node.now)
        return number - self.first + 1

    def said(self) -> list[CustodyAck]:
        """What the other end is told, with batches counted from 1."""
        frames = [one.frame for one in self.node.machine.drain() if isinstance(one, Send)]
        acks = [frame for frame in frames if isinstance(frame, CustodyAck)]
        back = self.first - 1
        return [
            CustodyAck(ack.batch - back, tuple((n - back, why, regions) for n, why, regions in ack.refused))
            for ack in acks
        ]

    def sync(self) -> None:
        store = self.node.store
        store.begin()
        store.finish()
        self.node.machine.stored(self.node.now)

    @property
    def parts(self) -> list[tuple[str, ...]]:
        return [entry.parts for entry in self.node.store.outstanding()]


def test_a_batch_is_acknowledged_when_it_is_on_the_disk_and_not_before() -> None:
    door = Door()
    door.arrives(replace(FAR, regions=("c",)), "orders/x")
    assert door.parts == [("r/c",)]
    assert door.said() == []
    door.sync()
    assert door.said() == [CustodyAck(1, ())]


def test_batches_are_acknowledged_in_their_order_also_when_a_later_one_needs_no_disk() -> None:
    door = Door()
    door.arrives(replace(FAR, regions=("c",)), "orders/x")
    assert door.arrives(FAR, "mail", first_seq=2) == 2, "nobody wants it: there is no record"
    assert door.said() == []
    door.sync()
    assert door.said() == [CustodyAck(2, ())]


def test_one_that_went_through_this_region_is_a_loop() -> None:
    door = Door()
    door.arrives(replace(FAR, path=("a", "b", "a")), "orders/x")
    assert door.said() == [CustodyAck(1, ((1, Refuse.LOOP.value, ()),))]
    assert door.parts == []


@pytest.mark.parametrize("reason", [Refuse.NO_SPACE, Refuse.FULL, Refuse.IO_ERROR])
def test_a_store_that_refuses_is_named_and_the_batch_may_come_again(reason: Refuse) -> None:
    door = Door()
    door.node.store.fault = reason
    door.arrives(FAR, "orders/x")
    assert door.said() == [CustodyAck(1, ((1, reason.value, ()),))]
    door.node.store.fault = None
    door.arrives(FAR, "orders/x")
    door.sync()
    assert door.said() == [CustodyAck(2, ())]
    [deliveries] = door.node.machine.take_deliveries().values()
    assert [event.seq for one in deliveries for event in one.events] == [1], "delivered with the second one"


def test_a_node_that_leaves_takes_nothing_that_leads_on_and_what_is_for_itself() -> None:
    door = Door()
    door.node.machine.custody.arrival.draining = True
    door.arrives(replace(FAR, regions=("c",)), "orders/x")
    assert door.said() == [CustodyAck(1, ((1, Refuse.DRAINING.value, ()),))]


def test_out_of_hops_the_rest_is_refused_and_the_own_regions_part_is_taken() -> None:
    door = Door()
    door.arrives(replace(FAR, regions=("b", "c"), hops_left=0), "orders/x")
    assert door.said() == [CustodyAck(1, ((1, Refuse.HOP_LIMIT.value, ("c",)),))]
    assert list(door.node.machine.take_deliveries()) == [1]
    assert door.parts == []


def test_a_node_that_does_not_know_yet_who_wants_what_takes_only_what_leads_on() -> None:
    door = Door()
    door.node.machine.custody.arrival.informed = lambda now: False
    door.arrives(replace(FAR, regions=("b", "c")), "orders/x")
    door.sync()
    assert door.said() == [CustodyAck(1, ((1, Refuse.STARTING.value, ("b",)),))]
    assert door.parts == [("r/c",)]
    assert door.node.machine.take_deliveries() == {}


def test_what_arrives_too_late_is_a_dead_letter_and_taken() -> None:
    door = Door()
    door.session.rtt_ms = 2_000.0
    door.arrives(replace(FAR, remaining_ms=256), "orders/x")
    door.sync()
    assert door.said() == [CustodyAck(1, ())]
    [letter] = door.node.machine.custody.letters.page(0, 10).letters
    assert (letter.reason, letter.part) == ("expired", "r/b")


def test_when_the_disk_fails_whoever_waits_for_it_is_told_to_try_elsewhere() -> None:
    door = Door()
    door.arrives(replace(FAR, regions=("c",)), "orders/x")
    door.node.store.fault = Refuse.NO_SPACE
    door.node.machine.stored(door.node.now)
    assert door.said() == [CustodyAck(1, ((1, Refuse.STALLED.value, ()),))]
    assert door.parts == [("r/c",)], "kept here all the same"


def test_a_body_that_is_none_is_counted_and_acknowledged_so_that_it_is_not_sent_for_ever() -> None:
    door = Door()
    header = replace(FAR, batch=door.first, count=3)
    door.node.machine.receive(door.session.link, [Data(header, b"\x93\xc1")], door.node.now)
    assert door.said() == [CustodyAck(1, ())]
    assert door.world.drops() == {"malformed": 3}
