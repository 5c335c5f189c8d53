"""An events port on a real socket before a FakeService, and plain clients of it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio
import trio_websocket
from node.fake_service import FakeService

from mesh.model.event import NewEvent
from mesh.model.limits import Limits
from mesh.net.http import HttpServer
from mesh.net.listener import open_listener
from mesh.net.supervise import Crashes
from mesh.protocols.serve import serve_events

WEBSOCKET_KEY = base64.b64encode(b"0123456789abcdef").decode()

ATTRIBUTES = ("specversion", "1.0", "id", "1", "source", "/s", "type", "t", "datacontenttype", "text/plain")


def binary(topic: str, data: bytes) -> NewEvent:
    """An event published in the binary form."""
    return NewEvent(topic, "", 0, ATTRIBUTES, data)


@dataclass
class Port:
    service: FakeService
    server: HttpServer
    crashes: Crashes
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> RawClient:
        return RawClient(await trio.open_tcp_stream("127.0.0.1", self.port))

    @asynccontextmanager
    async def websocket(
        self, path: str = "/v1/ws", subprotocol: str = "mesh.v1.json"
    ) -> AsyncIterator[trio_websocket.WebSocketConnection]:
        url = f"ws://127.0.0.1:{self.port}{path}"
        async with trio_websocket.open_websocket_url(
            url, subprotocols=[subprotocol], max_message_size=1 << 26, receive_buffer_size=1 << 18
        ) as socket:
            yield socket

    async def refused(self, reason: str) -> None:
        await self.service.until(lambda: self.service.refusals[("events", reason)])


class RawClient:
    """A socket, and just enough to write requests and read answers by hand."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """What came up to and with `end`."""
        while end not in self.buffer:
            data = await self.stream.receive_some()
            assert data, f"the stream ended before {end!r}: {self.buffer!r}"
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(end)
        return found + end

    async def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = await self.stream.receive_some()
            assert data, f"the stream ended before {size} bytes: {self.buffer!r}"
            self.buffer += data
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    async def rest(self) -> bytes:
        """Everything until the other end closes; a reset ends it too."""
        try:
            while data := await self.stream.receive_some():
                self.buffer += data
        except trio.BrokenResourceError:
            pass
        return self.buffer

    async def call(
        self, method: str, target: str, body: bytes = b"", *headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: test",
            f"Content-Length: {len(body)}",
            *headers,
            "",
            "",
        ]
        await self.send("\r\n".join(lines).encode() + body)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, *lines = (await self.until(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(status.split()[1]), headers, await self.exactly(int(headers.get("content-length", "0")))

    async def upgrade(
        self, target: str = "/v1/ws", subprotocol: str = "mesh.v1.json"
    ) -> tuple[int, dict[str, str], bytes]:
        await self.send(upgrade_request(target, subprotocol))
        return await self.answer()

    async def frame(self) -> tuple[int, bytes]:
        """One frame of the serving end: opcode and payload."""
        first, length = await self.exactly(2)
        assert first & 0x80
        assert length < 128, "frames of the serving end are not masked"
        if length >= 126:
            length = int.from_bytes(await self.exactly(2 if length == 126 else 8), "big")
        return first & 0x0F, await self.exactly(length)

    async def close_frame(self) -> tuple[int, str]:
        """Skip to the close frame: code and reason."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    # -- Server-Sent Events -----------------------------------------------------------------------------

    async def subscribe(self, query: str, *headers: str) -> None:
        lines = [f"GET /v1/events?{query} HTTP/1.1", "Host: t", "Accept: text/event-stream", *headers]
        await self.send("\r\n".join([*lines, "", ""]).encode())
        head = await self.until(b"\r\n\r\n")
        assert b" 200 " in head, head + self.buffer
        assert b"text/event-stream" in head

    async def event(self) -> dict[str, Any]:
        """The next event of the stream; data decoded, comments under ":"."""
        found: dict[str, Any] = {}
        while True:
            chunk_end = await self._line()
            if not chunk_end:
                break
            name, _, value = chunk_end.partition(":")
            value = value.removeprefix(" ")
            found[name] = f"{found[name]}\n{value}" if name in found else value
        if "data" in found:
            found["data"] = json.loads(found["data"])
        return found

    async def _line(self) -> str:
        while b"\n" not in self._text:
            size = int((await self.until(b"\r\n")).strip(), 16)
            if not size:
                raise EOFError
            self._text += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    _text = b""


def upgrade_request(
    target: str, subprotocol: str, *more: str, key: str = WEBSOCKET_KEY, version: str = "13"
) -> bytes:
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: test",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Version: {version}",
        f"Sec-WebSocket-Protocol: {subprotocol}",
        *more,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A client's frame."""
    mask = b"\x11\x22\x33\x44"
    if len(payload) < 126:
        size = bytes((0x80 | len(payload),))
    elif len(payload) < 65_536:
        size = b"\xfe" + len(payload).to_bytes(2, "big")
    else:
        size = b"\xff" + len(payload).to_bytes(8, "big")
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    body = (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")
    return bytes(((0x80 if fin else 0) | opcode,)) + size + mask + body


@asynccontextmanager
async def events_port(service: FakeService | None = None, **limits: Any) -> AsyncIterator[Port]:
    """A served events port; at the end no request may have crashed."""
    service = service or FakeService()
    listener = await open_listener("listen.events", "127.0.0.1:0")
    crashes = Crashes()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_events, listener, service, replace(Limits(), **limits), crashes)
        yield Port(service, server, crashes, listener.port)
        nursery.cancel_scope.cancel()
    assert crashes.counts == {}
    assert service.subscriptions == {}
    assert service.sinks == {}
