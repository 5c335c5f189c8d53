"""The files of the audit stream: FILE, FILE.1 (the one before), FILE.2 ...

Decides when the next file is begun and which one goes. Never reads them and never knows what a line says. All calls block, and are
made by one thread at a time.
Invariant: a file holds whole lines, also after a write that failed half way; together they hold at most `files` times `size_bytes`.
Source: docs/access.md.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class AuditFile:
    """Args: path: of the newest file. size_bytes: a file is not written beyond it. files: how many there are at most."""

    def __init__(self, path: Path, size_bytes: int, files: int) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self._files = files
        self._fd: int | None = None
        self._size = 0

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises: OSError; nothing of them is in the file then."""
        at = 0
        while at < len(lines):
            end = at + max(0, self._size_bytes - self._opened())
            if end < len(lines):
                end = lines.rfind(b"\n", at, end) + 1
                if end <= at and self._size:
                    self._rotate()
                    continue
                if end <= at:  # one line longer than a file: it is a file
                    end = lines.index(b"\n", at) + 1
            self._append(lines[at : min(end, len(lines))])
            at = end

    def close(self) -> None:
        """Close the file. Idempotent, never raises."""
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _opened(self) -> int:
        """Open the file if it is not; its size. A file that somebody moved away or removed is made again."""
        if self._fd is not None:
            try:
                there = os.stat(self.path)
                here = os.fstat(self._fd)
            except FileNotFoundError:
                self.close()
            else:
                if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
                    self.close()
        if self._fd is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size
            if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
                self._append(b"\n")  # a crash cut the last line
        return self._size

    def _append(self, data: bytes) -> None:
        assert self._fd is not None, "opened"
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        self.close()
        oldest = self._files - 1
        if oldest == 0:
            self.path.unlink(missing_ok=True)
            return
        for number in range(oldest, 0, -1):
            source = self._numbered(number - 1)
            if source.exists():
                source.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")
