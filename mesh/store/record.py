"""The bytes of the journal: a segment's header, its records, its footer. Packs and checks them; never reads or writes a file.

| part of a segment | bytes                                                                                              |
|-------------------|----------------------------------------------------------------------------------------------------|
| header, twice     | 64: magic, mark, salt, number, next lsn, CRC32C                                                    |
| record            | 44: mark, kind, lengths of parts, head and body, lsn, stored_ms, CRC of head + body, CRC of all this and the parts; then parts, head, body |
| footer            | a record whose body is an index of the segment                                                     |
| trailer           | 16: mark, offset and length of the footer, CRC                                                     |

Numbers are little-endian. Invariant: mark and salt are random for each segment, and a record's own CRC begins with the salt
and its offset. So bytes that a client publishes are never taken for a record, nor one that stands where it was not written:
behind damage, the next record is found by its mark and two CRCs. The CRC of head + body does not depend on the place: it is
made once, and moves with the record. Source: docs/decisions/0014.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

import google_crc32c

crc_of = google_crc32c.value
crc_on = google_crc32c.extend

MAGIC: Final = b"HMJRNL\x00\x01"
_SEGMENT: Final = struct.Struct("<8s4s8sQQ")
_RECORD: Final = struct.Struct("<4sIIIIQQI")
_TRAILER: Final = struct.Struct("<4sII")
_CRC: Final = struct.Struct("<I")
COPY_BYTES: Final = 64
"""One copy of a segment's header."""
START: Final = 2 * COPY_BYTES
"""Where the first record begins."""
RECORD_BYTES: Final = _RECORD.size + _CRC.size
TRAILER_BYTES: Final = _TRAILER.size + _CRC.size


class Kind(IntEnum):
    """What a record is. VOID takes the place of a record that turned out damaged while it was copied."""

    ENTRY = 1
    SETTLED = 2
    NOTE = 3
    NOTE_GONE = 4
    FOOTER = 5
    VOID = 6


_KINDS: Final = {kind.value: kind for kind in Kind}


class Opening(NamedTuple):
    """A segment's header. seed: where the CRCs of its records begin. next_lsn: no lower lsn is given out from here on."""

    number: int
    mark: bytes
    salt: bytes
    seed: int
    next_lsn: int


def new_opening(number: int, next_lsn: int) -> Opening:
    """A header with a fresh mark and salt."""
    salt = os.urandom(8)
    return Opening(number, os.urandom(4), salt, crc_of(salt), next_lsn)


def pack_opening(opening: Opening) -> bytes:
    """Both copies."""
    fields = _SEGMENT.pack(MAGIC, opening.mark, opening.salt, opening.number, opening.next_lsn)
    return (fields + _CRC.pack(crc_of(fields))).ljust(COPY_BYTES, b"\0") * 2


def parse_opening(data: bytes, number: int) -> Opening | None:
    """The header at the beginning of `data`, from whichever copy is whole; None if neither is, or it is another segment's."""
    for at in (0, COPY_BYTES):
        fields = data[at : at + _SEGMENT.size]
        crc = data[at + _SEGMENT.size : at + _SEGMENT.size + _CRC.size]
        if len(crc) == _CRC.size and _CRC.pack(crc_of(fields)) == crc:
            magic, mark, salt, found, next_lsn = _SEGMENT.unpack(fields)
            if magic == MAGIC and found == number:
                return Opening(number, mark, salt, crc_of(salt), next_lsn)
    return None


class Record(NamedTuple):
    """A record's header and where it stands. parts: as written, not decoded."""

    kind: Kind
    offset: int
    parts: bytes
    head_bytes: int
    body_bytes: int
    lsn: int
    stored_ms: int
    payload_crc: int

    @property
    def payload(self) -> int:
        """Where the head begins."""
        return self.offset + RECORD_BYTES + len(self.parts)

    @property
    def end(self) -> int:
        return self.payload + self.head_bytes + self.body_bytes


