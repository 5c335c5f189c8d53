"""Frames and bodies to bytes and back, with the msgpack library as the oracle and hostile bytes as the rule."""

from __future__ import annotations

import re
import tracemalloc
from enum import IntEnum
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.model.event import Event
from mesh.model.reasons import Close
from mesh.wire import codec
from mesh.wire.codec import BodyError, FrameError, FrameReader, HeaderTooLargeError
from mesh.wire.frames import (
    KINDS,
    BatchHeader,
    Data,
    Delta,
    Hello,
    Leg,
    Member,
    Members,
    MemberState,
    Open,
    Probe,
    Scope,
)

LIMIT = 1 << 20
few = settings(
    derandomize=True, deadline=None, max_examples=20, database=None, suppress_health_check=list(HealthCheck)
)
U64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
TEXT = st.text(alphabet="aZ09/+#$. \x00é€😀", max_size=6)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a frame field's type."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        return U64
    if origin in (Union, UnionType):
        return st.one_of([values(one) for one in arguments])
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=2).map(tuple)
        return st.tuples(*[values(one) for one in arguments])
    if issubclass(hint, IntEnum):
        return st.sampled_from(list(hint))
    if issubclass(hint, msgspec.Struct):
        return structs(hint)
    return {str: TEXT, bool: st.booleans(), bytes: st.binary(max_size=40), type(None): st.none()}[hint]


def structs(frame: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(frame, include_extras=True)
    return st.builds(frame, **{name: values(hints[name]) for name in frame.__struct_fields__})


FRAMES = {frame.__name__: structs(frame) for frame in KINDS.values()}
ANY_FRAME = st.one_of(list(FRAMES.values()))
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(
    lambda pairs: tuple(text for pair in pairs for text in pair)
)
EVENTS = st.builds(
    Event,
    U64,
    TEXT,
    TEXT,
    U64,
    st.one_of(st.none(), st.tuples(TEXT, TEXT)),
    st.one_of(st.none(), PAIRS),
    st.binary(max_size=40),
)
HEADER = BatchHeader(Leg.BRIDGE, 0, "ap", "ap-1", 7, ("eu", "us"), 0, 16, 4096, ("ap",), 9, 1)
SAMPLES = [
    Hello(1, 2**40),
    Open(1, "hopmesh 0.1", "eu", "eu-1", "x1", 5, 6, 1, "us", "transit", 0, "eu-1:7946", 4096, 16),  # type: ignore[arg-type]
    Probe(3, "eu-2", (Member("eu-3", 1, 2, MemberState.SUSPECT, ("eu-3:7946",)),)),
    Delta(Scope.WORLD, "eu/eu-1", 1, 0, 2, 77, (("forders/#", 1, b"\x00"), ("fx", 2, None))),
    Data(HEADER, b"body bytes that nobody reads"),
]


def to_bytes(frame: Any) -> bytes:
    return codec.encode_data(frame.header, frame.body) if isinstance(frame, Data) else codec.encode(frame)


def read(data: bytes) -> list[Any]:
    return FrameReader(LIMIT).feed(data)


def refusal(data: bytes) -> FrameError:
    with pytest.raises(FrameError) as caught:
        read(data)
    return caught.value


def raw_frame(kind: int, payload: bytes) -> bytes:
    return (len(payload) + 1).to_bytes(4, "big") + bytes((kind,)) + payload


# -- frames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMES)
@settings(few, max_examples=5)
@given(data=st.data())
def test_every_frame_comes_back_as_it_was_sent(name: str, data: st.DataObject) -> None:
    frame = data.draw(FRAMES[name])
    assert read(to_bytes(frame)) == [frame]


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "Data"])
@settings(few, max_examples=5)
@given(data=st.data())
def test_a_second_messagepack_library_reads_and_writes_the_same_control_frames(
    name: str, data: st.DataObject
) -> None:
    frame = data.draw(FRAMES[name])
    written = codec.encode(frame)
    plain = msgspec.to_builtins(frame, builtin_types=(bytes,))
    assert msgpack.unpackb(written[5:], use_list=False) == as_tuples(plain)
    assert read(raw_frame(written[4], msgpack.packb(plain))) == [frame]


def as_tuples(value: Any) -> Any:
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


@few
@given(header=structs(BatchHeader), body=st.binary(max_size=50))
def test_a_second_messagepack_library_reads_the_header_of_a_data_frame(
    header: BatchHeader, body: bytes
) -> None:
    written = codec.encode_data(header, body)
    assert int.from_bytes(written[:4], "big") == len(written) - 4
    assert written[4] == 0
    size = int.from_bytes(written[5:7], "big")
    assert msgpack.unpackb(written[7 : 7 + size], use_list=False) == msgspec.structs.astuple(header)
    assert written[7 + size :] == body
    assert codec.encode_data_head(header, len(body)) + body == written


