"""Requests that a browser sends for a web page of somebody else: every port of a node is within reach of every page.

Decides whether a request comes from a page that has no business here: one whose origin is another site, or one under a name
that its owner has pointed at this machine (DNS rebinding). A port without tokens has nothing else that keeps pages out.
Never decides anything about clients that are no browsers, but that they call a port of this machine by an address or by a
name without a dot ("localhost", the machine's own): a name that somebody elsewhere can point here has one.
Source: Fetch standard (Origin), Fetch Metadata (Sec-Fetch-Site), RFC 6454 section 7, RFC 9110 section 7.2 (Host).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

CODE: Final = "MESH-A021"
FOREIGN_ORIGIN, FOREIGN_HOST = "foreign_origin", "foreign_host"


def foreign(headers: Sequence[tuple[bytes, bytes]], *, on_loopback: bool) -> tuple[str, str] | None:
    """Why a request is refused as that of a foreign page: a short stable name and a sentence; None when it is not.

    Args: headers: names in lower case. on_loopback: the port is this machine's alone, so a name of the public DNS
        does not lead to it unless somebody made it do so.
    Cost: O(headers), under 1 us where no browser asks. Never raises.
    """
    host = origin = site = mode = None
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origin = value if origin is None else b"null"
        elif name == b"sec-fetch-site":
            site = value
        elif name == b"sec-fetch-mode":
            mode = value
    if on_loopback and host is not None and not _is_local_authority(host):
        told = host[:80].decode("latin-1")
        return FOREIGN_HOST, f"this port is called by an address or as localhost, not as {told!r}"
    if origin is not None:
        if not _is_this_machine(_name(origin)) and origin.partition(b"://")[2] != host:
            told = origin[:80].decode("latin-1")
            return FOREIGN_ORIGIN, f"web pages of {told!r} may not call this node"
    elif site == b"cross-site" and mode != b"navigate":
        return FOREIGN_ORIGIN, "web pages of another site may not call this node"
    return None


def _name(url: bytes) -> str:
    """The host of an origin or of "//HOST:PORT"; "" when it has none."""
    try:
        return urlsplit(url.decode("ascii")).hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=16)
def _is_local_authority(authority: bytes) -> bool:
    """Whether a Host header names this machine: the few that its clients use are judged once."""
    return _is_local(_name(b"//" + authority))


def _is_local(host: str) -> bool:
    return _address(host) is not None or (host != "" and "." not in host)


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