def pack_record(
    opening: Opening,
    offset: int,
    kind: int,
    parts: bytes,
    head_bytes: int,
    body_bytes: int,
    lsn: int,
    stored_ms: int,
    payload_crc: int,
) -> bytes:
    """The bytes in front of head and body. Cost: about 1 us."""
    fields = _RECORD.pack(opening.mark, kind, len(parts), head_bytes, body_bytes, lsn, stored_ms, payload_crc)
    crc = crc_on(crc_on((opening.seed + offset) & 0xFFFFFFFF, fields), parts)
    return fields + _CRC.pack(crc) + parts


def parse_record(opening: Opening, data: bytes, at: int, offset: int) -> Record | None:
    """The record whose header begins at `data[at]`, which stands at `offset` of its segment; None unless the header is whole.

    Head and body need not be in `data`, and are not checked.
    """
    body = at + RECORD_BYTES
    if body > len(data):
        return None
    mark, kind, parts_bytes, head_bytes, body_bytes, lsn, stored_ms, payload_crc = _RECORD.unpack_from(
        data, at
    )
    if mark != opening.mark or kind not in _KINDS or body + parts_bytes > len(data):
        return None
    parts = data[body : body + parts_bytes]
    crc = crc_on(
        crc_on((opening.seed + offset) & 0xFFFFFFFF, data[at : at + _RECORD.size]),
        parts,
    )
    if _CRC.unpack_from(data, at + _RECORD.size)[0] != crc:
        return None
    return Record(_KINDS[kind], offset, parts, head_bytes, body_bytes, lsn, stored_ms, payload_crc)


class Gap(NamedTuple):
    """Bytes between records that are none."""

    offset: int
    end: int


def scan(opening: Opening, data: bytes) -> Iterator[Record | Gap]:
    """Every whole record of a segment, and every stretch of bytes that is none, in order. data: the whole file.

    Behind a record whose payload is damaged the next one follows; behind a damaged header it is searched by the mark.
    Cost: the CRCs of `data`. Keeps: every byte from START on belongs to exactly one of what is yielded, or the trailer.
    """
    at = gap = START
    while at < len(data):
        record = parse_record(opening, data, at, at)
        if record is not None and record.end <= len(data) and _whole(record, data):
            if gap < at:
                yield Gap(gap, at)
            yield record
            at = gap = record.end
            if record.kind is Kind.FOOTER and parse_trailer(opening, data[-TRAILER_BYTES:]) == (
                record.offset,
                record.end - record.offset,
            ):
                at = gap = record.end + TRAILER_BYTES
        elif record is not None and record.end <= len(data):
            at = record.end
        else:
            found = data.find(opening.mark, at + 1)
            at = found if found >= 0 else len(data)
    if gap < len(data):
        yield Gap(gap, len(data))


def _whole(record: Record, data: bytes) -> bool:
    crc: int = crc_of(data[record.payload : record.end])
    return crc == record.payload_crc


def pack_trailer(opening: Opening, offset: int, length: int) -> bytes:
    """The last bytes of a sealed segment: where its footer stands."""
    fields = _TRAILER.pack(opening.mark, offset, length)
    return fields + _CRC.pack(crc_on(opening.seed, fields))


def parse_trailer(opening: Opening, data: bytes) -> tuple[int, int] | None:
    """Offset and length of the footer from the last bytes of a file; None unless the trailer is whole."""
    if len(data) != TRAILER_BYTES:
        return None
    mark, offset, length = _TRAILER.unpack_from(data)
    if (
        mark != opening.mark
        or crc_on(opening.seed, data[: _TRAILER.size]) != _CRC.unpack_from(data, _TRAILER.size)[0]
    ):
        return None
    return offset, length


def pack_parts(parts: tuple[str, ...]) -> bytes:
    """The parts, apart by NUL, which no topic or name may hold."""
    return "\0".join(parts).encode()


def unpack_parts(data: bytes) -> tuple[str, ...]:
    """Raises: UnicodeDecodeError, which bytes with a right CRC never do."""
    return tuple(data.decode().split("\0")) if data else ()
