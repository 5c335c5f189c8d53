"""A CA in a folder, for people without one of their own: a key, its certificate, and a list of what it has issued.

Decides the form of the certificates (P-256, X.509 v3, one SPIFFE URI each), where their files go and with which permissions, and that a name
is issued once until somebody says again. Never speaks to a node: files are all there is between them.
Invariant: a private key is never readable by others, not even for a moment; every file is replaced whole; what was issued is listed.
Source: RFC 5280; SPIFFE X.509-SVID; docs/decisions/0020.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mesh.model.certificate import ClientId, NodeId, check_trust, parse_id
from mesh.model.errors import MeshError
from mesh.model.ids import BadName

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256

DAY_S: Final = 86_400.0
CA_DAYS, NODE_DAYS, CLIENT_DAYS = 3_650.0, 90.0, 90.0
"""How long certificates are good unless it is said. A short life is what stands in for revocation."""
BACKDATED: Final = datetime.timedelta(minutes=10)
"""Clocks that run behind by less take a new certificate at once."""
CA_CERT, CA_KEY, LIST, LOCK = "ca.pem", "ca.key", "issued.json", "lock"
CERT, KEY = "cert.pem", "key.pem"
HOSTS: Final = 64
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})\Z")


class Issued(msgspec.Struct, frozen=True):
    """One row of the list. id: the SPIFFE id. folder: where its files were put, absolute. hosts: DNS names and addresses it may be
    dialled by. not_after_s: wall clock."""

    id: str
    folder: str
    hosts: tuple[str, ...]
    serial: str
    issued_s: float
    not_after_s: float

    @property
    def name(self) -> str:
        """As commands write it: REGION/NODE, or client/NAME."""
        return name_of(parse_id(self.id))

    @property
    def kind(self) -> str:
        return "node" if isinstance(parse_id(self.id), NodeId) else "client"


def name_of(who: NodeId | ClientId) -> str:
    """REGION/NODE, or client/NAME."""
    return str(who.key) if isinstance(who, NodeId) else f"client/{who.name}"


class Authority:
    """One CA. Made by `create` or `open_ca`.

    Raises: MeshError MESH-A030 wherever its folder cannot be used; nothing is half written then.
    """

    def __init__(
        self, folder: Path, trust: str, certificate: x509.Certificate, key: EllipticCurvePrivateKey
    ) -> None:
        self.folder = folder
        self.trust = trust
        self._certificate = certificate
        self._key = key

    # -- making and opening ----------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, trust: str, now_s: float, days: float = CA_DAYS) -> Authority:
        """A new CA in a folder that has none. Raises: MeshError MESH-A030; BadName for a trust domain that is none."""
        from cryptography import x509

        check_trust(trust)
        if (folder / CA_CERT).exists() or (folder / CA_KEY).exists():
            raise MeshError(
                "MESH-A030", str(folder), "a CA is there already", "Use it, or name another folder."
            )
        key = _new_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{trust} mesh CA"[:64])])
        usage = _usage(digital_signature=False, key_cert_sign=True)
        certificate = (
            _builder(name, name, key, now_s, now_s + days * DAY_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(_uris(f"spiffe://{trust}"), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, _sha256())
        )
        with _usable(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(folder / CA_KEY, _key_pem(key), 0o600)
            _write(folder / CA_CERT, _pem(certificate), 0o644)
            _write(folder / LIST, b"[]\n", 0o644)
        return cls(folder, trust, certificate, key)

    @classmethod
    def open_ca(cls, folder: Path) -> Authority:
        """The CA in a folder. Raises: MeshError MESH-A030."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        with _usable(folder):
            cert, key = (folder / CA_CERT).read_bytes(), (folder / CA_KEY).read_bytes()
        try:
            certificate = x509.load_pem_x509_certificate(cert)
            private = load_pem_private_key(key, password=None)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
            trust = check_trust(str(uri).removeprefix("spiffe://"))
        except (ValueError, TypeError, BadName, x509.ExtensionNotFound) as error:
            raise MeshError("MESH-A030", str(folder), f"this is no CA of 'mesh ca init' ({error})") from None
        if (
            not isinstance(private, EllipticCurvePrivateKey)
            or private.public_key() != certificate.public_key()
        ):
            raise MeshError("MESH-A030", str(folder), f"{CA_KEY} is not the key of {CA_CERT}")
        return cls(folder, trust, certificate, private)

    @property
    def not_after_s(self) -> float:
        return self._certificate.not_valid_after_utc.timestamp()

    # -- issuing ---------------------------------------------------------------------------------------------------

    def issued(self) -> list[Issued]:
        """What it has issued, the newest of each name, in the order of names. Raises: MeshError MESH-A030."""
        with _usable(self.folder):
            raw = (self.folder / LIST).read_bytes()
        try:
            rows = msgspec.json.decode(raw, type=list[Issued])
            return sorted(rows, key=lambda row: (row.kind != "node", row.name))
        except (msgspec.DecodeError, BadName) as error:
            raise MeshError("MESH-A030", str(self.folder / LIST), f"it cannot be read ({error})") from None

    def issue(
        self,
        who: NodeId | ClientId,
        now_s: float,
        *,
        hosts: Sequence[str] = (),
        folder: Path | None = None,
        days: float = 0.0,
        again: bool = False,
    ) -> Issued:
        """A certificate with a new key, as cert.pem, key.pem and ca.pem in its folder (default: in the CA's, by its name).

        Args: hosts: DNS names and addresses that clients dial it by. again: also where the name was issued before.
        Raises: MeshError MESH-A032, MESH-A030, MESH-A001 (a host that is none).
        """
        assert who.trust == self.trust, "a CA issues for its own trust domain"
        with self._locked():
            rows = self.issued()
            if not again and any(row.id == str(who) for row in rows):
                raise MeshError("MESH-A032", str(self.folder), f"{name_of(who)} has one")
            path = (folder if folder is not None else self._folder_of(who)).absolute()
            return self._issue(rows, who, now_s, tuple(hosts), path, days)

    def renew(
        self, who: NodeId | ClientId, now_s: float, *, folder: Path | None = None, days: float = 0.0
    ) -> Issued:
        """A new key and certificate for a name that was issued before, with its hosts, in its folder unless another is named.

        Raises: MeshError MESH-A031 (never issued), MESH-A030."""
        with self._locked():
            rows = self.issued()
            old = next((row for row in rows if row.id == str(who)), None)
            if old is None:
                raise MeshError("MESH-A031", str(self.folder), f"no certificate of {name_of(who)}")
            path = folder.absolute() if folder is not None else Path(old.folder)
            return self._issue(rows, who, now_s, old.hosts, path, days)

    def _issue(
        self,
        rows: list[Issued],
        who: NodeId | ClientId,
        now_s: float,
        hosts: tuple[str, ...],
        folder: Path,
        days: float,
    ) -> Issued:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        is_node = isinstance(who, NodeId)
        not_after_s = now_s + (days or (NODE_DAYS if is_node else CLIENT_DAYS)) * DAY_S
        if not_after_s > self.not_after_s:
            not_after_s = self.not_after_s  # nobody takes it any longer
        if not_after_s <= now_s:
            raise MeshError(
                "MESH-A030", str(self.folder), "the CA's own certificate has expired", "Make a new CA."
            )
        key = _new_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name_of(who)[:64])])
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if is_node:
            purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        public = self._key.public_key()
        certificate = (
            _builder(name, self._certificate.subject, key, now_s, not_after_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True, key_cert_sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(_uris(str(who), hosts), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .sign(self._key, _sha256())
        )
        row = Issued(str(who), str(folder), hosts, f"{certificate.serial_number:X}", now_s, not_after_s)
        with _usable(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A node that looks between the two finds a pair that does not fit, and looks again.
            _write(folder / KEY, _key_pem(key), 0o600)
            _write(folder / CERT, _pem(certificate), 0o644)
            _write(folder / CA_CERT, _pem(self._certificate), 0o644)
        rows = [*(each for each in rows if each.id != row.id), row]
        with _usable(self.folder):
            _write(self.folder / LIST, msgspec.json.format(msgspec.json.encode(rows)) + b"\n", 0o644)
        return row

    def _folder_of(self, who: NodeId | ClientId) -> Path:
        if isinstance(who, NodeId):
            return self.folder / "nodes" / who.key.region / who.key.node
        return self.folder / "clients" / who.name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time changes the list."""
        with _usable(self.folder):
            lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


# -- parts of certificates --------------------------------------------------------------------------------------------


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _sha256() -> SHA256:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now_s: float, not_after_s: float
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(datetime.datetime.fromtimestamp(not_after_s, datetime.UTC))
    )


def _usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _uris(uri: str, hosts: Sequence[str] = ()) -> x509.SubjectAlternativeName:
    """The id, then what it may be dialled by. Raises: MeshError MESH-A001."""
    from cryptography import x509

    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    if len(hosts) > HOSTS:
        raise MeshError("MESH-A001", "--host", f"{len(hosts)} names are more than {HOSTS}")
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host.strip("[]"))))
            continue
        except ValueError:
            pass
        if _HOST.match(host) is None or ".." in host:
            raise MeshError("MESH-A001", "--host", f"{host!r} is neither a DNS name nor an address")
        names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# -- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = str(error.filename or folder)
        raise MeshError("MESH-A030", where, (error.strerror or str(error)).lower()) from None


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file whole; it has its permissions before it has content."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        file = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
