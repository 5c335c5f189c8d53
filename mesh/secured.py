"""TLS of a node that runs: which ports have it, when their files are read again, and what is told of it.

Decides when a change of the files is whole enough to be read (it looks the same twice), how often an expiry is warned of, and how many
lines a stranger who is refused may cause. Never touches an open connection.
Invariant: a set of files that cannot be used changes nothing but the log.
Source: design page "Routing", Security; docs/security.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
import trio

from mesh.config import Config
from mesh.identity.credentials import WARN_S, Credentials, Files, LinkCredentials, PortCredentials
from mesh.model.errors import MeshError
from mesh.model.ids import NodeKey
from mesh.model.reasons import Tls
from mesh.net.tls import TlsFailed
from mesh.node.inspect import Item

log = structlog.get_logger("tls")

LOOK_S: Final = 2.0
"""How often files are looked at."""
WARN_AGAIN_S: Final = 86_400.0
TOLD_AGAIN_S: Final = 60.0
"""A stranger that is refused again and again is told of once in so long, for each address and reason; all are counted."""
TOLD: Final = 256
"""Addresses and reasons remembered for that."""


_LOOKED: Final = frozenset({Tls.CUT_SHORT, Tls.TIMEOUT})
"""What health checks and port scans look like: counted, not told."""


class Secured:
    """The certificates of one node, by what they are for. key: who it is; None: not known yet, only the files are checked.

    Raises: MeshError (C026, C040, C041) when they cannot be used."""

    def __init__(self, config: Config, key: NodeKey | None, wall_s: Callable[[], float] = time.time) -> None:
        self._wall_s = wall_s
        self._insecure = {"links": config.links_exposed, "clients": config.clients_exposed}
        now_s = wall_s()
        tls, ports = config.tls, config.tls_clients
        self.links: LinkCredentials | None = None
        self.ports: PortCredentials | None = None
        if tls is not None:
            self.links = LinkCredentials(Files("tls", tls.ca, tls.cert, tls.key), key, now_s)
        if ports is not None:
            files = Files("tls.clients", ports.ca, ports.cert, ports.key)
            self.ports = PortCredentials(files, ports.certificates, now_s)
        self._warned: dict[str, float] = {}
        self._pending: dict[str, tuple[object, ...]] = {}
        self._told: dict[tuple[str, str], float] = {}

    @property
    def _all(self) -> dict[str, Credentials]:
        found: dict[str, Credentials | None] = {"links": self.links, "clients": self.ports}
        return {use: each for use, each in found.items() if each is not None}

    def expires_in_s(self) -> dict[str, float]:
        """Seconds until this node's own certificates expire, by what they are for; below 0 when they have."""
        now_s = self._wall_s()
        return {use: each.certificate.not_after_s - now_s for use, each in self._all.items()}

    def exposed(self) -> dict[str, bool]:
        """Whether links or clients' ports are open to a network in clear text, because the operator said so."""
        return dict(self._insecure)

    def item(self) -> Item:
        """What `mesh node show` tells of it."""
        left_s = self.expires_in_s()
        told: Item = {}
        for use in ("links", "clients"):
            each = self._all.get(use)
            if each is None:
                told[use] = "insecure" if self._insecure[use] else "clear text, loopback only"
                continue
            told[use] = "TLS"
            told[f"{use}_certificate"] = str(each.certificate.id or each.certificate.subject)
            told[f"{use}_expires_in_s"] = round(left_s[use])
        if self.ports is not None:
            told["client_certificates"] = self.ports.asked
        return told

    # -- files that change -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the files again and again, and warn of what expires, until cancelled."""
        while True:
            self._warn()
            await trio.sleep(LOOK_S)
            for use, each in self._all.items():
                if not each.changed:
                    self._pending.pop(use, None)
                elif self._pending.get(use) == (seen := each.look()):
                    del self._pending[use]
                    self._reload(use, each)
                else:
                    self._pending[use] = seen  # somebody may be writing just now

    def reload(self) -> None:
        """Read all files now (SIGHUP). Never raises for what is in them."""
        for use, each in self._all.items():
            self._reload(use, each)

    def _reload(self, use: str, each: Credentials) -> None:
        before = each.certificate
        try:
            each.reload(self._wall_s())
        except MeshError as error:
            log.warning(
                "certificates not reloaded: the old ones stay in use", code=error.code, problem=str(error)
            )
            return
        after = each.certificate
        if after.serial != before.serial:
            self._warned.pop(use, None)
        log.info(
            "certificates reloaded",
            use=use,
            serial=after.serial,
            expires_in_s=round(self.expires_in_s()[use]),
        )
        self._warn()

    def _warn(self) -> None:
        now_s = self._wall_s()
        for use, left_s in self.expires_in_s().items():
            if left_s > WARN_S or now_s - self._warned.get(use, float("-inf")) < WARN_AGAIN_S:
                continue
            self._warned[use] = now_s
            code = "MESH-C042" if left_s > 0 else "MESH-C041"
            table = self._all[use].files.table
            what = f"it expires in {left_s / 86_400:.1f} days" if left_s > 0 else "it has expired"
            log.warning("certificate expires", code=code, problem=str(MeshError(code, f"{table}.cert", what)))

    # -- strangers -------------------------------------------------------------------------------------------------

    def refused(self, port: str, remote: str, failed: TlsFailed) -> None:
        """A handshake ended in nothing: tell it, but not every time, and not that somebody only looked whether the port is there."""
        if failed.why in _LOOKED:
            return
        now_s = trio.current_time()
        key = (remote.rpartition(":")[0], f"{port} {failed.why.counted}")
        if now_s - self._told.get(key, float("-inf")) < TOLD_AGAIN_S:
            return
        while len(self._told) >= TOLD:
            del self._told[next(iter(self._told))]
        self._told.pop(key, None)
        self._told[key] = now_s
        problem = str(MeshError("MESH-L030", remote, failed.detail))
        log.warning("TLS refused", port=port, reason=failed.why.counted, code="MESH-L030", problem=problem)
