"""A disk that is full takes no byte more from the process that writes to it, and takes them again when it is freed."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mesh.testing.fault_disk import Disk, RlimitDisk, TmpfsDisk, open_disk

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin:
    try:
        told = os.write(fd, b"x" * int(line))
    except OSError as error:
        told = -error.errno
    print(told, flush=True)
"""


class Writer:
    """A process that appends to one file, so many bytes as it is told."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", WRITER, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self, size: int) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(params=["as it works here", "rlimit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Disk, Path]]:
    folder = tmp_path / "data"
    found: Disk = open_disk(folder, 1) if request.param != "rlimit" else RlimitDisk()
    folder.mkdir(exist_ok=True)
    yield found, folder
    found.close()


def test_full_and_free_again(disk: tuple[Disk, Path]) -> None:
    kept, folder = disk
    with closing(Writer(folder / "file")) as writer:
        assert writer.write(5_000) == 5_000
        kept.fill(writer.process.pid)
        # The last block of the file may still have room: a write cut short, as real disks do it.
        short = max(0, writer.write(5_000))
        assert short < 4_096
        assert writer.write(5_000) in (-errno.ENOSPC, -errno.EFBIG)
        kept.free(writer.process.pid)
        assert writer.write(5_000) == 5_000
    assert (folder / "file").stat().st_size == 10_000 + short


def test_what_was_on_a_tmpfs_is_kept_when_it_goes(tmp_path: Path) -> None:
    disk = open_disk(tmp_path / "data", 1)
    (tmp_path / "data" / "journal").write_bytes(b"kept")
    if isinstance(disk, TmpfsDisk):
        disk.fill(0)
    disk.close()
    disk.close()
    folder = tmp_path / ("data-of-tmpfs" if isinstance(disk, TmpfsDisk) else "data")
    assert [path.name for path in folder.iterdir()] == ["journal"]
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_process_that_is_gone_is_no_error() -> None:
    writer = Writer(Path("/dev/null"))
    writer.close()
    RlimitDisk().free(writer.process.pid)
