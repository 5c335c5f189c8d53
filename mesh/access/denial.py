"""A refusal by access: no proof, a bad one, a rule that denies, or more than a principal may use.

Decides the headers and fields that such an answer has beside its code. Never decides whether something is refused.
Source: RFC 6750 section 3 (WWW-Authenticate); RFC 6585 section 4 and RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

from math import ceil

from mesh.access.rights import Cause
from mesh.model.errors import ERRORS
from mesh.node.service import RefusedError

REALM = "hopmesh"


class Denied(RefusedError):
    """cause: the rule, where one denies. retry_s: when it may be tried again."""

    def __init__(
        self, code: str, detail: str, *, cause: Cause | None = None, retry_s: float = 0.0, status: int = 0
    ) -> None:
        super().__init__(code, detail, status=status or ERRORS[code].status)
        self.cause = cause
        if cause is not None:
            self.more = {"rule": cause.item()}
        if self.status == 401:
            error = ', error="invalid_token"' if code == "MESH-E062" else ""
            self.headers = (("www-authenticate", f'Bearer realm="{REALM}"{error}'),)
        elif retry_s:
            self.headers = (("retry-after", str(max(1, ceil(retry_s)))),)
