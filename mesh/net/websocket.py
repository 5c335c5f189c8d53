"""WebSockets over any transport: a safe way in and out of trio-websocket for links and for clients.

Decides how a WebSocket is opened, bounded and closed. The library waits forever for an opening whose client has gone, lets
one client's crash end a whole server, and keeps fragments without bound; here each connection has its own nursery, a
deadline, and a guard against floods of small frames.
Never knows what the messages say.
Invariant: whatever the other end sends, what comes out is a message, the end, or LinkLost.
Source: design pages "Wire and speed" (rules 4, 10) and "Dependencies" (runtime); RFC 6455.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, TypeVar, cast

import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    WebSocketRequest,
    wrap_client_stream,
    wrap_server_stream,
)
from wsproto.utilities import ProtocolError

from mesh.net.supervise import unwrapped
from mesh.net.transport import LinkLost, TransportStream
from mesh.net.websocket_guard import FrameGuard

RECEIVE_BYTES: Final = 256 * 1024
"""trio-websocket's own 4 KiB are three times slower (wire.md, rule 4)."""
CLOSE_S: Final = 1.0
"""Time for the closing handshake, and for a refused client to read why."""

T = TypeVar("T")


class WebSocket:
    """An open WebSocket. One task receives; any task may send (a frame is written whole, in the order of the calls)."""

    def __init__(self, connection: WebSocketConnection, stream: TransportStream) -> None:
        self.remote = stream.transport.remote
        self.certificate = stream.transport.certificate
        self.subprotocol: str | None = connection.subprotocol
        self._connection = connection
        self._stream = stream

    async def receive(self) -> str | bytes | None:
        """The next message; None when the other end closed in order. Raises: LinkLost; connection dead."""
        try:
            message: str | bytes = await self._connection.get_message()
        except ConnectionClosed as closed:
            if closed.reason is not None and closed.reason.code in (1000, 1001, 1005):
                return None
            raise LinkLost(_why(closed)) from None
        return message

    async def send(self, message: str | bytes) -> None:
        """Send one message, waiting while the other end does not read. Raises: LinkLost; connection dead."""
        try:
            await self._connection.send_message(message)
        except (ConnectionClosed, ProtocolError) as closed:
            raise LinkLost(_why(closed)) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """The closing handshake, at most CLOSE_S long. What the other end still sends is discarded. Never raises.

        reason: cut to the 123 bytes a close frame carries.
        """
        text = reason.encode()[:123].decode(errors="ignore")
        try:
            with trio.move_on_after(CLOSE_S):
                await self._connection.aclose(code, text or None)
        except ProtocolError:
            pass  # closed by the other end between our look at it and the frame

    def abort(self) -> None:
        """End the connection at once. Never raises."""
        self._stream.transport.abort()


class Opening:
    """A client's opening request, to be accepted or refused once."""

    def __init__(self, request: WebSocketRequest, stream: TransportStream) -> None:
        self.target: str = request.path
        self.subprotocols: tuple[str, ...] = request.proposed_subprotocols
        self.headers: list[tuple[bytes, bytes]] = request.headers
        self._request = request
        self._stream = stream

    async def accept(self, subprotocol: str | None = None) -> WebSocket:
        """Answer 101. Raises: LinkLost; connection dead."""
        try:
            connection = await self._request.accept(subprotocol=subprotocol)
            return WebSocket(connection, self._stream)
        except (ConnectionClosed, ProtocolError) as closed:
            raise LinkLost(_why(closed)) from None

    async def refuse(self, status: int, body: bytes) -> None:
        """Answer with an HTTP status and a body, and give the client a moment to read it. Never raises."""
        try:
            with trio.move_on_after(CLOSE_S):
                await self._request.reject(status, body=body)
                ended = trio.Event()
                self._stream.when_ended = ended.set
                await self._stream.transport.send_eof()
                if not self._stream.ended:
                    await ended.wait()
        except (ConnectionClosed, ProtocolError):
            pass  # it did not wait for the answer


