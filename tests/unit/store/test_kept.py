"""The journal's refusals as custody knows them. What both have in common is in tests/contract/test_store.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.store.journal_folder import commit_all

from mesh.core.custody.store import StoreRefusedError
from mesh.model.journal import JournalLimits, Refusal
from mesh.model.reasons import Refuse
from mesh.store.journal import Journal
from mesh.store.kept import JournalStore

SMALL = JournalLimits(
    total_bytes=80_000, pending_bytes=20_000, commit_bytes=4_000, segment_bytes=8_000, notes_bytes=2_000
)


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    return JournalStore(Journal.open(tmp_path, SMALL), lambda: 12.3456)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_of_the_journal_is_one_of_custodys(refusal: Refusal) -> None:
    assert Refuse(refusal.value).name == refusal.name


def test_a_record_it_would_refuse_is_told_before_and_raised_then_and_changes_nothing(
    store: JournalStore,
) -> None:
    store.append(("r/us",), b"", bytes(6_000))
    store.append(("r/us",), b"", bytes(6_000))
    store.append(("r/us",), b"", bytes(6_000))
    assert store.refusal(6_000) is Refuse.PENDING_FULL
    with pytest.raises(StoreRefusedError) as refused:
        store.append(("r/us",), b"", bytes(6_000))
    assert refused.value.reason is Refuse.PENDING_FULL
    commit_all(store.journal)
    assert store.refusal(6_000) is None
    assert store.append(("r/us",), b"", bytes(6_000)) == 4


def test_a_note_that_finds_no_room_is_refused_and_the_former_one_stays(store: JournalStore) -> None:
    store.note("a", b"1")
    with pytest.raises(StoreRefusedError) as refused:
        store.note("a", bytes(3_000))
    assert refused.value.reason in (Refuse.NOTES_FULL, Refuse.TOO_LARGE)
    assert dict(store.notes) == {"a": b"1"}


def test_a_record_carries_the_wall_clock_in_milliseconds(store: JournalStore) -> None:
    store.append(("r/us",), b"", b"")
    assert [entry.stored_ms for entry in store.outstanding()] == [12_345]
