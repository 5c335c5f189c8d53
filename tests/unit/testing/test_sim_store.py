"""What a crash leaves in the simulated journal; the rest is in tests/contract/test_store.py."""

from __future__ import annotations

import random

import pytest

from mesh.core.custody.store import StoreRefusedError
from mesh.model.reasons import Refuse
from mesh.testing.sim_store import SimStore


def store_with(*commits: int) -> SimStore:
    """Commits of so many records each; the last one is under way."""
    store = SimStore(lambda: 0)
    for at, count in enumerate(commits):
        for _ in range(count):
            store.append(("a", "b"), b"", b"")
        store.begin()
        if at < len(commits) - 1:
            store.finish()
    return store


def left(store: SimStore) -> list[int]:
    return [entry.lsn for entry in store.outstanding()]


@pytest.mark.parametrize(
    ("torn", "expected"), [(0.0, [1, 2]), (0.5, [1, 2, 3, 4]), (1.0, [1, 2, 3, 4, 5, 6])]
)
def test_of_a_commit_under_way_a_crash_leaves_a_beginning(torn: float, expected: list[int]) -> None:
    store = store_with(2, 4)
    store.torn = torn
    store.append(("a",), b"", b"")  # after the commit began
    store.crash(random.Random(1))
    assert left(store) == expected
    assert store.synced == expected[-1]
    assert store.append(("a",), b"", b"") == expected[-1] + 1


def test_chance_leaves_every_beginning_sooner_or_later_and_never_less_than_was_synced() -> None:
    found = set()
    for seed in range(50):
        store = store_with(2, 3)
        store.crash(random.Random(seed))
        found.add(tuple(left(store)))
    assert found == {(1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5)}


def test_a_settle_and_a_note_that_were_not_committed_are_undone() -> None:
    store = store_with(1, 0)
    store.finish()
    store.settle(1, "a")
    store.settle(1, "b")
    store.note("k", b"v")
    assert (left(store), dict(store.notes), store.urgent) == ([], {"k": b"v"}, False)
    store.crash(random.Random(1))
    assert ([entry.parts for entry in store.outstanding()], dict(store.notes)) == ([("a", "b")], {})


def test_nothing_is_synced_before_its_commit_ended_and_settles_wait_for_nobody() -> None:
    store = SimStore(lambda: 0)
    store.append(("a",), b"", b"")
    assert (store.synced, store.dirty, store.urgent) == (0, True, True)
    store.begin()
    assert (store.synced, store.dirty) == (0, False)
    store.append(("a",), b"", b"")
    store.finish()
    assert (store.synced, store.dirty, store.urgent) == (1, True, True)


def test_a_disk_that_fails_commits_nothing_until_it_is_well() -> None:
    store = store_with(1, 2)
    store.fault = Refuse.IO_ERROR
    store.finish()
    assert (store.synced, store.urgent) == (1, True)
    with pytest.raises(StoreRefusedError):
        store.append(("a",), b"", b"")
    store.fault = None
    store.begin()
    store.finish()
    assert store.synced == 3


def test_a_crash_while_the_disk_fails_leaves_what_was_synced() -> None:
    store = store_with(1, 2)
    store.torn = 1.0
    store.fault = Refuse.NO_SPACE
    store.crash(random.Random(1))
    assert left(store) == [1]


def test_a_part_that_ends_twice_is_written_down_for_the_checks() -> None:
    store = store_with(1)
    store.settle(1, "a")
    store.settle(1, "a")
    store.settle(9, "a")
    assert store.settled_twice == [(1, "a"), (9, "a")]


def test_the_moments_at_which_a_process_may_die_are_told_in_their_order() -> None:
    told: list[str] = []
    store = SimStore(lambda: 0)
    store.step = told.append
    store.append(("a",), b"", b"")
    store.begin()
    store.finish()
    store.settle(1, "a")
    assert told == [
        "before append", "after append", "before commit", "during commit", "before commit ends", "after commit",
        "before settle", "after settle",
    ]  # fmt: skip
