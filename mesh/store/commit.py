"""One commit: what a worker thread does for the journal, and how it failed.

Decides the order of the steps, so that a crash between any two of them loses nothing that was reported:
1. delete freed segments, oldest first, the folder synced after each (so that none comes back without its successors);
2. cut the tails of segments given up after a failed write;
3. write the items, into a new segment if asked; 4. fdatasync; 5. for a new segment: sync the folder, then seal the last one.
Only 3 to 5a may fail the commit: deleting, cutting and sealing are tried again or done without.
Never touches the journal's own state: it runs beside the loop. Source: docs/decisions/0014.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mesh.model.journal import Damage, DamageReason, JournalDamaged
from mesh.store.disk import Disk
from mesh.store.record import (
    RECORD_BYTES,
    Kind,
    crc_of,
    pack_opening,
    pack_parts,
    pack_record,
)
from mesh.store.segment import Footer, Readers, Segment, Stored, footer_of, read_record, seal

JOIN_BYTES: Final = 4_096
"""Smaller records are joined to one piece for the system call, larger ones are written from where they are."""


class Settled(NamedTuple):
    """Settles of one part ("": all of the record), as they are written."""

    part: str
    lsns: list[int]


class Note(NamedTuple):
    """A note as it is written; value None: gone."""

    key: str
    value: bytes | None


class Copy(NamedTuple):
    """An open record to be written again, with the parts that are open now."""

    stored: Stored
    source: Segment
    offset: int
    parts: bytes


Item = Stored | Copy | Settled | Note


@dataclass(slots=True)
class Sealing:
    """A segment to seal, and what its footer needs."""

    segment: Segment
    records: dict[int, Stored]
    next_lsn: int
    done: bool = False
    grown_bytes: int = 0

    def footer(self) -> Footer:
        return footer_of(self.segment, self.records, self.next_lsn)


@dataclass(slots=True)
class Job:
    """Made by `take_job`, run once by a worker thread, given back to `done` or `failed`.

    target: where the items go; created by the job if `create`. last_lsn: synced up to here once it is done.
    """

    disk: Disk
    items: list[Item]
    sync: bool
    last_lsn: int
    notes: int
    cuts: list[Segment]
    deletes: list[Segment]
    target: Segment | None = None
    create: bool = False
    sealing: Sealing | None = None
    # found by packing and running it
    chunks: list[bytes] | None = None
    offsets: list[int] = field(default_factory=list)
    parts_bytes: dict[int, int] = field(default_factory=dict)
    """lsn to the length of the parts it was written with."""
    damaged: list[JournalDamaged] = field(default_factory=list)
    end: int = 0
    deleted: list[Segment] = field(default_factory=list)
    cut: list[Segment] = field(default_factory=list)
    left_over: bool = False
    """The new segment of a failed commit could not be removed."""

    def run(self) -> None:
        """Do it. Raises: OSError, when nothing of the items counts as written."""
        with suppress(OSError):
            self._delete()
        self._cut()
        target = self.target
        if target is None:
            return
        if not self.create:
            self._append(target)
            return
        try:
            self._create(target)
        except OSError:
            self._remove(target)
            raise
        if self.sealing is not None:
            self._seal(self.sealing)

    def _delete(self) -> None:
        for segment in self.deletes:
            if segment.file >= 0:
                self.disk.close(segment.file)
                segment.file = -1
            self.disk.delete(segment.path)
            self.deleted.append(segment)
            self.disk.sync_folder(segment.path.parent)

    def _cut(self) -> None:
        for segment in self.cuts:
            try:
                if segment.file < 0:
                    segment.file = self.disk.open_write(segment.path)
                self.disk.truncate(segment.file, segment.size)
            except OSError:
                continue
            finally:
                if segment.file >= 0:
                    file, segment.file = segment.file, -1
                    with suppress(OSError):
                        self.disk.close(file)
            self.cut.append(segment)

    def _create(self, target: Segment) -> None:
        assert target.opening is not None
        self.disk.make_folder(target.path.parent)
        target.file = self.disk.create(target.path)
        self.disk.write(target.file, [pack_opening(target.opening)], 0)
        self._append(target)
        self.disk.sync_folder(target.path.parent)

    def _remove(self, target: Segment) -> None:
        """Of a segment that could not be begun nothing should stay."""
        self.left_over = target.file >= 0
        with suppress(OSError):
            if target.file >= 0:
                file, target.file = target.file, -1
                self.disk.delete(target.path)
                self.left_over = False
                self.disk.close(file)

    def _seal(self, sealing: Sealing) -> None:
        """A segment without a footer is as good, only slower to recover; half a footer is cut off by recovery."""
        segment = sealing.segment
        size = segment.size
        with suppress(OSError):
            seal(self.disk, segment, sealing.footer())
            sealing.done = True
            sealing.grown_bytes = segment.size - size
        file, segment.file = segment.file, -1
        with suppress(OSError):
            if not sealing.done:
                self.disk.truncate(file, segment.size)
        with suppress(OSError):
            self.disk.close(file)

    def pack(self) -> None:
        """Put the bytes of the items together. Raises: nothing; what cannot be read again is told in `damaged`.

        `run` does it, too, but a thread that only makes system calls waits less for the interpreter, and the loop less for it: whoever
        knows that nothing has to be read for it (no Copy) calls this before.
        """
        target = self.target
        assert target is not None
        chunks: list[bytes] = []
        at = target.size
        readers = Readers(self.disk, 1)
        try:
            for item in self.items:
                self.offsets.append(at)
                pieces = self._pack(item, target, at, readers)
                length = sum(map(len, pieces))
                if length <= JOIN_BYTES:
                    chunks.append(b"".join(pieces))
                else:
                    chunks += pieces
                at += length
        finally:
            readers.close()
        self.chunks, self.end = chunks, at

    def _append(self, target: Segment) -> None:
        if self.chunks is None:
            self.pack()
        assert self.chunks is not None
        self.disk.write(target.file, self.chunks, target.size)
        if self.sync:
            self.disk.sync(target.file)

    def _pack(self, item: Item, target: Segment, at: int, readers: Readers) -> list[bytes]:
        opening = target.opening
        assert opening is not None
        match item:
            case Stored(head=bytes() as head, body=bytes() as body):
                # The parts may shrink beside this, down to none: whoever settles one also writes that down later.
                parts = pack_parts(tuple(item.parts))
                self.parts_bytes[item.lsn] = len(parts)
                front = pack_record(
                    opening, at, Kind.ENTRY, parts, len(head), len(body), item.lsn, item.stored_ms, item.crc
                )
                return [front, head, body]
            case Copy():
                return self._pack_copy(item, target, at, readers)
            case Settled(part, lsns):
                body = b"".join([lsn.to_bytes(8, "little") for lsn in lsns])
                return [
                    pack_record(opening, at, Kind.SETTLED, part.encode(), 0, len(body), 0, 0, crc_of(body)),
                    body,
                ]
            case Note(key, value):
                kind = Kind.NOTE_GONE if value is None else Kind.NOTE
                body = value or b""
                return [
                    pack_record(opening, at, kind, key.encode(), 0, len(body), 0, 0, crc_of(body)),
                    body,
                ]
        raise AssertionError("a record without its bytes")

    def _pack_copy(self, item: Copy, target: Segment, at: int, readers: Readers) -> list[bytes]:
        stored, opening = item.stored, target.opening
        assert opening is not None
        try:
            head, body = read_record(self.disk, readers.file(item.source), item.source, stored)
        except JournalDamaged as error:
            self.damaged.append(error)
            return [pack_record(opening, at, Kind.VOID, b"", 0, 0, stored.lsn, 0, 0)]
        except OSError:
            where = Damage(item.source.number, item.offset, DamageReason.UNREADABLE, stored.size)
            self.damaged.append(JournalDamaged(stored.lsn, where))
            return [pack_record(opening, at, Kind.VOID, b"", 0, 0, stored.lsn, 0, 0)]
        self.parts_bytes[stored.lsn] = len(item.parts)
        front = pack_record(
            opening,
            at,
            Kind.ENTRY,
            item.parts,
            len(head),
            len(body),
            stored.lsn,
            stored.stored_ms,
            stored.crc,
        )
        return [front, head, body]


def size_of(item: Item) -> int:
    """Bytes an item will take, at most."""
    match item:
        case Stored():
            return item.size
        case Copy(stored, _, _, parts):
            return RECORD_BYTES + len(parts) + stored.head_bytes + stored.body_bytes
        case Settled(part, lsns):
            return RECORD_BYTES + len(part.encode()) + 8 * len(lsns)
        case Note(key, value):
            return RECORD_BYTES + len(key.encode()) + len(value or b"")
