"""What a request shows of who sends it: a bearer token, in one of three places, or the certificate of its connection.

Decides where a token may stand, and takes it out of where it would be taken for something else. Never judges it.
Invariant: a request with two tokens is refused: nobody could say whose it is.
Source: RFC 6750 sections 2 and 3 (and 2.3: why a token in a URL is the last resort); RFC 9110 section 5.6.2 (token characters).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mesh.access.denial import Denied
from mesh.net.http_connection import Connection
from mesh.net.http_request import Request

SUBPROTOCOL: Final = "mesh.bearer."
"""A browser cannot set headers of a WebSocket: it offers this with the token behind it, beside the subprotocol it wants."""
PARAMETER: Final = "access_token"
TOKEN_CHARS: Final = 8_192


class CertifiedName(NamedTuple):
    """A client's name as the verified certificate of its connection has it. until_s: wall clock."""

    name: str
    until_s: float


class Shown(NamedTuple):
    """token: "" where there is none. certified: None without TLS, or where the certificate names no client."""

    token: str
    certified: CertifiedName | None


def shown(request: Request, connection: Connection, *, in_query: bool) -> Shown:
    """What the request shows. in_query: `?access_token=` is taken, of a GET. Effects: the token is gone from the request's
    subprotocols and query; its target keeps it. Raises: Denied MESH-E062."""
    found: list[str] = []
    for name, value in request.headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").strip().partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Denied("MESH-E062", "the Authorization header is not 'Bearer TOKEN'")
            found.append(token.strip())
    if request.websocket:
        found += _offered(request)
    if PARAMETER in request.raw_query:
        token = _from_query(request)
        if token and not (in_query and request.method == "GET"):
            raise Denied(
                "MESH-E062",
                f"{PARAMETER}= is not taken here: URLs are logged. Use the Authorization header, or the "
                f"WebSocket subprotocol {SUBPROTOCOL}TOKEN",
            )
        found += [token] if token else []
    if len(found) > 1:
        raise Denied("MESH-E062", "the request shows more than one token", status=400)
    token = found[0] if found else ""
    if len(token) > TOKEN_CHARS:
        raise Denied("MESH-E062", f"the token is longer than {TOKEN_CHARS} characters")
    return Shown(token, certified_name(connection))


def _offered(request: Request) -> list[str]:
    """Tokens among the subprotocols offered; they become headers."""
    found: list[str] = []
    for at, (name, value) in enumerate(request.headers):
        if name != b"sec-websocket-protocol" or SUBPROTOCOL.encode() not in value:
            continue
        kept = []
        for one in value.decode("latin-1").split(","):
            if one.strip().startswith(SUBPROTOCOL):
                found.append(one.strip()[len(SUBPROTOCOL) :])
            else:
                kept.append(one.strip())
        request.headers[at] = (name, ", ".join(kept).encode("latin-1"))
    # So that the home of a durable client, to which the request may be passed on, is shown it, too.
    request.headers.extend((b"authorization", b"Bearer " + token.encode("latin-1")) for token in found)
    return found


def _from_query(request: Request) -> str:
    kept, found = [], ""
    for pair in request.raw_query.split("&"):
        name, _, value = pair.partition("=")
        if name == PARAMETER:
            found = value
        else:
            kept.append(pair)
    request.raw_query = "&".join(kept)
    return found


def certified_name(connection: Connection) -> CertifiedName | None:
    """The client that the connection's certificate names, as its transport says: `certificate` with an `id` of a trust domain
    (spiffe://TRUST/client/NAME) and `not_after_s`. Certificates of nodes name no client."""
    certificate = getattr(connection.transport, "certificate", None)
    name = getattr(getattr(certificate, "id", None), "name", None)
    until_s = getattr(certificate, "not_after_s", None)
    if not isinstance(name, str) or not isinstance(until_s, int | float):
        return None
    return CertifiedName(name, float(until_s))
