"""What the node's event log is owed of stored records: a part of its own, settled when the log has written its events.

Decides which record goes to the log with its events at hand, and which by its number, to be opened again when its turn comes.
Never writes the log and never decides what a rule retains: `mesh.node.event_log` does.
Invariant: the part of a record is settled once: when its events are in the log for good, or when the log will not have them.
Source: design page "Routing", Delivery; decision 0015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from mesh.core.counters import Counters
from mesh.core.custody.records import Opened, Records, Unpack
from mesh.core.custody.store import Store
from mesh.core.handover import Origin
from mesh.model.event import Event, queue_bytes
from mesh.wire.frames import BatchHeader, Flag

LOG: Final = "l/"
"""The part of the event log. A node has one log, so it needs no name."""


class LogShare(NamedTuple):
    """The log's events of one record. events: empty when the record has to be opened for them. total, size_bytes: what they are, at
    most. repeats: the log may have them already."""

    lsn: int
    origin: Origin
    path: tuple[str, ...]
    events: Sequence[Event]
    total: int
    size_bytes: int
    repeats: bool


class LogShares:
    """Args: settle: tells custody that the log needs nothing more of a record. Cost: 0.2 us an event."""

    def __init__(
        self, store: Store, unpack: Unpack, settle: Callable[[int, str], None], counters: Counters
    ) -> None:
        self.waiting: list[LogShare] = []
        """For the log to take, in order."""
        self._records = Records(store, unpack)
        self._settle = settle
        self._counters = counters

    def add(self, lsn: int, header: BatchHeader, events: Sequence[Event], indexes: Sequence[int]) -> None:
        """These events of a record that was just stored are for the log."""
        mine = events if len(indexes) == len(events) else [events[index] for index in indexes]
        origin = (header.region, header.node, header.epoch)
        repeats = bool(header.flags & Flag.REDELIVERED)
        self.waiting.append(LogShare(lsn, origin, header.path, mine, len(mine), queue_bytes(mine), repeats))
        self._counters.delivered += len(mine)

    def recover(self, lsn: int, header: BatchHeader, events: Sequence[Event]) -> None:
        """An earlier process stored a record and did not say that the log has written it. Only its number is kept."""
        origin = (header.region, header.node, header.epoch)
        self.waiting.append(LogShare(lsn, origin, header.path, (), len(events), queue_bytes(events), True))

    def take(self) -> list[LogShare]:
        """What came since the last call."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def open(self, lsn: int) -> Opened:
        """The batch of a record again. Raises: Unreadable."""
        opened = self._records.open(lsn)
        self._records.forget(lsn)  # the log reads each once
        return opened

    def done(self, lsn: int) -> None:
        """The log has the events of a record, or will not have them."""
        self._settle(lsn, LOG)
