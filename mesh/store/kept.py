"""The journal as custody sees it (`mesh.core.custody.store.Store`): the same records and notes, with the wall clock's stamp.

Decides nothing. Refusals and damage come out as custody's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from mesh.core.custody.store import Entry, StoreRefusedError
from mesh.model.journal import JournalRefused
from mesh.model.reasons import Refuse
from mesh.store.journal import Journal


class JournalStore:
    """Args: wall_s: stamps records, so that the next process knows how long they waited."""

    def __init__(self, journal: Journal, wall_s: Callable[[], float] = time.time) -> None:
        self.journal = journal
        self._wall_s = wall_s

    @property
    def synced(self) -> int:
        return self.journal.synced

    @property
    def notes(self) -> Mapping[str, bytes]:
        return self.journal.notes

    @property
    def notes_made(self) -> int:
        return self.journal.notes_made

    @property
    def notes_synced(self) -> int:
        return self.journal.notes_synced

    def refusal(self, size_bytes: int) -> Refuse | None:
        reason = self.journal.refusal(size_bytes)
        return None if reason is None else Refuse(reason.value)

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        try:
            return self.journal.append(tuple(parts), head, body, int(self._wall_s() * 1e3))
        except JournalRefused as refused:
            raise StoreRefusedError(Refuse(refused.reason.value)) from None

    def settle(self, lsn: int, part: str) -> bool:
        return self.journal.settle(lsn, part)

    def note(self, key: str, value: bytes | None) -> None:
        try:
            self.journal.note(key, value)
        except JournalRefused as refused:
            raise StoreRefusedError(Refuse(refused.reason.value)) from None

    def outstanding(self) -> Iterable[Entry]:
        return self.journal.outstanding()

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        return self.journal.read(lsn)

    def read_ahead(self, lsns: Sequence[int]) -> None:
        self.journal.read_ahead(lsns)
