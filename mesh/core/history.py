"""One owner's single-writer versioned map: what its writer wrote, numbered, and what a reader can hold of it.

Decides how a write is numbered, which entries a reader at a position lacks, and what a delta would make of the map.
Never decides whether a delta may be applied: that is the table set's part (`mesh.core.tables`).

Invariant: a history at (epoch, n) equals the writer's live map right after its n-th write, at every node. Its root is
therefore a function of (owner, epoch, n), and a root that differs proves that something was lost or altered.
A deleted key stays as a tombstone until it is purged; then `floor` rises, and a reader below the floor gets the whole map.

Source: van Renesse et al., "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols" (Scuttlebutt, LADIS 2008);
Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing" (AdHash, 1997) for the commutative root.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias

import msgspec

from mesh.model.ids import Version
from mesh.wire.frames import Delta, Entry, Scope

KEY_BYTES: Final = 1_100
"""A key: its kind, a group name and a filter of `Limits.filter_bytes`, with room to spare."""
VALUE_BYTES: Final = 128 * 1024
"""A value: the largest is the covered vector of a region of 1,000 nodes, 75 to 90 KB."""
FRAME_BYTES: Final = 240 * 1024
"""Entries of one delta frame; the frame with its header stays under 256 KiB unless one value alone is larger."""
N_MAX: Final = 1 << 53
TOMBSTONE_AGE_S: Final = 900.0
"""Tombstones younger than this are kept: a reader that was away for less gets deltas, not the whole map."""
TOMBSTONES: Final = 10_000
"""Tombstones of one owner; above, the older half goes."""

ENTRY_OVERHEAD: Final = 20  # array, string and bytes headers and a 64-bit number in MessagePack
_MASK: Final = (1 << 64) - 1

Written: TypeAlias = dict[str, tuple[int, bytes | None]]
"""Last writes by key, in the order of their numbers; None is a deletion."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """One key of one owner got a new value, or was deleted (value None). epoch: the owner's epoch that did it."""

    owner: str
    epoch: int
    key: str
    value: bytes | None


class Preview(NamedTuple):
    """What a delta would make of a history: its root, how many live entries, and their keys' and values' bytes."""

    sum: int
    live: int
    size: int

    @property
    def root(self) -> int:
        return self.sum or 1


def entry_hash(key: str, n: int, value: bytes) -> int:
    """64-bit hash of one live entry. Never raises, whatever the key. Cost: about 1 us."""
    raw = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(b"%d:%d:%b%b" % (n, len(raw), raw, value), digest_size=8).digest(), "big")


def key_bytes(key: str) -> int:
    """Length of a key on the wire."""
    return len(key) if key.isascii() else len(key.encode("utf-8", "surrogatepass"))


