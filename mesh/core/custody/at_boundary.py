"""Records in custody at links with rules: what may cross goes on, what may not ends, and nothing denied is ever tried again.

Decides how a record of which something is denied is told apart: here, where this node's own rules say so, and by halves, where the other
end's do and it says only that something in it is denied. Never decides what is denied (`mesh.core.passage`).
Invariants: what is denied is in the store as a dead letter before the record it came in is settled, and what may cross has a record of its
own by then; a record is told apart once here, and at most log2(events) + 1 times by the other end's word.
Source: design pages "Routing" (Boundary; Delivery, hop custody).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from mesh.core.custody.record import REGION, Head, Held, encode_head
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.passage import Passage
from mesh.model.event import Event
from mesh.model.reasons import Drop
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader

if TYPE_CHECKING:
    from mesh.core.custody.departure import Departure

GiveUp: TypeAlias = Callable[[BatchHeader, bytes, str, Drop, int, float], None]
"""(header, body, part, why, tries, held_s): a part of a record that ends as a dead letter. held_s: how long this node had it."""


class AtBoundary:
    """Args: departure: whose records these are. give_up: makes dead letters. Cost: what the link's rules cost, and a record more for each
    that is told apart."""

    def __init__(self, departure: Departure, store: Store, give_up: GiveUp) -> None:
        self._departure = departure
        self._store = store
        self._give_up = give_up

    def outward(
        self,
        held: Held,
        link: int,
        passage: Passage,
        headers: tuple[BatchHeader, BatchHeader],
        body: bytes,
        parts: tuple[str, ...],
        now: float,
    ) -> None:
        """A record on its way over a link with rules.

        Args: headers: of the record, and as it would leave. parts: of the record, for this link; in no lane and in no share.
        """
        departure = self._departure
        header, onwards = headers
        judged = passage.outward(onwards, body, now)
        if not judged.denied and len(judged.pieces) == 1:
            [piece] = judged.pieces
            departure.entrust(held, link, piece.header, piece.body, parts, now)
            return
        if judged.malformed:
            for part in parts:
                departure.end(held, part, Drop.MALFORMED, now, (header, body))
            return
        try:
            records = [
                (piece, self._record(held, header, piece.plain_header, piece.plain_body))
                for piece in judged.pieces
            ]
        except StoreRefusedError as error:
            departure.no_room(held, parts, error.reason, now)
            return
        for one in judged.denied:
            part = ",".join(REGION + region for region in one.regions)
            self._bury(held, header, one.event, part, now)
        for part in parts:
            departure.done(held, part)
        for piece, record in records:
            departure.entrust(record, link, piece.header, piece.body, record.open, now)

    def refused(self, held: Held, parts: tuple[str, ...], now: float) -> None:
        """The other end takes these parts of a record for nothing that it denies: halves are tried, and what is refused alone is a dead
        letter."""
        departure = self._departure
        read = departure.read(held) if parts else None
        if read is None:
            return
        header, body = read
        try:
            events = decode_body(body, header.count)
        except BodyError:
            events = []
        if len(events) < 2:
            for part in parts:
                departure.end(held, part, Drop.POLICY_DENY if events else Drop.MALFORMED, now, read)
            return
        half = len(events) // 2
        regions = tuple(part[len(REGION) :] for part in parts)
        groups = tuple(group for group in header.groups if group[2] in regions)
        header = replace(header, regions=regions, groups=groups)
        try:
            records = [
                self._record(held, header, replace(header, count=len(some)), encode_body(some))
                for some in (events[:half], events[half:])
            ]
        except StoreRefusedError as error:
            departure.no_room(held, parts, error.reason, now)
            return
        for part in parts:
            departure.done(held, part)
        for record in reversed(records):
            for part in record.open:
                departure.lane(part).back(record.lsn)

    def _record(self, held: Held, header: BatchHeader, plain: BatchHeader, body: bytes) -> Held:
        """A record of part of another one's events, for part of its regions. Raises: StoreRefusedError."""
        parts = tuple(REGION + region for region in plain.regions)
        head = Head(replace(header, regions=plain.regions, groups=plain.groups, count=plain.count))
        lsn = self._store.append(parts, encode_head(head), body)
        record = Held(
            lsn, len(body), plain.count, parts, held.expires_at, "", since=held.since, ends_as=held.ends_as
        )
        record.sent = tuple(part for part in parts if part in held.sent)
        record.tries = held.tries
        self._departure.add(record)
        return record

    def _bury(self, held: Held, header: BatchHeader, event: Event, part: str, now: float) -> None:
        alone = replace(header, count=1)
        self._give_up(alone, encode_body([event]), part, Drop.POLICY_DENY, held.tries + 1, now - held.since)
