"""What custody needs of the journal: records with open parts, and small notes, both of which survive a restart.

Decides only the contract; the node's journal and the simulator's twin in memory both keep it. Never blocks: whoever owns the
store writes to the disk.
Invariant: a record can be read until its last part was settled.
Source: design page "Routing", Delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class JournalDamaged(Exception):
    """A record cannot be read any more. State unaffected; the record's events are lost and must be counted."""


class Store(Protocol):
    """A journal, as the machines see it."""

    @property
    def notes(self) -> Mapping[str, bytes]:
        """Keyed state as last written. A live view."""

    def append(self, parts: tuple[str, ...], head: bytes, body: bytes, stored_ms: int) -> int:
        """Store a record that is owed to these parts. Returns its lsn: from 1, growing by 1, across restarts."""

    def settle(self, lsn: int, part: str) -> bool:
        """Nothing is owed to this part any more. True: that was the last one. Unknown: nothing happens (False)."""

    def note(self, key: str, value: bytes | None) -> None:
        """Remember a value; None forgets it."""

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        """(head, body) of a record. Raises: JournalDamaged."""
