"""One segment of the journal in memory, the records that live in it, its footer, and the open files for reading.

Decides what a footer holds: the records that are open when it is made, what its settles say of older segments, and where its
notes stand. Never decides when a segment is sealed or deleted.
Invariant: reading a good footer and reading the segment record by record give the same open records and notes, except that the
footer may know of a settle that was not written yet. Source: docs/decisions/0014.
"""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from mesh.model.journal import Damage, DamageReason, Entry, JournalDamaged
from mesh.store.disk import Disk
from mesh.store.record import (
    RECORD_BYTES,
    START,
    TRAILER_BYTES,
    Kind,
    Opening,
    Record,
    crc_of,
    crc_on,
    pack_parts,
    pack_record,
    pack_trailer,
    parse_record,
    parse_trailer,
)

FOLDER: Final = "journal"
"""In a node's data folder."""
SUFFIX: Final = ".log"
ALL: Final = ""
"""As a part in a settle: the whole record is freed."""
SMALL_BYTES: Final = 8_192
"""Records up to this are read with one call and sliced; the body of a larger one is read apart, so that it is not copied."""
_ROW: Final = struct.Struct("<IIQQIII")


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"{number:016x}{SUFFIX}"


class Segment:
    """A segment's file. size: bytes of it that are known to be good. live_bytes: of open records and current notes.

    lsns: every record that was ever placed here. sealed: its footer is on the disk. file: open for writing, or -1.
    apart: it cannot be read, so it is left for a person and neither counted nor deleted.
    """

    __slots__ = (
        "apart",
        "file",
        "gone",
        "live_bytes",
        "lsns",
        "note_bytes",
        "notes",
        "number",
        "opening",
        "path",
        "sealed",
        "settled",
        "size",
    )

    def __init__(self, path: Path, number: int, opening: Opening | None, size: int) -> None:
        self.path = path
        self.number = number
        self.opening = opening
        self.size = size
        self.live_bytes = 0
        self.note_bytes = 0
        self.lsns = array("Q")
        self.notes: dict[str, tuple[int, bool]] = {}
        """Key to offset, and whether it is gone there: the last note of each key here."""
        self.settled: dict[str, array[int]] = {}
        self.gone = False
        """Deleted, or about to be."""
        self.sealed = False
        self.apart = False
        self.file = -1

    def add_settled(self, part: str, lsns: Iterable[int]) -> None:
        """Remember for the footer what a settle in this segment says."""
        known = self.settled.get(part)
        if known is None:
            known = self.settled[part] = array("Q")
        known.extend(lsns)


class Stored:
    """An open record. parts: still open; a dict once there are many and some were settled. segment: None until it is written.

    head, body: kept until they are on the disk. parts_bytes: length of the parts as written. lost: its bytes are damaged.
    """

    __slots__ = (
        "body",
        "body_bytes",
        "crc",
        "head",
        "head_bytes",
        "lost",
        "lsn",
        "offset",
        "parts",
        "parts_bytes",
        "segment",
        "stored_ms",
        "taken",
    )

    def __init__(
        self,
        lsn: int,
        parts: tuple[str, ...],
        parts_bytes: int,
        head_bytes: int,
        body_bytes: int,
        stored_ms: int,
    ) -> None:
        self.lsn = lsn
        self.parts: tuple[str, ...] | dict[str, None] = parts
        self.parts_bytes = parts_bytes
        self.head_bytes = head_bytes
        self.body_bytes = body_bytes
        self.stored_ms = stored_ms
        self.segment: Segment | None = None
        self.offset = 0
        self.crc = 0
        self.head: bytes | None = None
        self.body: bytes | None = None
        self.taken = False
        self.lost = False

    @property
    def size(self) -> int:
        """Bytes in its segment."""
        return RECORD_BYTES + self.parts_bytes + self.head_bytes + self.body_bytes

    def entry(self) -> Entry:
        return Entry(self.lsn, tuple(self.parts), self.stored_ms, self.head_bytes, self.body_bytes)


class Footer(msgspec.Struct, array_like=True, frozen=True):
    """The index of a segment. parts: distinct sets of parts, packed. rows: `_ROW` for each open record.

    settled: part to lsns, packed; "" frees the record. notes: key to offset and whether it is gone. next_lsn: as in the header.
    """

    next_lsn: int
    parts: list[bytes]
    rows: bytes
    settled: dict[str, bytes]
    notes: dict[str, tuple[int, bool]]


def footer_of(segment: Segment, records: Mapping[int, Stored], next_lsn: int) -> Footer:
    """The footer a segment gets now. Cost: O(records ever placed in it). May run beside the loop: what is settled meanwhile is
    in a later settle too."""
    numbers: dict[bytes, int] = {}
    rows = bytearray()
    for lsn in segment.lsns:
        stored = records.get(lsn)
        if stored is None or stored.segment is not segment:
            continue
        parts = tuple(stored.parts)
        if parts:
            packed = pack_parts(parts)
            number = numbers.setdefault(packed, len(numbers))
            rows += _ROW.pack(
                stored.offset,
                number,
                lsn,
                stored.stored_ms,
                stored.parts_bytes,
                stored.head_bytes,
                stored.body_bytes,
            )
    settled = {part: lsns.tobytes() for part, lsns in segment.settled.items()}
    return Footer(next_lsn, list(numbers), bytes(rows), settled, segment.notes)


