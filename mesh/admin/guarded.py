"""The admin port of a node that asks who is there: scopes are judged here, and what changes a node is audited.

Decides which scope a call needs: reading needs `read`, publishing a dead letter again `publish`, everything else that changes
something `admin`. Probes (/livez, /readyz) are open: they tell nothing but that the node turns.
Invariant: no call gets behind this without its scope; each one that changes something leaves a record, whatever its result.
Source: design page "What a person sees", Admin API; docs/access.md.
"""

from __future__ import annotations

from typing import Final

from mesh.access.access import Access
from mesh.access.audit import Audit, Result
from mesh.access.credentials import shown
from mesh.access.principal import Principal, Scope
from mesh.admin.api import listing, problem_response
from mesh.admin.letters import PATH as LETTERS
from mesh.admin.port import AdminPort
from mesh.model.errors import MeshError
from mesh.net.http_connection import Connection
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.node.inspect import Inspect
from mesh.node.service import RefusedError

PORT: Final = "admin"
OPEN: Final = frozenset({"/livez", "/readyz"})
QUESTIONS: Final = frozenset({"/v1/policy/test", "/v1/policy/preview"})
"""Asked with a body, and change nothing."""
ACCESS_PATH: Final = "/v1/access"


def needed(request: Request) -> Scope | None:
    """The scope a call needs; None: it is open to all."""
    path = request.path.rstrip("/") or "/"
    if request.method in ("GET", "HEAD"):
        return None if path in OPEN else Scope.READ
    if path in QUESTIONS:
        return Scope.READ
    if path.startswith(LETTERS + "/") and path.endswith("/replay"):
        return Scope.PUBLISH
    return Scope.ADMIN


def action(request: Request) -> str:
    """What a call that changes something is called in the audit."""
    path = request.path.rstrip("/")
    if path == "/v1/node/leave":
        return "drain"
    if path.startswith(LETTERS + "/"):
        return "dlq replay" if path.endswith("/replay") else "dlq drop"
    return request.method.lower()


class GuardedAdminPort:
    """Serves one node's operators. access: None where the port asks nobody, and only the audit is kept."""

    def __init__(self, inspect: Inspect, access: Access | None, audit: Audit) -> None:
        self._inspect = inspect
        self._access = access
        self._audit = audit
        self._port = AdminPort(inspect)

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        """Answer one request; None when it was streamed."""
        principal: Principal | None = None
        scope = needed(request)
        try:
            if self._access is not None and scope is not None:
                principal = await self._judge(self._access, scope, request, connection)
            if self._access is not None and request.path == ACCESS_PATH and request.method == "GET":
                return self._tell_access(self._access)
        except MeshError as error:
            self._inspect.count_refusal(PORT, error.code)
            headers = [("www-authenticate", 'Bearer realm="hopmesh"')] if error.code == "MESH-A004" else []
            return problem_response(error, headers)
        response = await self._port.handle(request, connection)
        if scope in (Scope.ADMIN, Scope.PUBLISH):
            done = response is not None and response.status < 400
            self._tell(
                action(request),
                request,
                connection,
                Result.DONE if done else Result.FAILED,
                principal,
                detail="" if response is None else f"status {response.status}",
            )
        return response

    async def _judge(
        self, access: Access, scope: Scope, request: Request, connection: Connection
    ) -> Principal:
        """Raises: MeshError MESH-A004, MESH-A040."""
        try:
            principal, _ = await access.admit(shown(request, connection, in_query=False))
        except RefusedError as refused:
            self._tell(
                "authenticate",
                request,
                connection,
                Result.REFUSED,
                None,
                code=refused.code,
                detail=refused.detail,
            )
            raise MeshError("MESH-A004", request.path, refused.detail) from None
        if scope not in access.rights_of(principal).scopes:
            access.usage.of(principal).denied += 1
            what = f"{principal.name} has no scope {scope.value}"
            self._tell(
                action(request), request, connection, Result.DENIED, principal, code="MESH-A040", detail=what
            )
            raise MeshError("MESH-A040", request.path, what)
        return principal

    def _tell(
        self,
        what: str,
        request: Request,
        connection: Connection,
        result: Result,
        principal: Principal | None,
        *,
        code: str = "",
        detail: str = "",
    ) -> None:
        self._audit.tell(
            what,
            f"{request.method} {request.path}",
            result,
            who=principal.name if principal is not None else "",
            kind=principal.kind.value if principal is not None else "",
            remote=connection.remote,
            port=PORT,
            code=code,
            detail=detail,
        )

    def _tell_access(self, access: Access) -> Response:
        """GET /v1/access: what each principal of the asked node uses and may use, and how the audit stream stands."""
        node = self._inspect.key.node
        audit = {"written": self._audit.written, "waiting": self._audit.waiting, "lost": self._audit.lost}
        items: list[dict[str, object]] = [{"node": node, **item} for item in access.items()]
        items.append({"node": node, "name": "", "kind": "audit", **audit, "problem": self._audit.problem})
        return listing([node], [], items, None)
