"""A commit: its order, and what is left when a step of it fails."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from unit.store.journal_folder import FailingDisk

from mesh.store.commit import Job, Note, Settled, size_of
from mesh.store.record import START, Gap, Kind, crc_of, new_opening, scan
from mesh.store.segment import Segment, Stored


def job_of(folder: Path, disk: FailingDisk, count: int = 3) -> Job:
    opening = new_opening(1, 1)
    job = Job(disk, [], True, count, 0, [], [])
    job.target, job.create = Segment(folder / "journal" / "1", 1, opening, START), True
    for lsn in range(1, count + 1):
        stored = Stored(lsn, ("r/us",), 4, 4, 5_000, 9)
        stored.head, stored.body = b"head", bytes(5_000)
        stored.crc = crc_of(stored.head + stored.body)
        job.items.append(stored)
    job.items += [Settled("r/us", [1, 2]), Note("k", b"v"), Note("k", None)]
    return job


def test_it_writes_then_syncs_the_file_and_at_last_the_folder(tmp_path: Path) -> None:
    disk = FailingDisk()
    job = job_of(tmp_path, disk)
    job.run()
    assert disk.calls == ["make_folder", "sync_folder", "create", "write", "write", "sync", "sync_folder"]
    assert job.target is not None
    assert job.target.opening is not None
    found = list(scan(job.target.opening, job.target.path.read_bytes()))
    kinds = [each.kind for each in found if not isinstance(each, Gap)]
    assert kinds == [Kind.ENTRY] * 3 + [Kind.SETTLED, Kind.NOTE, Kind.NOTE_GONE]
    assert job.offsets == [each.offset for each in found]
    assert job.end == job.target.path.stat().st_size == START + sum(map(size_of, job.items))
    disk.close(job.target.file)


@pytest.mark.parametrize("call", ["make_folder", "create", "write", "sync", "sync_folder"])
def test_a_segment_that_could_not_be_begun_is_removed(call: str, tmp_path: Path) -> None:
    disk = FailingDisk(lambda asked: OSError(errno.ENOSPC, asked) if asked == call else None)
    job = job_of(tmp_path, disk)
    with pytest.raises(OSError, match=call):
        job.run()
    assert not list(tmp_path.glob("journal/*"))
    assert not job.left_over


def test_one_that_cannot_be_removed_is_told(tmp_path: Path) -> None:
    disk = FailingDisk(lambda asked: OSError(errno.EIO, asked) if asked in ("sync", "delete") else None)
    job = job_of(tmp_path, disk)
    with pytest.raises(OSError, match="sync"):
        job.run()
    assert job.left_over


def test_deleting_stops_at_the_first_that_fails_so_that_none_outlives_its_successors(tmp_path: Path) -> None:
    segments = [Segment(tmp_path / str(number), number, None, 10) for number in range(4)]
    for segment in segments:
        segment.path.touch()
    left = [2]

    def refuse(call: str) -> OSError | None:
        if call == "delete":
            left[0] -= 1
        return OSError(errno.EIO, call) if call == "delete" and left[0] < 0 else None

    disk = FailingDisk(refuse)
    job = Job(disk, [], False, 0, 0, [], segments)
    job.run()
    assert job.deleted == segments[:2]
    assert disk.calls[:4] == ["delete", "sync_folder", "delete", "sync_folder"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_tail_is_cut_where_it_was_last_synced(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "1", 1, None, 10)
    segment.path.write_bytes(bytes(50))
    job = Job(FailingDisk(), [], False, 0, 0, [segment], [])
    job.run()
    assert segment.path.stat().st_size == 10
    assert job.cut == [segment]
