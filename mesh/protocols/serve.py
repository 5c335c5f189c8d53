"""The events port: every request goes to what answers its path.

Decides which protocol a request speaks, and that a node which is leaving refuses new work. Never decides what an answer says.
Invariant: a session that was opened is closed, however its connection ends.
Source: design page "What a person sees", Publishing and subscribing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from mesh.model.ids import SessionId
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.net.http import Connection, HttpServer
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.net.listener import Listener
from mesh.net.supervise import Crashes
from mesh.node.service import RefusedError, Service
from mesh.protocols import cloudevents_socket, ops, sse
from mesh.protocols.home_proxy import proxied
from mesh.protocols.http import (
    CLIENTS,
    EVENTS,
    REPLY,
    REQUEST,
    clients,
    publish,
    refused_response,
    reply,
    request_reply,
    wrong_method,
)
from mesh.protocols.ops_application import OpsApplication
from mesh.protocols.parameters import Parameters
from mesh.protocols.problem import Problem
from mesh.protocols.receiving import RECEIVING, Receiving, read_receiving, resumed_object, tell_written
from mesh.protocols.render import Renderer
from mesh.protocols.session import ClientSession
from mesh.protocols.subscribing import read_wish, receipt_object, subscribe
from mesh.protocols.websocket import Application, WebSocket, open_websocket
from mesh.protocols.websocket_frames import text_frame

PORT: Final = "events"
WS: Final = "/v1/ws"


def events_server(listener: Listener, service: Service, limits: Limits, crashes: Crashes) -> HttpServer:
    """The HTTP server of the events port, ready to be served. Each refusal is counted with the service."""

    def count_refusal(reason: str) -> None:
        service.count_refusal(PORT, reason)

    port = EventsPort(service, limits)
    return HttpServer(
        listener,
        port.handle,
        limits,
        crashes=crashes,
        count_refusal=count_refusal,
        on_loopback=listener.on_loopback,
    )


async def serve_events(
    listener: Listener,
    service: Service,
    limits: Limits,
    crashes: Crashes,
    *,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the events port until the server is drained and its last client is gone. Raises: nothing but cancellation.

    task_status: gets the server; `server.drain()` stops accepting, and whoever calls it also closes the sessions.
    """
    server = events_server(listener, service, limits, crashes)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        task_status.started(server)


