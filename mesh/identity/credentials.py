"""The certificates that a node shows and trusts, as TLS contexts, from files that may change while it runs.

Decides whether files can be used at all and whether they are this node's; who is welcome on a link and at a port; and that new files take the
place of the old ones only when they are good. Never waits and never logs: whoever calls `reload` says when, and tells.
Invariant: the contexts in use are always of one whole set of files that was checked together.
Source: design page "Routing", Security; RFC 8446; docs/decisions/0020.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mesh.identity.pem import Certificate, read_certificate, read_file
from mesh.model.certificate import NodeId, PeerCertificate
from mesh.model.errors import MeshError
from mesh.model.ids import NodeKey
from mesh.model.reasons import Tls

Asked: TypeAlias = Literal["none", "optional", "required"]
"""Whether a port asks clients for certificates."""
WARN_S: Final = 14 * 86_400.0
"""An own certificate is warned of so long before it expires."""


@dataclass(frozen=True, slots=True)
class Files:
    """What one table of the configuration names. table: "tls" or "tls.clients". ca: None: nobody's certificates are trusted."""

    table: str
    ca: Path | None
    cert: Path
    key: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.cert, self.key) if path is not None)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One set of files that fit each other."""

    certificate: Certificate
    server: ssl.SSLContext
    client: ssl.SSLContext


class Credentials:
    """Contexts of one kind of port. Keeps: `mesh.net.tls.Secure`, with a subclass's `refuses`.

    Raises: MeshError MESH-C026 (a file), MESH-C040 (another node's), MESH-C041 (out of date): the node must not start.
    """

    def __init__(self, files: Files, now_s: float) -> None:
        self.files = files
        self._seen = self.look()
        self._loaded = self._load(now_s)

    @property
    def server(self) -> ssl.SSLContext:
        return self._loaded.server

    @property
    def client(self) -> ssl.SSLContext:
        return self._loaded.client

    @property
    def certificate(self) -> Certificate:
        """This node's own."""
        return self._loaded.certificate

    def refuses(self, certificate: PeerCertificate | None) -> tuple[Tls, str] | None:
        """See Secure."""
        raise NotImplementedError

    def look(self) -> tuple[object, ...]:
        """What can be seen of the files from outside: it differs when one was replaced. Cost: one stat a file. Never raises."""
        seen: list[object] = []
        for path in self.files.paths:
            try:
                found = path.stat()
                seen.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError as error:
                seen.append(error.errno)
        return tuple(seen)

    @property
    def changed(self) -> bool:
        """Whether the files differ from those last looked into."""
        return self.look() != self._seen

    def reload(self, now_s: float) -> None:
        """Use what the files hold now, for handshakes from now on. Raises: MeshError as at the start; the old ones stay in use."""
        self._seen = self.look()
        self._loaded = self._load(now_s)

    # -- loading ---------------------------------------------------------------------------------------------------

    def _load(self, now_s: float) -> Loaded:
        files = self.files
        where = f"{files.table}.cert"
        certificate = read_certificate(read_file(files.cert, where), files.cert, where)
        self._check(certificate, where)
        if certificate.not_after_s <= now_s:
            raise MeshError("MESH-C041", where, f"{files.cert} has expired")
        if certificate.not_before_s > now_s:
            raise MeshError("MESH-C041", where, f"{files.cert} is not valid yet")
        return Loaded(certificate, self._server(), self._client())

    def _check(self, certificate: Certificate, where: str) -> None:
        """Whether an own certificate may be used. Raises: MeshError MESH-C040."""

    def _server(self) -> ssl.SSLContext:
        raise NotImplementedError

    def _client(self) -> ssl.SSLContext:
        raise NotImplementedError

    def _context(self, side: int) -> ssl.SSLContext:
        """TLS 1.3, with the own certificate; trusts the CA's file, if there is one. Raises: MeshError MESH-C026."""
        files = self.files
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if side == ssl.PROTOCOL_TLS_SERVER:
            # A resumed session would bring back a certificate that was verified days ago.
            context.num_tickets = 0
        else:
            context.check_hostname = False
        where = f"{files.table}.ca"
        try:
            if files.ca is not None:
                text = read_file(files.ca, where).decode("ascii", "ignore")  # comments between certificates
                context.load_verify_locations(cadata=text)
                where = f"{files.table}.cert"
            context.load_cert_chain(files.cert, files.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            files_named = str(files.ca) if where.endswith(".ca") else f"{files.cert} and {files.key}"
            raise MeshError("MESH-C026", where, f"{files_named}: {_reason(error)}") from None
        return context


class LinkCredentials(Credentials):
    """For links: both ends show a certificate of one CA and one trust domain, and a node's.

    Args: key: who this node is: its certificate says the same. None: not known yet, only the files are checked.
    """

    def __init__(self, files: Files, key: NodeKey | None, now_s: float) -> None:
        self._key = key
        super().__init__(files, now_s)

    @property
    def trust(self) -> str:
        """The trust domain."""
        own = self.certificate.id
        assert own is not None, "checked when it was loaded"
        return own.trust

    def refuses(self, certificate: PeerCertificate | None) -> tuple[Tls, str] | None:
        """See Secure."""
        if certificate is None:
            return Tls.NO_CERTIFICATE, "no certificate was shown"
        if not isinstance(certificate.id, NodeId):
            return Tls.NOT_A_NODE, f"the certificate of {certificate} is no node's"
        if certificate.id.trust != self.trust:
            return (
                Tls.FOREIGN_TRUST,
                f"the certificate {certificate} is of trust domain {certificate.id.trust}, not {self.trust}",
            )
        return None

    def _check(self, certificate: Certificate, where: str) -> None:
        found = certificate.id
        if not isinstance(found, NodeId):
            what = f"{self.files.cert} names no node: its URI is not spiffe://TRUST/region/R/node/N"
            raise MeshError("MESH-C040", where, what)
        if self._key is not None and found.key != self._key:
            raise MeshError(
                "MESH-C040", where, f"{self.files.cert} is for {found.key}, and this node is {self._key}"
            )

    def _server(self) -> ssl.SSLContext:
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _client(self) -> ssl.SSLContext:
        # Who answers is told by its certificate's URI, not by the host that was dialled: nodes move, and their names stay.
        return self._context(ssl.PROTOCOL_TLS_CLIENT)


class PortCredentials(Credentials):
    """For the events and admin ports: the port shows a certificate, and may ask clients for theirs."""

    def __init__(self, files: Files, asked: Asked, now_s: float) -> None:
        assert asked == "none" or files.ca is not None, "clients' certificates come from a CA"
        self.asked: Final = asked
        super().__init__(files, now_s)

    def refuses(self, certificate: PeerCertificate | None) -> tuple[Tls, str] | None:
        """Nobody whom the context let pass: what a client may do is not decided here."""
        return None

    def _server(self) -> ssl.SSLContext:
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = {
            "none": ssl.CERT_NONE,
            "optional": ssl.CERT_OPTIONAL,
            "required": ssl.CERT_REQUIRED,
        }[self.asked]
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _client(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_CLIENT)


class HomeCredentials:
    """For dialling the events port of another node of the region, where a durable client is kept.

    Its certificate must name that node, where this node's own names a node and comes with its CA (`mesh ca`); another, as public CAs
    issue them, must be for the address that was dialled. Keeps: Secure. Args: ports: this node's own. node: which node is dialled.
    """

    def __init__(self, ports: PortCredentials, node: NodeKey) -> None:
        self._ports = ports
        own = ports.certificate.id
        by_name = isinstance(own, NodeId) and ports.files.ca is not None
        self._expected = NodeId(own.trust, node) if by_name and own is not None else None
        self._context: ssl.SSLContext | None = None

    @property
    def server(self) -> ssl.SSLContext:
        raise AssertionError("nobody dials a node here")

    @property
    def client(self) -> ssl.SSLContext:
        if self._expected is not None:
            return self._ports.client
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.load_cert_chain(
                self._ports.files.cert, self._ports.files.key, password=_no_password
            )
        return self._context

    def refuses(self, certificate: PeerCertificate | None) -> tuple[Tls, str] | None:
        """See Secure."""
        expected = self._expected
        if expected is not None and (certificate is None or certificate.id != expected):
            return Tls.FOREIGN_NAME, f"the certificate {certificate} is not that of {expected}"
        return None


def _no_password() -> str:
    raise ValueError("the key is encrypted: a node cannot ask for its password")


def _reason(error: Exception) -> str:
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or "unreadable"
    return str(text).replace("_", " ").lower()
