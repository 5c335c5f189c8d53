"""Frames and batch bodies, to bytes and back.

Decides the outer form of every frame, where one ends and the next begins, and the form of a batch body:
    frame   = u32 length of what follows | u8 kind (frames.KINDS) | payload        integers big-endian
    control = the frame's struct as a flat MessagePack array
    data    = u16 header length | BatchHeader as a flat MessagePack array | body, unchanged on every hop
    body    = MessagePack array of `count` arrays, one for each event, fields as in model.event.Event
Array of arrays was the fastest of the layouts measured (flat list, columns, array of arrays): the typed decoder builds and
checks the Event objects in one pass.
Never decides what a frame means, and never looks into a body that only passes.
Invariant: whatever bytes come in, the outcome is frames or a FrameError, in time and memory linear in what was fed.
Source: design page "Wire and speed", rules 1 to 3 and 9; the MessagePack specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, cast

import msgspec

from mesh.model.event import Event
from mesh.model.reasons import Close
from mesh.wire.frames import KINDS, BatchHeader, Control, Data, Frame

HEADER_MAX_BYTES: Final = 0xFFFF
"""Longest batch header: what its length field can say."""

BODY_ALLOWANCE_BYTES: Final = 512 * 1024
"""How much longer than the frame limit a body may be. The limit bounds one event's data; with it travel its topic, key and
attributes and the events that were in the batch before it. Without this, the largest event a node accepts would close
the link it is sent on."""

BUCKET_MAX_MS: Final = 1 << 62
"""Largest remaining time: rounding up anything a peer can send must stay inside 64 bits."""

_PREFIX: Final = Struct(">IB")
_HEADER_SIZE: Final = Struct(">H")
_DATA_HEAD: Final = Struct(">IBH")
_ARRAY_16: Final = Struct(">BH")
_ARRAY_32: Final = Struct(">BI")
_DATA_KIND: Final = 0
_COPY_BELOW_BYTES: Final = 4_096
"""Smaller pieces of an unfinished frame are copied together, so that a peer sending single bytes costs no object for each."""

_encode: Final = msgspec.msgpack.Encoder().encode
_CONTROL: Final = {
    kind: msgspec.msgpack.Decoder(struct).decode for kind, struct in KINDS.items() if kind != _DATA_KIND
}
_KIND_OF: Final = {KINDS[kind]: kind for kind in _CONTROL}
_header: Final = msgspec.msgpack.Decoder(BatchHeader).decode
_events: Final = msgspec.msgpack.Decoder(list[Event]).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoder raises on garbage: deep nesting is a RecursionError, bad text is not a DecodeError."""


