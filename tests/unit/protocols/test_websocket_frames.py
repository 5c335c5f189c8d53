"""RFC 6455 as this node reads and writes it, against wsproto as an independent implementation."""

from __future__ import annotations

import itertools

import wsproto.frame_protocol as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.protocols.websocket_frames import (
    CloseCode,
    FrameReader,
    Opcode,
    Received,
    close_code_of,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)

LIMIT = 70_000
MASK = b"\x01\x80\xfe\x7f"


def masked(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes = MASK, size: bytes = b"") -> bytes:
    """A client's frame, written out plainly."""
    length = len(payload)
    if not size:
        if length < 126:
            size = bytes((0x80 | length,))
        elif length < 65_536:
            size = b"\xfe" + length.to_bytes(2, "big")
        else:
            size = b"\xff" + length.to_bytes(8, "big")
    body = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return bytes(((0x80 if fin else 0) | opcode,)) + size + mask + body


def failure_of(*frames: bytes) -> tuple[CloseCode, str]:
    reader = FrameReader(LIMIT)
    for frame in frames:
        reader.receive(frame)
    assert reader.failure is not None
    return reader.failure


class TestReading:
    def test_a_text_comes_out_as_it_was_sent(self) -> None:
        for text in (b"", b"x", b"x" * 125, b"x" * 126, b"x" * 65_535, b"y" * 65_536, "ü€😀".encode() * 40):
            assert FrameReader(LIMIT).receive(masked(1, text)) == [Received(Opcode.TEXT, text)]

    def test_many_frames_in_one_read_come_out_in_order(self) -> None:
        stream = b"".join(masked(1, b"%d" % number) for number in range(50))
        assert [payload for _, payload in FrameReader(LIMIT).receive(stream)] == [
            b"%d" % n for n in range(50)
        ]

    def test_fragments_are_put_together_and_control_frames_may_come_between(self) -> None:
        reader = FrameReader(LIMIT)
        euro = "€".encode()
        stream = (
            masked(1, euro[:1], fin=False)
            + masked(9, b"hi")
            + masked(0, euro[1:2], fin=False)
            + masked(0, euro[2:])
        )
        assert reader.receive(stream) == [Received(Opcode.PING, b"hi"), Received(Opcode.TEXT, euro)]

    @given(
        st.lists(st.tuples(st.sampled_from([1, 2, 9, 10]), st.text(max_size=200)), max_size=6),
        st.lists(st.integers(0, 400), max_size=8),
        st.binary(min_size=4, max_size=4),
    )
    @settings(max_examples=60, derandomize=True, deadline=None)
    def test_where_the_stream_is_cut_makes_no_difference(
        self, frames: list[tuple[int, str]], cuts: list[int], mask: bytes
    ) -> None:
        payloads = [(opcode, text.encode()[: 125 if opcode >= 8 else None]) for opcode, text in frames]
        stream = b"".join(masked(opcode, payload, mask=mask) for opcode, payload in payloads)
        places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
        reader, found = FrameReader(LIMIT), list[Received]()
        for first, last in itertools.pairwise(places):
            found += reader.receive(stream[first:last])
        assert found == [Received(*payload) for payload in payloads]
        assert reader.failure is None

    @given(st.binary(max_size=60), st.integers(0, 3))
    @settings(max_examples=200, derandomize=True, deadline=None)
    def test_garbage_is_judged_as_wsproto_judges_it(self, garbage: bytes, kind: int) -> None:
        stream = {0: garbage, 1: masked(1, garbage), 2: masked(8, garbage[:125]), 3: masked(0, garbage)}[kind]
        theirs: list[object] = []
        refused = False
        protocol = oracle.FrameProtocol(client=False, extensions=[])
        protocol.receive_bytes(stream)
        try:
            theirs.extend(protocol.received_frames())
        except oracle.ParseFailed:
            refused = True
        reader = FrameReader(1 << 63)
        reader.receive(stream)
        assert (reader.failure is not None) == refused, (stream, theirs)

    def test_a_frame_sent_byte_by_byte_costs_no_more_than_its_bytes(self) -> None:
        reader = FrameReader(LIMIT)
        stream = masked(1, b"z" * 60_000)
        for place in range(len(stream) - 1):
            assert reader.receive(stream[place : place + 1]) == []
        assert reader.receive(stream[-1:]) == [Received(Opcode.TEXT, b"z" * 60_000)]


