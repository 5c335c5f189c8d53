"""What a delta of a versioned table may be, and what became of one.

Decides whether a delta is sound in itself: its numbers ascend inside its bounds, its keys and values are not too long.
Never looks at what is held: `mesh.core.tables` does. Invariant: `fault` never raises, whatever a peer put in.
Source: design pages "Routing" (Interest; Security, jumps bounded) and "Identity and restart".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mesh.core.history import ENTRY_OVERHEAD, KEY_BYTES, N_MAX, VALUE_BYTES, Change, Written, key_bytes
from mesh.model.ids import Version
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta, Pull, Scope

JUMP_MAX: Final = 1 << 40
"""How far one delta may move an owner: 35 years of 1,000 writes a second. Garbage beyond it cannot make true writes old."""
OWNER_BYTES: Final = 129
"""REGION/BRIDGE, or a node name."""
OF_LINK: Final = ">"
OF_LINK_BYTES: Final = 259
"""REGION/BRIDGE>REGION/BRIDGE: what one bridge tells another across a boundary."""


class Outcome(StrEnum):
    """What `receive` did with a delta."""

    APPLIED = "applied"
    STAGED = "staged"
    """A frame of a long delta: kept until its last one."""
    STALE = "stale"
    GAP = "gap"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of `receive`.

    changes: what the caller's index must learn, old epochs' vanished keys included. reason: None when applied or staged.
    advanced: the owner's position moved: pass `chain` on where tables are flooded. chain: the frames that made it so.
    pull: send this to where the delta came from.
    """

    outcome: Outcome
    changes: tuple[Change, ...] = ()
    reason: TableReason | None = None
    advanced: bool = False
    chain: tuple[Delta, ...] = ()
    pull: Pull | None = None


def fault(delta: Delta, scope: Scope) -> TableReason | None:
    """What is wrong with a delta in itself, None if nothing is. Cost: O(entries), about 0.3 us each."""
    if delta.scope != scope:
        return TableReason.WRONG_SCOPE
    last = delta.since
    if not plausible(delta.owner, Version(delta.epoch, delta.upto)) or not 0 <= last <= delta.upto:
        return TableReason.MALFORMED
    for key, n, value in delta.entries:
        if not last < n <= delta.upto:
            return TableReason.MALFORMED
        last = n
        if not 0 < key_bytes(key) <= KEY_BYTES:
            return TableReason.KEY_BYTES
        if value is not None and len(value) > VALUE_BYTES:
            return TableReason.VALUE_BYTES
    # A frame that says "continues" must end with an entry: the next one begins there.
    return TableReason.MALFORMED if delta.root == 0 and (not delta.entries or last != delta.upto) else None


def plausible(owner: str, version: Version) -> bool:
    """Whether any honest node can be at this position of such an owner."""
    most = OF_LINK_BYTES if OF_LINK in owner else OWNER_BYTES
    return 0 < key_bytes(owner) <= most and version.epoch >= 1 and 0 <= version.n <= N_MAX


def merge(frames: Iterable[Delta], after: int) -> Written:
    """Last writes of a chain of deltas beyond `after`, in the order of their numbers. Cost: O(entries)."""
    written: Written = {}
    for frame in frames:
        for key, n, value in frame.entries:
            if n > after:
                written.pop(key, None)
                written[key] = (n, value)
    return written


def weigh(delta: Delta) -> int:
    """About how many bytes a delta is on the wire. Cost: O(entries)."""
    entries = delta.entries
    return 64 + sum(key_bytes(key) + len(value or b"") + ENTRY_OVERHEAD for key, _, value in entries)
