"""How a node reaches etcd, and under which keys its mesh is kept there.

Decides nothing at run time. Invariant: two meshes with prefixes that differ see nothing of each other.
Source: etcd's "etcd API" and "Role-based access control" pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PREFIX: Final = "/hopmesh"
PREFIX_BYTES: Final = 256
ENDPOINTS: Final = 32


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Args to `EtcdRegistry`.

    endpoints: HOST:PORT of the members, at least one; "http://" and "https://" before it are passed over.
    prefix: what all keys begin with; it begins with "/" and ends without one.
    user, password: "" where etcd asks for none. ca, cert, key: PEM files; with ca (or cert) the connection is TLS, with cert and
    key it is mutual. tls: TLS also without them, with the machine's own authorities.
    call_timeout_s: one call to one endpoint. silence_s: a watch without a word for so long is asked whether it lives.
    keepalive_s, keepalive_timeout_s: see `registry.rpc`; etcd refuses to be asked more often than every 5 s.
    Raises: ValueError, naming the field.
    """

    endpoints: tuple[str, ...]
    prefix: str = PREFIX
    user: str = ""
    password: str = ""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    tls: bool = False
    call_timeout_s: float = 3.0
    silence_s: float = 20.0
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < len(self.endpoints) <= ENDPOINTS or not all(map(target, self.endpoints)):
            raise ValueError(f"endpoints: 1 to {ENDPOINTS} of HOST:PORT are needed")
        prefix = self.prefix
        if not prefix.startswith("/") or prefix.endswith("/") or not prefix.isprintable():
            raise ValueError(f'prefix: {prefix[:40]!r} must begin with "/" and end without one')
        if len(prefix.encode()) > PREFIX_BYTES:
            raise ValueError(f"prefix: more than {PREFIX_BYTES} bytes")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key: one is nothing without the other")
        if self.password and not self.user:
            raise ValueError("user: a password needs one")

    @property
    def secure(self) -> bool:
        return self.tls or self.ca is not None or self.cert is not None


def target(endpoint: str) -> str:
    """HOST:PORT of an endpoint."""
    return endpoint.removeprefix("https://").removeprefix("http://").rstrip("/")
