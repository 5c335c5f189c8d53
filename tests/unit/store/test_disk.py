"""The system calls: short writes are continued, short reads too, errors have a state."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from mesh.model.journal import JournalState
from mesh.store.disk import CHUNKS, Disk, state_of


@pytest.mark.parametrize(
    ("numbers", "state"),
    [
        ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), JournalState.NO_SPACE),
        ((errno.EROFS, errno.EACCES, errno.EPERM), JournalState.READ_ONLY),
        ((errno.EIO, errno.ENXIO, errno.EMFILE), JournalState.IO_ERROR),
    ],
)
def test_every_error_has_a_state(numbers: tuple[int, ...], state: JournalState) -> None:
    assert {state_of(OSError(number, "")) for number in numbers} == {state}


@pytest.mark.parametrize("most", [1, 7, 1_000_000])
def test_a_write_is_continued_until_all_is_written(most: int, tmp_path: Path) -> None:
    class Short(Disk):
        def write_some(self, file: int, chunks: Sequence[bytes | memoryview], at: int) -> int:
            joined = b"".join(chunks)[:most]
            return super().write_some(file, [joined], at)

    disk = Short()
    file = disk.create(tmp_path / "file")
    chunks = [b"", b"a", b"bcdef", b"", b"g" * 20] * 30
    assert disk.write(file, chunks, 3) == 3 + sum(map(len, chunks))
    assert (tmp_path / "file").read_bytes() == bytes(3) + b"".join(chunks)
    disk.close(file)


def test_more_pieces_than_one_call_takes(tmp_path: Path) -> None:
    disk = Disk()
    file = disk.create(tmp_path / "file")
    chunks = [b"%d," % number for number in range(3 * CHUNKS + 5)]
    disk.write(file, chunks, 0)
    assert disk.read(file, 1 << 20, 0) == b"".join(chunks)
    disk.close(file)


def test_a_write_without_progress_is_a_full_disk(tmp_path: Path) -> None:
    class Stuck(Disk):
        def write_some(self, file: int, chunks: Sequence[bytes | memoryview], at: int) -> int:
            return 0

    disk = Stuck()
    file = disk.create(tmp_path / "file")
    with pytest.raises(OSError, match="nothing could be written") as error:
        disk.write(file, [b"x"], 0)
    assert state_of(error.value) is JournalState.NO_SPACE
    disk.close(file)


def test_only_segments_are_numbers(tmp_path: Path) -> None:
    for name in (
        "0000000000000002.log",
        "00000000000000ff.log",
        "1.log",
        "00000000000000FF.log",
        "x",
        "0000000000000003.bak",
    ):
        (tmp_path / name).touch()
    assert Disk().numbers(tmp_path, ".log") == [2, 255]
    assert Disk().numbers(tmp_path / "none", ".log") == []


def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    disk = Disk()
    disk.close(disk.create(tmp_path / "file"))
    with pytest.raises(FileExistsError):
        disk.create(tmp_path / "file")
    disk.delete(tmp_path / "file")
    disk.delete(tmp_path / "file")
