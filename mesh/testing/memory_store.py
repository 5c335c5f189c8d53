"""A journal in memory for tests of one process: everything is synced at once, and gone with it.

Decides nothing. Invariant: a record is there until its last part was settled. `mesh.testing.sim_store` is the one that crashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.core.custody.store import Entry, StoreRefusedError
from mesh.model.reasons import Refuse


class MemoryStore:
    """Cost: O(1) a call."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.fault: Refuse | None = None
        """What an append is refused with."""
        self.notes_made = 0
        self.notes_bytes = 1 << 60
        """Room for keys and values of notes."""
        self._records: dict[int, tuple[set[str], bytes, bytes]] = {}
        self._last = 0

    @property
    def synced(self) -> int:
        return self._last

    @property
    def notes_synced(self) -> int:
        return self.notes_made

    def refusal(self, size_bytes: int) -> Refuse | None:
        return self.fault

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        if self.fault is not None:
            raise StoreRefusedError(self.fault)
        assert parts
        self._last += 1
        self._records[self._last] = (set(parts), head, body)
        return self._last

    def settle(self, lsn: int, part: str) -> bool:
        record = self._records.get(lsn)
        if record is None or part not in record[0]:
            return False
        record[0].discard(part)
        if record[0]:
            return False
        del self._records[lsn]
        return True

    def note(self, key: str, value: bytes | None) -> None:
        size = sum(len(other) + len(kept) for other, kept in self.notes.items() if other != key)
        if value is not None and size + len(key) + len(value) > self.notes_bytes:
            raise StoreRefusedError(Refuse.NOTES_FULL)
        self.notes_made += 1
        if value is None:
            self.notes.pop(key, None)
        else:
            self.notes[key] = value

    def outstanding(self) -> Iterable[Entry]:
        for lsn, (parts, head, body) in sorted(self._records.items()):
            yield Entry(lsn, tuple(sorted(parts)), 0, len(head), len(body))

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        _, head, body = self._records[lsn]
        return head, body

    def read_ahead(self, lsns: Sequence[int]) -> None:
        return None

    def __len__(self) -> int:
        return len(self._records)
