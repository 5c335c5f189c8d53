"""What custody asks of a journal. The files behind it are in `mesh.store`; the simulator has one that forgets what was not synced.

Decides nothing. Invariant of every implementation: a record that was synced is there after a crash until all its parts are
settled; a settle that was lost in a crash only means that its part is open again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mesh.model.journal import Entry as Entry
from mesh.model.journal import JournalDamaged as JournalDamaged
from mesh.model.reasons import Refuse


class StoreRefusedError(Exception):
    """A record was not taken in; nothing changed. reason: why."""

    def __init__(self, reason: Refuse) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Store(Protocol):
    """A journal as custody sees it: records with parts, and small keyed notes."""

    @property
    def synced(self) -> int:
        """Every record up to this number survives a crash."""

    @property
    def notes(self) -> Mapping[str, bytes]:
        """Small state by key."""

    @property
    def notes_made(self) -> int:
        """How often `note` kept or forgot something."""

    @property
    def notes_synced(self) -> int:
        """So many of those survive a crash."""

    def refusal(self, size_bytes: int) -> Refuse | None:
        """Why a record of this size would not be taken in now, or None. Cost: 0.1 us."""

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        """Take a record in; returns its number (lsn), one more than the last. It is on disk once `synced` reached it.

        Raises: StoreRefusedError, state unaffected."""

    def settle(self, lsn: int, part: str) -> bool:
        """A part is done. True: it was the record's last. Unknown ones are fine."""

    def note(self, key: str, value: bytes | None) -> None:
        """Keep small state that survives a restart, or forget it. It rides with the next commit: it is on disk once `notes_synced` is
        what `notes_made` is then.

        Raises: StoreRefusedError, state unaffected: no room for notes. To forget is never refused."""

    def outstanding(self) -> Iterable[Entry]:
        """Records with open parts, in order: what a start has to take up again."""

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        """(head, body) of a record with open parts. Raises: JournalDamaged: its disk lost it; KeyError: it has no open part."""

    def read_ahead(self, lsns: Sequence[int]) -> None:
        """These will be read soon."""


class NoStore:
    """The store of a node that has none: whatever is to be kept is refused."""

    synced = notes_made = notes_synced = 0
    notes: Mapping[str, bytes] = {}

    def refusal(self, size_bytes: int) -> Refuse | None:
        return Refuse.NO_JOURNAL

    def append(self, parts: Sequence[str], head: bytes, body: bytes) -> int:
        raise StoreRefusedError(Refuse.NO_JOURNAL)

    def settle(self, lsn: int, part: str) -> bool:
        return False

    def note(self, key: str, value: bytes | None) -> None:
        return None

    def outstanding(self) -> Iterable[Entry]:
        return ()

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        raise KeyError(lsn)

    def read_ahead(self, lsns: Sequence[int]) -> None:
        return None
