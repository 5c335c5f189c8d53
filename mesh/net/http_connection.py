"""One client's HTTP connection: its requests one after the other, answered in order.

Decides when a request is read, when a slow client has had its time, how an answer is written, and how a handler streams,
waits or takes the connection over. Requests are handled inline by the connection's own task: no task, timer or nursery a
request; a connection only notes until when it must have moved on, and the server's watch looks.
Never decides what is answered.
Invariant: answers leave in the order of their requests; a connection whose request was refused is never read again.
Source: RFC 9112 sections 9 (connections) and 9.6 (closing); RFC 9110 section 10.1.1 (100).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from mesh.net.http_request import Refusal, RefusedRequest, Request, RequestParser
from mesh.net.http_response import (
    CONTINUE,
    LAST_CHUNK,
    Headers,
    Response,
    chunk,
    problem_response,
    render,
    render_head,
)
from mesh.net.supervise import unwrapped
from mesh.net.transport import READ_BYTES, LinkLost, Transport, linger
from mesh.net.web_page import CODE, foreign

if TYPE_CHECKING:
    from mesh.net.http import HttpServer

Handler = Callable[[Request, "Connection"], Awaitable[Response | None]]
"""Answers one request. None: it has streamed the answer, or taken the connection over."""

REQUESTS_A_TURN: Final = 16
"""Pipelined requests handled before the other tasks have their turn."""
SLOW_BYTES: Final = 16 * 1024
"""What a client that does not keep up must take within the idle time-out."""
FOREVER: Final = float("inf")


class Stream:
    """The body of an answer while it is made. Used inside `Connection.stream`, by the handler's task.

    `send` waits while the client does not read; `try_send` is for others, who must not wait.
    """

    def __init__(self, connection: Connection, *, chunked: bool, silent: bool) -> None:
        self._connection = connection
        self._silent = silent  # the answer to HEAD has no body
        self._chunked = chunked
        self._rest = b""
        self._busy = False

    @property
    def gone(self) -> bool:
        """The client has left."""
        return self._connection.gone

    @property
    def pending(self) -> bool:
        """Bytes that `try_send` took and the socket did not: somebody must call `flush`."""
        return bool(self._rest)

    async def send(self, data: bytes) -> None:
        """Write all of `data`. Empty data is nothing. Raises: LinkLost; the client is gone."""
        rest, self._rest = self._rest, b""
        if self._silent:
            await trio.lowlevel.checkpoint()
            return
        if data:
            rest += chunk(data) if self._chunked else data
        if rest:
            self._busy = True
            try:
                await self._connection.write(rest)
            finally:
                self._busy = False

    async def flush(self) -> None:
        """Write what is pending."""
        await self.send(b"")

    def try_send(self, data: bytes) -> bool:
        """Take `data` without waiting, as a whole or not at all.

        Returns: False when the client does not keep up (or `send` is under way): keep it, and send it later. After True,
        see `pending`. Never raises: with a client that is gone it takes everything and writes nothing.
        """
        if self.gone or self._silent or not data:
            return True
        if self._busy or self._rest:
            return False
        framed = chunk(data) if self._chunked else data
        try:
            taken = self._connection.transport.send_now(framed)
        except LinkLost:
            self._connection.left()
            return True
        self._connection.server.bytes_out += taken
        if taken == 0:
            return False
        self._rest = framed[taken:]
        return True


class Connection:
    """One connection. For handlers: `stream`, `watched`, `upgrade`, `remote`, `gone`."""

    def __init__(self, server: HttpServer, transport: Transport) -> None:
        self.server = server
        self.transport = transport
        self.remote = transport.remote
        self.gone = False
        """The client has left; noticed while streaming or in `watched`."""
        self.deadline = FOREVER
        """When the server's watch expires this connection."""
        self._doing = "idle"  # idle | request | answer: what the deadline is for
        self._scope = trio.CancelScope()
        self._watching: trio.CancelScope | None = None
        self._parser = RequestParser(server.limits, transport.remote, server.budget)
        self._early = b""  # received while a stream was watched
        self._request: Request | None = None
        self._keep = True
        self._begun = False  # an answer to the present request has been begun

    # -- for handlers --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self, status: int = 200, headers: Headers = ()) -> AsyncIterator[Stream]:
        """Answer with a body that is made while the client reads: `async with connection.stream(...) as stream`.

        The body is cancelled, and goes on behind the `async with`, when the client leaves (its end of stream counts:
        a client of a stream keeps its half open). Raises: LinkLost when the head cannot be written.
        """
        request = self._request
        assert request is not None, "a stream answers a request"
        chunked = request.version == "1.1"
        if not chunked:
            self._keep = False
        framing = ["Transfer-Encoding: chunked"] if chunked else []
        if not self._keep:
            framing.append("Connection: close")
        head = render_head(status, headers, *framing)
        self._begun = True
        await self.write(head)
        stream = Stream(self, chunked=chunked, silent=request.method == "HEAD")
        try:
            async with self.watched() as scope:
                if request.method == "HEAD":
                    scope.cancel()
                yield stream
        except LinkLost:
            self.left()  # a write noticed it before the watch did
        except BaseException:
            self._keep = False
            raise
        if not self.gone and request.method != "HEAD":
            await stream.flush()
            if chunked:
                await self.write(LAST_CHUNK)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[trio.CancelScope]:
        """Wait for something else while looking whether the client is still there.

        The body is cancelled when the client leaves, and what follows the `async with` runs with `gone` true.
        """
        assert self._watching is None, "one watch at a time"
        with unwrapped():
            async with trio.open_nursery() as nursery:
                self._watching = nursery.cancel_scope
                nursery.start_soon(self._watch, name=f"watch {self.remote}")
                try:
                    yield nursery.cancel_scope
                finally:
                    self._watching = None
                    nursery.cancel_scope.cancel()

    async def upgrade(self, headers: Headers) -> tuple[Transport, bytes]:
        """Answer 101 with these headers and hand the connection over, until the handler returns.

        Returns: the transport, and what the client sent behind its request. Raises: LinkLost.
        """
        request = self._request
        assert request is not None, "an upgrade answers a request"
        assert request.websocket, "the request asks for no upgrade"
        self._begun = True
        self._keep = False
        await self.write(render_head(101, headers))
        return self.transport, self._parser.leftover

    def take_over(self) -> tuple[Transport, bytes]:
        """Hand the connection over unanswered, until the handler returns: whatever is written then is the answer.

        Returns: the transport, and what the client sent behind its request."""
        self._begun = True
        self._keep = False
        self.deadline = FOREVER
        return self.transport, self._parser.leftover

    def left(self) -> None:
        """The client is gone: cancel what is done for it."""
        self.gone = True
        self._keep = False
        if self._watching is not None:
            self._watching.cancel()

    # -- the server's side ---------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """No request is being received or answered."""
        return self._doing == "idle"

    async def run(self) -> None:
        """Serve the connection to its end. Raises: LinkLost; cancellation."""
        try:
            with self._scope:
                await self._serve()
            expired = self._scope.cancelled_caught
            if expired and self._doing == "request":
                await linger(self.transport)
            elif not expired or self._doing == "idle":
                await (
                    self.transport.aclose()
                )  # what was answered still arrives; its owner's abort would destroy it
        finally:
            self._parser.close()

    def expire(self) -> None:
        """The deadline has passed: end the connection; a client slow with its request is told 408."""
        self.deadline = FOREVER
        if self._doing == "request":
            self.server.count_refusal("slow_sender")
            limit_s = self.server.limits.request_timeout_s
            refusal = Refusal(408, "slow_sender", f"the request took longer than {limit_s:g} s")
            with suppress(LinkLost):
                self.transport.send_now(render(problem_response(refusal), keep_alive=False))
        elif self._doing == "answer":
            self.server.count_refusal("slow_reader")
        self._scope.cancel()

    def stop(self) -> None:
        """End the connection if it is idle, else behind the present answer."""
        self._keep = False
        if self.idle:
            self._scope.cancel()

    async def write(self, data: bytes) -> None:
        """Write, at once if the socket takes it. A client that takes no SLOW_BYTES for the idle time-out is expired.

        Raises: LinkLost.
        """
        server = self.server
        taken = self.transport.send_now(data)
        server.bytes_out += taken
        if taken == len(data):
            return
        before = self._doing, self.deadline
        self._doing = "answer"
        for begin in range(taken, len(data), SLOW_BYTES):
            self.deadline = trio.current_time() + server.limits.idle_timeout_s
            piece = data[begin : begin + SLOW_BYTES]
            await self.transport.send(piece)
            server.bytes_out += len(piece)
        self._doing, self.deadline = before

    async def _serve(self) -> None:
        server, parser, transport = self.server, self._parser, self.transport
        limits = server.limits
        self.deadline = trio.current_time() + limits.idle_timeout_s
        while True:
            data, self._early = self._early, b""
            if not data:
                data = await transport.receive()
                if not data:
                    if parser.in_request:
                        server.count_refusal("cut_short")
                    return
            server.bytes_in += len(data)
            parser.feed(data)
            if parser.requests:
                await self._answer_all()
                if not self._keep:
                    await linger(transport)
                    return
                self._doing = "idle"
            if parser.refusal is not None:
                await self._refuse(parser.refusal)
                return
            now = trio.current_time()
            if not parser.in_request:
                self._doing = "idle"
                self.deadline = now + limits.idle_timeout_s
            elif self._doing == "idle":
                self._doing = "request"
                self.deadline = now + limits.request_timeout_s
            if parser.wants_continue:
                parser.wants_continue = False
                await self.write(CONTINUE)

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be read, and let the client read that before the connection ends."""
        self.server.count_refusal(refusal.counted)
        self._doing = "answer"
        await self.write(render(problem_response(refusal), keep_alive=False))
        self.deadline = FOREVER
        await linger(self.transport)

    async def _answer_all(self) -> None:
        """Handle the requests that are there, until one of them is the last."""
        parser = self._parser
        handled = 0
        self._doing = "handle"
        self.deadline = FOREVER
        while parser.requests and self._keep:
            request = parser.requests.popleft()
            self._request = request
            self._begun = False
            if not request.keep_alive or self.server.draining:
                self._keep = False
            response = await self._handled(request)
            if response is not None and not self.gone:
                if response.close:
                    self._keep = False
                await self.write(
                    render(
                        response,
                        keep_alive=self._keep,
                        version=request.version,
                        head_only=request.method == "HEAD",
                    )
                )
            parser.release(len(request.body))
            self._request = None
            handled += 1
            if handled % REQUESTS_A_TURN == 0:
                await trio.lowlevel.checkpoint()

    async def _handled(self, request: Request) -> Response | None:
        """The handler's answer, or what stands for one that crashed."""
        server = self.server
        server.requests += 1
        try:
            page = foreign(request.headers, on_loopback=server.on_loopback)
            if page is not None:
                raise RefusedRequest(Refusal(403, page[0], page[1], CODE))
            response = await server.handler(request, self)
            if response is None and not (self._begun or self.gone):
                raise RuntimeError(f"no answer to {request.method} {request.path}")
            return response
        except RefusedRequest as refused:
            server.count_refusal(refused.refusal.counted)
            refusal = refused.refusal
        except LinkLost:
            raise
        except Exception as error:
            server.crashes.record("request", f"{request.method} {request.path}", error)
            refusal = Refusal(
                500, "crashed", "this request met a mistake in the node; its log says more", "MESH-A014"
            )
        if self._begun:
            raise LinkLost("the answer broke off: its handler crashed")
        return problem_response(refusal)

    async def _watch(self) -> None:
        """Receive while a handler is at work, to notice that the client leaves; early requests are kept."""
        try:
            while data := await self.transport.receive():
                self._early += data
                if len(self._early) > READ_BYTES:
                    self.server.count_refusal("pipelined_too_much")
                    break
        except LinkLost:
            pass
        self.left()
