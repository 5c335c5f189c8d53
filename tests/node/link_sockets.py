"""Openings, frames and connected ends for the tests of WebSockets that carry links."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from mesh.net.link_websocket import (
    LINK_PATH,
    LINK_SUBPROTOCOL,
    WebSocketTransport,
    accept_link,
    dial_link,
)
from mesh.net.memory import pair
from mesh.net.tcp import TcpTransport
from mesh.net.transport import LinkLost, Transport

OPENING = (
    f"GET {LINK_PATH} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Protocol: {LINK_SUBPROTOCOL}\r\n\r\n"
).encode()


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A masked frame, with a mask of zeros."""
    head = bytes([(0x80 if final else 0) | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + b"\0\0\0\0" + payload


def connected() -> tuple[TcpTransport, TcpTransport]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    return TcpTransport(client), TcpTransport(accepted)


@asynccontextmanager
async def both() -> AsyncIterator[tuple[WebSocketTransport, WebSocketTransport]]:
    client, server = connected()
    opened: list[WebSocketTransport] = []
    done = trio.Event()

    async def accept(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        async with accept_link(server, await server.receive(), 5) as link:
            opened.append(link)
            await done.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(accept)
        async with dial_link(client, "h:1", 5) as link:
            await trio.testing.wait_all_tasks_blocked()
            yield link, opened[0]
            link.abort()
            done.set()


async def accepted(transport: Transport, timeout_s: float = 5.0) -> str:
    """What became of an accepted connection that is read to its end: a sentence, or "end"."""
    try:
        first = await transport.receive()
        async with accept_link(transport, first, timeout_s) as link:
            while await link.receive():
                pass
            return "end"
    except LinkLost as lost:
        return lost.detail


async def outcome(
    sent: bytes, *, opened: bytes = b"", half_close: bool = True, timeout_s: float = 5.0
) -> tuple[str, bytes]:
    """Send this, then `opened` when the opening was answered; return what became of it and what was answered."""
    client, server = pair(buffer_bytes=16 << 20)
    results: list[str] = []
    answered = b""

    async def run() -> None:
        results.append(await accepted(server, timeout_s))
        server.abort()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await client.send(sent)
        try:
            if opened:
                while b"\r\n\r\n" not in answered:
                    answered += await client.receive()
                await client.send(opened)
            if half_close:
                await client.send_eof()
            while data := await client.receive():
                answered += data
        except LinkLost:
            pass
    return results[0], answered
