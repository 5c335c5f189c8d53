"""The bytes of the journal."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.store.record import (
    COPY_BYTES,
    RECORD_BYTES,
    START,
    TRAILER_BYTES,
    Gap,
    Kind,
    Opening,
    crc_of,
    new_opening,
    pack_opening,
    pack_parts,
    pack_record,
    pack_trailer,
    parse_opening,
    parse_record,
    parse_trailer,
    scan,
    unpack_parts,
)


def record(
    opening: Opening, offset: int, head: bytes = b"head", body: bytes = b"body", lsn: int = 7
) -> bytes:
    crc = crc_of(head + body)
    return pack_record(opening, offset, Kind.ENTRY, b"r/us", len(head), len(body), lsn, 9, crc) + head + body


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_header_is_read_back_from_either_copy(number: int, next_lsn: int) -> None:
    opening = new_opening(number, next_lsn)
    data = pack_opening(opening)
    assert len(data) == START
    assert parse_opening(data, number) == opening
    assert parse_opening(bytes(COPY_BYTES) + data[COPY_BYTES:], number) == opening
    assert parse_opening(data[:COPY_BYTES], number) == opening
    assert parse_opening(data, number ^ 1) is None
    assert parse_opening(bytes(START), number) is None


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_a_record_is_read_back_where_it_was_written_and_nowhere_else(
    head: bytes, body: bytes, lsn: int, offset: int
) -> None:
    opening = new_opening(1, 1)
    data = record(opening, offset, head, body, lsn)
    found = parse_record(opening, data, 0, offset)
    assert found is not None
    assert (found.kind, found.parts, found.lsn, found.stored_ms) == (Kind.ENTRY, b"r/us", lsn, 9)
    assert (found.payload, found.end) == (offset + RECORD_BYTES + 4, offset + len(data))
    assert parse_record(opening, data, 0, offset + 1) is None
    assert parse_record(new_opening(1, 1), data, 0, offset) is None


def test_every_flipped_bit_of_a_record_is_noticed() -> None:
    opening = new_opening(1, 1)
    clean = pack_opening(opening) + record(opening, START)
    for bit in range(START * 8, len(clean) * 8):
        data = bytearray(clean)
        data[bit // 8] ^= 1 << bit % 8
        assert list(scan(opening, bytes(data))) == [Gap(START, len(clean))]


@pytest.mark.parametrize("where", ["header", "body"])
def test_behind_damage_the_next_record_is_found(where: str) -> None:
    opening = new_opening(1, 1)
    data = bytearray(pack_opening(opening))
    starts = []
    for lsn in range(5):
        starts.append(len(data))
        data += record(opening, len(data), lsn=lsn)
    starts.append(len(data))
    data[starts[1] + (5 if where == "header" else RECORD_BYTES + 5)] ^= 1
    data[starts[2] + 20] ^= 1
    found = list(scan(opening, bytes(data)))
    assert [each if isinstance(each, Gap) else each.lsn for each in found] == [
        0,
        Gap(starts[1], starts[3]),
        3,
        4,
    ]


def test_what_a_client_publishes_is_never_taken_for_a_record() -> None:
    """A body that is itself a whole segment, even with this one's mark, whose enclosing record is damaged."""
    opening = new_opening(1, 1)
    other = new_opening(1, 1)._replace(mark=opening.mark)
    inner = b"".join(record(other, offset, lsn=offset) for offset in range(0, 5_000, 64))
    data = bytearray(pack_opening(opening) + record(opening, START, body=inner))
    data[START + 6] ^= 1
    assert list(scan(opening, bytes(data))) == [Gap(START, len(data))]


def test_a_scan_of_garbage_ends() -> None:
    opening = new_opening(1, 1)
    for data in (bytes(50_000), opening.mark * 20_000, os.urandom(50_000), b""):
        found = list(scan(opening, bytes(START) + data))
        assert found == ([Gap(START, START + len(data))] if data else [])


def test_a_trailer_is_read_back_and_nothing_else_is_one() -> None:
    opening = new_opening(1, 1)
    data = pack_trailer(opening, 128, 4_000)
    assert len(data) == TRAILER_BYTES
    assert parse_trailer(opening, data) == (128, 4_000)
    assert parse_trailer(opening, data[:-1]) is None
    assert parse_trailer(new_opening(1, 1), data) is None
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert parse_trailer(opening, bytes(damaged)) is None


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)))
def test_parts_are_read_back(parts: list[str]) -> None:
    assert unpack_parts(pack_parts(tuple(parts))) == tuple(parts)
