"""The admin port's handler: answers calls, and streams route changes to those who watch.

Decides what a watcher is told first, how often a quiet stream shows that it lives, and how a loss is told. Everything that
fits one answer is `mesh.admin.api`'s.
Invariant: a watcher that reads too slowly is told how many changes it lost; it never makes the node wait.
Source: design page "What a person sees", Admin API; WHATWG HTML section 9.2 (server-sent events).
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from mesh.admin.api import WATCH_PATH, Api, check_method, parameters, problem_response
from mesh.model.errors import MeshError
from mesh.net.http_connection import Connection, Stream
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.node.feed import Watch
from mesh.node.inspect import Inspect

KEEP_ALIVE_S: Final = 15.0
_HEADERS: Final = [("content-type", "text/event-stream"), ("cache-control", "no-store")]


class AdminPort:
    """Serves one node's operators; `handle` is an HTTP server's handler."""

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect
        self._api = Api(inspect)

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        """Answer one request; None when it was streamed. Effects: refusals are counted by their code."""
        if request.path == WATCH_PATH:
            response = await self._watch(request, connection)
        else:
            response = await self._api.answer(request)
        if response is not None and response.status >= 400:
            self._inspect.count_refusal("admin", f"status_{response.status}")
        return response

    async def _watch(self, request: Request, connection: Connection) -> Response | None:
        try:
            check_method(request, "GET")
            parameters(request, ())
            async with self._inspect.watch_routes() as watch:
                async with connection.stream(200, _HEADERS) as stream:
                    await self._tell_changes(watch, stream)
                return None
        except MeshError as error:
            return problem_response(error)

    async def _tell_changes(self, watch: Watch, stream: Stream) -> None:
        """Until the client leaves (cancelled by the connection) or the node closes the feed."""
        key = self._inspect.key
        await stream.send(sse("watching", {"node": key.node, "region": key.region}))
        told_lost = 0
        while True:
            changes = None
            with trio.move_on_after(KEEP_ALIVE_S):
                changes = await watch.receive()
            if changes is None:
                await stream.send(b": alive\n\n")
                continue
            if not changes:
                await stream.send(sse("closing", {"reason": "the node stops"}))
                return
            if watch.lost > told_lost:
                await stream.send(sse("lost", {"lost": watch.lost - told_lost}))
                told_lost = watch.lost
            await stream.send(b"".join(sse("change", change) for change in changes))


def sse(name: str, told: object) -> bytes:
    """One server-sent event with a JSON object."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(told))
