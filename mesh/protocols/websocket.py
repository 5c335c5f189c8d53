"""One WebSocket of a client: the opening, a reader and a writer task, and the ways it ends.

Decides whether an opening is accepted, when a silent client is pinged and given up, and how a connection is closed. Never
decides what a text means: an `Application` does, for all texts of one read at once.
Invariant: after a close frame of ours nothing else is sent; `run` returns within `limits.close_timeout_s` of it.
Source: RFC 6455 sections 4.2 (opening), 5.5 (control frames) and 7 (closing); design page "Wire and speed", rules 4 to 6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import trio

from mesh.model.event import Delivery
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.net.transport import LinkLost, Transport
from mesh.protocols.problem import Problem
from mesh.protocols.session import ClientSession, Goodbye
from mesh.protocols.websocket_frames import (
    CloseCode,
    FrameReader,
    Opcode,
    close_frame,
    ping_frame,
    pong_frame,
)

_ACCEPT_SUFFIX: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_RECEIVE_BYTES: Final = 256 * 1024  # wire.md, rule 4
_CLOSE_CODES: Final = {
    Close.NORMAL: CloseCode.NORMAL,
    Close.DRAINING: CloseCode.GOING_AWAY,
    Close.TOO_MANY_CONNECTIONS: CloseCode.TRY_AGAIN,
    Close.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    Close.MALFORMED: CloseCode.INVALID_PAYLOAD,
    Close.FRAME_TOO_LARGE: CloseCode.TOO_BIG,
    Close.CLIENT_REMOVED: CloseCode.CLIENT_REMOVED,
    Close.TAKEN_OVER: CloseCode.TAKEN_OVER,
}


class Application(Protocol):
    """What a subprotocol does with the texts of a client, and how it writes events."""

    def receive(self, texts: Sequence[bytes]) -> None:
        """Act on texts, in order; each is valid UTF-8. Answers go through the session. Raises: CloseSocket."""

    def render(self, deliveries: Sequence[Delivery]) -> bytes:
        """The frames of these events."""


class CloseSocket(Exception):
    """Ends the connection with this code and reason; `counted` is its short name among the refusals."""

    def __init__(self, code: CloseCode, reason: str, counted: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.counted = counted


def open_websocket(
    header: Callable[[str], str | None], subprotocol: str, more: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """Check an opening request; returns the headers of the 101 answer.

    Args: header: the value of a request header (several joined by commas), or None. subprotocol: the one this path speaks.
    Raises: Problem MESH-E026 (426 where the version or Upgrade is missing), MESH-E027 on another subprotocol.
    Source: RFC 6455 sections 4.2.1 and 4.2.2.
    """
    if "websocket" not in _tokens(header("upgrade")) or "upgrade" not in _tokens(header("connection")):
        upgrade = (("upgrade", "websocket"), ("connection", "upgrade"))
        raise Problem("MESH-E026", "this path is a WebSocket and nothing else", status=426, headers=upgrade)
    if (header("sec-websocket-version") or "").strip() != "13":
        version = (("sec-websocket-version", "13"),)
        raise Problem("MESH-E026", "Sec-WebSocket-Version must be 13", status=426, headers=version)
    key = (header("sec-websocket-key") or "").strip()
    try:
        sound = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        sound = False
    if not sound:
        raise Problem("MESH-E026", "Sec-WebSocket-Key must be 16 bytes in base64", where="sec-websocket-key")
    offered = [one.strip() for one in (header("sec-websocket-protocol") or "").split(",") if one.strip()]
    if subprotocol not in offered:
        names = ", ".join(offered)[:80] or "none"
        raise Problem("MESH-E027", f"subprotocol {subprotocol} is spoken here, asked for: {names}")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _ACCEPT_SUFFIX, usedforsecurity=False).digest())
    return [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-accept", accept.decode()),
        ("sec-websocket-protocol", subprotocol),
        *more,
    ]


def _tokens(value: str | None) -> list[str]:
    return [token.strip().lower() for token in (value or "").split(",")]


class WebSocket:
    """Runs one opened WebSocket to its end.

    Effects: `run` returns when the connection is over, in order or not; `ended` tells why.
    Keeps: one reader and one writer task. Cost: one receive for all frames that came, one send for all that waits.
    """

    def __init__(
        self,
        transport: Transport,
        first: bytes,
        session: ClientSession,
        limits: Limits,
        count_refusal: Callable[[str], None],
    ) -> None:
        """Args: first: bytes the client sent behind its opening. count_refusal: told why a client was thrown out."""
        self.ended = Close.LINK_LOST
        self._nursery: trio.Nursery | None = None
        self._transport = transport
        self._first = first
        self._session = session
        self._limits = limits
        self._count_refusal = count_refusal
        self._frames = FrameReader(limits.body_bytes)
        self._said_goodbye = False
        self._written = trio.Event()

    def start(self, call: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run what an application must wait for; it ends with the connection at the latest."""
        assert self._nursery is not None, "run has not begun"
        self._nursery.start_soon(call, *args)

    async def run(self, application: Application) -> None:
        """Serve until either end closes; the transport is left for its owner to end. Raises: nothing but cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write, application, nursery.cancel_scope, name="ws writer")
                if self._transport.sends_now:
                    self._session.send_now = lambda: self._send_now(application, nursery.cancel_scope)
                try:
                    last_words = await self._read(application)
                except CloseSocket as close:
                    self._count_refusal(close.counted)
                    self.ended = Close.PROTOCOL_ERROR
                    last_words = close_frame(close.code, close.reason)
                if last_words:
                    self._session.hang_up(last_words)
                    await self._written.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._session.send_now = None
            self._session.end()

    async def _read(self, application: Application) -> bytes:
        """Take frames until the connection ends; returns the close frame that is still owed. Raises: CloseSocket."""
        asked = False
        while True:
            data, self._first = self._first, b""
            if not data:
                try:
                    with trio.move_on_after(self._limits.idle_timeout_s) as silence:
                        data = await self._transport.receive(_RECEIVE_BYTES)
                except LinkLost:
                    return b""
                if silence.cancelled_caught:
                    if asked:
                        raise CloseSocket(CloseCode.POLICY, "no answer to a ping", "ws_idle")
                    asked = True
                    self._session.answer(ping_frame())
                    continue
                if not data:
                    return b""
            asked = False
            if self._take(data, application):
                return b"" if self._said_goodbye else close_frame(CloseCode.NORMAL)
            if not self._said_goodbye:
                await self._session.room_for_answers()

    def _take(self, data: bytes, application: Application) -> bool:
        """Act on received bytes; whether the client closed. Raises: CloseSocket."""
        texts: list[bytes] = []
        for opcode, payload in self._frames.receive(data):
            if opcode == Opcode.TEXT:
                texts.append(payload)
                continue
            self._receive(texts, application)
            texts = []
            if opcode == Opcode.PING:
                self._session.answer(pong_frame(payload))
            elif opcode == Opcode.CLOSE:
                if not self._said_goodbye:
                    self.ended = Close.PEER_CLOSED
                return True
            elif opcode == Opcode.BINARY and not self._said_goodbye:
                raise CloseSocket(CloseCode.UNSUPPORTED, "send text frames", "ws_binary_frame")
        self._receive(texts, application)
        failure = self._frames.failure
        if failure is not None:
            if self._said_goodbye:
                return True
            raise CloseSocket(failure.code, failure.reason, f"ws_{failure.code.name.lower()}")
        return False

    def _receive(self, texts: list[bytes], application: Application) -> None:
        if texts and not self._said_goodbye:
            application.receive(texts)

    async def _write(self, application: Application, connection: trio.CancelScope) -> None:
        """Send what waits until a last thing was sent, or the client does not read."""
        session = self._session
        try:
            while True:
                await session.work()
                if session.ended:
                    return
                data, last = self._gather(application)
                with session.bounded_send(self._limits.idle_timeout_s) as bound:
                    await self._transport.send(data)
                if bound.cancelled_caught:
                    self._count_refusal("client_does_not_read")
                    self.ended = Close.SLOW_CONSUMER
                    connection.cancel()
                    return
                if last:
                    # What follows is the client's close frame, or its end: the reader waits for it, but not for long.
                    connection.deadline = trio.current_time() + self._limits.close_timeout_s
                    return
        except LinkLost:
            connection.cancel()
        finally:
            self._written.set()

    def _gather(self, application: Application) -> tuple[bytes, bool]:
        """The frames of all that may go out now, and whether nothing follows."""
        waiting = self._session.take()
        data = b"".join(waiting.answers)
        if waiting.deliveries:
            data += application.render(waiting.deliveries)
        if waiting.goodbye is not None:
            data += self._goodbye_frame(waiting.goodbye)
        return data, waiting.last

    def _send_now(self, application: Application, connection: trio.CancelScope) -> bool:
        """See ClientSession.send_now."""
        data, _ = self._gather(application)
        try:
            sent = self._transport.send_now(data) if data else 0
        except LinkLost:
            connection.cancel()
            return True
        if sent < len(data):
            self._session.put_back(data[sent:])
        return not self._session.has_work()

    def _goodbye_frame(self, goodbye: Goodbye) -> bytes:
        self._said_goodbye = True
        self.ended = goodbye.reason
        return close_frame(_CLOSE_CODES.get(goodbye.reason, CloseCode.POLICY), goodbye.detail)
