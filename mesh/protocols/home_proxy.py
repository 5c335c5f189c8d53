"""A durable client that connects to another node than its home: its connection is spliced through to there.

Decides whether a request belongs to another node of the region, and says so once: a request that came through one node is not
sent on by another. Never looks into what is spliced.
Bounds: a proxied connection counts as one of this node's clients, holds one read of each direction, and ends with either end.
Source: design page "Routing", Delivery (home nodes of durable clients).
"""

from __future__ import annotations

from typing import Final

import trio

from mesh.net.dial import dial
from mesh.net.http import Connection
from mesh.net.http_request import Request
from mesh.net.transport import LinkLost, Transport
from mesh.node.service import Home, Service
from mesh.protocols.problem import Problem

MARK: Final = b"mesh-proxied-by"
CONNECT_S: Final = 3.0
HOME_DOWN: Final = "MESH-E041"


async def proxied(service: Service, request: Request, connection: Connection, client: str) -> bool:
    """Serve the request at the client's home, if that is another node. False: it is for this node.

    Raises: Problem MESH-E041 (503) naming the home where it cannot be reached; cancellation."""
    home = service.receivers.home(client)
    if home is None:
        return False
    if request.header(MARK) is not None:
        raise _down(client, home, "which is not where this request came from")
    if not home.alive or not home.address:
        raise _down(client, home, "which is down")
    begun = False
    try:
        async with dial(home.address, "tcp", CONNECT_S, home.secure) as there:
            await there.send(_head(request, service))
            here, early = connection.take_over()
            begun = True
            await _splice(here, early, there)
    except LinkLost as lost:
        if not begun:
            raise _down(client, home, f"which does not answer ({lost.detail})") from None
    return True


def _down(client: str, home: Home, why: str) -> Problem:
    return Problem(HOME_DOWN, f"{client!r} is kept at node {home.node}, {why}", more={"home": home.node})


def _head(request: Request, service: Service) -> bytes:
    """The request as it came, marked, and for a connection of its own."""
    lines = [f"{request.method} {request.target} HTTP/1.1".encode("latin-1")]
    for name, value in request.headers:
        if name == b"connection" and not request.websocket:
            continue
        lines.append(name + b": " + value)
    if not request.websocket:
        lines.append(b"connection: close")
    lines.append(MARK + b": " + str(service.key).encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


async def _splice(here: Transport, early: bytes, there: Transport) -> None:
    """Bytes both ways until one end closes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_copy, here, there, early, nursery.cancel_scope, name="proxy to home")
        await _copy(there, here, b"", nursery.cancel_scope)


async def _copy(source: Transport, target: Transport, first: bytes, both: trio.CancelScope) -> None:
    try:
        if first:
            await target.send(first)
        while data := await source.receive():
            await target.send(data)
    except LinkLost:
        pass  # either end's end is the end of both
    both.cancel()