@few
@given(frames=st.lists(ANY_FRAME, max_size=5), cuts=st.lists(st.integers(0, 10**6), max_size=8))
def test_a_stream_gives_the_same_frames_wherever_it_is_cut(frames: list[Any], cuts: list[int]) -> None:
    stream = b"".join(map(to_bytes, frames))
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = FrameReader(LIMIT)
    got = [frame for a, b in pairwise(places) for frame in reader.feed(stream[a:b])]
    assert got == frames
    assert reader.pending_bytes == 0


@pytest.mark.parametrize("size", [1, 2, 3, 4_095, 4_096, 5_000, 65_536])
def test_bodies_longer_than_a_receive_buffer_come_whole(size: int) -> None:
    frames = [Data(HEADER, bytes([n]) * length) for n, length in enumerate((70_000, 0, 3, 4_097, 12_000))]
    stream = b"".join(map(to_bytes, frames))
    reader = FrameReader(LIMIT)
    assert [
        frame for at in range(0, len(stream), size) for frame in reader.feed(stream[at : at + size])
    ] == frames


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_cut_short_at_any_byte_waits_for_the_rest(frame: Any) -> None:
    whole = to_bytes(frame)
    for cut in range(len(whole)):
        reader = FrameReader(LIMIT)
        assert reader.feed(whole[:cut]) == []
        assert reader.pending_bytes == cut
        assert reader.feed(whole[cut:]) == [frame]


def test_two_frames_in_one_feed_both_come_out_and_the_third_one_waits() -> None:
    hello = codec.encode(Hello(1, 2))
    reader = FrameReader(LIMIT)
    assert reader.feed(hello + to_bytes(SAMPLES[4]) + hello[:6]) == [Hello(1, 2), SAMPLES[4]]
    assert reader.feed(hello[6:]) == [Hello(1, 2)]


def test_a_receive_buffer_may_be_reused_by_its_owner() -> None:
    buffer = bytearray(codec.encode_data(HEADER, b"a" * 9_000))
    reader = FrameReader(LIMIT)
    reader.feed(memoryview(buffer)[:8_000])
    rest = bytes(buffer[8_000:])
    buffer[:] = bytes(len(buffer))
    assert reader.feed(rest) == [Data(HEADER, b"a" * 9_000)]


def test_fields_that_a_later_version_adds_at_the_end_are_passed_over() -> None:
    assert read(raw_frame(3, msgpack.packb([1, 2, "new", [3]]))) == [Hello(1, 2)]


def test_a_value_that_is_no_control_frame_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        codec.encode(SAMPLES[4])  # type: ignore[arg-type]


def test_a_batch_header_that_outgrew_its_length_field_is_refused_by_the_writer() -> None:
    header = msgspec.structs.replace(HEADER, regions=tuple(f"region-{n:058d}" for n in range(1_024)))
    with pytest.raises(HeaderTooLargeError, match="at most 65535"):
        codec.encode_data(header, b"")


# -- hostile bytes -----------------------------------------------------------------------------------------------

