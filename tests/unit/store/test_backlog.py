"""The order and the bounds of what waits."""

from __future__ import annotations

from pathlib import Path

from mesh.store.backlog import Backlog
from mesh.store.commit import Copy, Item, Job, Note, Settled
from mesh.store.disk import Disk
from mesh.store.ledger import Ledger
from mesh.store.segment import Segment, Stored


def stored(lsn: int, size: int = 100) -> Stored:
    made = Stored(lsn, ("r/us",), 4, 0, size - 48, 0)
    made.head, made.body = b"", bytes(size - 48)
    return made


def written(items: list[Item], *, sync: bool) -> Job:
    """A job that was run."""
    job = Job(Disk(), items, sync, 0, 0, [], [], Segment(Path("1"), 1, None, 0))
    job.offsets = [128] * len(items)
    return job


def test_records_are_taken_in_order_up_to_the_budget_and_at_least_one() -> None:
    backlog = Backlog()
    records = [stored(lsn) for lsn in range(1, 6)]
    for each in records:
        backlog.add(each, each.size)
    assert backlog.take_records(250, 0) == (records[:2], 2)
    assert backlog.take_records(0, 2) == (records[2:3], 3)
    assert all(each.taken for each in records[:3])
    records[3].parts = ()
    backlog.drop(records[3])
    assert backlog.take_records(1_000, 3) == (records[4:], 5)
    assert backlog.pending_bytes == 400
    assert not backlog.urgent


def test_what_failed_comes_first_again_without_its_copies() -> None:
    backlog = Backlog()
    one, two = stored(1), stored(2)
    settled, note = Settled("", [9]), Note("k", b"v")
    segment = Segment(Path("1"), 1, None, 0)
    backlog.add(two, two.size)
    backlog.failed([one, Copy(two, segment, 0, b""), settled, note], given_up=False)
    assert backlog.take_records(1_000, 0) == ([one, settled, note, two], 2)


def test_what_was_not_synced_comes_again_when_its_segment_is_given_up() -> None:
    backlog = Backlog()
    first, second = Settled("", [1]), Settled("", [2])
    backlog.written(written([first], sync=False), Ledger())
    backlog.failed([second], given_up=True)
    assert backlog.take_records(1_000, 0) == ([first, second], 0)
    backlog.written(written([first], sync=False), Ledger())
    backlog.written(written([], sync=True), Ledger())
    backlog.failed([second], given_up=True)
    assert backlog.take_records(1_000, 0) == ([second], 0)


def test_settles_are_together_and_of_notes_the_last_counts() -> None:
    backlog = Backlog()
    assert backlog.empty
    backlog.settle("", 1)
    backlog.settle("r/us", 2)
    backlog.settle("", 3)
    assert (backlog.empty, backlog.urgent) == (False, False)
    backlog.renote("k", b"0")
    backlog.note("k", b"1")
    backlog.note("k", None)
    backlog.renote("k", b"0")
    assert backlog.urgent
    behind = backlog.take_behind(3, 3, 4)
    assert (behind.settled, behind.notes, behind.made) == ({"": [1, 3], "r/us": [2]}, {"k": None}, 4)
    assert backlog.empty


def test_settles_and_notes_wait_for_the_records_before_them_and_no_longer() -> None:
    backlog = Backlog()
    records = [stored(lsn) for lsn in (1, 2, 3)]
    for record in records[:2]:
        backlog.add(record, 100)
    backlog.settle("c/x", 1)
    backlog.note("seen", b"1-2")
    assert backlog.take_records(100, 0) == ([records[0]], 1)
    behind = backlog.take_behind(1, 2, 1)
    assert (behind.settled, behind.notes, behind.made) == ({}, {}, -1)
    assert not backlog.empty
    backlog.add(records[2], 100)
    backlog.note("seen", b"1-3")
    backlog.settle("c/x", 2)
    assert backlog.take_records(100, 1) == ([records[1]], 2)
    behind = backlog.take_behind(2, 3, 2)
    assert (behind.settled, behind.notes, behind.made) == ({"c/x": [1]}, {"seen": b"1-2"}, 1), (
        "not what came since"
    )
    assert backlog.urgent
    assert backlog.take_records(100, 2) == ([records[2]], 3)
    behind = backlog.take_behind(3, 3, 2)
    assert (behind.settled, behind.notes, behind.made) == ({"c/x": [2]}, {"seen": b"1-3"}, 2)
    assert backlog.empty


def test_all_of_them_go_with_the_last_record() -> None:
    backlog = Backlog()
    backlog.settle("c/x", 1)
    assert backlog.take_behind(1, 2, 0).settled == {}
    backlog.settle("c/x", 2)
    backlog.note("k", b"1")
    behind = backlog.take_behind(2, 2, 1)
    assert (behind.settled, behind.notes, behind.made) == ({"c/x": [1, 2]}, {"k": b"1"}, 1)
    assert backlog.empty


def test_a_note_that_is_written_again_does_not_replace_one_that_waits_behind_a_record() -> None:
    backlog = Backlog()
    backlog.note("k", b"new")
    backlog.take_behind(0, 1, 1)
    backlog.renote("k", b"old")
    assert backlog.take_behind(1, 1, 1).notes == {"k": b"new"}
