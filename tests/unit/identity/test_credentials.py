from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from mesh.identity.authority import DAY_S, Authority
from mesh.identity.credentials import Files, HomeCredentials, LinkCredentials, PortCredentials
from mesh.model.certificate import ClientId, NodeId, PeerCertificate
from mesh.model.errors import MeshError
from mesh.model.ids import NodeKey
from mesh.model.reasons import Tls

NOW_S = 1_800_000_000.0
EU1, EU2 = NodeKey("eu", "eu-1"), NodeKey("eu", "eu-2")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "t", NOW_S)


def files_of(authority: Authority, key: NodeKey, table: str = "tls") -> Files:
    folder = Path(authority.issue(NodeId("t", key), NOW_S, again=True).folder)
    return Files(table, folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


def links(authority: Authority, key: NodeKey = EU1) -> LinkCredentials:
    return LinkCredentials(files_of(authority, key), key, NOW_S)


def shown(id: NodeId | ClientId | None) -> PeerCertificate:
    return PeerCertificate(id, "someone", "1", NOW_S)


def test_who_is_welcome_on_a_link(authority: Authority) -> None:
    found = links(authority)
    assert found.trust == "t"
    assert found.refuses(shown(NodeId("t", EU2))) is None
    for certificate, why, words in (
        (None, Tls.NO_CERTIFICATE, "no certificate"),
        (shown(None), Tls.NOT_A_NODE, "'someone'"),
        (shown(ClientId("t", "billing")), Tls.NOT_A_NODE, "spiffe://t/client/billing"),
        (shown(NodeId("else", EU2)), Tls.FOREIGN_TRUST, "else, not t"),
    ):
        refusal = found.refuses(certificate)
        assert refusal is not None
        assert refusal[0] is why
        assert words in refusal[1]


def test_contexts_speak_nothing_older_and_resume_nothing(authority: Authority) -> None:
    found = links(authority)
    for context in (found.server, found.client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert found.server.num_tickets == 0


def test_an_own_certificate_must_be_this_nodes_and_in_date(authority: Authority) -> None:
    files = files_of(authority, EU1)
    with pytest.raises(MeshError, match=r"MESH-C040 tls\.cert: .* is for eu/eu-1, and this node is eu/eu-2"):
        LinkCredentials(files, EU2, NOW_S)
    LinkCredentials(files, None, NOW_S)  # who it is, is not known yet
    with pytest.raises(MeshError, match=r"MESH-C041 .*has expired"):
        LinkCredentials(files, EU1, NOW_S + 91 * DAY_S)
    with pytest.raises(MeshError, match=r"MESH-C041 .*not valid yet"):
        LinkCredentials(files, EU1, NOW_S - DAY_S)
    client = Path(authority.issue(ClientId("t", "x"), NOW_S).folder)
    with pytest.raises(MeshError, match=r"MESH-C040 .*names no node"):
        LinkCredentials(Files("tls", files.ca, client / "cert.pem", client / "key.pem"), EU1, NOW_S)


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("ca.pem", b"", "tls.ca"),
        ("ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "tls.ca"),
        ("cert.pem", b"hello", "tls.cert"),
        ("key.pem", b"hello", "tls.cert"),
        ("cert.pem", b"x" * (1 << 20) + b"x", "tls.cert"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    authority: Authority, name: str, content: bytes, where: str
) -> None:
    files = files_of(authority, EU1)
    (files.cert.parent / name).write_bytes(content)
    with pytest.raises(MeshError) as error:
        LinkCredentials(files, EU1, NOW_S)
    assert (error.value.code, error.value.where) == ("MESH-C026", where)
    assert name in str(error.value)


def test_a_key_of_another_pair_or_with_a_password_is_refused(authority: Authority) -> None:
    files, other = files_of(authority, EU1), files_of(authority, EU2)
    files.key.write_bytes(other.key.read_bytes())
    with pytest.raises(MeshError, match=r"MESH-C026 .*mismatch"):
        LinkCredentials(files, EU1, NOW_S)
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(other.key.read_bytes(), None)
    secret = form.BestAvailableEncryption(b"secret")
    other.key.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secret))
    with pytest.raises(MeshError, match=r"MESH-C026 .*encrypted"):
        LinkCredentials(other, EU2, NOW_S)


def test_new_files_are_used_when_they_are_good_and_only_then(authority: Authority) -> None:
    found = links(authority)
    old, server = found.certificate.serial, found.server
    assert not found.changed
    good = found.files.key.read_bytes()
    found.files.key.write_bytes(b"half")
    assert found.changed
    with pytest.raises(MeshError, match="MESH-C026"):
        found.reload(NOW_S)
    assert not found.changed, "looked into, and told"
    assert (found.certificate.serial, found.server) == (old, server)
    found.files.key.write_bytes(good)
    os.utime(found.files.key, (1, 1))
    assert found.changed
    authority.renew(NodeId("t", EU1), NOW_S)
    found.reload(NOW_S)
    assert found.certificate.serial != old
    assert found.server is not server
    found.files.ca.unlink()  # type: ignore[union-attr]
    assert found.changed


@pytest.mark.parametrize(
    ("asked", "mode"),
    [("none", ssl.CERT_NONE), ("optional", ssl.CERT_OPTIONAL), ("required", ssl.CERT_REQUIRED)],
)
def test_ports_ask_clients_as_they_are_told(authority: Authority, asked: str, mode: ssl.VerifyMode) -> None:
    found = PortCredentials(files_of(authority, EU1, "tls.clients"), asked, NOW_S)  # type: ignore[arg-type]
    assert found.server.verify_mode is mode
    assert found.refuses(None) is None


def test_a_home_is_known_by_its_name_or_else_by_its_address(authority: Authority, tmp_path: Path) -> None:
    ports = PortCredentials(files_of(authority, EU1, "tls.clients"), "none", NOW_S)
    home = HomeCredentials(ports, EU2)
    assert home.refuses(shown(NodeId("t", EU2))) is None
    foreign = NodeId("t", EU1), NodeId("else", EU2), ClientId("t", "x")
    for certificate in (None, shown(None), *map(shown, foreign)):
        refusal = home.refuses(certificate)
        assert refusal is not None
        assert refusal[0] is Tls.FOREIGN_NAME
    assert not home.client.check_hostname
    # A certificate that names no node, as a public CA issues it: a client's serves for that here.
    folder = Path(authority.issue(ClientId("t", "www"), NOW_S).folder)
    public = PortCredentials(
        Files("tls.clients", None, folder / "cert.pem", folder / "key.pem"), "none", NOW_S
    )
    home = HomeCredentials(public, EU2)
    assert home.client.check_hostname
    assert home.client.verify_mode is ssl.CERT_REQUIRED
    assert home.refuses(shown(None)) is None
