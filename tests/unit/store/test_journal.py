"""The journal: what it takes and refuses, what frees a record, and what happens when the disk does not take it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from unit.store.journal_folder import FailingDisk, commit, commit_all, readable

from mesh.model.journal import (
    DamageReason,
    JournalDamaged,
    JournalLimits,
    JournalRefused,
    JournalState,
    Refusal,
)
from mesh.store.disk import Disk
from mesh.store.journal import Journal

SMALL = JournalLimits(
    total_bytes=80_000, pending_bytes=20_000, commit_bytes=4_000, segment_bytes=8_000, notes_bytes=2_000
)


def small(folder: Path, disk: Disk | None = None) -> Journal:
    return Journal.open(folder, SMALL, disk)


def put(journal: Journal, count: int = 1, size: int = 1_000, parts: tuple[str, ...] = ("r/us",)) -> list[int]:
    return [journal.append(parts, b"head", b"%04d" % n * (size // 4), n) for n in range(count)]


def refusal(journal: Journal, size: int = 10) -> Refusal:
    with pytest.raises(JournalRefused) as error:
        put(journal, 1, size)
    return error.value.reason


class TestRecords:
    def test_lsns_begin_at_1_grow_by_1_and_go_on_after_a_restart(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        assert put(journal, 3) == [1, 2, 3]
        commit_all(journal)
        for lsn in (1, 2, 3):
            assert journal.settle(lsn, "r/us")
        commit_all(journal)
        journal.close()
        assert put(small(tmp_path)) == [4]

    def test_a_record_counts_as_synced_after_its_commit_and_not_before(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        put(journal, 6)
        assert journal.synced == 0
        job = journal.take_job()
        assert job is not None
        job.run()
        assert journal.synced == 0
        journal.done(job)
        assert journal.synced == 3  # a commit takes 4,000 bytes
        commit(journal)
        assert journal.synced == 6

    def test_one_sync_serves_many_records(self, tmp_path: Path) -> None:
        disk = FailingDisk()
        journal = Journal.open(tmp_path, JournalLimits(), disk)
        put(journal)
        commit(journal)
        disk.calls.clear()
        put(journal, 200, 8)
        commit(journal)
        assert disk.calls == ["write", "sync"]
        assert journal.synced == 201

    def test_the_body_is_neither_copied_nor_kept_longer_than_needed(self, tmp_path: Path) -> None:
        journal = Journal.open(tmp_path, JournalLimits())
        body = os.urandom(45_000)
        lsn = journal.append(("r/us",), b"head", body, 1)
        assert journal.read(lsn)[1] is body
        commit(journal)
        again = journal.read(lsn)[1]
        assert again == body
        assert again is not body

    def test_a_record_is_freed_by_its_last_part_once(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        (lsn,) = put(journal, parts=("r/us", "r/ap"))
        commit_all(journal)
        assert [journal.settle(lsn, part) for part in ("r/us", "r/us", "r/xx", "r/ap", "r/ap")] == [
            False,
            False,
            False,
            True,
            False,
        ]
        assert not journal.settle(99, "r/us")
        with pytest.raises(KeyError):
            journal.read(lsn)

    def test_many_parts_are_settled_one_by_one(self, tmp_path: Path) -> None:
        parts = tuple(f"s/{number}" for number in range(500))
        journal = Journal.open(tmp_path, JournalLimits())
        (lsn,) = put(journal, parts=parts)
        commit_all(journal)
        for part in parts[:-1]:
            assert not journal.settle(lsn, part)
        commit_all(journal)
        journal.close()
        journal = Journal.open(tmp_path, JournalLimits())
        assert [entry.parts for entry in journal.outstanding()] == [parts[-1:]]
        assert journal.settle(lsn, parts[-1])

    def test_what_is_freed_before_it_was_written_is_not_written(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        put(journal, 3)
        for lsn in (1, 2, 3):
            journal.settle(lsn, "r/us")
        assert journal.take_job() is None
        assert journal.synced == 3
        assert list(tmp_path.iterdir()) == []
        assert journal.statistics().pending_bytes == 0

    def test_a_part_settled_while_its_record_is_being_written_stays_settled(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        (lsn,) = put(journal, parts=("r/us", "r/ap"))
        job = journal.take_job()
        assert job is not None
        journal.settle(lsn, "r/us")
        job.run()
        journal.done(job)
        commit_all(journal)
        journal.close()
        assert [entry.parts for entry in small(tmp_path).outstanding()] == [("r/ap",)]

    def test_a_settle_alone_is_written_without_a_sync(self, tmp_path: Path) -> None:
        disk = FailingDisk()
        journal = small(tmp_path, disk)
        put(journal, 2)
        commit_all(journal)
        disk.calls.clear()
        journal.settle(1, "r/us")
        assert not journal.urgent
        commit(journal)
        assert disk.calls == ["write"]
        assert journal.idle
        assert [entry.lsn for entry in small(tmp_path).outstanding()] == [2]

    def test_read_ahead_takes_anything(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        put(journal, 12)
        commit(journal)
        journal.read_ahead(range(20))
        commit_all(journal)
        journal.read_ahead(range(20))


class TestBounds:
    def test_of_pending_bytes(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        with pytest.raises(JournalRefused) as error:
            put(journal, 30)
        assert error.value.reason is Refusal.PENDING_FULL
        commit_all(journal)
        put(journal)
        assert journal.statistics().refused == {"pending_full": 1}

    def test_of_the_journal_and_room_again_when_records_are_freed(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        lsns: list[int] = []
        while journal.statistics().bytes < SMALL.total_bytes - 2 * SMALL.segment_bytes - 1_200:
            lsns += put(journal)
            commit_all(journal)
        assert refusal(journal, 1_200) is Refusal.FULL
        assert journal.statistics().bytes <= SMALL.total_bytes
        # Every second one: no segment is free by itself, the oldest ones are written again.
        for lsn in lsns[::2]:
            journal.settle(lsn, "r/us")
        commit_all(journal)
        put(journal, 3)
        commit_all(journal)
        assert [lsn for lsn in lsns[1::2] if journal.read(lsn)[0] != b"head"] == []
        assert journal.statistics().copied > 0
        journal.close()
        assert {entry.lsn for entry in small(tmp_path).outstanding()} >= set(lsns[1::2])

    def test_of_records(self, tmp_path: Path) -> None:
        journal = Journal.open(tmp_path, JournalLimits(records=2))
        put(journal, 2)
        assert refusal(journal) is Refusal.FULL

    def test_of_one_record(self, tmp_path: Path) -> None:
        assert refusal(small(tmp_path), 9_000) is Refusal.TOO_LARGE

    def test_segments_are_deleted_oldest_first_when_nothing_in_them_is_open(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        for _ in range(6):
            put(journal, 4)
            commit_all(journal)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert len(names) > 3
        for entry in list(journal.outstanding()):
            journal.settle(entry.lsn, "r/us")
        commit_all(journal)
        assert sorted(path.name for path in tmp_path.iterdir()) == names[-1:]


class TestNotes:
    def test_the_last_value_wins_and_survives(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        for value in (b"1", b"2"):
            journal.note("a", value)
            journal.note("b", value)
        commit_all(journal)
        ticket = journal.note("b", None)
        assert (dict(journal.notes), journal.notes_synced < ticket) == ({"a": b"2"}, True)
        commit_all(journal)
        assert journal.notes_synced == ticket
        journal.close()
        for _ in range(2):  # scanned, then by footer
            assert dict(small(tmp_path).notes) == {"a": b"2"}

    def test_they_survive_the_deletion_of_their_segment_and_so_does_their_end(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        journal.note("kept", b"value")
        journal.note("gone", b"value")
        commit_all(journal)
        journal.note("gone", None)
        for _ in range(40):
            (lsn,) = put(journal)
            commit_all(journal)
            journal.settle(lsn, "r/us")
        commit_all(journal)
        assert journal.statistics().deleted_segments > 2
        assert not (tmp_path / f"{1:016x}.log").exists()
        journal.close()
        assert dict(small(tmp_path).notes) == {"kept": b"value"}

    def test_their_bounds(self, tmp_path: Path) -> None:
        journal = small(tmp_path)
        journal.note("a", b"x" * 1_900)
        for key, size, reason in (("b", 200, Refusal.NOTES_FULL), ("b", 9_000, Refusal.TOO_LARGE)):
            with pytest.raises(JournalRefused) as error:
                journal.note(key, b"x" * size)
            assert error.value.reason is reason
        journal.note("a", b"x" * 1_990)
        assert list(journal.notes) == ["a"]


class TestADiskThatFails:
    @pytest.mark.parametrize(
        ("number", "state"),
        [
            (errno.ENOSPC, JournalState.NO_SPACE),
            (errno.EDQUOT, JournalState.NO_SPACE),
            (errno.EROFS, JournalState.READ_ONLY),
            (errno.EIO, JournalState.IO_ERROR),
        ],
    )
    @pytest.mark.parametrize("call", ["write", "sync", "create", "sync_folder"])
    def test_refuses_with_its_reason_keeps_the_rest_going_and_recovers(
        self, number: int, state: JournalState, call: str, tmp_path: Path
    ) -> None:
        failing: set[str] = set()
        disk = FailingDisk(lambda asked: OSError(number, asked) if asked in failing else None)
        journal = small(tmp_path, disk)
        put(journal, 3)
        commit_all(journal)
        put(journal, 4)
        failing.add(call)
        for _ in range(3):
            commit(journal)
            commit(journal)
            if journal.state is JournalState.OK:  # of "create": the segment has to be full first
                put(journal, 4)
        assert journal.state is state
        assert refusal(journal).value == state.value
        synced = journal.synced
        assert readable(journal)[1] == []
        assert journal.settle(1, "r/us")
        assert journal.settle(synced + 1, "r/us")
        commit(journal)
        failing.clear()
        commit(journal)
        assert journal.state is JournalState.OK
        commit_all(journal)
        put(journal)
        commit_all(journal)
        expected = readable(journal)
        assert journal.synced == max(expected[0])
        journal.close()
        again = small(tmp_path)
        assert readable(again) == expected
        assert [each for each in again.recovery.damage if each.reason is not DamageReason.TORN_TAIL] == []

    def test_what_a_failed_sync_was_to_bring_is_written_again_to_a_new_segment(self, tmp_path: Path) -> None:
        failing: set[str] = set()
        disk = FailingDisk(lambda asked: OSError(errno.EIO, asked) if asked in failing else None)
        journal = small(tmp_path, disk)
        put(journal)
        commit_all(journal)
        first = tmp_path / f"{1:016x}.log"
        size = first.stat().st_size
        put(journal)
        failing.add("sync")
        commit(journal)
        assert first.stat().st_size > size
        failing.clear()
        commit(journal)
        assert first.stat().st_size == size
        assert (tmp_path / f"{2:016x}.log").stat().st_size > 1_000
        assert journal.synced == 2

    def test_writes_that_take_little_at_once_are_continued(self, tmp_path: Path) -> None:
        disk = FailingDisk()
        disk.short_bytes = 7
        journal = small(tmp_path, disk)
        put(journal, 5)
        commit_all(journal)
        journal.close()
        assert set(readable(small(tmp_path))[0]) == {1, 2, 3, 4, 5}

    def test_segments_are_freed_while_it_is_full(self, tmp_path: Path) -> None:
        failing: set[str] = set()
        disk = FailingDisk(lambda asked: OSError(errno.ENOSPC, asked) if asked in failing else None)
        journal = small(tmp_path, disk)
        for _ in range(6):
            put(journal, 4)
            commit_all(journal)
        before = len(list(tmp_path.iterdir()))
        failing.update(("write", "create"))
        put(journal)
        commit(journal)
        for entry in list(journal.outstanding())[:-1]:
            journal.settle(entry.lsn, "r/us")
        commit(journal)
        assert journal.state is JournalState.NO_SPACE
        assert len(list(tmp_path.iterdir())) < before - 2

    def test_deleting_that_fails_is_tried_again_and_stops_nothing(self, tmp_path: Path) -> None:
        failing = {"delete"}
        disk = FailingDisk(lambda asked: OSError(errno.EIO, asked) if asked in failing else None)
        journal = small(tmp_path, disk)
        for _ in range(6):
            for lsn in put(journal, 4):
                commit(journal)
                journal.settle(lsn, "r/us")
        commit(journal)
        assert journal.state is JournalState.OK
        assert not journal.urgent
        assert len(list(tmp_path.iterdir())) > 2
        failing.clear()
        commit_all(journal)
        assert len(list(tmp_path.iterdir())) == 1


class TestADamagedRecord:
    def damaged(self, folder: Path) -> Journal:
        journal = small(folder)
        put(journal, 16)
        commit_all(journal)
        path = folder / f"{1:016x}.log"
        data = bytearray(path.read_bytes())
        data[700] ^= 1
        path.write_bytes(data)
        return journal

    def test_is_told_by_reading_and_stays_open_until_it_is_settled(self, tmp_path: Path) -> None:
        journal = self.damaged(tmp_path)
        with pytest.raises(JournalDamaged) as error:
            journal.read(1)
        assert (error.value.lsn, error.value.damage.segment) == (1, 1)
        assert journal.statistics().damaged == 1
        assert journal.settle(1, "r/us")
        assert readable(journal)[1] == []

    def test_is_not_carried_on_when_its_segment_is_cleaned(self, tmp_path: Path) -> None:
        journal = self.damaged(tmp_path)
        lsns = list(range(1, 17))
        while journal.state is JournalState.OK and (tmp_path / f"{1:016x}.log").exists():
            for lsn in lsns[1:]:
                if lsn != 2:
                    journal.settle(lsn, "r/us")
            lsns = put(journal, 4)
            commit_all(journal)
            assert lsns[-1] < 500
        with pytest.raises(JournalDamaged):
            journal.read(1)
        assert journal.read(2)[0] == b"head"
        journal.close()
        assert {1, 2} & {entry.lsn for entry in small(tmp_path).outstanding()} == {2}


PROGRAM = """
import json, os, resource, subprocess, sys
from pathlib import Path
from mesh.model.journal import JournalLimits, JournalRefused
from mesh.store.journal import Journal

