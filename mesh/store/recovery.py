"""Opening a journal: every segment in the order of its number, by its footer, or record by record where there is none.

Decides what of damaged bytes is kept (every record whose checksums hold, before and behind the damage) and what is cut (a torn
tail). Never raises for damage or for a file it cannot read: both are reported. Never appends to a segment it finds.
With `write`, a segment without a footer has its torn tail cut, is synced (its last records may only be in the page cache of a
machine whose process was killed) and gets a footer, unless its middle is damaged: such a one tells of it at every opening.
Invariant: what is kept is what the log says in order; a segment that cannot be read stays on the disk and is counted apart.
Source: docs/decisions/0014.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mesh.model.journal import Damage, DamageReason
from mesh.store.disk import Disk
from mesh.store.ledger import Ledger
from mesh.store.record import (
    RECORD_BYTES,
    START,
    TRAILER_BYTES,
    Gap,
    Kind,
    Opening,
    Record,
    crc_of,
    parse_opening,
    parse_record,
    parse_trailer,
    scan,
    unpack_parts,
)
from mesh.store.segment import (
    SUFFIX,
    Footer,
    Segment,
    Stored,
    footer_of,
    read_footer,
    seal,
    segment_path,
    stored_of,
)


@dataclass(slots=True)
class Recovered:
    """What was found. last_number: the highest number of any file. error: why recovery could not write, if it could not."""

    ledger: Ledger
    damage: list[Damage] = field(default_factory=list)
    apart: list[Segment] = field(default_factory=list)
    scanned: int = 0
    last_number: int = 0
    error: OSError | None = None


def recover(folder: Path, disk: Disk, *, write: bool, every_byte: bool = False) -> Recovered:
    """Read a journal's folder. One that is not there is an empty journal.

    Args: write: cut, sync and seal; without it no file is changed. every_byte: scan sealed segments too.
    Cost: with footers, three reads a segment. Raises: OSError if the folder itself cannot be listed.
    """
    found = Recovered(Ledger())
    for number in disk.numbers(folder, SUFFIX):
        found.last_number = number
        segment = Segment(segment_path(folder, number), number, None, 0)
        try:
            file = disk.open_write(segment.path) if write else disk.open_read(segment.path)
        except OSError:
            try:
                file = disk.open_read(segment.path)
            except OSError:
                _set_apart(found, segment, DamageReason.UNREADABLE)
                continue
        try:
            _read_segment(found, segment, file, disk, write=write, every_byte=every_byte)
        except OSError:
            _set_apart(found, segment, DamageReason.UNREADABLE)
        finally:
            segment.file = -1
            with suppress(OSError):
                disk.close(file)
    return found


def _set_apart(found: Recovered, segment: Segment, reason: DamageReason) -> None:
    segment.apart = True
    found.apart.append(segment)
    found.damage.append(Damage(segment.number, 0, reason, segment.size))


def _read_segment(
    found: Recovered, segment: Segment, file: int, disk: Disk, *, write: bool, every_byte: bool
) -> None:
    segment.size = disk.size(file)
    front = disk.read(file, START, 0)
    opening = parse_opening(front, segment.number)
    if segment.size < START:
        _begun(found, segment, disk, write=write)
        return
    if opening is None:
        _set_apart(found, segment, DamageReason.BAD_HEADER)
        return
    segment.opening = opening
    footer = read_footer(disk, file, opening, segment.size)
    notes = _notes(disk, file, opening, footer[0]) if footer is not None else None
    if footer is not None and notes is not None and not every_byte:
        found.ledger.add_segment(segment)
        found.ledger.next_lsn = max(found.ledger.next_lsn, opening.next_lsn)
        segment.sealed = True
        _apply_footer(found.ledger, segment, footer[0], notes)
        return
    found.scanned += 1
    data = disk.read(file, segment.size, 0)
    segment.file = file
    found.ledger.add_segment(segment)
    found.ledger.next_lsn = max(found.ledger.next_lsn, opening.next_lsn)
    gaps = _apply_scan(found.ledger, segment, opening, data)
    segment.sealed = footer is not None and not gaps
    found.damage += [_damage(segment, opening, gap, data) for gap in gaps]
    if write and not segment.sealed:
        _finish(found, segment, gaps, disk)


def _begun(found: Recovered, segment: Segment, disk: Disk, *, write: bool) -> None:
    """A crash while the segment was made, most likely: nothing in it can be read, nor is there anything to look at."""
    found.damage.append(Damage(segment.number, 0, DamageReason.TORN_TAIL, segment.size))
    if write:
        with suppress(OSError):
            disk.delete(segment.path)


def _notes(disk: Disk, file: int, opening: Opening, footer: Footer) -> dict[str, bytes | None] | None:
    """The notes of a sealed segment, read where the footer says; None if one of them is damaged."""
    notes: dict[str, bytes | None] = {}
    for key, (offset, gone) in footer.notes.items():
        if gone:
            notes[key] = None
            continue
        front = disk.read(file, RECORD_BYTES + len(key.encode()), offset)
        record = parse_record(opening, front, 0, offset)
        if record is None or record.kind is not Kind.NOTE or record.parts != key.encode():
            return None
        value = disk.read(file, record.body_bytes, record.payload)
        if crc_of(value) != record.payload_crc:
            return None
        notes[key] = value
    return notes


def _apply_footer(ledger: Ledger, segment: Segment, footer: Footer, notes: dict[str, bytes | None]) -> None:
    """The settles first: they speak of older segments, the rows of this one are as they were when it was sealed."""
    for part, packed in footer.settled.items():
        ledger.settle_all(part, _lsns(packed))
    for stored in stored_of(footer):
        ledger.recover(stored, segment)
    for key, value in notes.items():
        ledger.set_note(key, value)
        ledger.place_note(key, value, segment, footer.notes[key][0])
    ledger.next_lsn = max(ledger.next_lsn, footer.next_lsn)


def _lsns(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 8}Q", packed[: len(packed) // 8 * 8])


def _apply_scan(ledger: Ledger, segment: Segment, opening: Opening, data: bytes) -> list[Gap]:
    """Every record in its order. Returns: what was none."""
    gaps: list[Gap] = []
    for record in scan(opening, data):
        if isinstance(record, Gap):
            gaps.append(record)
        elif record.kind is Kind.ENTRY:
            _apply_entry(ledger, segment, record)
        elif record.kind is Kind.SETTLED:
            part, lsns = record.parts.decode(), _lsns(data[record.payload : record.end])
            ledger.settle_all(part, lsns)
            segment.add_settled(part, lsns)
        elif record.kind in (Kind.NOTE, Kind.NOTE_GONE):
            key = record.parts.decode()
            value = data[record.payload : record.end] if record.kind is Kind.NOTE else None
            ledger.set_note(key, value)
            ledger.place_note(key, value, segment, record.offset)
    return gaps


def _apply_entry(ledger: Ledger, segment: Segment, record: Record) -> None:
    parts = unpack_parts(record.parts)
    if not parts:  # settled while it was being written
        ledger.free(record.lsn)
        ledger.next_lsn = max(ledger.next_lsn, record.lsn + 1)
        return
    stored = Stored(
        record.lsn, parts, len(record.parts), record.head_bytes, record.body_bytes, record.stored_ms
    )
    stored.offset = record.offset
    ledger.recover(stored, segment)


def _damage(segment: Segment, opening: Opening, gap: Gap, data: bytes) -> Damage:
    trailer = parse_trailer(opening, data[-TRAILER_BYTES:])
    if trailer is not None and gap.offset >= trailer[0]:
        reason = DamageReason.BAD_FOOTER
    elif gap.end >= len(data):
        reason = DamageReason.TORN_TAIL
    else:
        reason = DamageReason.BAD_RECORD
    return Damage(segment.number, gap.offset, reason, gap.end - gap.offset)


def _finish(found: Recovered, segment: Segment, gaps: list[Gap], disk: Disk) -> None:
    """Cut the torn tail, sync, and seal a segment whose middle is whole. Where the system refuses it stays as it is."""
    ledger = found.ledger
    torn = gaps[-1].offset if gaps and gaps[-1].end >= segment.size else segment.size
    try:
        if torn < segment.size:
            disk.truncate(segment.file, torn)
            ledger.resize(segment, torn)
        disk.sync(segment.file)
        if not [gap for gap in gaps if gap.offset < torn]:
            size = segment.size
            try:
                seal(disk, segment, footer_of(segment, ledger.records, ledger.next_lsn))
            except OSError:
                disk.truncate(segment.file, size)
                raise
            ledger.total_bytes += segment.size - size
    except OSError as error:
        found.error = error
