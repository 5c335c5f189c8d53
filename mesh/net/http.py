"""The HTTP/1.1 server of the events port and the admin port: one listener's connections.

Decides how many clients may be connected, and when each has had its time: one watch looks over all connections several
times in the shortest limit, which is cheaper than a timer for each request.
Never decides what is answered: that is the handler's.
Invariant: at most `limits.client_connections` connections are served; each one refused or expired was counted.
Source: RFC 9112; design page "What a person sees", Publishing and subscribing (the last paragraph).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from mesh.model.limits import Limits
from mesh.net.http_connection import Connection, Handler
from mesh.net.http_request import BodyBudget, Refusal
from mesh.net.http_response import problem_response, render
from mesh.net.listener import CountRefusal, Listener
from mesh.net.supervise import Crashes
from mesh.net.tls_port import Handshakes
from mesh.net.transport import Transport, linger

__all__ = ["Connection", "Handler", "HttpServer", "HttpStatistics"]

TURNED_AWAY: Final = 64
"""Clients over the limit that are given time to read why; more are just closed."""


@dataclass(frozen=True, slots=True)
class HttpStatistics:
    """Counts of one server since it began. connections: open now."""

    connections: int
    requests: int
    bytes_in: int
    bytes_out: int
    body_bytes_held: int


class HttpServer:
    """Args:
    handler: answers each request; several run at the same time, one for each connection.
    count_refusal: told a short stable reason for every connection or request refused, cut short or expired.
    on_loopback: the port is within reach of this machine only; see `mesh.net.web_page`.
    handshakes: the port speaks TLS; None: it does not.
    """

    def __init__(
        self,
        listener: Listener,
        handler: Handler,
        limits: Limits,
        *,
        crashes: Crashes,
        count_refusal: CountRefusal,
        on_loopback: bool = False,
        handshakes: Handshakes | None = None,
    ) -> None:
        self.listener = listener
        self.on_loopback = on_loopback
        self.handler = handler
        self.limits = limits
        self.crashes = crashes
        self.count_refusal = count_refusal
        self.budget = BodyBudget(limits.bodies_bytes)
        self.draining = False
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._handshakes = handshakes
        self._connections: set[Connection] = set()
        self._turned_away = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the listener is closed (see `drain`) and the last connection has ended. Raises: only cancellation."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch, name="http watch")
            await self.listener.serve(
                self.serve_one,
                kind="client",
                crashes=self.crashes,
                count_refusal=self.count_refusal,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Take no new connections, end idle ones now and the others behind their answer. Streams are their owner's."""
        self.draining = True
        self.listener.close()
        for connection in list(self._connections):
            connection.stop()

    def statistics(self) -> HttpStatistics:
        """Cost: O(1)."""
        return HttpStatistics(
            connections=len(self._connections),
            requests=self.requests,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            body_bytes_held=self.budget.used_bytes,
        )

    async def serve_one(self, transport: Transport) -> None:
        """Serve one connected client. Raises: LinkLost; cancellation."""
        if self._handshakes is not None:
            secured = await self._handshakes.shake(transport)
            if secured is None:
                return
            transport = secured
        if len(self._connections) >= self.limits.client_connections:
            await self._turn_away(transport)
            return
        connection = Connection(self, transport)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _turn_away(self, transport: Transport) -> None:
        self.count_refusal("too_many_connections")
        detail = f"{self.limits.client_connections} clients are connected"
        refusal = Refusal(503, "too_many_connections", detail, "MESH-E017")
        transport.send_now(render(problem_response(refusal), keep_alive=False))
        if self._turned_away < TURNED_AWAY:
            self._turned_away += 1
            try:
                await linger(transport)
            finally:
                self._turned_away -= 1

    async def watch(self) -> None:
        """Expire connections whose time is over, forever; part of `serve`. Cost: O(connections) a tick."""
        limits = self.limits
        tick_s = min(1.0, limits.request_timeout_s / 4, limits.idle_timeout_s / 4)
        while True:
            await trio.sleep(tick_s)
            now = trio.current_time()
            late = [connection for connection in self._connections if connection.deadline <= now]
            for connection in late:
                connection.expire()
