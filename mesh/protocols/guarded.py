"""The events port of a node that asks who is there: each request is judged before anything is done for it.

Decides what is answered to a request without a good proof. Everything else is the ordinary port's, which is given the node as this
client may use it (`mesh.access.guard.Guard`).
Invariant: no request gets behind this without a principal.
Source: docs/access.md; RFC 6750 section 3.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

from mesh.access.access import Access
from mesh.access.audit import Result
from mesh.access.credentials import Shown, shown
from mesh.access.guard import PORT, Guard
from mesh.model.limits import Limits
from mesh.net.http import Connection
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.node.service import RefusedError, Service
from mesh.protocols.http import refused_response
from mesh.protocols.render import Renderer
from mesh.protocols.serve import EventsPort


class Last(NamedTuple):
    """Who sent the request before on the same connection: good until anything changed."""

    shown: Shown
    generation: int
    guard: Guard


class GuardedPort:
    """Answers the requests of one node's clients (`handle` is an `mesh.net.http_connection.Handler`). Cost: 10 us a request, 20 us
    the first one of a connection."""

    def __init__(self, service: Service, access: Access, limits: Limits) -> None:
        self._service = service
        self._access = access
        self._limits = limits
        self._renderer = Renderer(service.count_drop)
        self._last: WeakKeyDictionary[Connection, Last] = WeakKeyDictionary()

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        """One request. Raises: LinkLost; cancellation."""
        try:
            guard = await self._guard(request, connection)
        except RefusedError as refused:
            self._service.count_refusal(PORT, refused.code)
            self._access.audit.tell(
                "authenticate",
                f"{request.method} {request.path}",
                Result.REFUSED,
                remote=connection.remote,
                port=PORT,
                code=refused.code,
                detail=refused.detail,
            )
            return refused_response(refused)
        return await EventsPort(guard, self._limits, self._renderer).handle(request, connection)

    async def _guard(self, request: Request, connection: Connection) -> Guard:
        """The node as whoever sent the request may use it. Raises: Denied."""
        access = self._access
        found = shown(request, connection, in_query=access.terms.token_in_query)
        last = self._last.get(connection)
        if (
            last is not None
            and last.guard.session is None  # a guard has one session
            and last.shown == found
            and last.generation == access.generation
            and not access.is_over(last.guard.principal)
        ):
            return last.guard
        principal, proof = await access.admit(found)
        guard = Guard(self._service, access, principal, proof, connection.remote, self._limits)
        self._last[connection] = Last(found, access.generation, guard)
        if last is None or last.guard.principal != principal:
            guard.audit("authenticate", f"{request.method} {request.path}", Result.ALLOWED)
        return guard
