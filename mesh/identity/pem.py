"""Reading what PEM files say: a certificate's name, its dates and its hosts. The one reader of certificates that are this node's own.

Never verifies a chain (OpenSSL does, in `mesh.identity.credentials`) and never writes.
Source: RFC 5280 (certificates), RFC 7468 (PEM).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.model.certificate import ClientId, NodeId, only_id
from mesh.model.errors import MeshError

FILE_BYTES: Final = 1 << 20
"""A larger file is no certificate."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate. id: of its only SPIFFE URI, None for another kind. hosts: DNS names and addresses it may be dialled by.
    not_before_s, not_after_s: wall clock. serial: in hexadecimal, as OpenSSL writes it."""

    id: NodeId | ClientId | None
    subject: str
    hosts: tuple[str, ...]
    serial: str
    not_before_s: float
    not_after_s: float


def read_file(path: Path, where: str) -> bytes:
    """A whole small file. Raises: MeshError MESH-C026."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise MeshError("MESH-C026", where, f"{path}: {error.strerror or error}") from None
    if len(content) > FILE_BYTES:
        raise MeshError("MESH-C026", where, f"{path}: larger than {FILE_BYTES} bytes")
    return content


def read_certificate(pem: bytes, path: Path, where: str) -> Certificate:
    """The first certificate of a PEM file: the end's own, where others of the chain follow. Raises: MeshError MESH-C026."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(pem)
        names = _names(found)
    except ValueError as error:
        raise MeshError("MESH-C026", where, f"{path}: no PEM certificate ({error})") from None
    common = found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Certificate(
        id=only_id(names[0]),
        subject=str(common[0].value) if common else "",
        hosts=tuple(names[1]),
        serial=f"{found.serial_number:X}",
        not_before_s=found.not_valid_before_utc.timestamp(),
        not_after_s=found.not_valid_after_utc.timestamp(),
    )


def _names(certificate: object) -> tuple[list[str], list[str]]:
    """Its URIs, and its DNS names and addresses."""
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    hosts = [str(name) for name in names.get_values_for_type(x509.DNSName)]
    hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [str(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)], hosts
