"""The events port of a node that asks who is there: each request is judged before anything is done for it.

Decides what is answered to a request without a good proof. Everything else is the ordinary port's, which is given the node as this
client may use it (`mesh.access.guard.Guard`).
Invariant: no request gets behind this without a principal.
Source: docs/access.md; RFC 6750 section 3.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from mesh.access.access import Access
from mesh.access.audit import Result
from mesh.access.credentials import shown
from mesh.access.guard import PORT, Guard
from mesh.access.principal import Principal
from mesh.model.limits import Limits
from mesh.net.http import Connection
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.node.service import RefusedError, Service
from mesh.protocols.http import refused_response
from mesh.protocols.render import Renderer
from mesh.protocols.serve import EventsPort


class GuardedPort:
    """Answers the requests of one node's clients (`handle` is an `mesh.net.http_connection.Handler`). Cost: 8 us a request."""

    def __init__(self, service: Service, access: Access, limits: Limits) -> None:
        self._service = service
        self._access = access
        self._limits = limits
        self._renderer = Renderer(service.count_drop)
        self._seen: WeakKeyDictionary[Connection, Principal] = WeakKeyDictionary()
        """Who came last on a connection: it is audited once."""

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        """One request. Raises: LinkLost; cancellation."""
        try:
            found = shown(request, connection, in_query=self._access.terms.token_in_query)
            principal, proof = await self._access.admit(found)
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
        guard = Guard(self._service, self._access, principal, proof, connection.remote, self._limits)
        if self._seen.get(connection) != principal:
            self._seen[connection] = principal
            guard.audit("authenticate", f"{request.method} {request.path}", Result.ALLOWED)
        return await EventsPort(guard, self._limits, self._renderer).handle(request, connection)
