"""The frames as values: their kinds, which are for ever, and what every one of them keeps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from mesh.wire import frames
from mesh.wire.frames import (
    INFINITY,
    KINDS,
    BatchHeader,
    CloseLink,
    Control,
    Data,
    Flag,
    Hello,
    Leg,
    LinkKind,
    Member,
    MemberState,
    Open,
    RouteUpdate,
    Scope,
)

PARTS = (BatchHeader, Member, RouteUpdate)
"""Frames' parts: they have no kind of their own."""
FRAMES = [
    one
    for _, one in inspect.getmembers(frames, inspect.isclass)
    if issubclass(one, msgspec.Struct) and not one.__name__.startswith("_")
]


def test_kinds_fit_their_byte_and_only_one_is_data() -> None:
    assert all(0 <= kind <= 255 for kind in KINDS)
    assert len(set(KINDS.values())) == len(KINDS)
    assert KINDS[0] is Data


def test_a_kind_once_given_keeps_its_number() -> None:
    """Nodes of another release know them by it. A new frame gets a new line here; no line changes."""
    given = {
        "Data": 0,
        "Open": 1,
        "CloseLink": 2,
        "Hello": 3,
        "Heard": 4,
        "Ack": 5,
        "CustodyAck": 6,
        "Probe": 16,
        "ProbeAck": 17,
        "ProbeRequest": 18,
        "ProbeNack": 19,
        "Gossip": 20,
        "Members": 21,
        "Digest": 32,
        "Delta": 33,
        "Pull": 34,
        "Held": 35,
        "Routes": 48,
        "RoutesAck": 49,
        "RoutesDigest": 50,
        "RoutesPull": 51,
        "SeqnoRequest": 52,
        "Copy": 64,
        "CopyAck": 65,
        "CopiesHeld": 66,
        "CopiesOwed": 67,
        "CopiedClient": 68,
    }
    assert {frame.__name__: kind for kind, frame in KINDS.items()} == given


def test_every_frame_has_a_kind_and_every_one_but_data_is_a_control_frame() -> None:
    assert {*KINDS.values()} == {*FRAMES} - {*PARTS}
    assert {*get_args(Control)} == {*KINDS.values()} - {Data}


def numbers(hint: Any) -> Iterator[Any]:
    """The number types inside a field's type."""
    if get_origin(hint) is Annotated or hint in (int, float):
        yield hint
    else:
        for inner in get_args(hint):
            yield from numbers(inner)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_no_number_of_a_frame_may_be_negative(frame: type[msgspec.Struct]) -> None:
    for name, hint in get_type_hints(frame, include_extras=True).items():
        for number in numbers(hint):
            with pytest.raises(msgspec.ValidationError):
                msgspec.msgpack.decode(msgspec.msgpack.encode(-1), type=number)
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(0), type=number) == 0, name


@pytest.mark.parametrize(
    "frame",
    [
        Hello(1, 2),
        CloseLink("limit", ""),
        Member("n1", 1, 2, MemberState.ALIVE),
        BatchHeader(Leg.BRIDGE, 0, "eu", "n", 1, ("us",), 0, 9, 0, (), 1, 1),
    ],
)
def test_a_frame_is_a_flat_array_and_not_changed_once_it_is_made(frame: Any) -> None:
    flat = msgspec.msgpack.decode(msgspec.msgpack.encode(frame))
    assert len(flat) == len(frame.__struct_fields__)
    assert flat[0] == getattr(frame, frame.__struct_fields__[0])
    with pytest.raises(AttributeError):
        setattr(frame, frame.__struct_fields__[0], None)


@pytest.mark.parametrize(("enum", "field"), [(LinkKind, 7), (None, 0)])
def test_a_value_outside_a_closed_set_is_refused(enum: type[IntEnum] | None, field: int) -> None:
    opening = Open(1, "x", "eu", "n", "i", 1, 2, LinkKind.PEER, "", "", 0, "", 1, 1)
    values = list(msgspec.msgpack.decode(msgspec.msgpack.encode(opening)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(values), type=Open) == opening
    values[field] = 99 if enum else "one"
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(values), type=Open)


def test_flags_are_bits_of_their_own() -> None:
    bits = [int(flag) for flag in Flag if flag is not Flag.NONE]
    assert all(bit & (bit - 1) == 0 < bit for bit in bits)
    assert len(set(bits)) == len(bits)
    assert Flag.NONE == 0


def test_the_order_of_a_members_states_is_which_belief_wins() -> None:
    assert MemberState.ALIVE < MemberState.SUSPECT < MemberState.DEAD < MemberState.LEFT
    assert [int(one) for enum in (LinkKind, Scope, Leg) for one in enum] == [1, 2, 1, 2, 1, 2, 3]


def test_no_metric_of_a_route_is_as_far_as_a_retraction() -> None:
    assert INFINITY == 2**32 - 1