folder, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=True)
limits = JournalLimits(segment_bytes=64_000, commit_bytes=16_000)
journal = Journal.open(folder / "journal", limits)
if kind == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

def commit():
    job = journal.take_job()
    if job is None:
        return
    try:
        job.run()
    except OSError as error:
        journal.failed(job, error)
    else:
        journal.done(job)

told = {"reasons": [], "states": []}
try:
    for number in range(1_000):
        journal.append(("r/us",), b"head", os.urandom(3_000), number)
        commit()
except JournalRefused as error:
    told["reasons"].append(error.reason.value)
told["states"].append(journal.state.value)
synced = journal.synced
for entry in list(journal.outstanding()):
    journal.read(entry.lsn)
if kind == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for lsn in range(1, synced - 4):
    journal.settle(lsn, "r/us")
for _ in range(10):
    commit()
told["states"].append(journal.state.value)
last = journal.append(("r/us",), b"head", b"after", 1)
commit()
journal.close()
again = Journal.open(folder / "journal", limits)
told["lost"] = sorted(set(range(synced - 4, last + 1)) - {entry.lsn for entry in again.outstanding()})
for entry in again.outstanding():
    again.read(entry.lsn)
told["damage"] = [list(each) for each in again.recovery.damage]
print(json.dumps(told))
"""


@pytest.mark.parametrize("kind", ["tmpfs", "limit"])
def test_a_disk_that_is_really_full(kind: str, tmp_path: Path) -> None:
    """By the system itself: a file system of 256 KiB in a mount namespace of its own, and the limit of a file's size.

    Where this user may not mount, the second one is all there is: the first is then run with the limit too.
    """
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), kind]
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if kind == "tmpfs":
        try:
            allowed = subprocess.run(
                [*unshare, "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True
            )
            mounts = allowed.returncode == 0
        except FileNotFoundError:
            mounts = False
        words = [*unshare, *words] if mounts else [*words[:-1], "limit"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["states"] == ["no_space", "ok"]
    assert told["reasons"] == ["no_space"]
    assert told["lost"] == []
    assert told["damage"] == []
