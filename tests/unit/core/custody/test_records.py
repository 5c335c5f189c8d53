from __future__ import annotations

import msgspec
import pytest
from unit.core.custody.journal_twin import HEADER, Twin, events, unpack

from mesh.core.custody.records import KEPT_BYTES, KEPT_RECORDS, Records, Unreadable
from mesh.wire.codec import encode_body


def stored(twin: Twin, data: bytes = b"x") -> int:
    some = events(1, 2)
    some = [one._replace(data=data) for one in some]
    header = msgspec.structs.replace(HEADER, count=2)
    return twin.append(("c/a",), msgspec.msgpack.encode(header), encode_body(some), 0)


def test_a_record_is_read_once_while_it_is_in_use() -> None:
    twin = Twin()
    records = Records(twin, unpack)
    lsn = stored(twin)
    assert [one.seq for one in records.open(lsn).events] == [1, 2]
    assert records.open(lsn).header.count == 2
    assert twin.reads == 1
    records.forget(lsn)
    records.open(lsn)
    assert twin.reads == 2


@pytest.mark.parametrize(("data", "most"), [(b"x", KEPT_RECORDS), (b"x" * 500_000, KEPT_BYTES // 1_000_000)])
def test_few_are_kept_the_least_used_goes(data: bytes, most: int) -> None:
    twin = Twin()
    records = Records(twin, unpack)
    lsns = [stored(twin, data) for _ in range(most + 3)]
    for lsn in lsns:
        records.open(lsn)
    twin.reads = 0
    records.open(lsns[-1])
    assert twin.reads == 0
    records.open(lsns[0])
    assert twin.reads == 1


@pytest.mark.parametrize("head", [b"\xc1", b""])
def test_what_is_damaged_gone_or_does_not_decode_is_unreadable(head: bytes) -> None:
    twin = Twin()
    records = Records(twin, unpack)
    lsn = twin.append(("c/a",), head, b"", 0)
    with pytest.raises(Unreadable):
        records.open(lsn)
    with pytest.raises(Unreadable):
        records.open(99)
