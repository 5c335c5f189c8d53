"""A disk that can be full: the data folder of one node, on a file system of its own or under a limit of its process.

| kind     | needs                                                            | what the node sees                          |
|----------|------------------------------------------------------------------|---------------------------------------------|
| `tmpfs`  | root, or a user namespace (`scripts/faults` makes one)           | ENOSPC, after a write cut short; fsync costs nothing |
| `rlimit` | nothing: RLIMIT_FSIZE of the running process                      | EFBIG for every byte beyond the first of a file |

Decides which of the two works here. Never touches what the node has written.
Invariant: after `close` nothing is mounted.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
from pathlib import Path
from typing import Final, Protocol

FILLER: Final = "filler"
_BLOCK_BYTES: Final = 256 * 1024
_NO_BOUND: Final = resource.RLIM_INFINITY


class Disk(Protocol):
    """Where one node keeps its data."""

    kind: str

    def fill(self, pid: int) -> None:
        """From now on it takes no more. pid: the node's process."""

    def free(self, pid: int) -> None:
        """There is room again. pid: 0 when the node is down."""

    def close(self) -> None:
        """The node is stopped. Idempotent."""


class TmpfsDisk:
    """A tmpfs on the folder, filled by a file beside the node's."""

    kind = "tmpfs"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mounted = True

    def fill(self, pid: int) -> None:
        # Down to single bytes, so that not even the tail of a block is left.
        with (self._folder / FILLER).open("ab", buffering=0) as file:
            size = _BLOCK_BYTES
            while size:
                try:
                    if file.write(bytes(size)) < size:
                        size //= 2
                except OSError:
                    size //= 2

    def free(self, pid: int) -> None:
        (self._folder / FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        if self._mounted:
            self._mounted = False
            kept = self._folder.with_name(
                f"{self._folder.name}-of-tmpfs"
            )  # what is mounted is gone with its mount
            self.free(0)
            shutil.copytree(self._folder, kept, dirs_exist_ok=True)
            subprocess.run(["umount", "--lazy", str(self._folder)], check=False, capture_output=True)


class RlimitDisk:
    """No file of the process may grow, and none may be begun."""

    kind = "rlimit"

    def fill(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, _NO_BOUND))

    def free(self, pid: int) -> None:
        if pid:
            try:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (_NO_BOUND, _NO_BOUND))
            except ProcessLookupError:
                return

    def close(self) -> None:
        return


def open_disk(folder: Path, size_mb: int) -> Disk:
    """A disk for `folder`, which must be empty: a tmpfs where this process may mount one. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=700", "hopmesh-faults", str(folder)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
    except FileNotFoundError:
        return RlimitDisk()
    return TmpfsDisk(folder) if done.returncode == 0 else RlimitDisk()
