"""The driver of one link: moves frames between a transport and the node.

Decides when bytes are written: from the task that has them while the link is idle, by the link's one writer task while it
is not; control frames before the next data frame; what waits together goes out in one write. Decides when a peer that
does not read loses its link.
Never decides what a frame means or whether data may be sent: data is pulled from the node at the last moment, so that
batches are formed late.
Invariant: bytes leave in the order in which they were taken from the lanes; `link_lost` is called exactly once.
Source: design page "Wire and speed", rules 4 and 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.net.transport import LinkLost, Transport
from mesh.wire.codec import FrameError, FrameReader, encode
from mesh.wire.frames import CloseLink, Control, Frame

WRITE_BYTES: Final = 64 * 1024
"""A write is filled up to this: control frames, then data frames. One frame may pass it."""
READ_BYTES: Final = 256 * 1024
"""What one receive takes at most: a data frame is a little longer than 64 KiB, and a read each costs more than its bytes
(measured at a transit node: a fifth of its processor time less than with 64 KiB)."""
INLINE_WRITES: Final = 16
"""Writes from the caller's task in a row before the writer task takes over: no caller is held up longer."""
CLOSE_S: Final = 1.0
"""From `close` to the end of the connection: the control lane, the CLOSE frame and the other end's goodbye."""
OPEN_BYTES: Final = 16 * 1024
"""The longest frame of an end that has not said who it is: half-open links hold no more than this each."""

_UNTOLD: Final = frozenset({Close.PEER_CLOSED, Close.LINK_LOST})
"""Reasons that come from the other end or mean it is gone: nothing is sent back."""


