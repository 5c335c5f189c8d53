"""The tables of a scope as one node holds them: reading them, comparing them with a peer's, answering what a peer lacks.

Decides what two nodes owe each other after a digest, and in which portions. Never changes a table: `mesh.core.tables` does.

| a peer's            | is answered by                                                                    |
|---------------------|-----------------------------------------------------------------------------------|
| digest, root equal  | nothing                                                                           |
| digest, root alone  | the full digest                                                                   |
| full digest         | deltas of what the peer lacks, a burst at a time, and a Pull of what this node lacks |
| Pull                | deltas, a burst at a time                                                         |

A burst that had to stop ends with a digest of the root alone: its answer asks for the next burst, so that a peer on a thin
line sets the pace. An owner that is refused (a limit) or forgotten is "shut": digests claim to hold it, so that nobody
sends it again and again. `positions()` never claims: receipts are made from it.

Invariant: `root` is a hash over every owner's position and root; equal roots mean equal tables.
Source: Scuttlebutt (see `mesh.core.history`); design page "Routing", Interest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

from mesh.core.deltas import plausible, weigh
from mesh.core.history import History
from mesh.model.ids import Version
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta, Digest, Position, Pull, Scope

OWNERS: Final[Mapping[Scope, int]] = {Scope.REGION: 2_048, Scope.WORLD: 4_096}
"""Owners held beside the own one: twice the largest region studied, and four bridges for each of 1,024 regions."""
SHUT_S: Final = 60.0
BURST_BYTES: Final = 1 << 20
"""What one `compare` or `answer` sends, give or take one owner's table; a Digest then asks for the next burst."""
PULL_POSITIONS: Final = 4_096

_NOTHING: Final = Version(0, 0)

Reply: TypeAlias = Delta | Digest | Pull


class Shut(NamedTuple):
    """An owner that is not heard for a while: up to which version digests claim to hold it, until when, and why."""

    version: Version
    until: float
    reason: TableReason


