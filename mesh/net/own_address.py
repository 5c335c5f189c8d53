"""The address that this machine tells others for a port that listens on all of its addresses.

Decides by the way out: the address from which this machine reaches those who will read the entry, the registry's servers
first. Where nothing leads anywhere it stays what was configured. Sends nothing: connecting a datagram socket only asks the
kernel for the route.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

import trio

from mesh.net.address import join, split

LOOKUP_S: Final = 2.0
ANYWHERE: Final = ("192.0.2.1:9", "[2001:db8::1]:9")
"""Addresses for documentation (RFC 5737, RFC 3849): the default route leads there, and nobody is."""


async def told_address(listening: str, towards: Sequence[str] = ()) -> str:
    """`listening` ("HOST:PORT"), with the address of this machine in place of a wildcard host.

    Args: towards: "HOST:PORT" of those who should reach it; the first one to which a way leads counts. Never raises.
    """
    host, port = split(listening)
    if not _is_wildcard(host):
        return listening
    for target in (*towards, *ANYWHERE):
        found = await _source(target, wants_v6=":" in host)
        if found:
            return join(found, port)
    return listening


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


async def _source(target: str, *, wants_v6: bool) -> str:
    """From which address a datagram to `target` would leave; "" if it would not."""
    try:
        host, port = split(target)
        with trio.move_on_after(LOOKUP_S):
            for family, kind, _, _, address in await trio.socket.getaddrinfo(
                host, port, type=trio.socket.SOCK_DGRAM
            ):
                if family == trio.socket.AF_INET6 and not wants_v6:
                    continue
                with trio.socket.socket(family, kind) as socket:
                    await socket.connect(address)
                    return str(socket.getsockname()[0])
    except (OSError, ValueError):
        pass
    return ""
