"""When a publisher is told more than "accepted"."""

from __future__ import annotations

from msgspec.structs import replace
from unit.core.custody.memory_store import header
from unit.core.custody.test_keeping import LOCAL, NOW, Desk, event

from mesh.core.custody.receipts import (
    Awaited,
    Origin,
    Outgoing,
    Receipts,
    Told,
    decode_told,
    encode_told,
    ranges,
)
from mesh.core.custody.window import AckTerms
from mesh.wire.frames import Flag

ASKED = replace(header(), flags=int(Flag.RECEIPT | Flag.RECEIPT_DELIVERED))
STORED = replace(header(), flags=int(Flag.RECEIPT))
US = Origin("us", "u1", 7)


def test_seqs_in_any_order_are_as_few_ranges_as_they_can_be() -> None:
    assert ranges([5, 1, 2, 9, 3]) == ((1, 3), (5, 5), (9, 9))
    assert ranges([]) == ()


def test_a_receipt_reads_back() -> None:
    told = (Told("r/eu", ((1, 3),), ("n1",), ("shop",)),)
    assert decode_told(encode_told(told)) == told


def test_a_call_is_complete_when_everybody_has_said_so_of_every_event() -> None:
    call = Awaited(10, 12, delivered=False)
    call.expect("r/eu", [10, 11, 12])
    call.expect("r/us", [11])
    call.told(Told("r/eu", ((10, 11),)))
    call.told(Told("r/us", ((1, 99),)))
    assert call.acknowledgement().missing == ("r/eu",)
    call.told(Told("r/eu", ((12, 12),)))
    assert call.acknowledgement().complete


def test_receipts_for_other_events_change_nothing() -> None:
    call = Awaited(10, 10, delivered=True)
    call.expect("r/eu", [10])
    call.told(Told("r/eu", ((1, 9), (11, 20)), ("n1",), ("shop",)))
    assert call.acknowledgement() == (False, ("r/eu",), ())


def test_for_delivery_the_nodes_that_a_region_names_are_waited_for_in_whatever_order_they_speak() -> None:
    call = Awaited(1, 2, delivered=True)
    call.expect("r/eu", [1, 2])
    call.told(Told("n/eu/n2", ((1, 2),), (), ("shop",)))  # faster than its region's entry bridge
    call.told(Told("r/eu", ((1, 2),), ("n1", "n2")))
    assert call.acknowledgement() == (False, ("n/eu/n1",), ("shop",))
    call.told(Told("n/eu/n1", ((2, 2),)))
    assert not call.acknowledgement().complete, "of the first event it has said nothing"
    call.told(Told("n/eu/n1", ((1, 1),)))
    assert call.acknowledgement().complete


def test_who_waits_only_for_the_regions_does_not_wait_for_their_nodes() -> None:
    call = Awaited(1, 1, delivered=False)
    call.expect("r/eu", [1])
    call.told(Told("r/eu", ((1, 1),), ("n1",)))
    assert call.acknowledgement().complete


def test_a_receipt_reaches_each_call_whose_events_it_names_and_no_other() -> None:
    receipts = Receipts(7)
    calls = [receipts.open(first, 2, delivered=False) for first in (1, 3, 5)]
    for call in calls:
        call.expect("r/eu", [call.first, call.last])
    receipts.take(7, [Told("r/eu", ((2, 4),))])
    receipts.take(7, [Told("r/eu", ((1, 1),))])
    assert [call.acknowledgement().complete for call in calls] == [True, True, False]
    receipts.take(7, [Told("r/eu", ((5, 6),))])
    assert [call.acknowledgement().complete for call in calls] == [True, True, True]


def test_receipts_of_an_earlier_process_and_for_who_no_longer_waits_mean_nothing() -> None:
    receipts = Receipts(7)
    call = receipts.open(1, 1, delivered=False)
    call.expect("r/eu", [1])
    receipts.take(6, [Told("r/eu", ((1, 1),))])
    assert (call.acknowledgement().complete, receipts.changed) == (False, False)
    receipts.close(call)
    receipts.close(call)
    assert len(receipts) == 0
    receipts.take(7, [Told("r/eu", ((1, 1),))])
    assert not call.acknowledgement().complete


def test_a_region_says_it_once_it_is_synced() -> None:
    out = Outgoing("n/eu/n1")
    out.region_has(STORED, ((1, 2),), 5, "eu", ["n2", "n1"])
    out.region_has(header(), ((3, 3),), 1, "eu", [])  # nobody asked
    assert out.take(4) == {}
    assert out.take(5) == {US: [Told("r/eu", ((1, 2),), ("n1", "n2"))]}
    assert len(out) == 0


def test_a_node_says_it_when_its_last_consumer_had_it_and_names_those_that_are_away() -> None:
    out = Outgoing("n/eu/n1")
    out.node_has(ASKED, ((1, 1),), 5, ("s/1", "s/2", "c/shop"), ("c/shop",))
    out.node_has(STORED, ((1, 1),), 6, ("s/1",), ())  # that publisher does not wait for delivery
    out.settled(5, "s/1")
    out.settled(5, "c/shop")
    assert out.take(9) == {}
    out.settled(5, "s/2")
    assert out.take(9) == {US: [Told("n/eu/n1", ((1, 1),), (), ("c/shop",))]}


def test_for_clients_that_are_all_away_stored_is_enough() -> None:
    out = Outgoing("n/eu/n1")
    out.node_has(ASKED, ((1, 1),), 5, ("c/shop",), ("c/shop",))
    assert out.take(4) == {}
    assert out.take(5) == {US: [Told("n/eu/n1", ((1, 1),), (), ("c/shop",))]}


def test_what_a_consumer_did_not_take_is_never_said_to_be_delivered() -> None:
    out = Outgoing("n/eu/n1")
    out.node_has(ASKED, ((1, 1),), 5, ("s/1", "s/2"), ())
    out.dead(5)
    out.settled(5, "s/1")
    out.settled(5, "s/2")
    assert (out.take(9), len(out)) == ({}, 0)


def test_what_could_not_be_sent_is_sent_with_the_next() -> None:
    out = Outgoing("n/eu/n1")
    out.region_has(STORED, ((1, 1),), 1, "eu", [])
    [(origin, told)] = out.take(1).items()
    out.again(origin, told)
    assert out.take(0) == {US: [Told("r/eu", ((1, 1),))]}


def test_a_publisher_is_not_told_delivered_of_a_dead_letter() -> None:
    """At a whole node: refused as often as its terms allow."""
    desk = Desk()
    desk.machine.consumers.open(2, AckTerms(False, 30.0, 1, 100))
    desk.machine.subscribe(2, 1, "t", "", NOW)
    desk.deliver(event(1), header=replace(LOCAL, flags=LOCAL.flags | Flag.RECEIPT | Flag.RECEIPT_DELIVERED))
    assert desk.got() == {2: [1]}
    assert desk.machine.consumers.nack(2, ("us", "u1", 7, 1), NOW)
    assert [one.reason for one in desk.machine.custody.letters.page(0, 9).letters] == ["max_deliveries"]
    assert desk.machine.custody.owed_receipts.take(desk.store.synced) == {}