class LinkHost(Protocol):
    """The node, as a link sees it. Called from the link's tasks and from whoever sends on the link."""

    def received(self, link: int, frames: list[Frame]) -> None:
        """Take in the frames of one burst. Synchronous; neither blocks nor raises."""

    def pull_data(self, link: int) -> bytes | None:
        """The next data frame to send, encoded; None when there is none or no credit."""

    def link_lost(self, link: int, reason: Close, detail: str) -> None:
        """The link is gone. Exactly once, after the last `received`."""


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Plain counts of one link since it began. blocked_s: time in which the writer waited for the transport."""

    kind: str
    remote: str
    bytes_in: int
    bytes_out: int
    frames_in: int
    control_out: int
    data_out: int
    bursts_in: int
    writes_inline: int
    writes_waited: int
    control_queued: int
    control_queued_bytes: int
    blocked_s: float


class Link:
    """One link. `run` must be running for anything but the first inline writes to leave.

    Args:
        id: this process's number of the link.
        transport: connected; owned from now on.
        accepted: a stranger dialled: until its first frame has been taken in, no frame may be longer than OPEN_BYTES.
    Cost: one system call a burst received and a write sent; no task switch while the link is idle.
    """

    def __init__(
        self, id: int, transport: Transport, host: LinkHost, limits: Limits, *, accepted: bool = False
    ) -> None:
        self.id = id
        self.transport = transport
        self._host = host
        self._limits = limits
        self._frames = FrameReader(OPEN_BYTES, OPEN_BYTES) if accepted else FrameReader(limits.frame_bytes)
        self._stranger = accepted
        self._control: deque[bytes] = deque()
        self._control_bytes = 0
        self._rest = b""  # of a write that the socket took only in part: goes before everything
        self._busy = False  # a write is under way, inline or by the writer task, or the writer was woken
        self._corked = False  # inside `received`: what the node sends meanwhile leaves together
        self._closing = False
        self._ended = False
        self._reason: Close | None = None
        self._detail = ""
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._bytes_in = self._bytes_out = self._frames_in = self._bursts_in = 0
        self._control_out = self._data_out = self._writes_inline = self._writes_waited = 0
        self._blocked_s = 0.0
        self._blocked_since: float | None = None

    # -- for the node ------------------------------------------------------------------------------------------------

    @property
    def remote(self) -> str:
        """The other end's address."""
        return self.transport.remote

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or being written here. Data may still wait in the node."""
        return not (self._busy or self._control or self._rest)

    def send(self, frame: Control) -> None:
        """Put a control frame on the control lane; written at once when the link is idle.

        On a link that is closing or gone it does nothing. Over the lane's bound the link is closed (slow_consumer).
        Cost: O(size). Never blocks, never raises.
        """
        if self._put(frame):
            self._push()

    def send_many(self, frames: Iterable[Control]) -> None:
        """As `send` for each, in one write."""
        for frame in frames:
            if not self._put(frame):
                return
        self._push()

    def data_ready(self) -> None:
        """Data waits in the node: it is pulled now if the link is idle, else when the writer is there."""
        self._push()

    def close(self, reason: Close, detail: str = "") -> None:
        """Tell the other end why, behind what is on the control lane, then end the connection within CLOSE_S.

        Frames received from now on are discarded, no data is pulled any more. The first reason stands. Never raises.
        """
        if self._closing or self._ended:
            return
        self._closing = True
        self._reason, self._detail = reason, detail
        if reason not in _UNTOLD:
            self._queue(encode(CloseLink(reason=reason.value, detail=detail)))
        self._scope.deadline = trio.current_time() + CLOSE_S
        if not self._busy:
            self._busy = True
            self._wake.set()

    def statistics(self) -> LinkStatistics:
        """Cost: O(1)."""
        blocked_s = self._blocked_s
        if self._blocked_since is not None:
            blocked_s += trio.current_time() - self._blocked_since
        return LinkStatistics(
            kind=self.transport.kind,
            remote=self.transport.remote,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            frames_in=self._frames_in,
            control_out=self._control_out,
            data_out=self._data_out,
            bursts_in=self._bursts_in,
            writes_inline=self._writes_inline,
            writes_waited=self._writes_waited,
            control_queued=len(self._control),
            control_queued_bytes=self._control_bytes,
            blocked_s=blocked_s,
        )

    async def run(self) -> None:
        """Drive the link until it is dead; then the transport is closed and `link_lost` was called.

        Raises: cancellation from outside, after cleaning up; a crash of the node's own calls, in a group.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, name=f"link {self.id} reader")
                    nursery.start_soon(self._write, name=f"link {self.id} writer")
        except Exception:
            if self._reason is None:
                self._reason, self._detail = Close.LINK_LOST, "the link's own task crashed; the log says why"
            raise
        finally:
            self._ended = True
            self.transport.abort()
            self._control.clear()
            self._rest = b""
            reason = self._reason if self._reason is not None else Close.NORMAL
            self._host.link_lost(self.id, reason, self._detail or "this end stopped the link")

    # -- inside ------------------------------------------------------------------------------------------------------

    def _put(self, frame: Control) -> bool:
        if self._closing or self._ended:
            return False
        limits = self._limits
        if (
            len(self._control) >= limits.control_queue_frames
            or self._control_bytes > limits.control_queue_bytes
        ):
            waiting = f"{len(self._control)} control frames, {self._control_bytes} bytes"
            self._end(Close.SLOW_CONSUMER, f"the other end does not read: {waiting} are waiting")
            return False
        self._queue(encode(frame))
        return True

    def _queue(self, data: bytes) -> None:
        self._control.append(data)
        self._control_bytes += len(data)

    def _end(self, reason: Close, detail: str) -> None:
        """No goodbye: `run` is cancelled and tells the node."""
        if not self._ended:
            self._ended = True
            if self._reason is None:
                self._reason, self._detail = reason, detail
            self._scope.cancel()

    def _next_write(self) -> bytes:
        """What goes out next, b"" for nothing: the rest of the last write, else control frames, then data frames."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        parts: list[bytes] = []
        size = 0
        control = self._control
        while control and size < WRITE_BYTES:
            frame = control.popleft()
            parts.append(frame)
            size += len(frame)
        if parts:
            self._control_out += len(parts)
            self._control_bytes -= size
        if not self._closing:
            while size < WRITE_BYTES:
                data = self._host.pull_data(self.id)
                if data is None:
                    break
                self._data_out += 1
                parts.append(data)
                size += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _push(self) -> None:
        """Write from the caller's task while the socket takes everything; hand what is left to the writer task."""
        if self._busy or self._corked or self._ended:
            return
        self._busy = True  # also against a node that sends from inside `pull_data`
        if self.transport.sends_now:
            try:
                for _ in range(INLINE_WRITES):
                    data = self._next_write()
                    if not data:
                        self._busy = False
                        return
                    taken = self.transport.send_now(data)
                    self._bytes_out += taken
                    self._writes_inline += 1
                    if taken < len(data):
                        self._rest = data[taken:]
                        break
            except LinkLost as lost:
                self._end(lost.reason, lost.detail)
                return
        self._wake.set()

    async def _write(self) -> None:
        transport = self.transport
        self._busy = True
        try:
            while True:
                data = self._next_write()
                if data:
                    self._blocked_since = begun = trio.current_time()
                    await transport.send(data)
                    self._blocked_s += trio.current_time() - begun
                    self._blocked_since = None
                    self._bytes_out += len(data)
                    self._writes_waited += 1
                elif self._closing:
                    await transport.send_eof()  # the reader waits for the other end's, until CLOSE_S are over
                    return
                else:
                    self._busy = False
                    await self._wake.wait()
                    self._busy = True
                    self._wake = trio.Event()
        except LinkLost as lost:
            self._end(lost.reason, lost.detail)

    async def _read(self) -> None:
        transport = self.transport
        try:
            while data := await transport.receive(READ_BYTES):
                self._bytes_in += len(data)
                if not self._closing:
                    self._take(data)
            if not self._closing:  # else the writer is saying goodbye, and ends by itself
                self._end(Close.LINK_LOST, "the other end closed the connection without saying why")
        except LinkLost as lost:
            self._end(lost.reason, lost.detail)

    def _take(self, data: bytes) -> None:
        failure: FrameError | None = None
        try:
            frames = self._frames.feed(data)
        except FrameError as error:
            failure = error
            frames = error.frames
        if frames:
            self._frames_in += len(frames)
            self._bursts_in += 1
            self._corked = True
            try:
                self._host.received(self.id, frames)
            finally:
                self._corked = False
            if self._stranger:
                self._stranger = False
                reader = FrameReader(self._limits.frame_bytes)
                self._frames.limit_bytes = reader.limit_bytes
                self._frames.body_limit_bytes = reader.body_limit_bytes
            self._push()
        if failure is not None:
            self.close(failure.reason, failure.detail)
