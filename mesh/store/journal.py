"""The journal of a node: records that are on the disk before anybody is told, each open until all its parts are settled.

Decides when something is refused and why, what the next commit holds, which segments are deleted and which are written again.
Never waits: `append`, `settle` and `note` only change memory; a `Job` does the writing in another thread, one at a time.

| when                                   | then                                                                       |
|----------------------------------------|----------------------------------------------------------------------------|
| the disk is full, read-only or fails   | appends are refused with that reason; what waits is written again, into a new segment, until it succeeds; settles, reads and deleting go on |
| a record is damaged                    | `read` raises JournalDamaged; it stays open until it is settled            |
| a segment is damaged                   | what is whole is used, the rest is told in `recovery`                      |

Invariant: every record up to `synced` is on the disk or freed; a settle or a segment deleted early can only cause a
redelivery, never a loss. Source: design page "Routing", Delivery; docs/decisions/0014.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mesh.model.errors import MeshError
from mesh.model.journal import (
    Entry,
    JournalDamaged,
    JournalLimits,
    JournalRefused,
    JournalState,
    JournalStatistics,
    Recovery,
    Refusal,
)
from mesh.store.backlog import Backlog
from mesh.store.cleaning import Cleaning, cleaning_source, deletable
from mesh.store.commit import Job, Note, Sealing, Settled, size_of
from mesh.store.disk import Disk, state_of
from mesh.store.ledger import note_size
from mesh.store.record import RECORD_BYTES, START, crc_of, crc_on, new_opening, pack_parts
from mesh.store.recovery import recover
from mesh.store.segment import ALL, Readers, Segment, Stored, segment_path

COPY_SHARE: Final = 4
"""While segments are cleaned, one part in so many of a commit is kept for that, so that neither starves the other."""
SEGMENTS: Final = 8
"""A journal has room for at least so many segments: they are smaller where its bound is small."""
COUNTERS: Final = "appended settled commits committed_bytes failures copied damaged deleted_segments unsealed"
"""What is counted since opening, as in `JournalStatistics`."""


class Journal:
    """The journal of one folder. For one thread; only a `Job` runs in another. The folder's lock is the caller's.

    synced: every record up to this lsn is on the disk, or freed. notes_synced: the same for what `note` returned.
    state: whether it can write. wake: called when there is something to commit; cheap, and often called in vain.
    """

    @classmethod
    def open(cls, folder: Path, limits: JournalLimits, disk: Disk | None = None) -> Journal:
        """Recover what is in the folder; it is made with the first commit. Damage is told in `recovery`.

        Cost: three reads a segment, and the scan of the last one. Raises: MeshError MESH-C014, the folder cannot be listed.
        """
        return cls(folder, limits, disk or Disk())

    def __init__(self, folder: Path, limits: JournalLimits, disk: Disk) -> None:
        began = time.perf_counter()
        self._folder, self._limits, self._disk = folder, limits, disk
        self._segment_bytes = min(limits.segment_bytes, max(limits.total_bytes // SEGMENTS, 2 * START))
        self._append_bytes = limits.total_bytes - 2 * self._segment_bytes
        try:
            found = recover(folder, disk, write=True)
        except OSError as error:
            what = f"data folder {folder} cannot be used: {error.strerror or error}"
            raise MeshError("MESH-C014", "node.data", what) from error
        self._ledger = found.ledger
        self._records = found.ledger.records
        self._backlog = Backlog()
        self._cleaning = Cleaning(found.ledger)
        self._readers = Readers(disk, limits.segment_files)
        self._next_lsn = found.ledger.next_lsn
        self._last_number = found.last_number
        self.state = JournalState.OK if found.error is None else state_of(found.error)
        self.synced = self._next_lsn - 1
        self.notes_synced = self.notes_made = 0
        self.wake: Callable[[], None] = lambda: None
        self._active: Segment | None = None
        self._synced_size = 0
        """Bytes of the active segment that are on the disk."""
        self._cuts: list[Segment] = []
        self._undeleted = False
        self._lost: dict[int, JournalDamaged] = {}
        self._job: Job | None = None
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self.recovery = Recovery(
            records=len(self._records),
            bytes=found.ledger.total_bytes,
            seconds=time.perf_counter() - began,
            segments=len(found.ledger.segments),
            scanned=found.scanned,
            damage=tuple(found.damage),
        )

    # -- records --------------------------------------------------------------------------------------------------

    def append(self, parts: tuple[str, ...], head: bytes, body: bytes, stored_ms: int) -> int:
        """Take a record; it is on the disk once `synced` has reached what this returns.

        Args: parts: destinations, each once, without NUL, at least one. head, body: kept, not copied. stored_ms: any clock's.
        Returns: its lsn, one more than the last one's. Cost: the CRC of head and body, and about 2 us.
        Raises: JournalRefused, state unaffected.
        """
        packed = pack_parts(parts)
        size = RECORD_BYTES + len(packed) + len(head) + len(body)
        reason = self.refusal(size)
        if reason is not None:
            self._refused[reason.value] += 1
            raise JournalRefused(reason)
        assert parts
        lsn = self._next_lsn
        self._next_lsn = lsn + 1
        stored = Stored(lsn, parts, len(packed), len(head), len(body), stored_ms)
        stored.crc = crc_on(crc_of(head), body)
        stored.head = head
        stored.body = body
        self._records[lsn] = stored
        self._backlog.add(stored, size)
        self._counts["appended"] += 1
        self.wake()
        return lsn

    def refusal(self, size: int) -> Refusal | None:
        """Why a record of so many bytes would not be taken now, or None. Cost: 0.3 us."""
        limits = self._limits
        if self.state is not JournalState.OK:
            return Refusal(self.state.value)
        pending = self._backlog.pending_bytes + size
        if pending > limits.pending_bytes:
            return Refusal.PENDING_FULL
        if self._ledger.total_bytes + pending > self._append_bytes:
            return Refusal.FULL
        if len(self._records) >= limits.records:
            return Refusal.FULL
        return Refusal.TOO_LARGE if size > self._segment_bytes - START else None

    def settle(self, lsn: int, part: str) -> bool:
        """A part is done. Returns: True if it was the record's last, which is freed now. Idempotent; unknown ones are fine.

        On the disk with the next commit, or soon. One that is lost in a crash means a redelivery. Works in every state.
        """
        stored = self._records.get(lsn)
        if stored is None:
            return False
        waiting = stored.segment is None and not stored.taken and not stored.lost
        last = self._ledger.settle(lsn, part)
        if last is None:
            return False
        if last:
            self._counts["settled"] += 1
            self._lost.pop(lsn, None)
        if waiting:
            # Not written yet: it is written without this part, or not at all.
            if last:
                self._backlog.drop(stored)
        else:
            self._backlog.settle(ALL if last else part, lsn)
        self.wake()
        return last

    def outstanding(self) -> Iterator[Entry]:
        """The open records, in the order of their lsns. Cost: O(n log n)."""
        for lsn in sorted(self._records):
            yield self._records[lsn].entry()

    def read(self, lsn: int) -> tuple[bytes, bytes]:
        """Head and body of an open record. Cost: one or two preads, and the CRC; nothing for one that is not written yet.

        Raises: JournalDamaged, state unaffected; KeyError, it is not open.
        """
        stored = self._records[lsn]
        if stored.head is not None and stored.body is not None:
            return stored.head, stored.body
        if stored.lost:
            raise self._lost[lsn]
        try:
            return self._readers.read(stored)
        except JournalDamaged:
            self._counts["damaged"] += 1
            raise

    def read_ahead(self, lsns: Iterable[int]) -> None:
        """Have the system fetch records that will be read soon; unknown ones are fine. Never waits, never raises."""
        for lsn in lsns:
            stored = self._records.get(lsn)
            if stored is not None and stored.segment is not None:
                with suppress(OSError):
                    self._disk.read_ahead(self._readers.file(stored.segment), stored.size, stored.offset)

    # -- notes ----------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> Mapping[str, bytes]:
        """The notes as last written, also those not on the disk yet."""
        return MappingProxyType(self._ledger.notes)

    def note(self, key: str, value: bytes | None) -> int:
        """Keep a small value under a key; None forgets it. Of several before a commit only the last one is written.

        Returns: a number; it is on the disk once `notes_synced` has reached it. Works in every state.
        Raises: JournalRefused (notes_full, too_large), state unaffected.
        """
        ledger, limits = self._ledger, self._limits
        if value is not None:
            old = len(key) + len(ledger.notes[key]) if key in ledger.notes else 0
            reason = None
            if note_size(key, value) > self._segment_bytes - START:
                reason = Refusal.TOO_LARGE
            elif ledger.notes_bytes - old + len(key) + len(value) > limits.notes_bytes:
                reason = Refusal.NOTES_FULL
            if reason is not None:
                self._refused[reason.value] += 1
                raise JournalRefused(reason)
        ledger.set_note(key, value)
        self._backlog.note(key, value)
        self.notes_made += 1
        self.wake()
        return self.notes_made

    # -- commits --------------------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:
        """Whether a commit is wanted now: records, notes, cleaning or deleting. Settles alone can wait a second."""
        if self._backlog.urgent or self._source() is not None:
            return True
        return not self._undeleted and bool(deletable(self._ledger, self._active))

    @property
    def idle(self) -> bool:
        """Whether `take_job` would find nothing to do."""
        quiet = self._backlog.empty and not self._cuts and self.state is JournalState.OK
        return quiet and not self._undeleted and not self.urgent

    def _source(self) -> Segment | None:
        """The segment to be written again now; none while the journal cannot write."""
        if self.state is not JournalState.OK:
            return None
        limits = self._limits
        return cleaning_source(self._ledger, self._active, limits.total_bytes, self._segment_bytes)

    def take_job(self) -> Job | None:
        """The next commit, to be run in another thread and given back; None if there is nothing to do.

        While the journal cannot write there is always one: it tries. Cost: about 0.3 us for a record.
        """
        assert self._job is None, "one job at a time"
        backlog, budget = self._backlog, self._limits.commit_bytes
        source = self._source()
        share = 0 if source is None else budget // COPY_SHARE
        items, last_lsn = backlog.take_records(budget - share, self.synced)
        if source is not None:
            items += self._cleaning.take(source, budget - sum(map(size_of, items)), backlog)
        behind = backlog.take_behind(last_lsn, self._next_lsn - 1, self.notes_made)
        must_sync = bool(items or behind.notes)
        items += [Settled(part, lsns) for part, lsns in behind.settled.items()]
        items += [Note(key, value) for key, value in behind.notes.items()]
        if not items:
            self.synced = last_lsn  # whatever waited was freed meanwhile
        deletes = deletable(self._ledger, self._active)
        # A segment that goes need not be cut first.
        self._cuts = [segment for segment in self._cuts if segment not in deletes]
        job = Job(
            self._disk,
            items,
            must_sync,
            last_lsn,
            max(behind.made, self.notes_synced),
            list(self._cuts),
            deletes,
        )
        if items or self.state is not JournalState.OK:
            self._aim(job)
            if source is None:
                job.pack()
        elif not deletes and not self._cuts:
            return None
        for segment in deletes:
            self._readers.forget(segment)
        self._job = job
        return job

    def _aim(self, job: Job) -> None:
        """Set the segment that a job writes to: a new one if there is none, if it would grow beyond its bound, or after a failure."""
        active = self._active
        needed = sum(map(size_of, job.items))
        if (
            active is not None
            and active.size + needed <= self._segment_bytes
            and self.state is JournalState.OK
        ):
            job.target = active
            return
        self._last_number += 1
        number = self._last_number
        opening = new_opening(number, job.last_lsn + 1)
        job.target = Segment(segment_path(self._folder, number), number, opening, START)
        job.create = job.sync = True
        if active is not None:
            job.sealing = Sealing(active, self._records, job.last_lsn + 1)

    def done(self, job: Job) -> None:
        """A job was run to its end. Effects: `synced` and `notes_synced` grow; the state is ok again."""
        self._give_back(job)
        target, ledger = job.target, self._ledger
        if target is None:
            return
        if job.create:
            ledger.add_segment(target)
            self._active = target
        if job.sealing is not None:
            ledger.total_bytes += job.sealing.grown_bytes
            self._counts["unsealed"] += not job.sealing.done
        self._counts["commits"] += 1
        self._counts["committed_bytes"] += job.end - target.size
        ledger.resize(target, job.end)
        for error in job.damaged:
            self._lose(error)
        self._counts["copied"] += self._backlog.written(job, ledger)
        if job.sync:
            self._synced_size = target.size
        self.synced = max(self.synced, job.last_lsn)
        self.notes_synced = job.notes
        self.state = JournalState.OK

    def failed(self, job: Job, error: OSError) -> None:
        """A job was not run to its end: its items are written again by the next one, to a new segment. Effects: `state`.

        The segment it wrote to ends where it was last synced: what the page cache says of the rest is not believed.
        """
        self._give_back(job)
        self._counts["failures"] += 1
        self.state = state_of(error)
        active = self._active
        given_up = active is not None and job.target is active
        if active is not None and given_up:
            self._ledger.resize(active, self._synced_size)
            self._cuts.append(active)
            self._active = None
        elif job.left_over and job.target is not None:
            # Nothing in it counts, but it must not outlive its successors.
            self._ledger.add_segment(job.target)
        self._backlog.failed(job.items, given_up=given_up)
        self._cleaning.again()

    def _give_back(self, job: Job) -> None:
        assert job is self._job, "not the job that was taken"
        self._job = None
        for segment in job.deleted:
            self._ledger.remove_segment(segment)
        self._counts["deleted_segments"] += len(job.deleted)
        self._undeleted = len(job.deleted) < len(job.deletes)
        self._cuts = [segment for segment in self._cuts if segment not in job.cut]

    def _lose(self, error: JournalDamaged) -> None:
        """A record turned out damaged while its segment was written again: from now on only its parts are known."""
        self._counts["damaged"] += 1
        stored = self._records.get(error.lsn)
        if stored is not None:
            self._ledger.unplace(stored)
            stored.lost = True
            self._lost[error.lsn] = error

    def close(self) -> None:
        """Write what waits, if it can be written at once, and close every file. Waits for the disk. No job may be out."""
        while not self.idle:
            job = self.take_job()
            if job is None:
                break
            # What only waits for the next start anyway is not worth waiting for now.
            job.deletes, job.cuts = [], []
            try:
                job.run()
            except OSError as error:
                self.failed(job, error)
                break
            self.done(job)
            if self._backlog.empty:
                break
        self._readers.close()
        active, self._active = self._active, None
        if active is not None:
            self._disk.close(active.file)

    def statistics(self) -> JournalStatistics:
        ledger = self._ledger
        return JournalStatistics(
            state=self.state,
            records=len(self._records),
            segments=len(ledger.segments),
            bytes=ledger.total_bytes,
            live_bytes=ledger.live_bytes,
            pending_bytes=self._backlog.pending_bytes,
            refused=dict(self._refused),
            **{name: self._counts[name] for name in COUNTERS.split()},
        )
