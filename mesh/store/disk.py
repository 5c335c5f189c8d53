"""The system calls of the journal, in one place.

Decides that a short write is continued and that a write which makes no progress is a full disk; and which state an error
means. Never decides what to do about it. Tests stand in for this class to make every call fail at every place.
Source: POSIX write(2), fdatasync(2); A. Rebello et al., "Can Applications Recover from fsync Failures?" (ATC 2020): after a
failed fsync the page cache may call lost pages clean, so nothing here ever tries the same fsync twice.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mesh.model.journal import JournalState

CHUNKS: Final = 512
"""Pieces of one writev; Linux takes 1,024."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def state_of(error: OSError) -> JournalState:
    """The state of a journal whose write failed with this."""
    if error.errno in _NO_SPACE:
        return JournalState.NO_SPACE
    return JournalState.READ_ONLY if error.errno in _READ_ONLY else JournalState.IO_ERROR


class Disk:
    """Every method may raise OSError. None is called on the loop's thread but `open_read`, `read` and `read_ahead`."""

    def make_folder(self, folder: Path) -> None:
        """Create the folder if it is not there, and have its name on the disk."""
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sync_folder(folder.parent)

    def numbers(self, folder: Path, suffix: str) -> list[int]:
        """The numbers of the segments in a folder, smallest first; [] without a folder."""
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        stems = [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
        return sorted(int(stem, 16) for stem in stems if len(stem) == 16 and set(stem) <= _HEX)

    def create(self, path: Path) -> int:
        """A new file for writing and reading; one that is there is refused."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open_write(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def open_read(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, file: int, chunks: Sequence[bytes], at: int) -> int:
        """Write all chunks from an offset on. Returns: the offset behind them."""
        for start in range(0, len(chunks), CHUNKS):
            group: list[bytes | memoryview] = list(chunks[start : start + CHUNKS])
            while group:
                written = self.write_some(file, group, at)
                if written <= 0:
                    raise OSError(errno.ENOSPC, "nothing could be written")
                at += written
                while group and written >= len(group[0]):
                    written -= len(group.pop(0))
                if written:
                    group[0] = memoryview(group[0])[written:]
        return at

    def write_some(self, file: int, chunks: Sequence[bytes | memoryview], at: int) -> int:
        return os.pwritev(file, chunks, at)

    def read(self, file: int, length: int, at: int) -> bytes:
        """At most `length` bytes: fewer only at the end of the file."""
        found = os.pread(file, length, at)
        while 0 < len(found) < length:
            more = os.pread(file, length - len(found), at + len(found))
            if not more:
                break
            found += more
        return found

    def read_ahead(self, file: int, length: int, at: int) -> None:
        os.posix_fadvise(file, at, length, os.POSIX_FADV_WILLNEED)

    def size(self, file: int) -> int:
        return os.fstat(file).st_size

    def sync(self, file: int) -> None:
        """Data, and what is needed to find it again (the file's size)."""
        os.fdatasync(file)

    def sync_folder(self, folder: Path) -> None:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def truncate(self, file: int, length: int) -> None:
        os.ftruncate(file, length)

    def delete(self, path: Path) -> None:
        """Remove a file; one that is not there is fine."""
        path.unlink(missing_ok=True)

    def close(self, file: int) -> None:
        os.close(file)


_HEX: Final = frozenset("0123456789abcdef")
