"""The link port: plain TCP links and links inside WebSockets on one port, and a bound on strangers.

Decides which of the two a connection is, from its first byte; that TLS is around or inside both where the node has certificates; how many connections may be open that have not finished
the opening exchange; and which of them goes when another comes: the oldest, so that strangers who open and say nothing
cannot keep real peers out.
Never decides whether a peer may stay: that is the session's.
Invariant: at most `limits.half_open_links` connections are half open, and every one that was refused was counted.
Source: design page "Wire and speed", rule 10; RFC 4987 section 3.4 (recycling the oldest half-open).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from mesh.model.limits import Limits
from mesh.model.reasons import Close, Tls
from mesh.net.link_websocket import accept_link
from mesh.net.listener import CountRefusal, Listener
from mesh.net.supervise import Crashes
from mesh.net.tcp import TcpTransport
from mesh.net.tls import Secure, TlsFailed, TlsTransport, shake_hands
from mesh.net.transport import READ_BYTES, LinkLost, Transport, linger
from mesh.wire.codec import encode
from mesh.wire.frames import CloseLink

_HTTP: Final = b"G"
"""First byte of "GET ". A frame that begins with it would be over a gigabyte long: no frame does (see wire.codec)."""


class Pending:
    """One accepted connection that has not finished opening. Whoever runs the link calls `opened` when it has."""

    def __init__(self, remote: str) -> None:
        self.remote = remote
        self.scope = trio.CancelScope()
        self.evicted = False
        self._half_open: dict[Pending, None] | None = None

    def enter(self, half_open: dict[Pending, None]) -> None:
        self._half_open = half_open
        half_open[self] = None

    def opened(self) -> None:
        """The other end is a peer now: it can no longer be evicted. Idempotent."""
        if self._half_open is not None:
            self._half_open.pop(self, None)
            self._half_open = None


AcceptLink = Callable[[Transport, Pending], Awaitable[object]]


class LinkListener:
    """Args:
    accept: runs one link to its end, and calls `Pending.opened` when its opening exchange is done.
    secure: this node's certificates; None: links are in clear text. when_refused: told who was refused by TLS, and why.
    """

    def __init__(
        self,
        listener: Listener,
        accept: AcceptLink,
        limits: Limits,
        *,
        crashes: Crashes,
        count_refusal: CountRefusal,
        secure: Secure | None = None,
        when_refused: Callable[[str, TlsFailed], object] = lambda remote, failed: None,
    ) -> None:
        assert limits.frame_bytes < _HTTP[0] << 24, "a frame's length could look like an HTTP request"
        self.listener = listener
        self._accept = accept
        self._limits = limits
        self._crashes = crashes
        self._count_refusal = count_refusal
        self._secure = secure
        self._when_refused = when_refused
        self._half_open: dict[Pending, None] = {}  # oldest first

    @property
    def half_open(self) -> int:
        """Connections that have not finished opening."""
        return len(self._half_open)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept links until the listener is closed and the last link has ended. Raises: only cancellation."""
        await self.listener.serve(
            self._one,
            kind="link",
            crashes=self._crashes,
            count_refusal=self._count_refusal,
            task_status=task_status,
        )

    async def _one(self, transport: TcpTransport) -> None:
        if self.listener.connections > self._limits.peer_links + self._limits.half_open_links:
            self._count_refusal("too_many_links")
            return
        if len(self._half_open) >= self._limits.half_open_links:
            oldest = next(iter(self._half_open))
            oldest.opened()
            oldest.evicted = True
            oldest.scope.cancel()
            self._count_refusal("half_open_evicted")
        pending = Pending(transport.remote)
        pending.enter(self._half_open)
        try:
            with pending.scope:
                await self._begin(transport, pending)
        finally:
            pending.opened()

    async def _begin(self, connected: TcpTransport, pending: Pending) -> None:
        """A link, TLS, or a WebSocket? With certificates, TLS is around the WebSocket or inside it: a proxy that speaks only HTTP ends
        the one around, and what is inside still knows who is at the other end."""
        deadline = trio.current_time() + self._limits.open_timeout_s
        first = await self._first(connected, deadline)
        if not first:
            return
        if first.startswith(_HTTP):
            await self._websocket(connected, first, pending, deadline)
            return
        connected.unread(first)
        if self._secure is None:
            await self._accept(connected, pending)
            return
        inside = await self._shake(connected, self._secure, deadline)
        first = await self._first(inside, deadline) if inside is not None else b""
        if not first:
            return
        assert inside is not None
        if first.startswith(_HTTP):
            await self._websocket(inside, first, pending, deadline)
        else:
            inside.unread(first)
            await self._accept(inside, pending)

    async def _first(self, transport: Transport, deadline: float) -> bytes:
        """The first bytes; b"" when none came, which was counted."""
        with trio.move_on_at(deadline):
            first = await transport.receive(READ_BYTES)
            if not first:
                self._count_refusal("closed_before_open")
            return first
        self._count_refusal("open_timeout")
        return b""

    async def _shake(self, below: Transport, secure: Secure, deadline: float) -> TlsTransport | None:
        """None when the other end was refused, which was counted and told it."""
        left_s = max(0.1, deadline - trio.current_time())
        try:
            return await shake_hands(below, secure, left_s, server=True, farewell=farewell)
        except TlsFailed as failed:
            self._count_refusal(failed.why.counted)
            self._when_refused(below.remote, failed)
            if failed.why is Tls.PLAIN:
                detail = "this node's links are inside TLS"
                await below.send(encode(CloseLink(Close.TLS_REQUIRED.value, detail)))
                await linger(below)
            return None

    async def _websocket(self, transport: Transport, first: bytes, pending: Pending, deadline: float) -> None:
        left_s = max(0.1, deadline - trio.current_time())
        try:
            async with accept_link(transport, first, left_s) as link:
                carries: Transport | None = link
                if self._secure is not None and link.certificate is None:
                    carries = await self._shake(link, self._secure, deadline)
                if carries is not None:
                    await self._accept(carries, pending)
        except LinkLost:
            if not pending.evicted:
                self._count_refusal("websocket_refused")


def farewell(detail: str) -> bytes:
    """What an end that is not welcome on a link is told inside TLS."""
    return encode(CloseLink(reason=Close.TLS_FAILED.value, detail=detail))
