"""What every journal does for custody (`mesh.core.custody.store.Store`): one suite, run on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from unit.store.journal_folder import commit_all

from mesh.core.custody.store import Entry, Store
from mesh.model.journal import JournalLimits
from mesh.store.journal import Journal
from mesh.store.kept import JournalStore
from mesh.testing.memory_store import MemoryStore
from mesh.testing.sim_store import SimStore


class Opened(NamedTuple):
    """A store. sync: everything is on the disk. again: as the next process finds it, after an orderly end; None: it does not last."""

    store: Store
    sync: Callable[[], None]
    again: Callable[[], Store] | None


def journal(folder: Path) -> Opened:
    store = JournalStore(Journal.open(folder, JournalLimits()), lambda: 1.5)

    def again() -> Store:
        commit_all(store.journal)
        store.journal.close()
        return JournalStore(Journal.open(folder, JournalLimits()), lambda: 9.0)

    return Opened(store, lambda: commit_all(store.journal), again)


def simulated(folder: Path) -> Opened:
    store = SimStore(lambda: 1_500)

    def sync() -> None:
        store.begin()
        store.finish()

    def again() -> Store:
        store.close()
        return store

    return Opened(store, sync, again)


def in_memory(folder: Path) -> Opened:
    return Opened(MemoryStore(), lambda: None, None)


STORES = {"journal": journal, "simulated": simulated, "memory": in_memory}


@pytest.fixture(params=sorted(STORES))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    found = STORES[request.param](tmp_path / "journal")
    yield found
    if isinstance(found.store, JournalStore):
        found.store.journal.close()


@pytest.fixture(params=["journal", "simulated"])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    return STORES[request.param](tmp_path / "journal")


def test_records_are_numbered_from_1_and_synced_by_their_number(opened: Opened) -> None:
    store = opened.store
    assert [store.append(("r/us",), b"h", b"b") for _ in range(3)] == [1, 2, 3]
    opened.sync()
    assert store.synced == 3


def test_a_record_is_read_as_it_was_until_its_last_part_is_settled(opened: Opened) -> None:
    store = opened.store
    lsn = store.append(("r/us", "n/eu-2"), b"head", b"body")
    for _ in range(2):
        assert store.read(lsn) == (b"head", b"body")
        opened.sync()
    assert not store.settle(lsn, "r/us")
    assert not store.settle(lsn, "r/us"), "it was settled before"
    assert not store.settle(lsn, "r/ap"), "it was never one of its parts"
    assert store.read(lsn) == (b"head", b"body")
    assert store.settle(lsn, "n/eu-2")
    with pytest.raises(KeyError):
        store.read(lsn)
    assert not store.settle(lsn, "n/eu-2")
    assert list(store.outstanding()) == []


def test_what_is_open_is_told_in_order_with_its_open_parts_and_sizes(opened: Opened) -> None:
    store = opened.store
    store.append(("a", "b"), b"12", b"345")
    store.append(("c",), b"", b"")
    store.append(("d",), b"1", b"")
    store.settle(1, "a")
    store.settle(2, "c")
    stamp = 0 if isinstance(store, MemoryStore) else 1_500
    assert list(store.outstanding()) == [Entry(1, ("b",), stamp, 2, 3), Entry(3, ("d",), stamp, 1, 0)]


def test_a_note_is_the_last_one_and_none_takes_it_back(opened: Opened) -> None:
    store = opened.store
    store.note("a", b"1")
    store.note("a", b"2")
    store.note("b", b"3")
    store.note("b", None)
    store.note("c", None)
    assert dict(store.notes) == {"a": b"2"}


def test_a_store_with_room_refuses_nothing_and_reading_ahead_is_only_a_hint(opened: Opened) -> None:
    assert opened.store.refusal(1_000) is None
    opened.store.read_ahead([1, 99])


def test_the_next_process_finds_what_was_open_and_goes_on_with_the_numbers(lasting: Opened) -> None:
    store = lasting.store
    store.append(("a", "b"), b"h1", b"b1")
    store.append(("c",), b"h2", b"b2")
    lasting.sync()
    store.settle(1, "a")
    store.settle(2, "c")
    store.note("k", b"v")
    assert lasting.again is not None
    again = lasting.again()
    assert list(again.outstanding()) == [Entry(1, ("b",), 1_500, 2, 2)]
    assert again.read(1) == (b"h1", b"b1")
    assert (dict(again.notes), again.synced) == ({"k": b"v"}, 2)
    assert again.append(("d",), b"", b"") == 3
