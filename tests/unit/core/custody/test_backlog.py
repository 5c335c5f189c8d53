"""What waits for one consumer: places, never bodies; order by key for what came back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from unit.core.custody.journal_twin import HEADER, Twin, event, events, unpack

from mesh.core.custody.backlog import NEVER, Backlog, Share, stamp
from mesh.core.custody.records import Records, Unreadable
from mesh.model.event import Event, queue_bytes
from mesh.wire.codec import encode_body, remaining_bucket


class Bench:
    def __init__(self, most_pending: int = 8) -> None:
        self.twin = Twin()
        self.backlog = Backlog("c/a", -1, Records(self.twin, unpack), most_pending)

    def add(self, some: list[Event], **more: Any) -> Share:
        header = msgspec.structs.replace(HEADER, count=len(some))
        lsn = self.twin.append(("c/a",), msgspec.msgpack.encode(header), encode_body(some), 0)
        stamped_at, expires_at = stamp(msgspec.structs.replace(header, **more), some, 0.0)
        share = Share(lsn, range(len(some)), stamped_at, expires_at, queue_bytes(some), 0.0, len(some))
        self.backlog.add(share)
        return share

    def take(self, now: float = 0.0) -> int | None:
        found = self.backlog.take(now)
        return None if found is None else found.event.seq


def test_shares_are_taken_in_order_and_count_what_is_left() -> None:
    bench = Bench()
    bench.add(events(1, 2))
    bench.add(events(3, 3))
    assert (len(bench.backlog), bench.backlog.bytes) == (3, 3 * 204)
    assert [bench.take() for _ in range(4)] == [1, 2, 3, None]
    assert (len(bench.backlog), bench.backlog.bytes, bench.backlog.next_deadline(0.0)) == (0, 0, NEVER)


def test_what_came_back_goes_when_it_is_due_and_holds_its_key_back_alone() -> None:
    bench = Bench()
    bench.add([event(1, "a"), event(2, "a"), event(3, "b"), event(4)])
    first = bench.backlog.take(0.0)
    assert first is not None
    bench.backlog.come_back(first.handed, 5.0)
    assert [bench.take(1.0) for _ in range(3)] == [3, 4, None]
    assert bench.backlog.next_deadline(1.0) == 5.0
    assert [bench.take(5.0) for _ in range(3)] == [1, 2, None]


def test_two_of_a_key_that_came_back_keep_their_order_whenever_each_is_due() -> None:
    bench = Bench()
    bench.add([event(1, "a"), event(2, "a")])
    one, two = bench.backlog.take(0.0), bench.backlog.take(0.0)
    assert one is not None
    assert two is not None
    bench.backlog.come_back(two.handed, 1.0)
    bench.backlog.come_back(one.handed, 3.0)
    assert bench.take(2.0) is None
    assert [bench.take(3.0), bench.take(3.0)] == [1, 2]


def test_what_waits_behind_a_key_is_bounded_and_then_everything_waits() -> None:
    bench = Bench(most_pending=3)
    bench.add([event(1, "a"), *(event(seq, "a") for seq in range(2, 9)), event(9, "b")])
    first = bench.backlog.take(0.0)
    assert first is not None
    bench.backlog.come_back(first.handed, 5.0)
    assert bench.take() is None
    assert not bench.backlog.ready(0.0)
    assert [bench.take(5.0) for _ in range(9)] == list(range(1, 10))


def test_the_oldest_are_taken_out_whole_records_or_less() -> None:
    bench = Bench()
    bench.add(events(1, 3))
    bench.add(events(4, 5))
    part = bench.backlog.oldest(2)
    assert part is not None
    assert list(part.indexes) == [0, 1]
    bench.backlog.put_back(part)
    assert len(bench.backlog) == 5
    whole = bench.backlog.oldest(9)
    assert whole is not None
    assert list(whole.indexes) == [0, 1, 2]
    bench.backlog.put_back(whole)
    assert bench.backlog.bytes == 5 * 204
    assert [bench.take() for _ in range(5)] == [1, 2, 3, 4, 5]


def test_deadlines_are_those_of_the_events_less_what_the_way_took() -> None:
    bucket = remaining_bucket(3_000)
    some = [event(1, deadline_ms=3_000), event(2), event(3, deadline_ms=4_000)]
    bench = Bench()
    bench.add(some, remaining_ms=bucket - 1_000)
    assert bench.backlog.next_deadline(0.0) == pytest.approx(2.0)
    assert [list(taken.indexes) for taken in bench.backlog.expired(2.0)] == [[0]]
    assert bench.backlog.next_deadline(2.0) == pytest.approx(3.0)
    assert [list(taken.indexes) for taken in bench.backlog.expired(9.0)] == [[2]]
    assert bench.take(9.0) == 2


def test_a_header_without_a_remaining_time_knows_no_deadline() -> None:
    assert stamp(HEADER, [event(1, deadline_ms=5)], 7.0) == (7.0, NEVER)


def test_an_unreadable_record_is_told_and_can_be_taken_out() -> None:
    bench = Bench()
    bench.add(events(1, 2))
    bench.add(events(3, 3))
    bench.twin.damaged = {1}
    with pytest.raises(Unreadable):
        bench.take()
    lost = bench.backlog.lose_damaged()
    assert (lost.indexes, lost.opened) == ([0, 1], None)
    assert bench.take() == 3


def test_clearing_counts_what_waited_and_what_came_back() -> None:
    bench = Bench()
    share = bench.add(events(1, 3))
    first = bench.backlog.take(0.0)
    assert first is not None
    bench.backlog.come_back(first.handed, 1.0)
    assert sorted(count for _, count in bench.backlog.clear()) == [1, 2]
    assert (len(bench.backlog), bench.take(9.0), share.left) == (0, None, 3)
