"""The data folder of a node: who may use it, which node it belongs to, and the epoch of each process start.

Decides the next epoch, max(stored + 1, wall seconds), and has it on the disk before anybody sees it; keeps a second process
out; keeps the default node id. Never goes backwards: where that cannot be known the node does not start.

| in the folder         | holds                                                                       |
|-----------------------|-----------------------------------------------------------------------------|
| `lock`                | the pid of the process that uses the folder; locked with flock while it lives |
| `epoch`, `epoch.copy` | the last epoch and a checksum, twice                                        |
| `node_id`             | the default node id, made once                                              |
| `owner`               | REGION/NODE that the folder was made for                                    |

Invariant: an epoch that was returned is in both `epoch` and `epoch.copy`, so that one of them may be lost or damaged. Each file
is replaced whole: a temporary file, fsync, rename, fsync of the folder.
Source: design page "Routing", Identity and restart; T. Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014)
for the order of the four steps.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final

from mesh.model.errors import MeshError
from mesh.model.ids import NAME_MAX, BadName, Epoch, NodeKey, check_name

WHERE: Final = "node.data"
DAY_S: Final = 86_400
EPOCH_FILES: Final = ("epoch.copy", "epoch")
"""In the order in which they are written."""
FILE_BYTES: Final = 4_096
"""More than any file here has; what is larger is damaged."""


class DataFolder:
    """A data folder in use by this process, until `close` or the end of the process, however it ends.

    Creates the folder (mode 0700) if needed. Raises: MeshError MESH-C014 (cannot be used), MESH-C015 (in use by a process).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            holder = _pid(self._lock)
            os.close(self._lock)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
                raise MeshError("MESH-C015", WHERE, f"data folder {path} is in use by {holder}") from error
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Let another process use the folder. Idempotent. The lock file stays: removing it would let two in."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> DataFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def next_epoch(folder: Path, wall_s: float) -> Epoch:
    """The epoch of this process start; on the disk, twice, before it is returned.

    Args: folder: of a `DataFolder` in use. wall_s: the wall clock, seconds since 1970.
    Cost: four fsyncs. Raises: MeshError MESH-C014 (not written; state unaffected or one file ahead, which does no harm),
    MESH-C023 (both files damaged), MESH-C024 (the clock is more than a day behind the last epoch: peers would refuse it).
    """
    stored = _stored_epoch(folder)
    epoch = max(stored + 1, int(wall_s))
    if stored and epoch > wall_s + DAY_S:
        days = (epoch - wall_s) / DAY_S
        raise MeshError(
            "MESH-C024", WHERE, f"the last epoch in {folder} is {days:.1f} days ahead of this machine's clock"
        )
    for name in EPOCH_FILES:
        _replace(folder, name, f"{epoch} {_checksum(str(epoch))}\n")
    return Epoch(epoch)


def node_id(folder: Path, hostname: str) -> str:
    """The default id of the node: first label of the host name, a dash and four hex digits; made once, then kept.

    Raises: MeshError MESH-C014, MESH-C025 (the file holds no name).
    """
    text = _read(folder, "node_id")
    if text is None:
        label = re.sub(r"[^A-Za-z0-9._-]", "-", hostname.partition(".")[0]).strip("._-")[: NAME_MAX - 5]
        name = check_name(f"{label or 'node'}-{os.urandom(2).hex()}", "node")
        _replace(folder, "node_id", name + "\n")
        return name
    try:
        return check_name(text.strip(), "node")
    except BadName as error:
        raise MeshError("MESH-C025", WHERE, f"{folder / 'node_id'} is damaged") from error


def claim(folder: Path, key: NodeKey) -> None:
    """Make the folder this node's, or find that it is. Raises: MeshError MESH-C014, MESH-C022 (another node's)."""
    text = _read(folder, "owner")
    if text is None:
        _replace(folder, "owner", f"{key}\n")
    elif text.strip() != str(key):
        raise MeshError(
            "MESH-C022", WHERE, f"{folder} was made for node {text.strip()[:130]!r}, not for {key}"
        )


def _stored_epoch(folder: Path) -> int:
    """The newest epoch that either file holds, 0 in a new folder."""
    texts = [text for text in (_read(folder, name) for name in EPOCH_FILES) if text is not None]
    epochs = [epoch for epoch in map(_parse_epoch, texts) if epoch is not None]
    if texts and not epochs:
        raise MeshError(
            "MESH-C023", WHERE, f"no epoch can be read from {folder / 'epoch'} or {folder / 'epoch.copy'}"
        )
    return max(epochs, default=0)


def _parse_epoch(text: str) -> int | None:
    """The number in an epoch file, None unless the file is exactly as it was written."""
    number, _, checksum = text.partition(" ")
    if (
        not (number.isascii() and number.isdigit())
        or len(number) > 15
        or checksum != f"{_checksum(number)}\n"
    ):
        return None
    return int(number)


def _checksum(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()


def _read(folder: Path, name: str) -> str | None:
    """What a file of the folder holds, None if there is no such file."""
    try:
        with open(folder / name, "rb") as file:
            return file.read(FILE_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(folder, error) from error


def _replace(folder: Path, name: str, text: str) -> None:
    """Put `text` in place of the file, so that after a crash at any point it is there whole or not at all."""
    temporary = folder / f".{name}.tmp"
    try:
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(target, "wb", closefd=False) as file:
                file.write(text.encode())
            os.fsync(target)
        finally:
            os.close(target)
        os.rename(temporary, folder / name)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _unusable(folder, error) from error


def _pid(lock: int) -> str:
    """Who holds the lock, as far as the file tells."""
    text = os.pread(lock, 32, 0).strip()
    return f"pid {int(text)}" if text.isdigit() else "another process"


def _unusable(folder: Path, error: OSError) -> MeshError:
    what = error.strerror or str(error)
    return MeshError(
        "MESH-C014", WHERE, f"data folder {folder} cannot be used: {what} ({error.filename or folder})"
    )
