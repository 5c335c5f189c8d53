"""The ledger: what is open, and how many bytes of each segment are alive."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.store.ledger import FEW_PARTS, Ledger, note_size
from mesh.store.segment import Segment, Stored


def segment(ledger: Ledger, number: int) -> Segment:
    made = Segment(Path(str(number)), number, None, 1_000)
    ledger.add_segment(made)
    return made


def stored(lsn: int, *parts: str) -> Stored:
    return Stored(lsn, parts, len("\0".join(parts)), 10, 100, 0)


def check(ledger: Ledger) -> None:
    for each in ledger.segments:
        here = sum(item.size for item in ledger.records.values() if item.segment is each)
        notes = sum(note_size(key, ledger.notes[key]) for key, at in ledger.places.items() if at is each)
        assert (each.live_bytes, each.note_bytes) == (here + notes, notes)
    assert ledger.live_bytes == sum(each.live_bytes for each in ledger.segments)
    assert ledger.total_bytes == sum(each.size for each in ledger.segments)
    assert ledger.notes_bytes == sum(len(key) + len(value) for key, value in ledger.notes.items())


def test_a_record_lives_in_the_segment_of_its_last_copy() -> None:
    ledger = Ledger()
    one, two = segment(ledger, 1), segment(ledger, 2)
    ledger.recover(stored(5, "a", "b"), one)
    check(ledger)
    assert ledger.next_lsn == 6
    ledger.recover(stored(5, "b"), two)
    check(ledger)
    assert (one.live_bytes, len(ledger.records)) == (0, 1)
    assert ledger.settle(5, "a") is None
    assert ledger.settle(5, "b") is True
    check(ledger)
    assert two.live_bytes == 0
    ledger.remove_segment(one)
    check(ledger)


@pytest.mark.parametrize("count", [1, 2, FEW_PARTS, FEW_PARTS + 1, 100])
def test_each_part_is_settled_once_and_the_last_one_frees(count: int) -> None:
    ledger = Ledger()
    ledger.recover(stored(1, *map(str, range(count))), segment(ledger, 1))
    for part in range(count - 1):
        assert ledger.settle(1, str(part)) is False
        assert ledger.settle(1, str(part)) is None
        assert ledger.records[1].entry().parts == tuple(map(str, range(part + 1, count)))
    assert ledger.settle(1, str(count - 1)) is True
    assert ledger.records == {}
    check(ledger)


def test_a_settle_of_the_log_is_for_one_part_or_for_all() -> None:
    ledger = Ledger()
    one = segment(ledger, 1)
    for lsn in (1, 2, 3):
        ledger.recover(stored(lsn, "a", "b"), one)
    ledger.settle_all("a", [1, 2, 9])
    ledger.settle_all("", [2, 9])
    assert {lsn: item.parts for lsn, item in ledger.records.items()} == {1: ("b",), 3: ("a", "b")}
    check(ledger)


def test_a_note_counts_where_its_current_value_stands() -> None:
    ledger = Ledger()
    one, two = segment(ledger, 1), segment(ledger, 2)
    old, new = b"old", b"newer"
    ledger.set_note("k", old)
    ledger.place_note("k", old, one, 128)
    check(ledger)
    assert one.note_bytes > 0
    ledger.set_note("k", new)
    check(ledger)
    ledger.place_note("k", old, two, 128)  # written late: no longer current
    check(ledger)
    assert two.note_bytes == 0
    ledger.place_note("k", new, two, 200)
    check(ledger)
    ledger.set_note("k", None)
    ledger.place_note("k", None, two, 300)
    check(ledger)
    assert (ledger.live_bytes, ledger.notes) == (0, {})
