"""One link's batches in custody: queued, under way, and what the other end said of them.

Decides which of them an acknowledgement speaks of, and what is still owed when the link ends. Never drops one, never decides where
one goes (`mesh.core.custody.departure` does), and knows no credit (`mesh.core.session` does).
Invariant: a batch is in `waiting` until it is sent, then in `under_way` until it is acknowledged or given up.
Bounds: the windows of the lanes (`mesh.core.custody.lane`) bound both.
Source: design page "Routing", Delivery (hop custody).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from mesh.wire.frames import BatchHeader, CustodyAck, Refused


class Consignment:
    """What one batch in custody carries of a record: until the other end has stored it, this node owes it.

    lsn: of the record. parts: its destinations that this batch is for. at: when it was sent, None before.
    """

    __slots__ = ("at", "count", "cut", "ended", "link", "lsn", "parts", "pieces", "size")

    def __init__(self, lsn: int, parts: tuple[str, ...], size: int, count: int, link: int) -> None:
        self.link = link
        self.lsn = lsn
        self.parts = parts
        self.size = size
        self.count = count
        self.pieces = 1
        """Batches it was cut into that are not acknowledged: for a peer that takes less at once."""
        self.cut = False
        self.at: float | None = None
        self.ended = False
        """Given up: what the other end says of it later means nothing."""


Told: TypeAlias = tuple[Consignment, Refused | None]
"""A share that the other end has stored, or refused."""


class Queued(NamedTuple):
    """A batch waiting for credit. weight: events times destination regions, as drops are counted. share: of a batch in custody.
    plain: (header, body) as they were before this link's boundary, None where nothing of them was changed there."""

    header: BatchHeader
    body: bytes
    since: float
    share: Consignment | None = None
    plain: tuple[BatchHeader, bytes] | None = None

    @property
    def weight(self) -> int:
        return self.header.count * max(1, len(self.header.regions))


class Entrusted:
    """Cost: O(1) a batch."""

    __slots__ = ("_told", "under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Queued] = deque()
        """For credit."""
        self.under_way: deque[tuple[int, Consignment]] = deque()
        """Sent and not acknowledged: (number of the batch, share)."""
        self._told: list[Told] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.under_way)

    def put(self, header: BatchHeader, body: bytes, share: Consignment, now: float) -> None:
        """Queue a batch."""
        self.waiting.append(Queued(header, body, now, share))

    def sent(self, batch: int, share: Consignment, now: float) -> None:
        """A batch that was queued left under this number."""
        share.at = now
        self.under_way.append((batch, share))

    def acknowledged(self, ack: CustodyAck) -> None:
        """The other end has stored everything up to a number, but for what it refused."""
        refused = {entry[0]: entry for entry in ack.refused}
        under_way = self.under_way
        while under_way and under_way[0][0] <= ack.batch:
            batch, share = under_way.popleft()
            self._told.append((share, refused.get(batch)))

    def take_told(self) -> list[Told]:
        """What the other end said since the last call."""
        told, self._told = self._told, []
        return told

    def sent_first(self) -> float | None:
        """When the oldest one that is under way left."""
        return self.under_way[0][1].at if self.under_way else None

    def take_late(self, timeout_s: float, now: float) -> Iterator[Consignment]:
        """Give up those that left `timeout_s` ago or earlier, oldest first, whatever had become of them.

        Due at `sent_first` + timeout_s: the same sum, because another one may differ by a rounding error."""
        while (at := self.sent_first()) is not None and at + timeout_s <= now:
            yield self.under_way.popleft()[1]

    def owed(self) -> list[Consignment]:
        """What is not acknowledged and not given up: under way, then waiting. A record cut in pieces is here once for each."""
        shares = [share for _, share in self.under_way]
        shares += [item.share for item in self.waiting if item.share is not None]
        return [share for share in shares if not share.ended]

    def take_all(self) -> list[Consignment]:
        """The link is gone: what was owed over it."""
        owed = self.owed()
        self.under_way.clear()
        self.waiting.clear()
        return owed
