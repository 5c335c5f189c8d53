"""Where the servers of a Nacos are, and how this client speaks to them.

Decides defaults and which values can be right. Source: Nacos's documentation, "Ports" (gRPC for clients is the HTTP port + 1000).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SERVERS: Final = 16
_SERVER: Final = re.compile(r"([^\s:/@\[\]]+|\[[0-9A-Fa-f:.%]+\]):([0-9]{1,5})\Z")
_NAMESPACE: Final = re.compile(r"[\w-]{0,64}\Z", re.ASCII)
_GROUP: Final = re.compile(r"[A-Za-z0-9_:.-]{1,128}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class NacosSettings:
    """One Nacos, as one mesh uses it.

    Attributes:
        servers: HOST:PORT of each, the port that its users know (HTTP, 8848).
        namespace: its id, not its name; "" is `public`. group: of services and configurations; keeps meshes apart.
        user, password: "" where Nacos asks for none.
        ca, cert, key: PEM files; with ca (or cert) the connection is TLS, with cert and key it is mutual. tls: TLS also without
        them, with the machine's own authorities. login_tls: log in by HTTPS; None: if the connection is TLS.
        context_path: of the HTTP interface. grpc_offset: from the HTTP port to the gRPC port.
        connect_timeout_s: for one server. call_timeout_s: for one answer.

    Raises: ValueError, saying what to write instead.
    """

    servers: tuple[str, ...]
    namespace: str = ""
    group: str = "HOPMESH"
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    tls: bool = False
    login_tls: bool | None = None
    context_path: str = "/nacos"
    grpc_offset: int = 1_000
    connect_timeout_s: float = 3.0
    call_timeout_s: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < len(self.servers) <= SERVERS:
            raise ValueError(f"{len(self.servers)} servers: name 1 to {SERVERS}, each as HOST:PORT")
        for server in self.servers:
            found = _SERVER.match(server)
            if found is None or not 0 < int(found[2]) <= 65_535 - max(0, self.grpc_offset):
                raise ValueError(
                    f"server {server!r}: write HOST:PORT, with the port of its HTTP interface (8848)"
                )
        if _NAMESPACE.match(self.namespace) is None:
            raise ValueError(f"namespace {self.namespace!r}: write its id, as the console shows it")
        if _GROUP.match(self.group) is None:
            raise ValueError(f"group {self.group!r}: use 1 to 128 letters, digits, '-', '_', ':' or '.'")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key: one is nothing without the other")
        if self.password and not self.user:
            raise ValueError("user: a password needs one")

    @property
    def secure(self) -> bool:
        return self.tls or self.ca is not None or self.cert is not None

    @property
    def login_secure(self) -> bool:
        return self.secure if self.login_tls is None else self.login_tls

    def split(self, server: str) -> tuple[str, int]:
        """Host and HTTP port."""
        host, _, port = server.rpartition(":")
        return host.strip("[]"), int(port)

    def grpc_target(self, server: str) -> str:
        host, _, port = server.rpartition(":")
        return f"{host}:{int(port) + self.grpc_offset}"