class EventsPort:
    """Answers the requests of one node's clients (`handle` is an `mesh.net.http_connection.Handler`)."""

    def __init__(self, service: Service, limits: Limits, renderer: Renderer | None = None) -> None:
        """Args: renderer: shared by ports that serve the same node, so that their clients share what is rendered."""
        self._service = service
        self._limits = limits
        self._renderer = renderer or Renderer(service.count_drop)

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        """One request; None where it was a stream or a WebSocket, which are over then. Raises: LinkLost; cancellation."""
        try:
            if self._service.draining:
                raise Problem("MESH-E016", "this node is leaving the mesh")
            return await self._route(request, connection)
        except RefusedError as refused:
            self._service.count_refusal(PORT, refused.code)
            return refused_response(refused, close=self._service.draining)

    async def _route(self, request: Request, connection: Connection) -> Response | None:
        path, method = request.path, request.method
        if path == EVENTS and method in ("GET", "HEAD"):
            if request.websocket:
                await self._cloudevents_socket(request, connection)
            else:
                await sse.stream_events(self._service, request, connection, self._renderer, self._limits)
            return None
        if path == EVENTS or path.startswith(EVENTS + "/"):
            if method != "POST":
                raise wrong_method(method, *(("GET", "POST") if path == EVENTS else ("POST",)))
            return await publish(self._service, request, self._limits)
        if path == WS:
            if method != "GET":
                raise wrong_method(method, "GET")
            await self._ops_socket(request, connection)
            return None
        if path == CLIENTS or path.startswith(CLIENTS + "/"):
            client = path[len(CLIENTS) + 1 :]
            if client and await proxied(self._service, request, connection, client):
                return None
            response = clients(self._service, request)
            if method == "DELETE":
                await self._service.receivers.noted()
            return response
        if path in (REQUEST, REPLY) or path.startswith(REQUEST + "/"):
            if method != "POST":
                raise wrong_method(method, "POST")
            if path == REPLY:
                return reply(self._service, request, self._limits)
            return await request_reply(self._service, request, connection, self._limits)
        raise Problem("MESH-E023", f"there is nothing at {path[:200]}")

    async def _cloudevents_socket(self, request: Request, connection: Connection) -> None:
        wish = read_wish(request.query, self._limits, filter_needed=False)
        for name, asked in (("durable", wish.receiving.durable), ("from", bool(wish.since))):
            if asked:
                raise Problem(
                    "MESH-E009",
                    f"{name}= is not built yet for {cloudevents_socket.SUBPROTOCOL}",
                    where=name,
                )
        _check_opening(request, cloudevents_socket.SUBPROTOCOL)
        session = ClientSession(self._limits, self._service.count_drop)
        name = wish.receiving.client or connection.remote
        number = self._service.open_session(session, protocol="ws-cloudevents", name=name)
        tell_written(session, self._service.receivers, number)
        ended = Close.LINK_LOST
        try:
            more: list[tuple[str, str]] = []
            sids = subscribe(self._service, number, wish)
            if sids:
                async with connection.watched():
                    receipt = await self._service.wait_installed(
                        number, sids, wish.wait, wish.regions, wish.wait_timeout_s
                    )
                    more.append(("mesh-receipt", json.dumps(receipt_object(receipt))))
                if connection.gone:
                    return
            application = cloudevents_socket.CloudEventsSocket(self._service, self._renderer, self._limits)
            headers = _check_opening(request, cloudevents_socket.SUBPROTOCOL, more)
            with self._renderer.reader("cloudevents"):
                ended = await self._run_socket(connection, session, headers, lambda _: application)
        finally:
            self._close(number, session, ended)

    async def _ops_socket(self, request: Request, connection: Connection) -> None:
        receiving = read_receiving(Parameters(request.query, RECEIVING), ops=True)
        headers = _check_opening(request, ops.SUBPROTOCOL)
        if receiving.durable and await proxied(self._service, request, connection, receiving.client):
            return
        session = ClientSession(self._limits, self._service.count_drop)
        number, first = self._receive_as(session, receiving, connection, "ws")
        acknowledges = receiving.acks is not None and receiving.acks.how == "explicit"

        def application(socket: WebSocket) -> Application:
            return OpsApplication(
                self._service,
                session,
                number,
                self._renderer,
                self._limits,
                socket.start,
                acknowledges=acknowledges,
            )

        ended = Close.LINK_LOST
        try:
            if first is not None:
                await self._service.receivers.noted()
                session.answer(first)
            with self._renderer.reader("ops"):
                ended = await self._run_socket(connection, session, headers, application)
        finally:
            self._close(number, session, ended)

    def _receive_as(
        self, session: ClientSession, receiving: Receiving, connection: Connection, protocol: str
    ) -> tuple[SessionId, bytes | None]:
        """Register the connection as what it wants to be. Returns its session, and what a durable client is told first.

        Raises: RefusedError."""
        receivers = self._service.receivers
        if not receiving.durable:
            name = receiving.client or connection.remote
            number = self._service.open_session(session, protocol=protocol, name=name)
            if receiving.acks is not None:
                receivers.acknowledge(number, receiving.acks)
            tell_written(session, receivers, number)
            return number, None
        assert receiving.acks is not None, "a durable client acknowledges somehow"
        resumed = receivers.connect(session, protocol=protocol, client=receiving.client, acks=receiving.acks)
        tell_written(session, receivers, resumed.session)
        return resumed.session, text_frame(
            msgspec.json.encode({"op": "resumed", **resumed_object(receiving.client, resumed)})
        )

    async def _run_socket(
        self,
        connection: Connection,
        session: ClientSession,
        headers: list[tuple[str, str]],
        application: Callable[[WebSocket], Application],
    ) -> Close:
        transport, first = await connection.upgrade(headers)

        def count_refusal(reason: str) -> None:
            self._service.count_refusal(PORT, reason)

        socket = WebSocket(transport, first, session, self._limits, count_refusal)
        await socket.run(application(socket))
        return socket.ended

    def _close(self, number: SessionId, session: ClientSession, ended: Close) -> None:
        session.end()
        self._service.close_session(number, ended)


def _check_opening(
    request: Request, subprotocol: str, more: list[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    def header(name: str) -> str | None:
        value = request.header(name.encode())
        return None if value is None else value.decode("latin-1")

    return open_websocket(header, subprotocol, more or [])
