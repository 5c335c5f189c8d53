"""The guard counts small frames, and sees the same however the bytes are cut."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.net.websocket_guard import SMALL_FRAMES, FrameGuard

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def frame(opcode: int, size: int, *, final: bool = True, masked: bool = True) -> bytes:
    first = bytes([(0x80 if final else 0) | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([bit | size])
    elif size < 65536:
        head = bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head = bytes([bit | 127]) + struct.pack(">Q", size)
    return first + head + (b"mask" if masked else b"") + b"\x09" * size


@pytest.mark.parametrize(
    "flood",
    [
        frame(0, 0, final=False),
        frame(9, 4),
        frame(10, 125),
        frame(2, 0, final=False),
        frame(0, 511, final=False),
    ],
)
def test_small_frames_without_a_whole_message_are_stopped(flood: bytes) -> None:
    guard = FrameGuard(client=False)
    assert guard.feed(HEAD + flood * SMALL_FRAMES) == ""
    assert guard.feed(flood) == "101 small frames without a whole message"


def test_a_whole_message_begins_the_count_again() -> None:
    guard = FrameGuard(client=False)
    data = HEAD + (frame(9, 0) * SMALL_FRAMES + frame(2, 1)) * 20
    assert guard.feed(data) == ""


def test_large_fragments_are_not_counted() -> None:
    guard = FrameGuard(client=False)
    assert guard.feed(HEAD + frame(0, 512, final=False) * 2000 + frame(0, 70_000, final=False)) == ""


def test_only_101_is_followed_by_frames_at_the_dialling_end() -> None:
    flood = frame(9, 0, masked=False) * 1000
    assert FrameGuard(client=True).feed(b"HTTP/1.1 404 Not Found\r\n\r\n" + flood) == ""
    assert FrameGuard(client=True).feed(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + flood) != ""


STREAM = (
    HEAD
    + frame(9, 5) * 50
    + frame(2, 200)
    + frame(1, 70_000)
    + frame(0, 600, final=False)
    + frame(9, 0) * 100
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_count_is_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    guard = FrameGuard(client=False)
    for begin, end in pairwise([0, *sorted(cuts), len(STREAM)]):
        assert guard.feed(STREAM[begin:end]) == ""
    assert guard.feed(frame(9, 0)) != ""


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_never_raises(pieces: list[bytes]) -> None:
    guard = FrameGuard(client=False)
    guard.feed(HEAD)
    for piece in pieces:
        guard.feed(piece)