class FrameError(Exception):
    """The bytes of a link are no frames. The link is dead: nothing after this point can be read.

    reason: why, for the CloseLink frame. detail: a sentence for a person. frames: whole frames that came before it.
    """

    def __init__(self, reason: Close, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.frames: list[Frame] = []


class BodyError(ValueError):
    """A batch body that does not hold the events its header promised. The batch is lost, the link is unaffected."""


class HeaderTooLargeError(ValueError):
    """A batch header longer than HEADER_MAX_BYTES: drop the batch as too_large. The link is unaffected."""


# -- writing -----------------------------------------------------------------------------------------------------


def encode(frame: Control) -> bytes:
    """The bytes of a control frame.

    Cost: about 1 us and the payload. Raises KeyError for a value that is no control frame, OverflowError or ValueError
    for numbers outside 64 bits (both are mistakes of the caller).
    """
    payload = _encode(frame)
    return _PREFIX.pack(len(payload) + 1, _KIND_OF[type(frame)]) + payload


def encode_data_head(header: BatchHeader, body_bytes: int) -> bytes:
    """Everything of a data frame that comes before its body of `body_bytes` bytes.

    For writers that join many frames at once or send one body on several links. Raises HeaderTooLargeError.
    """
    packed = _encode(header)
    size = len(packed)
    if size > HEADER_MAX_BYTES:
        raise HeaderTooLargeError(f"batch header of {size} bytes, at most {HEADER_MAX_BYTES}")
    return _DATA_HEAD.pack(size + body_bytes + 3, _DATA_KIND, size) + packed


def encode_data(header: BatchHeader, body: bytes | memoryview) -> bytes:
    """The bytes of a data frame. Cost: about 1 us and one copy of the body. Raises HeaderTooLargeError."""
    return b"".join((encode_data_head(header, len(body)), body))


def encode_body(events: Sequence[tuple[Any, ...]]) -> bytes:
    """The body of a batch of Events, or of tuples of their fields; its header's `count` must be len(events). Cost: 0.05 us an event, 0.2 with seven attributes."""
    return _encode(events)


def encode_event(event: Event) -> bytes:
    """One event as it stands in a body; `join_body` puts such pieces together. Its length is what flushing counts.

    An event for several batches is encoded once, and encoding is cheaper than adding up the lengths of its fields.
    Cost: 0.1 us, 0.35 with seven attributes.
    """
    return _encode(event)


def join_body(encoded: Sequence[bytes]) -> bytes:
    """The body that `encode_body` would make of the events that `encode_event` encoded. Cost: 0.02 us an event."""
    count = len(encoded)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 1 << 16:
        head = _ARRAY_16.pack(0xDC, count)
    else:
        head = _ARRAY_32.pack(0xDD, count)
    return b"".join((head, *encoded))


def remaining_bucket(ms: int) -> int:
    """Remaining time as batch headers carry it: the next power of two, so that events of similar deadlines share a batch.

    0 (no deadline) stays 0. Never smaller than `ms`, up to BUCKET_MAX_MS.
    """
    if ms <= 0:
        return 0
    return min(1 << (ms - 1).bit_length(), BUCKET_MAX_MS)


# -- reading -----------------------------------------------------------------------------------------------------


def decode_body(body: bytes | memoryview, count: int) -> list[Event]:
    """The events of a body, with every field of its type and in its range.

    Args: count: from the batch header; a body that holds another number is refused before it is read.
    Cost: 0.2 us an event, 1.1 with seven attributes. Raises BodyError.
    """
    if _array_length(body) != count:
        raise BodyError(f"body does not begin with an array of {count} events")
    try:
        events = _events(body)
    except _UNREADABLE as error:
        raise BodyError(f"body of {len(body)} bytes: {error}") from None
    for seq, _, _, deadline_ms, extra, attributes, _ in events:
        if seq < 0 or deadline_ms < 0:
            raise BodyError("a number of an event is negative")
        if (attributes is not None and len(attributes) & 1) or (
            extra is not None and len(extra) not in (2, 3)
        ):
            raise BodyError(
                "an event's attributes are not in pairs, or its extra fields are not two or three"
            )
    return events


def _array_length(data: bytes | memoryview) -> int:
    """Elements of the MessagePack array that `data` begins with; -1 when it begins with anything else."""
    first = data[0] if data else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first == 0xDC and len(data) >= 3:
        return int.from_bytes(data[1:3], "big")
    if first == 0xDD and len(data) >= 5:
        return int.from_bytes(data[1:5], "big")
    return -1


class FrameReader:
    """Cuts what a link delivers into frames.

    Keeps at most one unfinished frame. Pieces of it are kept as they came and joined once, so that a body is copied once
    between the receive buffer and its Data frame.
    limit_bytes: longest payload of a control frame. body_limit_bytes: longest body; by default BODY_ALLOWANCE_BYTES more.
    Both may be changed at any time: small until the other end said who it is, the configured limit afterwards.
    """

    __slots__ = ("_error", "_have", "_need", "_pieces", "body_limit_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int, body_limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.body_limit_bytes = (
            limit_bytes + BODY_ALLOWANCE_BYTES if body_limit_bytes is None else body_limit_bytes
        )
        self._pieces: list[bytes | bytearray | memoryview] = []  # of the unfinished frame
        self._have = 0  # bytes in _pieces
        self._need = 0  # bytes of the unfinished frame, its length field included; 0 while that is not known
        self._error: FrameError | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame: not 0 at the end of the stream means that it was cut short."""
        return self._have

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that are complete now.

        Args: data: what was received; anything but `bytes` is copied first, because pieces of it are kept.
        Cost: about 1 us a frame and one copy of each body.
        Raises FrameError: the link is dead; every further call raises it again.
        """
        if self._error is not None:
            self._error.frames = []
            raise self._error
        frames: list[Frame] = []
        try:
            self._cut(data if isinstance(data, bytes) else bytes(data), frames)
        except FrameError as error:
            error.frames = frames
            self._error = error
            self._pieces = []
            self._have = 0
            raise
        return frames

    def _cut(self, data: bytes, frames: list[Frame]) -> None:
        start = 0
        if self._have:
            if not self._need:  # fewer than five bytes are there: begin again with them in front
                data = b"".join((*self._pieces, data))
                self._pieces = []
                self._have = 0
            elif self._have + len(data) < self._need:
                self._keep(data, 0)
                return
            else:
                start = self._need - self._have
                frames.append(self._joined(memoryview(data)[:start]))
        end = len(data)
        while end - start >= _PREFIX.size:
            length, kind = _PREFIX.unpack_from(data, start)
            self._check(length, kind)
            stop = start + 4 + length
            if stop > end:
                self._need = stop - start
                break
            frames.append(self._whole(data, start, stop, kind))
            start = stop
        if start < end:
            self._keep(data, start)

    def _check(self, length: int, kind: int) -> None:
        """Refuse what can be refused from the first five bytes, before anything is kept for it."""
        if kind == _DATA_KIND:
            if length > self.body_limit_bytes + HEADER_MAX_BYTES + 3:
                raise FrameError(Close.FRAME_TOO_LARGE, f"data frame of {length} bytes")
            if length < 3:
                raise FrameError(Close.MALFORMED, f"data frame of {length} bytes")
        elif kind not in _CONTROL:
            raise FrameError(Close.MALFORMED, f"unknown frame kind {kind}")
        elif length > self.limit_bytes + 1:
            raise FrameError(
                Close.FRAME_TOO_LARGE, f"frame of {length} bytes, at most {self.limit_bytes + 1}"
            )
        elif length < 2:
            raise FrameError(Close.MALFORMED, f"frame of {length} bytes")

    def _keep(self, data: bytes, start: int) -> None:
        """Keep data[start:] of the unfinished frame, without a copy where it is worth a reference of its own."""
        size = len(data) - start
        self._have += size
        if size >= _COPY_BELOW_BYTES:
            self._pieces.append(memoryview(data)[start:] if start else data)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += data[start:] if start else data
        else:
            self._pieces.append(bytearray(memoryview(data)[start:]))

    def _joined(self, last: memoryview) -> Frame:
        """The unfinished frame, of which `last` is the missing piece."""
        pieces = [*self._pieces, last]
        need = self._need
        self._pieces = []
        self._have = self._need = 0
        first = pieces[0]
        if len(first) >= _DATA_HEAD.size:
            _, kind, size = _DATA_HEAD.unpack_from(first)
            body_at = _DATA_HEAD.size + size
            if kind == _DATA_KIND and len(first) >= body_at:
                packed = bytes(memoryview(first)[_DATA_HEAD.size : body_at])
                pieces[0] = memoryview(first)[body_at:]
                return self._data(packed, b"".join(pieces), need - body_at)
        data = b"".join(pieces)
        return self._whole(data, 0, need, data[4])

    def _whole(self, data: bytes, start: int, stop: int, kind: int) -> Frame:
        """The frame in data[start:stop]."""
        if kind == _DATA_KIND:
            (size,) = _HEADER_SIZE.unpack_from(data, start + _PREFIX.size)
            body_at = start + _DATA_HEAD.size + size
            return self._data(data[start + _DATA_HEAD.size : body_at], data[body_at:stop], stop - body_at)
        try:
            return cast(Control, _CONTROL[kind](data[start + _PREFIX.size : stop]))
        except _UNREADABLE as error:
            raise FrameError(Close.MALFORMED, f"{KINDS[kind].__name__} frame: {error}") from None

    def _data(self, packed: bytes, body: bytes, body_bytes: int) -> Data:
        if body_bytes < 0:
            raise FrameError(Close.MALFORMED, "batch header is longer than its frame")
        if body_bytes > self.body_limit_bytes:
            raise FrameError(
                Close.FRAME_TOO_LARGE, f"body of {body_bytes} bytes, at most {self.body_limit_bytes}"
            )
        try:
            return Data(_header(packed), body)
        except _UNREADABLE as error:
            raise FrameError(Close.MALFORMED, f"batch header: {error}") from None
