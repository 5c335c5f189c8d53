"""What waits for one client: bounded, oldest dropped and counted, answers first, a goodbye last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.handover import delivery
from mesh.model.event import Delivery, Event, Told, queue_bytes
from mesh.model.limits import Limits
from mesh.model.reasons import Close, Drop
from mesh.protocols.session import TAKE_EVENTS, ClientSession


def deliveries(*numbers: int, size: int = 10) -> list[Delivery]:
    return [
        delivery([Event(number, "t", "", 0, None, None, b"x" * size)], (1,), ("eu", "a", 1), ())
        for number in numbers
    ]


def one_delivery(*numbers: int) -> list[Delivery]:
    return [delivery([one.events[0] for one in deliveries(*numbers)], (1,), ("eu", "a", 1), ())]


def seqs(taken: list[Delivery]) -> list[int]:
    return [event.seq for one in taken for event in one.events]


class Drops(Counter[str]):
    def count(self, reason: Drop, events: int) -> None:
        self[reason] += events


def session_of(
    drops: Drops, *, events: int = 5, size: int = 1 << 20, credit: int | None = None
) -> ClientSession:
    limits = replace(Limits(), session_queue_events=events, session_queue_bytes=size)
    return ClientSession(limits, drops.count, credit=credit)


async def test_the_oldest_events_go_when_there_are_too_many() -> None:
    session = session_of(drops := Drops())
    session.deliver(deliveries(1, 2, 3))
    session.deliver(deliveries(4, 5, 6, 7))
    assert seqs(session.take().deliveries) == [3, 4, 5, 6, 7]
    assert drops == {Drop.SLOW_CONSUMER: 2}


async def test_the_oldest_events_go_when_they_are_too_large_together() -> None:
    (one,) = deliveries(0, size=1_000)
    session = session_of(drops := Drops(), size=3 * queue_bytes(one.events))
    session.deliver(deliveries(1, 2, 3, 4, size=1_000))
    assert seqs(session.take().deliveries) == [2, 3, 4]
    assert drops == {Drop.SLOW_CONSUMER: 1}


@pytest.mark.parametrize("together", [deliveries, one_delivery])
@given(st.lists(st.one_of(st.integers(1, 6), st.none()), max_size=12), st.integers(1, 8))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_what_was_handed_in_is_taken_dropped_or_waiting(
    together: Callable[..., list[Delivery]], steps: list[int | None], bound: int
) -> None:
    session, drops = session_of(drops := Drops(), events=bound), drops
    handed_in, taken = 0, list[int]()
    for step in steps:
        if step is None:
            taken += seqs(session.take().deliveries)
        else:
            session.deliver(together(*range(handed_in, handed_in + step)))
            handed_in += step
        counts = session.statistics()
        assert handed_in == counts.taken + counts.dropped + counts.waiting
        assert counts.waiting <= bound
        assert counts.waiting_bytes == counts.waiting * queue_bytes(deliveries(0)[0].events)
    assert taken == sorted(taken)
    assert drops[Drop.SLOW_CONSUMER] == session.statistics().dropped


async def test_one_take_carries_a_bounded_number_of_events() -> None:
    session = session_of(Drops(), events=10_000)
    session.deliver(deliveries(*range(TAKE_EVENTS + 3)))
    assert len(session.take().deliveries) == TAKE_EVENTS
    assert len(session.take().deliveries) == 3


async def test_a_delivery_is_taken_whole_unless_credit_or_a_bound_cuts_it() -> None:
    session = session_of(drops := Drops(), events=800)
    session.deliver(one_delivery(*range(500)))
    session.deliver(one_delivery(*range(500, 600)))
    assert [len(one.events) for one in session.take().deliveries] == [500]
    assert [len(one.events) for one in session.take().deliveries] == [100]
    session.deliver(one_delivery(*range(600, 605)))
    session.grant(3)
    assert seqs(session.take().deliveries) == [600, 601, 602]
    session.grant(1)
    assert seqs(session.take().deliveries) == [603]
    session.deliver(one_delivery(*range(605, 1_407)))
    assert drops == {Drop.SLOW_CONSUMER: 3}
    session.grant(2)
    assert seqs(session.take().deliveries) == [607, 608]


async def test_without_credit_nothing_is_taken_and_with_credit_as_much_as_was_granted() -> None:
    session = session_of(Drops(), credit=0)
    session.deliver(deliveries(1, 2, 3))
    assert not session.has_work()
    session.grant(2)
    assert seqs(session.take().deliveries) == [1, 2]
    assert not session.has_work()
    session.unlimited()
    assert seqs(session.take().deliveries) == [3]


async def test_the_first_grant_ends_the_unlimited_mode() -> None:
    session = session_of(Drops())
    session.grant(1)
    session.deliver(deliveries(1, 2))
    assert seqs(session.take().deliveries) == [1]
    assert session.credit == 0


async def test_a_goodbye_comes_behind_the_events_that_wait() -> None:
    session = session_of(drops := Drops(), events=10_000)
    session.deliver(deliveries(*range(TAKE_EVENTS + 1)))
    session.close(Close.DRAINING, "leaving")
    session.deliver(deliveries(999))
    first, second = session.take(), session.take()
    assert (first.goodbye, first.last, len(first.deliveries)) == (None, False, TAKE_EVENTS)
    assert second.goodbye == (Close.DRAINING, "leaving")
    assert second.last
    assert len(second.deliveries) == 1
    assert drops == {Drop.SESSION_CLOSED: 1}


async def test_a_goodbye_does_not_wait_for_credit() -> None:
    session = session_of(drops := Drops(), credit=0)
    session.deliver(deliveries(1, 2))
    session.close(Close.DRAINING, "leaving")
    taken = session.take()
    assert (taken.deliveries, taken.last) == ([], True)
    assert drops == {Drop.SESSION_CLOSED: 2}


async def test_last_words_go_out_without_the_events() -> None:
    session = session_of(drops := Drops())
    session.deliver(deliveries(1))
    session.answer(b"ok")
    session.hang_up(b"bye")
    assert session.take() == ([b"ok", b"bye"], [], None, True)
    assert drops == {Drop.SESSION_CLOSED: 1}


async def test_a_closed_session_shortens_the_write_that_is_under_way(autojump_clock: trio.abc.Clock) -> None:
    session = session_of(Drops())
    start = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            with session.bounded_send(1_000) as bound:
                await trio.sleep_forever()
            assert bound.cancelled_caught

        await trio.testing.wait_all_tasks_blocked()
        session.close(Close.DRAINING, "")
    assert trio.current_time() - start == Limits().close_timeout_s


async def test_a_client_that_leaves_answers_unread_is_not_read_further(
    autojump_clock: trio.abc.Clock,
) -> None:
    session = session_of(Drops())
    session.answer(b"x" * (2 << 20))
    with trio.move_on_after(5) as waited:
        await session.room_for_answers()
    assert waited.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.room_for_answers)
        await trio.testing.wait_all_tasks_blocked()
        session.take()


async def test_an_ended_session_counts_what_it_held_and_what_still_comes() -> None:
    session = session_of(drops := Drops())
    session.deliver(deliveries(1, 2))
    session.end()
    session.end()
    session.deliver(deliveries(3))
    session.answer(b"late")
    assert drops == {Drop.SESSION_CLOSED: 3}
    assert session.take().answers == []


async def test_the_writer_wakes_once_for_all_that_came() -> None:
    session, wakes = session_of(Drops()), []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            await session.work()
            wakes.append(seqs(session.take().deliveries))

        await trio.testing.wait_all_tasks_blocked()
        session.deliver(deliveries(1))
        session.deliver(deliveries(2))
    assert wakes == [[1, 2]]


async def test_an_idle_writer_is_spared_the_wake_up_but_not_when_deliveries_come_close_together() -> None:
    session, sent, woken = session_of(Drops()), list[int](), list[int]()

    def send_now() -> bool:
        sent.extend(seqs(session.take().deliveries))
        return not session.has_work()

    session.send_now = send_now
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            await session.work()
            woken.extend(seqs(session.take().deliveries))

        await trio.testing.wait_all_tasks_blocked()
        session.deliver(deliveries(1))
        assert sent == [1]
        session.deliver(deliveries(2))
        session.deliver(deliveries(3))
    assert (sent, woken) == ([1], [2, 3])


async def test_a_mistake_while_sending_is_the_writers_and_never_the_deliverers() -> None:
    session = session_of(Drops())

    def send_now() -> bool:
        raise ZeroDivisionError

    session.send_now = send_now
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            with pytest.raises(ZeroDivisionError):
                await session.work()

        await trio.testing.wait_all_tasks_blocked()
        session.deliver(deliveries(1))


async def test_what_a_write_left_goes_out_first() -> None:
    session = session_of(Drops())
    session.answer(b"second")
    session.put_back(b"first")
    assert session.take().answers == [b"first", b"second"]


def told(name: str) -> Delivery:
    return Delivery((), (1,), ("", "", 0), (), False, 0, replayed=True, told=Told(name, {}))


async def test_what_a_replay_says_keeps_its_place_and_is_not_dropped() -> None:
    session = session_of(drops := Drops())
    session.deliver([told("gap"), *deliveries(1, 2), told("live"), *deliveries(3, 4, 5, 6, 7, 8)])
    taken = session.take().deliveries
    assert [one.told.name if one.told else one.events[0].seq for one in taken] == [
        "gap",
        "live",
        4,
        5,
        6,
        7,
        8,
    ]
    assert drops == {Drop.SLOW_CONSUMER: 3}


async def test_what_a_replay_says_goes_out_where_nothing_else_waits() -> None:
    session = session_of(Drops())
    session.deliver([told("live")])
    assert session.has_work()
    assert [one.told for one in session.take().deliveries] == [Told("live", {})]
    assert not session.has_work()


async def test_a_replay_has_room_while_little_waits(autojump_clock: trio.testing.MockClock) -> None:
    session = session_of(Drops(), events=10)
    await session.room()
    session.deliver(deliveries(*range(6)))
    with trio.move_on_after(1) as waiting:
        await session.room()
    assert waiting.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.room)
        await trio.testing.wait_all_tasks_blocked()
        session.take()
    session.deliver(deliveries(*range(6)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.room)
        await trio.testing.wait_all_tasks_blocked()
        session.end()


async def test_events_that_wait_for_an_acknowledgement_are_neither_counted_nor_dropped_and_their_writing_is_told() -> (
    None
):
    session = session_of(drops := Drops(), events=2)
    written: list[int] = []
    session.written = lambda taken: written.extend(seqs(taken))
    owed = [one._replace(deliveries=1) for one in one_delivery(1, 2, 3)]
    session.deliver(deliveries(10))
    session.deliver(owed)
    session.deliver(deliveries(11, 12, 13))
    assert session.statistics().waiting == 2
    assert seqs(session.take().deliveries) == [1, 2, 3, 12, 13]
    assert written == [1, 2, 3]
    assert drops == {Drop.SLOW_CONSUMER: 2}
    session.deliver(owed)
    session.end()
    session.deliver(owed)
    assert drops == {Drop.SLOW_CONSUMER: 2}, "whoever sends them knows that they are not lost"
