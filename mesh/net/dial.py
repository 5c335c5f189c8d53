"""Dialling another node's link port.

Decides how an address becomes a connected transport and which sentence tells why it does not. Never retries: the caller
paces with `supervise.Backoff`.
Source: design page "Wire and speed", rule 10; RFC 8305 (several addresses of one name, by trio).
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from mesh.net.address import join, split
from mesh.net.link_websocket import dial_link
from mesh.net.tcp import TcpTransport, why
from mesh.net.tls import Secure, shake_hands
from mesh.net.transport import LinkLost, Transport

TRANSPORTS = ("tcp", "ws")


@asynccontextmanager
async def dial(
    address: str,
    transport: str,
    timeout_s: float,
    secure: Secure | None = None,
    farewell: Callable[[str], bytes] | None = None,
) -> AsyncIterator[Transport]:
    """Connect to a link port: `async with dial(...) as transport`. The connection is closed when the body ends.

    A context, because a WebSocket has tasks of its own, and they must end with it.

    Args:
        address: "HOST:PORT", an IPv6 host in brackets.
        transport: "tcp" or "ws".
        timeout_s: for the name, the connection, TLS and the WebSocket opening together.
        secure: speak TLS, inside the WebSocket if it is one: a proxy that speaks only HTTP may be between. farewell: see
            `mesh.net.tls`.
    Raises: LinkLost (TlsFailed where TLS is at fault) with a sentence; nothing is left open. ValueError on an unknown transport. What
        the body raises.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"unknown transport {transport!r}")
    try:
        host, port = split(address)
    except ValueError as error:
        raise LinkLost(str(error)) from None
    begun = trio.current_time()
    connected: Transport = await _connect(host, port, address, timeout_s)

    def left_s() -> float:
        return max(0.0, timeout_s - (trio.current_time() - begun))

    async def inside(below: Transport) -> Transport:
        if secure is None:
            return below
        return await shake_hands(below, secure, left_s(), server=False, host=host, farewell=farewell)

    try:
        if transport == "tcp":
            yield await inside(connected)
        else:
            async with dial_link(connected, join(host, port), left_s()) as link:
                yield await inside(link)
    finally:
        connected.abort()


async def _connect(host: str, port: int, address: str, timeout_s: float) -> TcpTransport:
    try:
        with trio.move_on_after(timeout_s):
            stream = await trio.open_tcp_stream(host or "localhost", port)
            return TcpTransport(socket.socket(fileno=stream.socket.detach()), address)
    except socket.gaierror as error:
        raise LinkLost(f"the host name {host!r} cannot be resolved ({error.strerror})") from None
    except OSError as error:
        raise LinkLost(f"{address}: {_reason(error)}") from None
    except UnicodeError:
        raise LinkLost(f"the host name {host!r} cannot be resolved (it is no host name)") from None
    raise LinkLost(f"{address}: no answer within {timeout_s:g} s")


def _reason(error: OSError) -> str:
    """trio tells that every address of a name failed by an error around the single ones."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return why(cause if isinstance(cause, OSError) else error)
