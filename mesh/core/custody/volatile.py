"""What a node without a journal keeps for its consumers: records in memory, gone with the process.

Decides nothing; dead letters are counted and nothing is handed back. Bounded by what its consumers are bounded by.
Invariant: a record is there until its last part was settled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mesh.core.counters import Counters
from mesh.core.custody.store import JournalDamaged
from mesh.model.event import Event
from mesh.model.reasons import Drop
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader

_header = msgspec.msgpack.Decoder(BatchHeader)


def pack(header: BatchHeader) -> bytes:
    """The head of a record."""
    return msgspec.msgpack.encode(header)


def unpack(head: bytes, body: bytes) -> tuple[BatchHeader, list[Event]]:
    """Header and events of a record."""
    header = _header.decode(head)
    return header, decode_body(body, header.count)


class VolatileStore:
    """A `Store` in memory. Cost: O(1) a call."""

    def __init__(self) -> None:
        self._notes: dict[str, bytes] = {}
        self.notes: Mapping[str, bytes] = self._notes
        self._records: dict[int, tuple[set[str], bytes, bytes]] = {}
        self._last = 0

    def append(self, parts: tuple[str, ...], head: bytes, body: bytes, stored_ms: int) -> int:
        """See `Store.append`."""
        self._last += 1
        self._records[self._last] = (set(parts), head, body)
        return self._last

    def settle(self, lsn: int, part: str) -> bool:
        """See `Store.settle`."""
        record = self._records.get(lsn)
        if record is None or part not in record[0]:
            return False
        record[0].discard(part)
        if record[0]:
            return False
        del self._records[lsn]
        return True

    def note(self, key: str, value: bytes | None) -> None:
        """See `Store.note`."""
        if value is None:
            self._notes.pop(key, None)
        else:
            self._notes[key] = value

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        """See `Store.read`."""
        record = self._records.get(lsn)
        if record is None:
            raise JournalDamaged(f"there is no record {lsn}")
        return record[1:]

    def __len__(self) -> int:
        return len(self._records)


class CountingOwner:
    """An `Owner` over a store that only counts what could not be delivered."""

    def __init__(self, store: VolatileStore, counters: Counters) -> None:
        self._store = store
        self._counters = counters

    def settle(self, lsn: int, part: str) -> None:
        """See `Owner.settle`."""
        self._store.settle(lsn, part)

    def dead_letter(
        self, header: BatchHeader, event: Event, reason: Drop, part: str, attempts: int, now: float
    ) -> None:
        """See `Owner.dead_letter`."""
        self._counters.drop(reason, 1)

    def hand_back(
        self, lsn: int, header: BatchHeader, events: Sequence[Event], group: str, filter: str, now: float
    ) -> bool:
        """See `Owner.hand_back`: nobody takes them, they wait."""
        return False
