"""What carries a link or a client connection: a stream of bytes in both directions, whatever is below.

Decides the interface that links, the HTTP engine and WebSockets drive, and how a broken connection is told: always as
`LinkLost` with a sentence. Never knows frames, requests or nodes.
Invariant: one task receives and one task sends at a time; `send_now` is called only while no `send` runs.
Source: design page "Wire and speed", rules 4, 7 and 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio

from mesh.model.certificate import PeerCertificate
from mesh.model.reasons import Close

READ_BYTES: Final = 64 * 1024
"""The most one `receive` returns unless asked for more (wire.md, rule 4)."""
LINGER_BYTES: Final = 4 << 20
"""The most `linger` reads from an end that has been told to go."""


class LinkLost(Exception):
    """The connection is gone, or could not be made. detail: a sentence for a person, without a full stop. reason: how a link that
    ends by it is closed."""

    def __init__(self, detail: str, reason: Close = Close.LINK_LOST) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason


class Transport(Protocol):
    """A connected byte stream.

    kind: "tcp", "ws" or "memory". remote: the other end's address for logs and lists. sends_now: whether `send_now` may
    ever take bytes; a link does not bother to try otherwise. certificate: what the other end proved to be; None without TLS.
    Whoever sent a part of something with `send_now` sends the rest of it next, with either call.
    """

    kind: str
    remote: str
    sends_now: bool
    certificate: PeerCertificate | None

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """The next bytes, at most `most`; b"" at the end of the stream. A checkpoint; cancelled, it loses no bytes.

        Raises: LinkLost on a reset; link dead.
        """
        ...

    async def send(self, data: bytes) -> None:
        """Hand over all of `data`, waiting while the other end does not read. A checkpoint.

        Cancelled, it leaves an unknown part of `data` sent: the caller gives the connection up.
        Raises: LinkLost; link dead.
        """
        ...

    def send_now(self, data: bytes) -> int:
        """How many bytes were taken without waiting; 0 if it would block. Raises: LinkLost; link dead."""
        ...

    async def send_eof(self) -> None:
        """Nothing more will be sent; the other end reads b"" after what is under way. Never raises."""
        ...

    async def aclose(self) -> None:
        """End the connection; bytes handed over before are still delivered where the other end reads. Never raises."""
        ...

    def abort(self) -> None:
        """End the connection at once; whoever waits in `receive` or `send` gets LinkLost. Idempotent, never raises."""
        ...


async def linger(transport: Transport, seconds: float = 1.0) -> None:
    """Say goodbye so that the other end can read the last words, then close.

    A socket closed with bytes unread sends a reset, and a reset destroys what the other end has not read yet. So: end
    our half, read and discard until the other end closes too, bounded in time (`seconds`) and in bytes (LINGER_BYTES).
    Effects: the transport is closed; what was sent is still delivered to a client that reads slowly.
    Never raises, but for cancellation. Cost: O(bytes discarded).
    """
    try:
        with trio.move_on_after(seconds):
            await transport.send_eof()
            left = LINGER_BYTES
            while left > 0:
                data = await transport.receive()
                if not data:
                    break
                left -= len(data)
        await transport.aclose()
    except LinkLost:
        pass
    finally:
        transport.abort()  # nothing, unless the connection broke or this task was cancelled


class TransportStream(trio.abc.Stream):
    """A transport in the clothes of a trio Stream, for libraries that drive one (trio-websocket, TLS).

    Args:
        first: bytes to hand out before anything is received: what was read to find out which protocol is spoken.
    `guard` sees what is received before the library does, and breaks the stream by returning a sentence. `when_ended` is
    called once when nothing more can be received, also because this stream was closed: a library that waits for an answer
    that can no longer come is woken that way.
    """

    def __init__(self, transport: Transport, first: bytes = b"") -> None:
        self.transport = transport
        self.guard: Callable[[bytes], str] | None = None
        self.when_ended: Callable[[], object] | None = None
        self.ended = False
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio's. Raises trio.BrokenResourceError where the transport raises LinkLost."""
        if self._first:
            data, self._first = self._first, b""
            await trio.lowlevel.checkpoint()
        else:
            try:
                data = await self.transport.receive(max_bytes or READ_BYTES)
            except LinkLost as lost:
                self.end()
                raise trio.BrokenResourceError(lost.detail) from None
        if not data:
            self.end()
        elif self.guard is not None and (wrong := self.guard(data)):
            self.end()
            raise trio.BrokenResourceError(wrong)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As trio's. Raises trio.BrokenResourceError where the transport raises LinkLost."""
        try:
            await self.transport.send(data if isinstance(data, bytes) else bytes(data))
        except LinkLost as lost:
            raise trio.BrokenResourceError(lost.detail) from None

    async def wait_send_all_might_not_block(self) -> None:
        """As trio's, without knowing: it returns at once."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the transport below."""
        self.end()
        await self.transport.aclose()

    def end(self) -> None:
        """Nothing more will be received here. Idempotent."""
        if not self.ended:
            self.ended = True
            if self.when_ended is not None:
                self.when_ended()
