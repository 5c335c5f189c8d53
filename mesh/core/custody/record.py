"""What stands in front of a batch's body in the journal, and what is kept of a record in memory.

Decides the form of a record's head. Never decides where a record goes.
Source: design page "Routing", Delivery (at-least-once).
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader

REGION: Final = "r/"
NODE: Final = "n/"
"""How parts of a record begin that lead away from this node; the rest is the region's or node's name."""
OUTWARD: Final = (REGION, NODE)
HELD_BACK: Final = "w/"
"""How the part of an event begins that waits here for the one before it; the rest is that one's seq."""
MIRRORED: Final = "m/"
"""How parts begin that are kept for another node (`mesh.core.custody.mirror`)."""


class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record's head. header: of the batch as this node took it (remaining_ms as at that moment). deadline_ms: exact remaining time
    of its events where all have the same, 0 for none. rule: filter of the [[topic]] table whose spool it counts in, "" for none.
    epoch: of the process that stored it, where a second node keeps it, too; else 0."""

    header: BatchHeader
    deadline_ms: int = 0
    rule: str = ""
    epoch: int = 0


encode_head: Final = msgspec.msgpack.Encoder().encode
decode_head: Final = msgspec.msgpack.Decoder(Head).decode


class Held:
    """A record with outward parts that are open: what is in memory while it waits, however long.

    open: outward parts not settled. sent: those that left at least once: they may have arrived. expires_at: monotonic seconds.
    ends_as: what it dies of then. since: monotonic seconds, when this node took it.
    """

    __slots__ = ("count", "ends_as", "expires_at", "lsn", "open", "rule", "sent", "since", "size", "tries")

    def __init__(
        self,
        lsn: int,
        size: int,
        count: int,
        parts: tuple[str, ...],
        expires_at: float | None,
        rule: str,
        *,
        since: float,
        ends_as: Drop = Drop.EXPIRED,
    ) -> None:
        self.lsn = lsn
        self.size = size
        self.count = count
        self.open = parts
        self.sent: tuple[str, ...] = ()
        self.expires_at = expires_at
        self.rule = rule
        self.since = since
        self.ends_as = ends_as
        self.tries = 0
