"""What waits to be written: records in the order of their lsns, settles, notes, and what a failed commit gives back.

Decides what the next commit holds and in which order: what failed before, records, (copies), settles, notes. So a settle stands
behind every copy of its record. Never writes.
Invariants: pending_bytes is the size of the records that were taken in and are neither on the disk nor freed. No settle and no note
is written before a record that was taken in before it: a window of seqs that were seen, or the end of a record that another one took the
place of, is worth nothing without those records. So where a commit does not hold all records, settles and notes are put behind the
records there were when they were put so, and later ones wait for their turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mesh.store.commit import Copy, Item, Job, Note, Settled, size_of
from mesh.store.ledger import Ledger
from mesh.store.segment import Stored


@dataclass(slots=True)
class Behind:
    """Settles and notes that go behind record `lsn`. made: notes ever made until then."""

    lsn: int
    settled: dict[str, list[int]]
    notes: dict[str, bytes | None]
    made: int


class Backlog:
    """Waiting items. records: in memory until they are written."""

    def __init__(self) -> None:
        self.pending_bytes = 0
        self._records: deque[Stored] = deque()
        self._settled: dict[str, list[int]] = {}
        self._notes: dict[str, bytes | None] = {}
        self._behind: Behind | None = None
        self._failed: list[Item] = []
        self._unsynced: list[Item] = []

    def add(self, stored: Stored, size: int) -> None:
        self._records.append(stored)
        self.pending_bytes += size

    def drop(self, stored: Stored) -> None:
        """A record that was freed before it was taken is not written at all."""
        self.pending_bytes -= stored.size
        stored.head = stored.body = None

    def settle(self, part: str, lsn: int) -> None:
        """part: "" for the whole record."""
        known = self._settled.get(part)
        if known is None:
            self._settled[part] = [lsn]
        else:
            known.append(lsn)

    def note(self, key: str, value: bytes | None) -> None:
        """Of several values of a key the last one is written."""
        self._notes[key] = value

    def renote(self, key: str, value: bytes) -> None:
        """Write a note again whose segment is to go; a value that waits already is newer."""
        if self._behind is None or key not in self._behind.notes:
            self._notes.setdefault(key, value)

    @property
    def urgent(self) -> bool:
        """Whether anything but settles waits."""
        behind = self._behind
        return bool(self._records or self._notes or self._failed or (behind is not None and behind.notes))

    @property
    def empty(self) -> bool:
        return not (self.urgent or self._settled or self._behind)

    def take_records(self, budget_bytes: int, synced: int) -> tuple[list[Item], int]:
        """What failed, then records while they fit, at least one. Returns: them, and the lsn up to which all are taken."""
        items, self._failed = self._failed, []
        last_lsn = max([synced, *(item.lsn for item in items if isinstance(item, Stored))])
        budget_bytes -= sum(map(size_of, items))
        records = self._records
        while records:
            stored = records[0]
            if stored.parts:
                budget_bytes -= stored.size
                if budget_bytes < 0 and items:
                    break
                stored.taken = True
                items.append(stored)
            last_lsn = stored.lsn
            records.popleft()
        return items, last_lsn

    def take_behind(self, taken: int, newest: int, made: int) -> Behind:
        """Settles and notes that may be written now.

        Args: taken: records up to this lsn were taken. newest: the last one taken in. made: notes ever made. Returns: them, empty ones
        when none may; `made` is then -1.
        """
        found = Behind(taken, {}, {}, -1)
        for _ in range(2):  # what was put behind a record before, then what came since
            if self._behind is None:
                self._behind = Behind(newest, self._settled, self._notes, made)
                self._settled, self._notes = {}, {}
            behind = self._behind
            if behind.lsn > taken:
                break
            self._behind = None
            for part, lsns in behind.settled.items():
                found.settled.setdefault(part, []).extend(lsns)
            found.notes.update(behind.notes)
            found.made = behind.made
        if self._behind is not None and not (self._behind.settled or self._behind.notes):
            self._behind = None
        return found

    def written(self, job: Job, ledger: Ledger) -> int:
        """A commit succeeded: count its items where they stand now, unless they were freed or replaced meanwhile.

        What was written without a sync is remembered until the next one. Returns: how many of them were copies.
        """
        self._unsynced = [] if job.sync else self._unsynced + job.items
        target = job.target
        assert target is not None
        copies = 0
        for item, offset in zip(job.items, job.offsets, strict=True):
            match item:
                case Stored():
                    self.drop(item)
                    item.offset = offset
                    item.parts_bytes = job.parts_bytes[item.lsn]
                    if ledger.records.get(item.lsn) is item:
                        ledger.place(item, target)
                case Copy(stored, source):
                    copies += 1
                    if ledger.records.get(stored.lsn) is stored and stored.segment is source:
                        ledger.unplace(stored)
                        stored.offset = offset
                        stored.parts_bytes = job.parts_bytes[stored.lsn]
                        ledger.place(stored, target)
                case Settled(part, lsns):
                    target.add_settled(part, lsns)
                case Note(key, value):
                    ledger.place_note(key, value, target, offset)
        return copies

    def failed(self, items: list[Item], *, given_up: bool) -> None:
        """A commit failed: its items are written again first. given_up: so is what its segment holds without a sync."""
        # Copies are planned anew: their records may be settled by then.
        again: list[Item] = [item for item in items if not isinstance(item, Copy)]
        if given_up:
            again = self._unsynced + again
            self._unsynced = []
        self._failed = again