class TestRefusing:
    def test_what_breaks_the_rules_of_the_protocol_is_a_protocol_error(self) -> None:
        broken = {
            "unmasked": b"\x81\x01x",
            "reserved bit": bytes((0xC1, 0x80)) + MASK,
            "unknown data opcode": masked(3, b""),
            "unknown control opcode": masked(11, b""),
            "fragmented ping": masked(9, b"", fin=False),
            "long ping": masked(9, b"x" * 126),
            "continuation of nothing": masked(0, b"x"),
            "length in two bytes that fits in one": masked(1, b"x" * 5, size=b"\xfe\x00\x05"),
            "length in eight bytes that fits in two": masked(1, b"", size=b"\xff" + (400).to_bytes(8, "big")),
            "close of one byte": masked(8, b"x"),
            "close with a code nobody may send": masked(8, (1005).to_bytes(2, "big")),
            "close with a reason that is not text": masked(8, b"\x03\xe8\xff"),
        }
        for name, stream in broken.items():
            assert failure_of(stream)[0] is CloseCode.PROTOCOL_ERROR, name

    def test_a_text_that_starts_inside_another_is_a_protocol_error(self) -> None:
        assert failure_of(masked(1, b"a", fin=False), masked(1, b"b"))[0] is CloseCode.PROTOCOL_ERROR

    def test_text_that_is_not_utf8_is_an_invalid_payload(self) -> None:
        for text in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"ok \xe2\x82"):
            assert failure_of(masked(1, text))[0] is CloseCode.INVALID_PAYLOAD

    def test_a_frame_too_big_is_refused_by_its_header_alone(self) -> None:
        assert failure_of(masked(1, b"", size=b"\xff" + (1 << 62).to_bytes(8, "big")))[0] is CloseCode.TOO_BIG

    def test_fragments_too_big_together_are_refused(self) -> None:
        part = masked(0, b"x" * 30_000, fin=False)
        assert failure_of(masked(1, b"", fin=False), part, part, part)[0] is CloseCode.TOO_BIG

    def test_endless_empty_fragments_are_refused(self) -> None:
        assert failure_of(masked(1, b"", fin=False), masked(0, b"", fin=False) * 5_000)[0] is CloseCode.POLICY

    def test_after_a_failure_nothing_is_handed_out(self) -> None:
        reader = FrameReader(LIMIT)
        assert reader.receive(masked(1, b"good") + b"\x81\x01x" + masked(1, b"late")) == [
            Received(1, b"good")
        ]
        assert reader.receive(masked(1, b"later")) == []


class TestWriting:
    @given(st.integers(0, 300) | st.sampled_from([65_535, 65_536, 70_000]))
    @settings(max_examples=30, derandomize=True, deadline=None)
    def test_wsproto_reads_what_is_written(self, size: int) -> None:
        client = oracle.FrameProtocol(client=True, extensions=[])
        client.receive_bytes(text_frame(b"e" * size) + ping_frame(b"p") + pong_frame(b"q"))
        frames = list(client.received_frames())
        assert "".join(str(frame.payload) for frame in frames[:-2]) == "e" * size
        assert [bytes(frame.payload) for frame in frames[-2:]] == [b"p", b"q"]

    def test_a_long_reason_of_a_close_is_cut_at_a_character(self) -> None:
        frame = close_frame(1008, "ü" * 200)
        client = oracle.FrameProtocol(client=True, extensions=[])
        client.receive_bytes(frame)
        (received,) = client.received_frames()
        assert received.payload == (1008, "ü" * 61)
        assert len(frame) == 2 + 2 + 122

    def test_the_code_of_a_close_is_read_and_1005_stands_for_none(self) -> None:
        assert close_code_of((1001).to_bytes(2, "big") + b"bye") == 1001
        assert close_code_of(b"") == 1005
