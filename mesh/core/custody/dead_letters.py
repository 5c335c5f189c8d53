"""Events that at-least-once delivery could not deliver: kept with the reason, until a person decides.

Decides what is remembered of one, and which go first when there are too many. Never decides that an event is one.
Invariant: an event is in the store before the record it came from is settled, so that no crash loses both.
Bound: `limits.dead_letter_bytes`; the oldest go first, counted as dropped.
Source: design pages "Routing" (Delivery) and "What a person sees" (dlq).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.store import JournalDamaged, Store, StoreRefusedError
from mesh.core.hop import mesh_id_of
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader

DEAD: Final = "d/"
"""How the part of a dead letter's record begins; its reason follows."""
TOPIC: Final = "$mesh/dlq/"
"""Where a dead letter is told to who listens: TOPIC + REASON/ + its own topic."""


class DeadHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a dead letter beside the event. part: the destination it did not reach. at: node that gave up. died_ms: wall clock."""

    header: BatchHeader
    reason: str
    part: str
    attempts: int
    died_ms: int


_head: Final = msgspec.msgpack.Decoder(DeadHead).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class DeadLetter(NamedTuple):
    """One of them, read from the store. lsn: its number here."""

    lsn: int
    mesh_id: str
    event: Event
    reason: str
    part: str
    attempts: int
    path: tuple[str, ...]
    died_ms: int


class DeadLetters:
    """Args: tell: takes each new one (to publish it under TOPIC). wall_ms: the wall clock, shown to people only."""

    def __init__(self, store: Store, limits: Limits, counters: Counters) -> None:
        self._store = store
        self._limits = limits
        self._counters = counters
        self.wall_ms: Callable[[], int] = lambda: 0
        self._sizes: dict[int, tuple[str, int]] = {}
        self._bytes = 0
        self.fresh: list[tuple[BatchHeader, Event, Drop, str, int]] = []
        """(header, event, reason, part, attempts) since the composed machine took them."""

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def recover(self, lsn: int, part: str, size: int) -> None:
        """One of an earlier process."""
        self._add(lsn, part, size)

    def put(self, header: BatchHeader, event: Event, part: str, why: Drop, attempts: int) -> int:
        """Keep one event. Returns the number of its record, 0 when the store would not have it: then it is dropped and counted."""
        self._counters.dead_letter(why, 1)
        if header.remaining_ms < 0:  # as it is known here, and nowhere on a wire or disk
            header = replace(header, remaining_ms=0)
        self.fresh.append((header, event, why, part, attempts))
        head = _encode(DeadHead(header, why.value, part, attempts, self.wall_ms()))
        body = encode_body([event])
        name = DEAD + why.value
        try:
            lsn = self._store.append((name,), head, body)
        except StoreRefusedError:
            self._counters.drop(why, 1)
            return 0
        self._add(lsn, name, len(head) + len(body))
        while self._bytes > self._limits.dead_letter_bytes and len(self._sizes) > 1:
            self.drop(next(iter(self._sizes)))
            self._counters.drop(Drop.SPOOL_FULL, 1)
        return lsn

    def put_all(self, header: BatchHeader, body: bytes, part: str, why: Drop, attempts: int) -> int:
        """Keep every event of a batch. Returns the number of the last record."""
        try:
            events = decode_body(body, header.count)
        except BodyError:
            self._counters.drop(Drop.MALFORMED, header.count)
            return 0
        lsn = 0
        for event in events:
            lsn = max(lsn, self.put(header, event, part, why, attempts))
        return lsn

    def _add(self, lsn: int, name: str, size: int) -> None:
        self._sizes[lsn] = (name, size)
        self._bytes += size

    def drop(self, lsn: int) -> bool:
        """Forget one. False: there is none of this number."""
        found = self._sizes.pop(lsn, None)
        if found is None:
            return False
        self._bytes -= found[1]
        self._store.settle(lsn, found[0])
        return True

    def get(self, lsn: int) -> DeadLetter | None:
        """One of them; None when there is none of this number, or its disk lost it. Cost: one read of the store."""
        if lsn not in self._sizes:
            return None
        try:
            packed, body = self._store.read(lsn)
            head = _head(packed)
            [event] = decode_body(body, 1)
        except (JournalDamaged, LookupError, ValueError):
            return None
        mesh_id = mesh_id_of(head.header, event)
        return DeadLetter(
            lsn, mesh_id, event, head.reason, head.part, head.attempts, head.header.path, head.died_ms
        )

    def numbers(self, after: int = 0) -> Iterator[int]:
        """Their numbers beyond `after`, oldest first."""
        return (lsn for lsn in self._sizes if lsn > after)
