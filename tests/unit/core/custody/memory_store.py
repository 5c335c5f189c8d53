"""A whole `Store` in memory: what is appended is synced when the test says so. Makes headers and events, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.core.custody.store import Entry, JournalDamaged, StoreRefusedError
from mesh.model.event import Event
from mesh.model.journal import Damage, DamageReason
from mesh.model.reasons import Refuse
from mesh.wire.frames import BatchHeader, Leg


class MemoryStore:
    """damaged: records whose disk lost them. fault: what appends are refused with."""

    def __init__(self) -> None:
        self.records: dict[int, tuple[list[str], bytes, bytes]] = {}
        self.notes: dict[str, bytes] = {}
        self.damaged: set[int] = set()
        self.fault: Refuse | None = None
        self.synced = self.notes_made = self.notes_synced = 0
        self.last = 0
        self.reads = 0

    def refusal(self, size_bytes: int) -> Refuse | None:
        return self.fault

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        if self.fault is not None:
            raise StoreRefusedError(self.fault)
        self.last += 1
        self.records[self.last] = (list(parts), head, body)
        return self.last

    def settle(self, lsn: int, part: str) -> bool:
        record = self.records.get(lsn)
        if record is None or part not in record[0]:
            return False
        record[0].remove(part)
        if not record[0]:
            del self.records[lsn]
        return not record[0]

    def note(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.notes.pop(key, None)
        else:
            self.notes[key] = value

    def outstanding(self) -> Iterable[Entry]:
        for lsn, (parts, head, body) in self.records.items():
            yield Entry(lsn, tuple(parts), 0, len(head), len(body))

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        self.reads += 1
        if lsn in self.damaged:
            raise JournalDamaged(lsn, Damage(1, 0, DamageReason.BAD_RECORD, 0))
        return self.records[lsn][1:]

    def read_ahead(self, lsns: Sequence[int]) -> None:
        return None

    def sync(self) -> None:
        self.synced = self.last


def event(seq: int, topic: str = "orders/x", data: bytes = b'{"n":1}', ttl_ms: int = 0) -> Event:
    return Event(seq, topic, "", ttl_ms, None, None, data)


def header(count: int = 1, path: tuple[str, ...] = ("us",)) -> BatchHeader:
    return BatchHeader(Leg.BRIDGE, 0, "us", "u1", 7, ("ap",), 0, 9, 0, path, 1, count)
