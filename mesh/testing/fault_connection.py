"""Client connections of the fault runner: HTTP requests one after the other, and a WebSocket of mesh.v1.json.

Decides nothing: it writes, reads and says how a connection ended. As lean as the protocols allow, because thousands of events a
second pass here beside the nodes that they load; written against the protocols' pages, not against the nodes' code.
Invariant: whatever a node does, a call ends in an answer or in `Broken`.
Source: docs/clients.md; RFC 9112; RFC 6455.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import trio

from mesh.testing.bench_load import masked_text
from mesh.testing.proxy import abort

READ_BYTES: Final = 256 * 1024
ANSWER_BYTES: Final = 64 << 20
DIAL_S: Final = 3.0
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WS_KEY: Final = "aG9wbWVzaC1mYXVsdHMtMQ=="
_TEXT, _CLOSE, _PING = 1, 8, 9


class Broken(Exception):
    """The connection is gone or silent. What was asked on it may or may not have been done."""


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    head: bytes
    body: bytes


async def connect(address: str) -> trio.SocketStream:
    """Raises: Broken; then nothing was asked."""
    host, _, port = address.rpartition(":")
    try:
        with trio.fail_after(DIAL_S):
            return await trio.open_tcp_stream(host, int(port))
    except (OSError, ValueError, trio.TooSlowError) as error:
        raise Broken(str(error) or "no answer") from None


class HttpConnection:
    """One keep-alive connection."""

    def __init__(self, stream: trio.SocketStream, address: str) -> None:
        self._stream = stream
        self._address = address

    async def ask(
        self, method: str, target: str, body: bytes = b"", kind: str = "", *, timeout_s: float = 10.0
    ) -> Answer:
        """One request. Raises: Broken."""
        typed = f"Content-Type: {kind}\r\n" if kind else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._address}\r\n{typed}Content-Length: {len(body)}\r\n\r\n"
        try:
            with trio.fail_after(timeout_s):
                await self._stream.send_all(head.encode() + body)
                return await self._answer()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(str(error)) from None
        except trio.TooSlowError:
            raise Broken(f"no answer within {timeout_s:g} s") from None

    async def _answer(self) -> Answer:
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += await self._more()
        found = _LENGTH.search(data[: end + 2])
        if found is None or int(found[1]) > ANSWER_BYTES:
            raise Broken("an answer without a sane length")
        size = end + 4 + int(found[1])
        pieces, have = [data], len(data)
        while have < size:
            more = await self._more()
            pieces.append(more)
            have += len(more)
        data = b"".join(pieces)
        return Answer(int(data[9:12]), data[:end], data[end + 4 :])

    async def _more(self) -> bytes:
        data = await self._stream.receive_some(READ_BYTES)
        if not data:
            raise Broken("the node closed the connection")
        return bytes(data)

    def close(self) -> None:
        """At once. Idempotent."""
        abort(self._stream)


async def ask_once(address: str, method: str, target: str, *, timeout_s: float = 5.0) -> Answer:
    """One request on a connection of its own. Raises: Broken."""
    connection = HttpConnection(await connect(address), address)
    try:
        return await connection.ask(method, target, timeout_s=timeout_s)
    finally:
        connection.close()


class SocketConnection:
    """One WebSocket. Made by `open_socket`."""

    def __init__(self, stream: trio.SocketStream, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest
        self._fragments: list[bytes] = []
        self.closed = ""
        """What the node's close frame said."""

    async def send(self, *texts: bytes) -> None:
        """Text frames in one write. Raises: Broken."""
        try:
            await self._stream.send_all(b"".join(map(masked_text, texts)))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Broken(str(error)) from None

    async def receive(self) -> list[bytes]:
        """The texts that have come, at least one. Raises: Broken at the end of the connection."""
        while True:
            texts, pongs = self._take()
            if pongs:
                try:
                    await self._stream.send_all(pongs)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.closed = self.closed or "lost"
            if texts:
                return texts
            if self.closed:
                raise Broken(self.closed)
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Broken(str(error)) from None
            if not data:
                raise Broken("the node closed the connection")
            self._rest += data

    def _take(self) -> tuple[list[bytes], bytes]:
        """Whole frames off what was read: texts, and the pongs that pings ask for. A server's frames are not masked."""
        data, at, texts, pongs = self._rest, 0, [], b""
        while len(data) - at >= 2:
            first, size, start = data[at], data[at + 1] & 0x7F, at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                if len(data) < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if len(data) < start + size:
                break
            payload, at = data[start : start + size], start + size
            opcode = first & 0x0F
            if opcode == _PING:
                pongs += bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload
            elif opcode == _CLOSE:
                self.closed = f"closed by the node: {payload[2:].decode('utf-8', 'replace')}"
            elif opcode in (0, _TEXT):
                self._fragments.append(payload)
                if first & 0x80:
                    texts.append(b"".join(self._fragments))
                    self._fragments = []
        self._rest = data[at:]
        return texts, pongs

    def close(self) -> None:
        """At once, with a RST, as a crash does. Idempotent."""
        abort(self._stream)


async def open_socket(address: str, target: str, *, timeout_s: float = 10.0) -> SocketConnection:
    """Open `target` as a WebSocket of mesh.v1.json. Raises: Broken, with the node's answer when it refuses."""
    stream = await connect(address)
    opened = False
    opening = (
        f"GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mesh.v1.json\r\nSec-WebSocket-Key: {_WS_KEY}\r\n\r\n"
    )
    try:
        with trio.fail_after(timeout_s):
            await stream.send_all(opening.encode())
            data = b""
            while (end := data.find(b"\r\n\r\n")) < 0:
                more = await stream.receive_some(READ_BYTES)
                if not more:
                    raise Broken("the node closed the connection")
                data += more
        if not data.startswith(b"HTTP/1.1 101"):
            raise Broken(data[:600].decode("latin-1"))
        opened = True
        return SocketConnection(stream, data[end + 4 :])
    except (OSError, trio.BrokenResourceError) as error:
        raise Broken(str(error)) from None
    except trio.TooSlowError:
        raise Broken(f"no answer within {timeout_s:g} s") from None
    finally:
        if not opened:
            abort(stream)
