"""What stands on a disk must be read by the next release, and what no record is must not."""

from __future__ import annotations

import msgspec
import pytest
from unit.core.custody.memory_store import header

from mesh.core.custody.record import Head, Held, decode_head, encode_head
from mesh.model.reasons import Drop


def test_a_head_reads_back_with_its_batchs_header() -> None:
    head = Head(header(3, ("us", "ap")), 1_500, "orders/#")
    assert decode_head(encode_head(head)) == head


def test_a_head_without_the_fields_behind_its_header_has_no_deadline_and_no_rule() -> None:
    bare = msgspec.msgpack.encode([header()])
    assert decode_head(bare) == Head(header(), 0, "")


@pytest.mark.parametrize("packed", [b"", b"\x90", b"\x91\xc0", encode_head(Head(header()))[:-3]])
def test_what_is_no_head_is_a_value_error_which_is_counted_as_damage(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_head(packed)


def test_a_record_that_waits_has_been_sent_to_nobody() -> None:
    held = Held(1, 10, 2, ("r/eu", "r/us"), None, "", since=5.0)
    assert (held.sent, held.tries, held.ends_as) == ((), 0, Drop.EXPIRED)
