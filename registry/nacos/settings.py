"""Where the servers of a Nacos are, and how this client speaks to them.

Decides defaults and which values can be right. Source: Nacos's documentation, "Ports" (gRPC for clients is the HTTP port + 1000).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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
        tls: speak TLS, for gRPC and for logging in. ca, cert, key: PEM files; "": the system's, and no certificate of our own.
        login_tls: log in by HTTPS; None: as `tls` says.
        context_path: of the HTTP interface. grpc_offset: from the HTTP port to the gRPC port.
        connect_timeout_s: for one server. call_timeout_s: for one answer.

    Raises: ValueError, saying what to write instead.
    """

    servers: tuple[str, ...]
    namespace: str = ""
    group: str = "HOPMESH"
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
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
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key belong together: give both or neither")
        if (self.ca or self.cert) and not self.tls:
            raise ValueError("certificates are of use with tls only: set tls, or leave them out")

    def split(self, server: str) -> tuple[str, int]:
        """Host and HTTP port."""
        host, _, port = server.rpartition(":")
        return host.strip("[]"), int(port)

    def grpc_target(self, server: str) -> str:
        host, _, port = server.rpartition(":")
        return f"{host}:{int(port) + self.grpc_offset}"
