"""A replay's way from the log to live events: nothing twice, nothing left out, gaps told where they are."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.replay import (
    CHUNK_EVENTS,
    TAIL_BYTES,
    TAIL_EVENTS,
    Chunk,
    Do,
    Gap,
    Item,
    Replay,
    Tail,
    wall_text,
)
from mesh.model.event import Event, Logged, Told, queue_bytes
from mesh.model.reasons import LogGap
from mesh.model.topic import matches


def logged(position: int, topic: str = "a", data: bytes = b"{}") -> Logged:
    return Logged(
        position, position, 1 << 50, ("eu", "n", 1), (), Event(position, topic, "", 0, None, None, data)
    )


def tail_of(first: int, end: int, pending_bytes: int = 1 << 30) -> Tail:
    tail = Tail(first, pending_bytes)
    for position in range(first, end):
        tail.add(logged(position))
    return tail


def positions(items: Sequence[Item]) -> list[int]:
    return [item[0].position for item in items if not isinstance(item, Told)]


def told(items: Sequence[Item]) -> list[Told]:
    return [item for item in items if isinstance(item, Told)]


# -- the tail --------------------------------------------------------------------------------------------------------


def test_a_tail_hands_out_what_waits_in_groups_bounded_in_events_and_bytes() -> None:
    tail = tail_of(5, 15)
    one = queue_bytes((logged(5).event,))
    assert [entry.position for entry in tail.unstored(3, 1 << 20)] == [5, 6, 7]
    assert [entry.position for entry in tail.unstored(100, 2 * one)] == [5, 6]
    assert [entry.position for entry in tail.unstored(100, 0)] == [5], "one at least"
    tail.store(8)
    assert (tail.first, tail.stored, tail.next, tail.pending) == (5, 8, 15, 7)
    assert [entry.position for entry in tail.unstored(2, 1 << 20)] == [8, 9]
    tail.store(15)
    assert tail.unstored(10, 1 << 20) == []
    assert tail.pending_bytes == 0


def test_a_tail_is_full_at_its_bound_and_has_room_when_events_were_stored() -> None:
    one = queue_bytes((logged(1).event,))
    tail = tail_of(1, 4, 3 * one)
    assert tail.full
    tail.store(2)
    assert not tail.full


def test_stored_events_leave_by_number_and_by_size_but_what_waits_stays() -> None:
    tail = tail_of(1, TAIL_EVENTS + 100)
    tail.store(TAIL_EVENTS + 50)
    assert TAIL_EVENTS // 2 <= tail.stored - tail.first <= TAIL_EVENTS
    assert tail.next == TAIL_EVENTS + 100
    assert [entry.position for entry in tail.after(tail.first, 2)] == [tail.first, tail.first + 1]
    large = Tail(1, 1 << 30)
    for position in range(1, 11):
        large.add(logged(position, data=b"x" * (TAIL_BYTES // 4)))
    large.store(9)
    assert large.stored - large.first <= 4
    assert large.pending == 2
    assert large.after(large.next, 5) == []


# -- one replay --------------------------------------------------------------------------------------------------------


def test_an_empty_log_is_live_at_once() -> None:
    step = Replay([(1, "#")], 1, []).step(Tail(1, 100))
    assert step.do is Do.GO_LIVE
    assert list(step.items) == [Told("live", {"replayed": 0})]


def test_what_is_in_memory_is_handed_over_in_chunks_and_the_last_one_goes_live() -> None:
    tail = tail_of(1, CHUNK_EVENTS + 11)
    replay = Replay([(3, "a")], 1, [])
    first = replay.step(tail)
    assert (first.do, positions(first.items)) == (Do.HAND_OVER, list(range(1, CHUNK_EVENTS + 1)))
    last = replay.step(tail)
    assert last.do is Do.GO_LIVE
    assert positions(last.items) == list(range(CHUNK_EVENTS + 1, CHUNK_EVENTS + 11))
    assert last.items[-1] == Told("live", {"replayed": CHUNK_EVENTS + 10})


def test_older_events_are_read_up_to_the_tail() -> None:
    tail = tail_of(100, 110)
    replay = Replay([(1, "#")], 40, [])
    step = replay.step(tail)
    assert (step.do, step.begin, step.end) == (Do.READ, 40, 100)
    taken = replay.take(Chunk([logged(41), logged(60)], 61, 1))
    assert positions(taken.items) == [41, 60]
    assert (replay.step(tail).begin, replay.step(tail).end) == (61, 100)
    replay.take(Chunk([], 100, 1))
    assert positions(replay.step(tail).items) == list(range(100, 110))


def test_events_carry_the_sids_whose_filters_match_them() -> None:
    tail = Tail(1, 1 << 20)
    for position, topic in enumerate(["a/b", "a/c", "b"], start=1):
        tail.add(logged(position, topic))
    items = Replay([(4, "a/#"), (2, "a/b")], 1, []).step(tail).items
    assert [item[1] for item in items if not isinstance(item, Told)] == [(2, 4), (4,)]
    assert positions(items) == [1, 2], "b is not wanted"


GAP = Gap(4, 1_000, 2_000, 7, LogGap.NO_SPACE)


@pytest.mark.parametrize(
    ("start", "since_ms", "expected"),
    [(1, None, True), (4, None, True), (5, None, False), (4, 1_500, True), (4, 2_001, False)],
)
def test_a_gap_is_told_to_those_that_pass_it(start: int, since_ms: int | None, expected: bool) -> None:
    items = Replay([(1, "#")], start, [GAP], since_ms=since_ms).step(tail_of(1, 8)).items
    at = [number for number, item in enumerate(items) if isinstance(item, Told) and item.name == "gap"]
    assert at == ([4 - start] if expected else [])
    if expected:
        gap = items[at[0]]
        assert isinstance(gap, Told)
        assert gap.fields == {
            "reason": "no_space",
            "since": "1970-01-01T00:00:01.000Z",
            "until": "1970-01-01T00:00:02.000Z",
            "events": 7,
        }


def test_a_gap_behind_the_last_event_is_told_before_live() -> None:
    items = Replay([(1, "#")], 1, [GAP]).step(tail_of(1, 4)).items
    assert [item.name for item in told(items)] == ["gap", "live"]


def test_a_gap_that_began_during_the_replay_is_told_once_it_gets_there() -> None:
    tail = tail_of(1, 2 * CHUNK_EVENTS)
    replay = Replay([(1, "#")], 1, [])
    replay.step(tail)
    replay.note(Gap(3, 1, 2, None, LogGap.OVERRUN))
    replay.note(Gap(CHUNK_EVENTS + 3, 1, 2, None, LogGap.OVERRUN))
    items = replay.step(tail).items
    assert [item.name for item in told(items)] == ["gap", "live"], "the first one is behind it already"


def test_what_was_trimmed_before_it_was_read_is_told() -> None:
    replay = Replay([(1, "#")], 10, [])
    items = replay.take(Chunk([logged(50)], 51, 50)).items
    assert items[0] == Told("gap", {"reason": "trimmed"})
    assert positions(items) == [50]
    assert told(replay.take(Chunk([logged(60)], 61, 51)).items) == []


def test_a_log_that_cannot_be_read_is_passed_over_with_its_reason() -> None:
    replay = Replay([(1, "#")], 1, [Gap(5, 1, 2, None, LogGap.STOPPED)])
    assert list(replay.skip(100, LogGap.DAMAGED).items) == [Told("gap", {"reason": "damaged"})]
    assert replay.next == 100
    assert [item.name for item in told(replay.step(tail_of(100, 103)).items)] == ["live"]


def test_wall_text() -> None:
    assert wall_text(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"


@given(st.integers(0, 1 << 32))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_is_appended_stored_and_trimmed_meanwhile_each_event_comes_once_in_order(seed: int) -> None:
    """A publisher, the disk and a replay take turns at random; what comes after `live` is counted on top."""
    dice = Random(seed)
    first = dice.randrange(1, 50)
    tail = Tail(first, 1 << 30)
    everything: list[Logged] = []
    disk: list[Logged] = []

    def append(count: int) -> None:
        for _ in range(count):
            tail.add(logged(tail.next, dice.choice("ab")))
            everything.append(tail.after(tail.next - 1, 1)[0])

    def store() -> None:
        group = tail.unstored(dice.randrange(1, 3_000), 1 << 30)
        if group:
            disk.extend(group)
            tail.store(group[-1].position + 1)

    append(dice.randrange(0, 5_000))
    store()
    start = dice.randrange(first, tail.next + 1)
    replay = Replay([(1, dice.choice(["a", "#"]))], start, [])
    got: list[int] = []
    for _ in range(10_000):
        step = replay.step(tail)
        if step.do is Do.READ:
            found = [entry for entry in disk if step.begin <= entry.position < step.end]
            wanted = [entry for entry in found if matches(replay.filters[0], entry.event.topic)]
            most = dice.randrange(1, CHUNK_EVENTS)
            chunk = Chunk(wanted, step.end, first)
            if len(wanted) > most:
                chunk = Chunk(wanted[:most], wanted[most - 1].position + 1, first)
            append(dice.randrange(0, 20))  # while it was read
            store()
            step = replay.take(chunk)
        got += positions(step.items)
        if step.do is Do.GO_LIVE:
            break
        append(dice.randrange(0, 200))
        if dice.random() < 0.5:
            store()
    else:
        raise AssertionError("it never became live")
    expected = [
        entry.position
        for entry in everything
        if entry.position >= start and matches(replay.filters[0], entry.event.topic)
    ]
    assert got == expected
    assert replay.events == len(got)