REFUSED = {
    "an unknown kind": (raw_frame(99, b"\x90"), Close.MALFORMED, "unknown frame kind 99"),
    "no kind": (bytes(5), Close.MALFORMED, "0 bytes"),
    "no payload": (raw_frame(3, b""), Close.MALFORMED, "1 bytes"),
    "a control frame over the limit": (
        (LIMIT + 2).to_bytes(4, "big") + b"\x03",
        Close.FRAME_TOO_LARGE,
        "1048578",
    ),
    "a data frame over the limit": (b"\xff\xff\xff\xff\x00", Close.FRAME_TOO_LARGE, "4294967295"),
    "bytes behind the payload": (raw_frame(3, b"\x92\x01\x02\x00"), Close.MALFORMED, "Hello frame.*trailing"),
    "a payload cut short": (raw_frame(3, b"\x92\x01"), Close.MALFORMED, "truncated"),
    "a field missing": (raw_frame(3, b"\x91\x01"), Close.MALFORMED, "at least length 2"),
    "a map": (raw_frame(3, b"\x82\xa1n\x01\xa7sent_us\x02"), Close.MALFORMED, "Expected `array`"),
    "a wrong type": (raw_frame(3, b"\x92\xa11\x02"), Close.MALFORMED, "Expected `int`"),
    "a boolean for a number": (raw_frame(3, b"\x92\xc3\x02"), Close.MALFORMED, "Expected `int`"),
    "a negative number": (raw_frame(3, b"\x92\xff\x02"), Close.MALFORMED, ">= 0"),
    "an unknown member of an enum": (raw_frame(34, b"\x92\x63\x90"), Close.MALFORMED, "enum value 99"),
    "text that is no UTF-8": (raw_frame(2, b"\x92\xa1\xff\xa0"), Close.MALFORMED, "utf-8"),
    "deep nesting": (raw_frame(3, b"\x93\x01\x02" + b"\x91" * 100_000), Close.MALFORMED, "recursion"),
    "a huge array that is not there": (
        raw_frame(20, b"\x91\xdd\xff\xff\xff\xff"),
        Close.MALFORMED,
        "truncated",
    ),
    "an extension type": (raw_frame(3, b"\x92\xd4\x05\x00\x02"), Close.MALFORMED, "Expected `int`"),
    "a data frame without header length": (raw_frame(0, b"\x00"), Close.MALFORMED, "2 bytes"),
    "a batch header beyond its frame": (
        raw_frame(0, b"\x00\x09\x90"),
        Close.MALFORMED,
        "longer than its frame",
    ),
    "an empty batch header": (raw_frame(0, b"\x00\x00abc"), Close.MALFORMED, "batch header"),
    "a batch header of another type": (raw_frame(0, b"\x00\x01\xc0abc"), Close.MALFORMED, "batch header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_garbage_is_refused_with_its_reason(case: str) -> None:
    data, reason, detail = REFUSED[case]
    error = refusal(data)
    assert error.reason is reason
    assert error.frames == []
    assert re.search(detail, error.detail)


@pytest.mark.parametrize("case", REFUSED)
def test_garbage_in_small_pieces_is_refused_with_the_same_reason(case: str) -> None:
    data, reason, _ = REFUSED[case]
    size = 1 if len(data) < 200 else 5_000
    assert [error.reason for error in feed_hostile(data, size)] == [reason]


def test_frames_before_the_garbage_come_with_the_error_and_the_error_stays() -> None:
    reader = FrameReader(LIMIT)
    with pytest.raises(FrameError) as first:
        reader.feed(codec.encode(Hello(1, 2)) + b"\x00\x00\x00\x05\x63")
    assert first.value.frames == [Hello(1, 2)]
    with pytest.raises(FrameError) as second:
        reader.feed(codec.encode(Hello(3, 4)))
    assert second.value.reason is Close.MALFORMED
    assert second.value.frames == []
    assert reader.pending_bytes == 0


def test_a_body_may_be_longer_than_the_limit_by_the_allowance_and_no_more() -> None:
    reader = FrameReader(1_000)
    most = codec.encode_data(HEADER, bytes(1_000 + codec.BODY_ALLOWANCE_BYTES))
    assert len(reader.feed(most)) == 1
    with pytest.raises(FrameError) as caught:
        reader.feed(codec.encode_data(HEADER, bytes(1_001 + codec.BODY_ALLOWANCE_BYTES)))
    assert caught.value.reason is Close.FRAME_TOO_LARGE


def test_limits_may_be_small_until_the_other_end_is_known() -> None:
    reader = FrameReader(100, body_limit_bytes=0)
    reader.feed(codec.encode(Hello(1, 2)))
    reader.limit_bytes, reader.body_limit_bytes = 1_000, 1_000
    assert reader.feed(codec.encode_data(HEADER, b"x")) == [Data(HEADER, b"x")]
    with pytest.raises(FrameError):
        FrameReader(100, body_limit_bytes=0).feed(codec.encode_data(HEADER, b"x"))


@few
@given(
    frame=ANY_FRAME, flips=st.lists(st.integers(0, 10**6), min_size=1, max_size=3), size=st.integers(1, 99)
)
def test_flipped_bits_give_frames_or_a_frame_error(frame: Any, flips: list[int], size: int) -> None:
    damaged = bytearray(to_bytes(frame))
    for flip in flips:
        damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
    feed_hostile(bytes(damaged), size)


@few
@given(garbage=st.binary(max_size=200), kind=st.sampled_from(sorted(KINDS)), size=st.integers(1, 99))
def test_any_payload_gives_frames_or_a_frame_error(garbage: bytes, kind: int, size: int) -> None:
    feed_hostile(raw_frame(kind, garbage), size)
    feed_hostile(garbage, size)


def feed_hostile(data: bytes, size: int) -> list[FrameError]:
    """Feed pieces of `size` bytes until they end or are refused; read what comes. Anything but a FrameError fails."""
    reader = FrameReader(LIMIT)
    for at in range(0, len(data), size):
        try:
            frames = reader.feed(data[at : at + size])
        except FrameError as error:
            return [error]
        for frame in frames:
            if isinstance(frame, Data):
                read_hostile(frame.body, frame.header.count)
    return []


def read_hostile(body: bytes, count: int) -> None:
    try:
        events = codec.decode_body(body, count)
    except BodyError:
        return
    assert len(events) == count


@pytest.mark.parametrize("size", [1, 4_095, 4_096])
def test_an_unfinished_frame_takes_little_more_memory_than_its_bytes(size: int) -> None:
    total = 20_000 if size == 1 else 400_000
    frame = codec.encode_data(HEADER, bytes(total))
    reader = FrameReader(LIMIT)
    tracemalloc.start()
    try:
        for at in range(0, len(frame) - size, size):
            reader.feed(frame[at : at + size])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * total + 10_000


def test_a_length_that_is_only_promised_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        FrameReader(LIMIT).feed(LIMIT.to_bytes(4, "big") + b"\x14\x91\xdd\xff\xff\xff\xff")
        refusal(raw_frame(20, b"\x91\xdd\xff\xff\xff\xff" + b"\xc0" * 100))
        with pytest.raises(BodyError):
            codec.decode_body(b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100, 2**32 - 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000


# -- bodies ------------------------------------------------------------------------------------------------------


@few
@given(events=st.lists(EVENTS, max_size=20))
def test_a_body_gives_back_its_events_and_a_second_library_agrees(events: list[Event]) -> None:
    body = codec.encode_body(events)
    decoded = codec.decode_body(body, len(events))
    assert decoded == events
    assert all(type(event) is Event for event in decoded)
    assert msgpack.unpackb(body, use_list=False) == tuple(tuple(event) for event in events)
    assert codec.decode_body(msgpack.packb(events), len(events)) == events


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 65_535, 65_536])
def test_events_encoded_one_by_one_join_to_the_same_body(count: int) -> None:
    event = Event(1, "a/b", "", 0, None, None, b"")
    assert codec.join_body([codec.encode_event(event)] * count) == codec.encode_body([event] * count)
    assert codec.decode_body(codec.encode_body([event] * count), count) == [event] * count


GOOD = [1, "a/b", "k", 5, None, ["id", "1"], b"x"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, -1), (0, 1.0), (0, True), (0, None), (1, b"a"), (1, None), (2, 7), (3, -5), (3, "5"), (4, []), (4, ["a"]),
        (4, ["a", "b", "c", "d"]), (4, [1, 2]), (5, ["odd"]), (5, [1, 2]), (5, {}), (6, "text"), (6, None),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_or_range_spoils_the_body(place: int, value: object) -> None:
    spoilt = [*GOOD]
    spoilt[place] = value
    assert len(codec.decode_body(msgpack.packb([GOOD, GOOD]), 2)) == 2
    with pytest.raises(BodyError):
        codec.decode_body(msgpack.packb([GOOD, spoilt]), 2)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xc0", b"\xdc", b"\xdd\x00\x00", b"\x80", msgpack.packb([GOOD]), msgpack.packb([GOOD] * 3),
        msgpack.packb([GOOD] * 2) + b"\x00", msgpack.packb([GOOD] * 2)[:-1], msgpack.packb([GOOD, GOOD[:6]]),
        msgpack.packb([GOOD, [*GOOD, 1]]), b"\x92" * 100_000, b"\x92\x97\x01\xa1\xff",
    ],
)  # fmt: skip
def test_a_body_that_is_not_what_its_header_says_is_refused(body: bytes) -> None:
    with pytest.raises(BodyError):
        codec.decode_body(body, 2)


# -- remaining time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "bucket"),
    [(0, 0), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024), (1024, 1024), (1025, 2048)],
)
def test_remaining_time_is_rounded_up_to_a_power_of_two(ms: int, bucket: int) -> None:
    assert codec.remaining_bucket(ms) == bucket


@few
@given(st.integers(0, 2**64 - 1))
def test_any_remaining_time_of_a_peer_still_fits_a_header(ms: int) -> None:
    bucket = codec.remaining_bucket(ms)
    assert codec.encode_data_head(msgspec.structs.replace(HEADER, remaining_ms=bucket), 0)
    assert bucket == codec.remaining_bucket(bucket)
    if 0 < ms <= codec.BUCKET_MAX_MS:
        assert ms <= bucket < 2 * ms


def test_a_whole_membership_of_many_nodes_fits_one_frame() -> None:
    members = Members(
        tuple(
            Member(f"node-{n}", n, 0, MemberState.ALIVE, (f"10.0.0.1:{n}",), "hopmesh 0.1")
            for n in range(5_000)
        ),
        True,
    )
    assert read(codec.encode(members)) == [members]