def seal(disk: Disk, segment: Segment, footer: Footer) -> None:
    """Write the footer behind the records, and have it on the disk. Raises: OSError; the segment may have half a footer then."""
    opening = segment.opening
    assert opening is not None
    body = msgspec.msgpack.encode(footer)
    head = pack_record(opening, segment.size, Kind.FOOTER, b"", 0, len(body), 0, 0, crc_of(body))
    trailer = pack_trailer(opening, segment.size, len(head) + len(body))
    end = disk.write(segment.file, [head, body, trailer], segment.size)
    disk.sync(segment.file)
    segment.size = end
    segment.sealed = True
    segment.settled = {}


def read_footer(disk: Disk, file: int, opening: Opening, size: int) -> tuple[Footer, int] | None:
    """The footer of a sealed segment and where it stands; None if there is none that is whole. Raises: OSError."""
    if size < START + RECORD_BYTES + TRAILER_BYTES:
        return None
    place = parse_trailer(opening, disk.read(file, TRAILER_BYTES, size - TRAILER_BYTES))
    if place is None or place[0] + place[1] + TRAILER_BYTES != size or place[0] < START:
        return None
    data = disk.read(file, place[1], place[0])
    record = parse_record(opening, data, 0, place[0])
    if record is None or record.kind is not Kind.FOOTER or record.end - place[0] != len(data):
        return None
    body = data[RECORD_BYTES:]
    if crc_of(body) != record.payload_crc:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Footer), place[0]
    except (msgspec.MsgspecError, RecursionError):
        return None


def stored_of(footer: Footer) -> Iterable[Stored]:
    """The open records of a footer, offsets set, segments not."""
    tuples = [tuple(packed.decode().split("\0")) for packed in footer.parts]
    for offset, number, lsn, stored_ms, parts_bytes, head_bytes, body_bytes in _ROW.iter_unpack(footer.rows):
        stored = Stored(lsn, tuples[number], parts_bytes, head_bytes, body_bytes, stored_ms)
        stored.offset = offset
        yield stored


class Readers:
    """Segments open for reading, a bounded number; the one not used for longest is closed. For one thread."""

    def __init__(self, disk: Disk, bound: int) -> None:
        self._disk = disk
        self._bound = bound
        self._files: OrderedDict[Segment, int] = OrderedDict()

    def file(self, segment: Segment) -> int:
        """Raises: OSError."""
        file = self._files.get(segment)
        if file is not None:
            self._files.move_to_end(segment)
            return file
        file = self._disk.open_read(segment.path)
        self._files[segment] = file
        if len(self._files) > self._bound:
            self._disk.close(self._files.popitem(last=False)[1])
        return file

    def forget(self, segment: Segment) -> None:
        """Close it, if it is open."""
        file = self._files.pop(segment, None)
        if file is not None:
            self._disk.close(file)

    def close(self) -> None:
        while self._files:
            self._disk.close(self._files.popitem()[1])

    def read(self, stored: Stored) -> tuple[bytes, bytes]:
        """Head and body of a written record. Raises: JournalDamaged, also for what the system cannot read."""
        segment = stored.segment
        assert segment is not None
        try:
            return read_record(self._disk, self.file(segment), segment, stored)
        except OSError as error:
            self.forget(segment)
            where = Damage(segment.number, stored.offset, DamageReason.UNREADABLE, stored.size)
            raise JournalDamaged(stored.lsn, where) from error


def read_record(disk: Disk, file: int, segment: Segment, stored: Stored) -> tuple[bytes, bytes]:
    """Head and body, checked. Raises: OSError, JournalDamaged. Cost: one or two preads and the CRC; small bodies are copied."""
    assert segment.opening is not None
    front = RECORD_BYTES + stored.parts_bytes + stored.head_bytes
    if stored.body_bytes <= SMALL_BYTES:
        data = disk.read(file, front + stored.body_bytes, stored.offset)
        body = data[front:]
    else:
        data = disk.read(file, front, stored.offset)
        body = disk.read(file, stored.body_bytes, stored.offset + front)
    record: Record | None = parse_record(segment.opening, data, 0, stored.offset)
    head = data[RECORD_BYTES + stored.parts_bytes : front]
    if (
        record is None
        or record.lsn != stored.lsn
        or record.kind is not Kind.ENTRY
        or len(body) != stored.body_bytes
        or record.payload_crc != crc_on(crc_of(head), body)
    ):
        where = Damage(segment.number, stored.offset, DamageReason.BAD_RECORD, stored.size)
        raise JournalDamaged(stored.lsn, where)
    stored.crc = record.payload_crc
    return head, body