class History:
    """The versioned map of one owner in one epoch, at the writer or at a reader.

    `live` and `dead` keep their keys in the order of their last write, so that what a reader lacks is a tail.
    """

    __slots__ = ("_sum", "dead", "epoch", "floor", "live", "n", "owner", "size")

    def __init__(self, owner: str, epoch: int) -> None:
        self.owner = owner
        self.epoch = epoch
        self.n = 0
        self.floor = 0
        self.live: dict[str, tuple[int, bytes]] = {}
        self.dead: dict[str, tuple[int, float]] = {}
        self.size = 0
        self._sum = 0

    @property
    def version(self) -> Version:
        return Version(self.epoch, self.n)

    @property
    def root(self) -> int:
        """Hash over the live entries, never 0 (0 says "continues" in a delta). Cost: O(1)."""
        return self._sum or 1

    # -- the writer --------------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes, now: float) -> bool:
        """Write a value. Returns False, with no new version, if the key has it already. Cost: O(1), two hashes."""
        old = self.live.get(key)
        if old is not None and old[1] == value:
            return False
        self.write({key: (self.n + 1, value)}, self.n + 1, now)
        return True

    def delete(self, key: str, now: float) -> bool:
        """Delete a key. Returns False, with no new version, if it is not there. Cost: O(1), one hash."""
        if key not in self.live:
            return False
        self.write({key: (self.n + 1, None)}, self.n + 1, now)
        return True

    # -- a reader ----------------------------------------------------------------------------------------------

    def preview(self, written: Written) -> Preview:
        """What `write` would make of this history; nothing is changed. Cost: O(written), up to two hashes an entry."""
        total, count, size = self._sum, len(self.live), self.size
        for key, (n, value) in written.items():
            old = self.live.get(key)
            if old is not None:
                total -= entry_hash(key, *old)
                count -= 1
                size -= key_bytes(key) + len(old[1])
            if value is not None:
                total += entry_hash(key, n, value)
                count += 1
                size += key_bytes(key) + len(value)
        return Preview(total & _MASK, count, size)

    def write(self, written: Written, upto: int, now: float, preview: Preview | None = None) -> list[Change]:
        """Apply writes numbered in (n, upto], ascending, and move to `upto`.

        Args: preview: what `preview(written)` returned, if the caller has it.
        Returns: the keys whose value changed. Cost: O(written).
        """
        assert self.n <= upto <= N_MAX
        preview = preview or self.preview(written)
        self._sum, self.size = preview.sum, preview.size
        self.n = upto
        changes = []
        live, dead, owner, epoch = self.live, self.dead, self.owner, self.epoch
        for key, (n, value) in written.items():
            old = live.pop(key, None)
            dead.pop(key, None)
            if value is None:
                dead[key] = (n, now)
            else:
                live[key] = (n, value)
            if (None if old is None else old[1]) != value:
                changes.append(Change(owner, epoch, key, value))
        if len(dead) > TOMBSTONES:
            self.purge_oldest(len(dead) - TOMBSTONES // 2)
        return changes

    def load(self, written: Written, upto: int, preview: Preview) -> None:
        """Become what a whole map from elsewhere says; of deletions before `upto` nothing is known. Cost: O(written)."""
        self.live = {key: (n, value) for key, (n, value) in written.items() if value is not None}
        self.dead = {}
        self.n = self.floor = upto
        self._sum, self.size = preview.sum, preview.size

    def changes_from(self, before: History | None) -> list[Change]:
        """What changed for somebody who held `before` and now holds this. Cost: O(both)."""
        old: Mapping[str, tuple[int, bytes]] = {} if before is None else before.live
        owner, epoch, live = self.owner, self.epoch, self.live
        changes = [Change(owner, epoch, key, None) for key in old if key not in live]
        for key, (_, value) in live.items():
            held = old.get(key)
            if held is None or held[1] != value:
                changes.append(Change(owner, epoch, key, value))
        return changes

    # -- for other readers -------------------------------------------------------------------------------------

    def since(self, n: int) -> list[Entry]:
        """Entries and tombstones written after `n`, ascending. `n` must not be below the floor, except 0: then only
        what is live. Cost: O(result)."""
        tail: list[Entry] = []
        for key, (at, value) in reversed(self.live.items()):
            if at <= n:
                break
            tail.append((key, at, value))
        tail.reverse()
        if n == 0:
            return tail
        assert n >= self.floor
        gone: list[Entry] = []
        for key, (at, _) in reversed(self.dead.items()):
            if at <= n:
                break
            gone.append((key, at, None))
        return sorted(tail + gone, key=_number) if gone else tail

    def frames(self, scope: Scope, since: int) -> list[Delta]:
        """The deltas that bring a reader from `since` (0: whatever it holds) to here; never empty.

        A reader below the floor gets the whole map. More than FRAME_BYTES is split into a chain: every frame but the last
        has root 0. Cost: O(result).
        """
        if since < self.floor or since > self.n:
            since = 0
        chain: list[Delta] = []
        part: list[Entry] = []
        size, start = 0, since
        for entry in self.since(since):
            weight = key_bytes(entry[0]) + len(entry[2] or b"") + ENTRY_OVERHEAD
            if part and size + weight > FRAME_BYTES:
                upto = part[-1][1]
                chain.append(Delta(scope, self.owner, self.epoch, start, upto, 0, tuple(part)))
                part, size, start = [], 0, upto
            part.append(entry)
            size += weight
        chain.append(Delta(scope, self.owner, self.epoch, start, self.n, self.root, tuple(part)))
        return chain

    # -- upkeep ------------------------------------------------------------------------------------------------

    def purge(self, now: float) -> int:
        """Forget tombstones of TOMBSTONE_AGE_S and more; returns how many. Cost: O(purged)."""
        count = 0
        for _, at in self.dead.values():
            if now - at < TOMBSTONE_AGE_S:
                break
            count += 1
        return self.purge_oldest(count)

    def purge_oldest(self, count: int) -> int:
        """Forget the `count` oldest tombstones and raise the floor past them. Cost: O(count)."""
        keys = [key for key, _ in zip(self.dead, range(count), strict=False)]
        for key in keys:
            self.floor = self.dead.pop(key)[0]
        return len(keys)


def _number(entry: Entry) -> int:
    return entry[1]
