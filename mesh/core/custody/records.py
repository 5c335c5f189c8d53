"""Stored batches as consumers work with them: opened when somebody needs their events, a few kept open, the rest on disk.

Decides which opened records stay in memory. Never decides what is owed to whom.
Invariant: at most KEPT_RECORDS records and about KEPT_BYTES bytes are held, whatever waits.
Source: design page "Routing", Delivery (spill to disk).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from mesh.core.custody.store import JournalDamaged, Store
from mesh.model.event import Event, queue_bytes
from mesh.wire.frames import BatchHeader

KEPT_RECORDS: Final = 32
KEPT_BYTES: Final = 4 << 20

EventId: TypeAlias = tuple[str, str, int, int]
"""(region, node, epoch, seq) of an event: its mesh_id, taken apart."""


class Unreadable(Exception):
    """A record's events are lost: its bytes are damaged, or do not decode. State unaffected."""


class Opened(NamedTuple):
    """A record's batch."""

    header: BatchHeader
    events: Sequence[Event]


Unpack: TypeAlias = Callable[[bytes, bytes], tuple[BatchHeader, Sequence[Event]]]
"""Turns head and body of a record into its header and events."""


class Records:
    """Cost: one look-up for a record that is open; else a read and 1 us an event."""

    def __init__(self, store: Store, unpack: Unpack) -> None:
        self._store = store
        self._unpack = unpack
        self._open: OrderedDict[int, tuple[Opened, int]] = OrderedDict()
        self._bytes = 0

    def keep(self, lsn: int, header: BatchHeader, events: Sequence[Event]) -> None:
        """A record that was just stored: its events are likely wanted at once."""
        size = queue_bytes(events)
        known = self._open.pop(lsn, None)
        if known is not None:
            self._bytes -= known[1]
        self._open[lsn] = Opened(header, events), size
        self._bytes += size
        while len(self._open) > 1 and (len(self._open) > KEPT_RECORDS or self._bytes > KEPT_BYTES):
            _, (_, freed) = self._open.popitem(last=False)
            self._bytes -= freed

    def open(self, lsn: int) -> Opened:
        """The batch of a record. Raises: Unreadable."""
        known = self._open.get(lsn)
        if known is not None:
            self._open.move_to_end(lsn)
            return known[0]
        try:
            header, events = self._unpack(*self._store.read(lsn))
        except (JournalDamaged, LookupError, ValueError) as error:
            raise Unreadable(f"record {lsn}: {error}") from error
        self.keep(lsn, header, events)
        return Opened(header, events)

    def forget(self, lsn: int) -> None:
        """The record is settled here."""
        known = self._open.pop(lsn, None)
        if known is not None:
            self._bytes -= known[1]
