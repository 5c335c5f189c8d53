"""What of stored records is for the event log, and by which way it gets there."""

from __future__ import annotations

from msgspec.structs import replace
from unit.core.custody.test_keeping import LOCAL, Desk, event

from mesh.core.custody.log_shares import LOG
from mesh.wire.frames import Flag


def desk_with_log(*filters: str) -> Desk:
    """Session 9 is the log."""
    desk = Desk("t")
    desk.machine.keep_log(9)
    for sid, filter in enumerate(filters, start=1):
        desk.machine.subscribe(9, sid, filter, "", 0.0)
    return desk


def test_the_logs_events_are_a_part_and_sessions_are_served_as_ever() -> None:
    desk = desk_with_log("t", "orders/#")
    record = desk.deliver(event(1), event(2, "orders/x"))
    assert record
    assert desk.got() == {1: [1]}
    [share] = desk.machine.custody.log.take()
    assert (share.lsn, share.total, share.repeats) == (record, 2, False)
    assert [one.seq for one in share.events] == [1, 2]
    assert share.origin == (LOCAL.region, LOCAL.node, LOCAL.epoch)
    assert desk.machine.custody.log.take() == []
    [entry] = desk.machine.custody.store.outstanding()
    assert entry.parts == (LOG,)
    assert [one.seq for one in desk.machine.custody.log.open(record).events] == [1, 2]
    desk.machine.custody.log.done(record)
    assert list(desk.machine.custody.store.outstanding()) == []


def test_only_what_it_subscribed_to_is_for_the_log() -> None:
    desk = desk_with_log("orders/#")
    desk.deliver(event(1), event(2, "orders/x"), event(3))
    [share] = desk.machine.custody.log.take()
    assert [one.seq for one in share.events] == [2]
    assert desk.got() == {1: [1, 3]}


def test_what_was_delivered_before_says_so() -> None:
    desk = desk_with_log("t")
    desk.deliver(event(1), header=replace(LOCAL, flags=LOCAL.flags | Flag.REDELIVERED))
    [share] = desk.machine.custody.log.take()
    assert share.repeats


def test_who_waits_for_delivery_waits_for_the_log_too() -> None:
    desk = desk_with_log("orders/#")
    asked = replace(LOCAL, flags=LOCAL.flags | Flag.RECEIPT_DELIVERED)
    record = desk.deliver(event(1, "orders/x"), header=asked)
    owed = desk.machine.custody.owed_receipts
    assert owed.take(record) == {}
    desk.machine.custody.log.done(record)
    assert [told.who for some in owed.take(record).values() for told in some] == ["n/eu/n1"]