class Holdings:
    """Every history this node holds in one scope.

    Args: own: the table this node writes, None where it writes none; it is held like the others once it exists.
    """

    def __init__(self, scope: Scope, own: History | None) -> None:
        self.scope = scope
        self._own = own
        self.owner = None if own is None else own.owner
        self._tables: dict[str, History] = {}
        self._shut: dict[str, Shut] = {}
        self._root = 0
        self._weights: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._positions: tuple[Position, ...] | None = None
        self._digest: Digest | None = None

    # -- anti-entropy ------------------------------------------------------------------------------------------

    def digest(self, full: bool) -> Digest:
        """What this node holds: the root alone, or with every owner's position. Cost: O(owners) if anything changed."""
        if not full:
            return Digest(self.scope, self.root())
        if self._digest is None:
            owners = [*self._tables, *(owner for owner in self._shut if owner not in self._tables)]
            positions = tuple((owner, *self._claim(owner)) for owner in owners)
            self._digest = Digest(self.scope, self.root(), positions)
        return self._digest

    def compare(self, digest: Digest) -> list[Reply]:
        """What to answer to a peer's digest: nothing if the roots are equal, the full digest if only roots are known,
        else deltas of what the peer lacks (a burst of BURST_BYTES; the Digest behind it asks for the next) and a Pull of
        what this node lacks. Cost: O(owners + bytes sent).
        """
        if digest.scope != self.scope or digest.root == self.root():
            return []
        if digest.positions is None:
            return [self.digest(True)]
        theirs: dict[str, Version] = {owner: Version(epoch, n) for owner, epoch, n in digest.positions}
        wanted = []
        for owner, version in theirs.items():
            held = self._claim(owner)
            if version > held and owner != self.owner and plausible(owner, version):
                wanted.append((owner, *held))
        lacking = [
            (held, theirs.get(owner, _NOTHING))
            for owner, held in self._tables.items()
            if theirs.get(owner, _NOTHING) < held.version
        ]
        replies: list[Reply] = [*self._burst(lacking)]
        if wanted:
            replies.append(Pull(self.scope, tuple(wanted[:PULL_POSITIONS])))
        return replies

    def answer(self, pull: Pull) -> list[Delta | Digest]:
        """Deltas beyond a peer's positions, in a burst like that of `compare`. Owners not held are passed over."""
        if pull.scope != self.scope:
            return []
        lacking = []
        for owner, epoch, n in dict.fromkeys(pull.positions):
            held = self._tables.get(owner)
            if held is not None and epoch <= held.epoch and (n <= 0 or Version(epoch, n) < held.version):
                lacking.append((held, Version(epoch, n)))
        return self._burst(lacking)

    # -- reading -----------------------------------------------------------------------------------------------

    def position(self, owner: str) -> Version | None:
        """How far an owner's table is held, None if not at all."""
        held = self._tables.get(owner)
        return None if held is None else held.version

    def positions(self) -> tuple[Position, ...]:
        """Every table's position. Cost: O(owners) after a change, else O(1)."""
        if self._positions is None:
            self._positions = tuple((owner, *held.version) for owner, held in self._tables.items())
        return self._positions

    def get(self, owner: str, key: str) -> bytes | None:
        """One value, None if there is none."""
        held = self._tables.get(owner)
        found = None if held is None else held.live.get(key)
        return None if found is None else found[1]

    def items(self, owner: str) -> list[tuple[str, bytes]]:
        """An owner's live entries, oldest write first. Cost: O(entries)."""
        held = self._tables.get(owner)
        return [] if held is None else [(key, value) for key, (_, value) in held.live.items()]

    def owners(self) -> tuple[str, ...]:
        """Every owner of whom a table is held."""
        return tuple(self._tables)

    def root(self) -> int:
        """64-bit hash over every owner's position and root; equal sets have equal roots. Cost: O(tables changed since)."""
        for owner in self._dirty:
            weight = self._weights.pop(owner, 0)
            held = self._tables.get(owner)
            fresh = 0
            if held is not None:
                text = b"%b:%d:%d:%d" % (
                    owner.encode("utf-8", "surrogatepass"),
                    held.epoch,
                    held.n,
                    held.root,
                )
                fresh = self._weights[owner] = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
            self._root = (self._root + fresh - weight) & 0xFFFF_FFFF_FFFF_FFFF
        self._dirty.clear()
        return self._root

    def table_root(self, owner: str) -> int:
        """Root of one owner's live entries, 0 if its table is not held. Cost: O(1)."""
        held = self._tables.get(owner)
        return 0 if held is None else held.root

    def welcome(self, owner: str) -> None:
        """An owner is back (a member that was dead is alive again): hear it at once, whatever was shut."""
        if self._shut.pop(owner, None) is not None:
            self._digest = None

    def _burst(self, lacking: Iterable[tuple[History, Version]]) -> list[Delta | Digest]:
        """Deltas for a reader at these positions, whole tables at a time, until BURST_BYTES are passed."""
        burst: list[Delta | Digest] = []
        size = 0
        for held, version in lacking:
            if size >= BURST_BYTES:
                burst.append(self.digest(False))
                break
            frames = held.frames(self.scope, version.n if version.epoch == held.epoch else 0)
            size += sum(map(weigh, frames))
            burst += frames
        return burst

    def _claim(self, owner: str) -> Version:
        """The position a digest tells of an owner: what is held, or more where it is shut."""
        held, shut = self._tables.get(owner), self._shut.get(owner)
        version = _NOTHING if held is None else held.version
        return version if shut is None else max(version, shut.version)

    def _shut_out(self, owner: str, version: Version, reason: TableReason, now: float) -> None:
        """Claim to hold an owner up to `version` for SHUT_S from the first time on."""
        before = self._shut.get(owner)
        if before is None and len(self._shut) >= OWNERS[self.scope]:
            return
        until = now + SHUT_S if before is None else before.until
        self._shut[owner] = Shut(version if before is None else max(version, before.version), until, reason)
        self._digest = None

    def _touch(self, owner: str) -> None:
        self._dirty.add(owner)
        self._positions = None
        self._digest = None
