from __future__ import annotations

import pytest
from mesh.core.custody.volatile import CountingOwner, VolatileStore, pack, unpack
from unit.core.custody.journal_twin import HEADER, event, events

from mesh.core.counters import Counters
from mesh.core.custody.store import JournalDamaged
from mesh.model.reasons import Drop
from mesh.wire.codec import encode_body


def test_a_record_is_there_until_its_last_part_is_settled() -> None:
    store = VolatileStore()
    assert store.append(("a", "b"), b"head", b"body", 0) == 1
    assert not store.settle(1, "a")
    assert not store.settle(1, "a")
    assert store.read(1) == (b"head", b"body")
    assert store.settle(1, "b")
    assert len(store) == 0
    with pytest.raises(JournalDamaged):
        store.read(1)


def test_notes_are_kept_until_they_are_taken_back() -> None:
    store = VolatileStore()
    store.note("a", b"1")
    store.note("b", b"2")
    store.note("a", None)
    assert dict(store.notes) == {"b": b"2"}


def test_a_record_reads_back() -> None:
    assert unpack(pack(HEADER), encode_body(events(1, 1))) == (HEADER, events(1, 1))


def test_its_owner_counts_and_hands_nothing_back() -> None:
    store, counters = VolatileStore(), Counters()
    owner = CountingOwner(store, counters)
    store.append(("a",), b"", b"", 0)
    owner.dead_letter(HEADER, event(1), Drop.EXPIRED, "a", 1, 0.0)
    owner.settle(1, "a")
    assert not owner.hand_back(1, HEADER, events(1, 1), "g", "f", 0.0)
    assert (len(store), counters.drops) == (0, {Drop.EXPIRED: 1})