@asynccontextmanager
async def accept_websocket(
    stream: TransportStream, *, timeout_s: float, message_bytes: int
) -> AsyncIterator[Opening]:
    """Receive a client's opening for the body to accept or refuse; the connection is closed when the body ends.

    Args:
        timeout_s: for the opening to arrive whole.
        message_bytes: the largest message the client may send; a larger one closes with 1009.
    Raises: LinkLost when no opening arrives or the other end breaks the protocol; what the body raises, unchanged.
    """
    stream.guard = FrameGuard(client=False).feed
    with unwrapped():
        async with trio.open_nursery() as nursery:
            reader = _Reader(nursery, stream)
            wrap = partial(
                wrap_server_stream,
                cast(trio.Nursery, reader),
                stream,
                max_message_size=message_bytes,
                receive_buffer_size=RECEIVE_BYTES,
            )
            try:
                request = await reader.opening(timeout_s, wrap)
                yield Opening(request, stream)
                await _leave(request._connection)
            finally:
                stream.transport.abort()
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_websocket(
    stream: TransportStream, host: str, target: str, subprotocol: str, *, timeout_s: float, message_bytes: int
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket over a fresh connection; it is closed when the body ends.

    Args:
        host: the Host header, "HOST:PORT".
    Raises: LinkLost when the other end refuses, chooses no or another subprotocol, or takes too long; what the body
        raises, unchanged.
    """
    stream.guard = FrameGuard(client=True).feed
    with unwrapped():
        async with trio.open_nursery() as nursery:
            reader = _Reader(nursery, stream)
            wrap = partial(
                wrap_client_stream,
                cast(trio.Nursery, reader),
                cast(
                    trio.SocketStream, stream
                ),  # it says so, but any stream does: it is never asked for its socket
                host,
                target,
                subprotocols=[subprotocol],
                max_message_size=message_bytes,
                receive_buffer_size=RECEIVE_BYTES,
            )
            try:
                connection = await reader.opening(timeout_s, wrap)
                if connection.subprotocol != subprotocol:
                    raise LinkLost(f"the other end speaks WebSocket, but not {subprotocol}")
                yield WebSocket(connection, stream)
                await _leave(connection)
            finally:
                stream.transport.abort()
                nursery.cancel_scope.cancel()


class _Reader:
    """Stands in for the nursery that the library starts its reader task in: what that task raises ends here.

    It raises errors of three libraries on what a hostile end sends; in the nursery of the connection they would hide
    what the connection's owner does.
    """

    def __init__(self, nursery: trio.Nursery, stream: TransportStream) -> None:
        self._nursery = nursery
        self._stream = stream
        self._failure = ""

    def start_soon(self, task: Callable[[], Awaitable[object]]) -> None:
        self._nursery.start_soon(self._run, task, name=f"websocket {self._stream.transport.remote}")

    async def _run(self, task: Callable[[], Awaitable[object]]) -> None:
        try:
            await task()
        except ConnectionRejected as refused:
            self._failure = f"the other end refused the WebSocket with HTTP status {refused.status_code}"
        except Exception as error:
            self._failure = f"the other end broke the WebSocket protocol: {error}"
        finally:
            self._stream.end()

    async def opening(self, timeout_s: float, wrap: Callable[[], Awaitable[T]]) -> T:
        """Wait for the opening handshake, but no longer than the reader lives: the library would wait forever."""
        stream = self._stream
        with trio.move_on_after(timeout_s) as scope:
            stream.when_ended = scope.cancel
            opened = await wrap()
            stream.when_ended = None
            return opened
        if self._failure:
            raise LinkLost(self._failure)
        if stream.ended:
            raise LinkLost("the other end closed the connection during the WebSocket opening")
        raise LinkLost(f"no WebSocket opening within {timeout_s:g} s")


async def _leave(connection: WebSocketConnection) -> None:
    with trio.move_on_after(CLOSE_S), suppress(ProtocolError):
        await connection.aclose()


def _why(closed: ConnectionClosed | ProtocolError) -> str:
    reason = closed.reason if isinstance(closed, ConnectionClosed) else None
    if reason is None or reason.code == 1006:
        return "the WebSocket connection was lost"
    text = f": {reason.reason}" if reason.reason else ""
    return f"the WebSocket was closed with code {reason.code}{text}"
