from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.custody.lane import FIRST_RETRY_S, LAST_RETRY_S, Lane
from mesh.model.reasons import Hold


def lane(window_bytes: int = 1_000, window_events: int = 10) -> Lane:
    return Lane("r/us", window_bytes, window_events)


def test_what_may_not_leave_says_why_as_it_was_decided() -> None:
    one = lane()
    assert one.may_send(0.0)
    assert one.held is None
    one.no_way()
    assert not one.may_send(0.0)
    assert one.held is Hold.NO_ROUTE
    one.has_way = True
    assert one.may_send(0.0)
    one.refused(0.0, 1.0, "no_space")
    assert not one.may_send(0.0)
    assert (one.held, one.refusal) == (Hold.RETRY, "no_space")
    assert one.may_send(FIRST_RETRY_S)
    one.left(1_000, 1)
    assert not one.may_send(FIRST_RETRY_S)
    assert one.held is Hold.NO_CREDIT


def test_one_record_may_always_be_under_way_and_more_while_bytes_and_events_allow() -> None:
    one = lane()
    one.left(5_000, 50)
    assert not one.may_send(0.0)
    one.ended(5_000, 50)
    one.left(10, 9)
    assert one.may_send(0.0)
    one.left(10, 1)
    assert not one.may_send(0.0), "as many events as may be"
    assert (one.under_way, one.bytes, one.events) == (2, 20, 10)


def test_refusals_wait_twice_as_long_each_time_up_to_a_bound_until_one_is_taken() -> None:
    one = lane()
    waits = []
    for _ in range(12):
        one.refused(0.0, 1.0, "full")
        waits.append(one.retry_at)
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert waits[-1] == LAST_RETRY_S
    one.refused(0.0, 0.0, "full")
    assert one.retry_at == LAST_RETRY_S / 2, "dice spread them"
    one.arrived()
    assert (one.retry_at, one.refusal) == (0.0, "")
    one.refused(0.0, 1.0, "full")
    assert one.retry_at == FIRST_RETRY_S


@given(st.lists(st.integers(1, 50), unique=True), st.sets(st.integers(1, 50)))
def test_records_that_come_back_stand_in_the_order_of_their_numbers(
    waiting: list[int], back: set[int]
) -> None:
    one = lane()
    one.waiting.extend(sorted(waiting))
    for lsn in sorted(back, reverse=True):
        one.back(lsn)
    assert list(one.waiting) == sorted({*waiting, *back})


@given(st.lists(st.integers(1, 50), unique=True), st.sets(st.integers(1, 50)))
def test_taking_out_leaves_the_others_in_their_order(waiting: list[int], out: set[int]) -> None:
    one = lane()
    one.waiting.extend(sorted(waiting))
    assert one.take_out(set(out)) == out & set(waiting)
    assert list(one.waiting) == sorted(set(waiting) - out)
