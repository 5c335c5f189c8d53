"""The files of a file registry: read without trust, written whole, numbered where two writers may meet.

Decides which files are looked at and which are left out, with a reason for each. Knows nothing of leases or clocks of others.
Blocking: `registry.file` calls it in a worker thread. Never follows symbolic links, never opens what is no plain file, never
reads more than an entry may have.

```
FOLDER/nodes/REGION/NODE.json            one writer: the node
FOLDER/regions/REGION/0000000007.json    one file for each version: creating the next number is the compare and set
```

Invariant: a reader sees a file whole or not at all (temporary file, fsync, then rename or link, fsync of the folder); where the
file system has no hard links a new version may be seen unfinished for a moment, and is passed over until it is whole.
Source: POSIX.1-2017, rename() and link(); open(2) of Linux on O_EXCL over NFS, where it recommends link() for this purpose.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from mesh.model.ids import BadName, NodeKey, check_name
from registry.base import ENTRY_BYTES, IGNORED_KEPT

ENTRIES: Final = 10_000
"""Node files looked at in one region, and in all; more are left out."""
REGIONS: Final = 1_024
VERSIONS_KEPT: Final = 8
"""Older versions of a region's entry that stay: a writer slower than so many others learns that it lost."""
TEMPORARY_AGE_S: Final = 3_600.0
"""What a writer that crashed left behind is removed after this."""

_VERSION = re.compile(r"(\d{10})\.json\Z", re.ASCII)
VERSION_MAX: Final = 9_999_999_999

Signature = tuple[int, int, int]
"""(modification time in ns, size, inode): changes with every replacement."""


class Found(NamedTuple):
    """One file of a node. raw: its bytes; b"" with a reason where it was left out, or where `signature` was known."""

    signature: Signature
    raw: bytes
    reason: str = ""


class Scan(NamedTuple):
    """Files of nodes by key, and what was left out beside them, by reason. strange: the first of these, (path, reason)."""

    files: dict[NodeKey, Found]
    left_out: dict[str, int]
    strange: list[tuple[str, str]]


def node_path(root: Path, key: NodeKey) -> Path:
    return root / "nodes" / key.region / f"{key.node}.json"


def scan(root: Path, region: str | None, known: Mapping[NodeKey, Signature], wall_s: float) -> Scan:
    """Look at a region's node files, or at all of them; read those whose signature is not the known one.

    Cost: one directory read for each region, one stat for each file, one read for each that changed. Raises: OSError if the
    root is not there.
    """
    os.stat(root)
    result = Scan({}, {}, [])
    for name in [region] if region is not None else _names(root / "nodes", REGIONS, result.left_out):
        if _is_name(name):
            _scan_region(root / "nodes" / name, name, known, wall_s, result)
        else:
            _leave_out(result, "bad_name", f"nodes/{name}")
    return result


def _scan_region(
    folder: Path, region: str, known: Mapping[NodeKey, Signature], wall_s: float, result: Scan
) -> None:
    for name in _names(folder, ENTRIES, result.left_out):
        if name.startswith("."):
            _sweep_temporary(folder / name, wall_s)
            continue
        node = name.removesuffix(".json")
        if node == name or not _is_name(node):
            _leave_out(result, "bad_name", f"nodes/{region}/{name}")
        elif len(result.files) >= ENTRIES:
            _leave_out(result, "too_many", f"nodes/{region}/{name}")
        else:
            key = NodeKey(region, node)
            found = look(folder / name, known.get(key))
            if found is not None:
                result.files[key] = found


def look(path: Path, known: Signature | None = None) -> Found | None:
    """Read one file unless its signature is the known one; None if there is no such file. Never raises for what it holds."""
    signature: Signature = (0, 0, 0)
    try:
        status = os.lstat(path)
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        if signature == known:
            return Found(signature, b"")
        if not stat.S_ISREG(status.st_mode):
            return Found(signature, b"", "not_a_file")
        if status.st_size > ENTRY_BYTES:
            return Found(signature, b"", "too_large")
        # Between the two calls the name may have come to mean something else: a link, or a pipe that would block.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            raw = os.read(file, ENTRY_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(file)
        return Found(signature, raw) if len(raw) <= ENTRY_BYTES else Found(signature, b"", "too_large")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return Found(signature, b"", "unreadable")
        raise


