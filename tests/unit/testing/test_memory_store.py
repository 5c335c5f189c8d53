"""What only the store in memory does; the rest is in tests/contract/test_store.py."""

from __future__ import annotations

import pytest

from mesh.core.custody.store import StoreRefusedError
from mesh.model.reasons import Refuse
from mesh.testing.memory_store import MemoryStore


def test_everything_is_synced_at_once() -> None:
    store = MemoryStore()
    assert store.append(("a",), b"", b"") == store.synced == 1


def test_a_fault_refuses_records_and_leaves_what_is_there() -> None:
    store = MemoryStore()
    store.append(("a",), b"h", b"b")
    store.fault = Refuse.FULL
    assert store.refusal(0) is Refuse.FULL
    with pytest.raises(StoreRefusedError) as refused:
        store.append(("a",), b"", b"")
    assert refused.value.reason is Refuse.FULL
    assert (store.read(1), len(store), store.synced) == ((b"h", b"b"), 1, 1)
    assert store.settle(1, "a"), "what is there is freed all the same"


def test_a_record_nobody_is_to_get_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError):
        MemoryStore().append((), b"", b"")
