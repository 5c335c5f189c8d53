"""The policy file of a node, read from the disk: its rules and the keys it names.

Decides where a key's file is (relative to the policy file's folder) and whether all of it can be used. Never decides what a rule means:
`federation.core.policy` does.
Invariant: what is returned can be applied; everything else was a MeshError with the file and the line.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from federation.core.policy.rule_file import RuleError, RuleFile, parse
from federation.core.policy.sealing import read_key
from mesh.model.errors import MeshError

FILE_BYTES = 1 << 20
"""A longer file is none that a person reviews."""


class Policy(NamedTuple):
    """keys: by id, as the file names them. stamp: of the files as they were read; differs when one of them changed."""

    rule_file: RuleFile
    keys: dict[str, bytes]
    stamp: tuple[tuple[str, int, int], ...]


def read_policy(path: Path) -> Policy:
    """Read a policy file and its keys. Raises: MeshError MESH-F020 (a file), MESH-F021 (a line), MESH-F022 (a key)."""
    stamp = [_stamp(path)]
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MeshError("MESH-F020", str(path), (error.strerror or str(error)).lower()) from None
    if len(raw) > FILE_BYTES:
        raise MeshError("MESH-F020", str(path), f"{len(raw)} bytes are more than {FILE_BYTES}")
    rule_file = parse_policy(raw, str(path))
    keys: dict[str, bytes] = {}
    for id, line in rule_file.keys.items():
        file = path.parent / line.path
        stamp.append(_stamp(file))
        try:
            keys[id] = read_key(file.read_bytes())
        except OSError as error:
            what = f"{file}: {(error.strerror or str(error)).lower()}"
            raise MeshError("MESH-F022", f"{path}:{line.line}", what) from None
        except ValueError as error:
            raise MeshError("MESH-F022", f"{path}:{line.line}", f"{file}: {error}") from None
    return Policy(rule_file, keys, tuple(stamp))


def parse_policy(raw: bytes, name: str) -> RuleFile:
    """The rules of a file's bytes. Raises: MeshError MESH-F021 with the file and line."""
    try:
        return parse(raw.decode(), name)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise MeshError("MESH-F021", f"{name}:{line}", "it is not UTF-8") from None
    except RuleError as error:
        raise MeshError("MESH-F021", f"{error.file}:{error.line}", error.what) from None


def changed(policy: Policy) -> bool:
    """Whether one of its files is another one than was read. Cost: one stat a file."""
    return any(_stamp(Path(name)) != (name, *rest) for name, *rest in policy.stamp)


def stamp_of(path: Path, policy: Policy) -> tuple[tuple[str, int, int], ...]:
    """The stamp of a policy's files as they are now, whether or not they can be used."""
    return (_stamp(path), *(_stamp(Path(name)) for name, _, _ in policy.stamp[1:]))


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size
