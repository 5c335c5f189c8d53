"""Which segments go, and which is written again."""

from __future__ import annotations

from pathlib import Path

from mesh.store.backlog import Backlog
from mesh.store.cleaning import Cleaning, cleaning_source, deletable
from mesh.store.commit import Copy
from mesh.store.ledger import Ledger
from mesh.store.segment import Segment, Stored


def ledger_of(*live: int, size: int = 1_000) -> Ledger:
    """Segments of `size` bytes of which so many are alive, each in one record."""
    ledger = Ledger()
    for number, live_bytes in enumerate(live, 1):
        segment = Segment(Path(str(number)), number, None, size)
        ledger.add_segment(segment)
        if live_bytes:
            ledger.recover(Stored(number, ("r/us",), 4, 0, live_bytes - 48, 0), segment)
    return ledger


def source(ledger: Ledger, total_bytes: int = 100_000) -> int:
    found = cleaning_source(ledger, ledger.segments[-1], total_bytes, 1_000)
    return 0 if found is None else found.number


def test_only_the_oldest_ones_go_and_never_the_active_one() -> None:
    ledger = ledger_of(0, 0, 100, 0, 0)
    assert [each.number for each in deletable(ledger, ledger.segments[-1])] == [1, 2]
    ledger = ledger_of(0, 0)
    assert [each.number for each in deletable(ledger, ledger.segments[-1])] == [1]
    assert deletable(Ledger(), None) == []


def test_half_dead_is_cleaned_unless_it_is_short() -> None:
    assert source(ledger_of(400, 400, 400, 400, 400)) == 1
    assert source(ledger_of(600, 600, 600, 600, 600)) == 0
    assert source(ledger_of(400, 0, 0, 0)) == 0


def test_near_its_bound_an_eighth_is_enough_and_less_is_not() -> None:
    assert source(ledger_of(*[850] * 20), 20_000) == 1
    assert source(ledger_of(*[900] * 20), 20_000) == 0
    assert source(ledger_of(*[850] * 15), 20_000) == 0


def test_many_small_files_are_brought_together() -> None:
    assert source(ledger_of(*[90] * 21, size=100), 10_000) == 1
    assert source(ledger_of(*[90] * 20, size=100), 10_000) == 0


def test_notes_alone_hold_a_segment_only_if_they_are_much_of_it() -> None:
    for value, expected in ((b"x" * 100, 1), (b"x" * 500, 0)):
        ledger = ledger_of(0, 0)
        ledger.set_note("k", value)
        ledger.place_note("k", value, ledger.segments[0], 128)
        assert source(ledger) == expected


def test_it_copies_piece_by_piece_and_the_notes_at_last() -> None:
    ledger = ledger_of(0, 0)
    first = ledger.segments[0]
    for lsn in range(1, 6):
        ledger.recover(Stored(lsn, ("r/us",), 4, 0, 100, 0), first)
    ledger.set_note("k", b"value")
    ledger.place_note("k", b"value", first, 128)
    ledger.free(2)
    cleaning, backlog = Cleaning(ledger), Backlog()
    rounds = []
    while backlog.empty:
        rounds.append(
            [item.stored.lsn for item in cleaning.take(first, 300, backlog) if isinstance(item, Copy)]
        )
    assert rounds == [[1, 3], [4, 5]]
    cleaning.again()
    assert len(cleaning.take(first, 0, backlog)) == 1
