"""A link inside a WebSocket, where only HTTP passes: frames run through binary messages as through a stream.

Decides the path and subprotocol of links, and how messages become bytes again: message borders mean nothing, a frame may
span several and several may share one.
Never knows frames.
Invariant: as Transport's.
Source: design page "Wire and speed", rule 10.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from mesh.net.transport import READ_BYTES, LinkLost, Transport, TransportStream
from mesh.net.websocket import WebSocket, accept_websocket, open_websocket

LINK_PATH: Final = "/v1/link"
LINK_SUBPROTOCOL: Final = "mesh.link.1"
MESSAGE_BYTES: Final = 1 << 20
"""The largest message accepted."""
SEND_BYTES: Final = 256 * 1024
"""The largest message sent."""


class WebSocketTransport:
    """A link's bytes inside binary messages. Keeps: Transport; it never sends from the caller's task."""

    kind = "ws"
    sends_now = False

    def __init__(self, websocket: WebSocket) -> None:
        self.remote = websocket.remote
        self.certificate = websocket.certificate
        self._websocket = websocket
        self._kept = b""

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """See Transport."""
        data = self._kept
        if data:
            await trio.lowlevel.checkpoint()
        while not data:
            message = await self._websocket.receive()
            if message is None:
                return b""
            if isinstance(message, str):
                raise LinkLost("a text message came on a link")
            data = message
        self._kept = data[most:]
        return data[:most] if self._kept else data

    async def send(self, data: bytes) -> None:
        """See Transport."""
        if len(data) <= SEND_BYTES:
            await self._websocket.send(data)
            return
        for begin in range(0, len(data), SEND_BYTES):
            await self._websocket.send(data[begin : begin + SEND_BYTES])

    def send_now(self, data: bytes) -> int:
        """Always 0: a message is framed and masked by the library, behind its own lock."""
        return 0

    async def send_eof(self) -> None:
        """See Transport: the closing handshake. What the other end still sends is discarded."""
        await self._websocket.close()

    async def aclose(self) -> None:
        """See Transport."""
        await self._websocket.close()
        self.abort()

    def abort(self) -> None:
        """See Transport."""
        self._websocket.abort()


@asynccontextmanager
async def accept_link(
    transport: Transport, first: bytes, timeout_s: float
) -> AsyncIterator[WebSocketTransport]:
    """The accepting end: receive the opening, answer it, close when the body ends.

    Args:
        first: bytes received already.
    Raises: LinkLost when the other end wants something else than a link (it is told 404), is a web page (403: no node
        names an origin, and every page of a browser reaches this port), breaks the protocol, goes
        away or needs more than `timeout_s`.
    """
    stream = TransportStream(transport, first)
    async with accept_websocket(stream, timeout_s=timeout_s, message_bytes=MESSAGE_BYTES) as opening:
        if any(name.lower() == b"origin" for name, _ in opening.headers):
            await opening.refuse(403, b"Web pages do not speak on links.\n")
            raise LinkLost("a web page asked for a link")
        if opening.target != LINK_PATH or LINK_SUBPROTOCOL not in opening.subprotocols:
            await opening.refuse(404, b"This port carries links between nodes.\n")
            raise LinkLost(f"a web client asked the link port for {opening.target!r}")
        yield WebSocketTransport(await opening.accept(LINK_SUBPROTOCOL))


@asynccontextmanager
async def dial_link(transport: Transport, host: str, timeout_s: float) -> AsyncIterator[WebSocketTransport]:
    """The dialling end: open the WebSocket, close it when the body ends.

    Args:
        transport: a fresh connection, owned from now on.
        host: the Host header, "HOST:PORT".
    Raises: LinkLost when the other end refuses, speaks something else or needs more than `timeout_s`.
    """
    stream = TransportStream(transport)
    async with open_websocket(
        stream, host, LINK_PATH, LINK_SUBPROTOCOL, timeout_s=timeout_s, message_bytes=MESSAGE_BYTES
    ) as websocket:
        yield WebSocketTransport(websocket)