def replace(path: Path, raw: bytes) -> Signature:
    """Put a file in place, whole. The root must be there; folders below it are made. Raises: OSError."""
    temporary = _write_temporary(path, raw)
    try:
        os.rename(temporary, path)
    except OSError:
        _unlink(temporary)
        raise
    _sync(path.parent)
    found = look(path)
    return (0, 0, 0) if found is None else found.signature


def remove(path: Path, only: Signature | None = None) -> None:
    """Remove a file (only while it is still the one that was seen). Nothing happens if it is not there."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if only in (None, (status.st_mtime_ns, status.st_size, status.st_ino)):
            os.unlink(path)
            _sync(path.parent)


# -- versions of a region's entry ----------------------------------------------------------------------------------------


class Versions(NamedTuple):
    """What is in a region's folder. highest: the greatest number, 0 if there is none. files: the newest few, newest first."""

    highest: int
    files: tuple[tuple[int, bytes], ...]


def region_names(root: Path) -> list[str]:
    """Regions of the directory, in order."""
    os.stat(root)
    return sorted(name for name in _names(root / "regions", REGIONS, {}) if _is_name(name))


def versions(root: Path, region: str) -> Versions:
    """Read the newest versions of a region's entry. Cost: one directory read, at most VERSIONS_KEPT files."""
    os.stat(root)
    folder = root / "regions" / region
    numbers = _numbers(folder)
    files = []
    for number in numbers[:VERSIONS_KEPT]:
        found = look(folder / f"{number:010}.json")
        if found is not None and not found.reason:
            files.append((number, found.raw))
    return Versions(numbers[0] if numbers else 0, tuple(files))


def create_version(root: Path, region: str, number: int, raw: bytes) -> bool:
    """Create a version unless somebody else did, and remove the oldest ones. Returns whether this call created it.

    A number is only ever given out once: while it may still be taken its file stays for VERSIONS_KEPT later ones, and a
    writer that finds more than that above its own cannot know, and so has lost. Raises: OSError.
    """
    folder = root / "regions" / region
    path = folder / f"{number:010}.json"
    temporary = _write_temporary(path, raw)
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if not _create(path, raw):
            return False
    finally:
        _unlink(temporary)
    _sync(folder)
    numbers = _numbers(folder)
    for old in numbers:
        if old <= number - VERSIONS_KEPT:
            _unlink(folder / f"{old:010}.json")
    if numbers and numbers[0] >= number + VERSIONS_KEPT:
        _unlink(path)
        return False
    return True


def _numbers(folder: Path) -> list[int]:
    """Versions in a region's folder, newest first."""
    try:
        found = [_VERSION.match(name) for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((int(match[1]) for match in found if match is not None), reverse=True)


# -- small parts -----------------------------------------------------------------------------------------------------------


def _write_temporary(path: Path, raw: bytes) -> Path:
    """A new file beside `path` with these bytes, on the disk."""
    for folder in (path.parent.parent, path.parent):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o777)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    _create(temporary, raw)
    return temporary


def _create(path: Path, raw: bytes) -> bool:
    """A new file with these bytes, on the disk; False if the name is taken."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(raw)
        os.fsync(file)
    except OSError:
        _unlink(path)
        raise
    finally:
        os.close(file)
    return True


def _names(folder: Path, most: int, left_out: dict[str, int]) -> Iterable[str]:
    """Names in a folder, in no order, at most so many; none if it is not there."""
    try:
        with os.scandir(folder) as found:
            for count, entry in enumerate(found):
                if count >= 2 * most:  # what is left out costs too
                    left_out["too_many"] = left_out.get("too_many", 0) + 1
                    break
                yield entry.name
    except (FileNotFoundError, NotADirectoryError):
        return


def _is_name(name: str) -> bool:
    try:
        check_name(name, "entry")
    except BadName:
        return False
    return True


def _leave_out(result: Scan, reason: str, path: str) -> None:
    result.left_out[reason] = result.left_out.get(reason, 0) + 1
    if len(result.strange) < IGNORED_KEPT:
        result.strange.append((path, reason))


def _sweep_temporary(path: Path, wall_s: float) -> None:
    with suppress(OSError):
        if path.name.endswith(".tmp") and wall_s - os.lstat(path).st_mtime > TEMPORARY_AGE_S:
            os.unlink(path)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        os.unlink(path)


def _sync(folder: Path) -> None:
    """Have the folder's names on the disk. Some shares refuse to sync a folder: they keep names their own way."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
