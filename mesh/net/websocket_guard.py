"""What a WebSocket library must be spared: floods of tiny frames that carry nothing.

An empty fragment or a ping of six bytes costs the library 50 us without a pause for other tasks, and each fragment is
kept. So frame headers are walked through before the library sees them, and small frames are counted until a message is whole.
Decides when that is too much. Never looks at what frames carry, and leaves every other check to the library.
Invariant: between two whole messages at most SMALL_FRAMES frames under SMALL_BYTES pass.
Source: RFC 6455 section 5.2.
"""

from __future__ import annotations

from typing import Final

SMALL_BYTES: Final = 512
SMALL_FRAMES: Final = 100
_HEADER_BYTES: Final = 14
_HEAD_END: Final = b"\r\n\r\n"
_SWITCHED: Final = b"HTTP/1.1 101"


class FrameGuard:
    """Walks over one direction of a connection, from its HTTP head on.

    Args:
        client: this is the dialling end: the head is an answer, and only 101 is followed by frames.
    """

    def __init__(self, *, client: bool) -> None:
        self._client = client
        self._head: bytearray | None = bytearray()  # what is needed of it: its beginning, and where it ends
        self._skip = 0  # payload bytes left of the frame under way
        self._part = b""  # of a frame header that was cut
        self._small = 0
        self._off = False

    def feed(self, data: bytes) -> str:
        """Look at what was received. Returns: what is wrong, as a sentence; "" when nothing is. Cost: O(frames)."""
        position = 0
        if self._off:
            return ""
        if self._head is not None:
            position = self._skip_head(data)
        size = len(data)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                position += step
                self._skip -= step
                continue
            header = self._part + data[position : position + _HEADER_BYTES - len(self._part)]
            need = _header_bytes(header)
            if need == 0:
                self._part = header
                return ""
            position += need - len(self._part)
            self._part = b""
            self._count(header)
            if self._small > SMALL_FRAMES:
                return f"{self._small} small frames without a whole message"
        return ""

    def _skip_head(self, data: bytes) -> int:
        """Where the frames begin in `data`; its length while the head is not over."""
        assert self._head is not None
        before = len(self._head)
        self._head += data
        end = self._head.find(_HEAD_END, max(0, before - len(_HEAD_END)))
        if end < 0:
            return len(data)  # the library bounds the head
        self._off = self._client and not self._head.startswith(_SWITCHED)
        self._head = None
        return len(data) if self._off else end + len(_HEAD_END) - before

    def _count(self, header: bytes) -> None:
        length = header[1] & 0x7F
        if length == 126:
            length = int.from_bytes(header[2:4], "big")
        elif length == 127:
            length = int.from_bytes(header[2:10], "big")
        self._skip = length
        if header[0] & 0x80 and header[0] & 0x0F < 8:
            self._small = 0
        elif length < SMALL_BYTES:
            self._small += 1


def _header_bytes(header: bytes) -> int:
    """Length of the frame header that `header` begins with; 0 while it is not whole."""
    if len(header) < 2:
        return 0
    need = 2 + (4 if header[1] & 0x80 else 0)
    length = header[1] & 0x7F
    if length == 126:
        need += 2
    elif length == 127:
        need += 8
    return need if len(header) >= need else 0
