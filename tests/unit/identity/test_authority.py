from __future__ import annotations

import stat
import subprocess
import threading
from pathlib import Path

import pytest

from mesh.identity.authority import DAY_S, Authority
from mesh.identity.pem import read_certificate
from mesh.model.certificate import ClientId, NodeId
from mesh.model.errors import MeshError
from mesh.model.ids import BadName, NodeKey

NOW_S = 1_800_000_000.0
EU1 = NodeId("mesh.example", NodeKey("eu", "eu-1"))
BILLING = ClientId("mesh.example", "billing")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "mesh.example", NOW_S)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def openssl(*words: str) -> str:
    return subprocess.run(["openssl", *words], capture_output=True, text=True, check=True, timeout=10).stdout


def test_a_node_gets_its_name_its_hosts_and_files_that_others_cannot_read(authority: Authority) -> None:
    row = authority.issue(EU1, NOW_S, hosts=("eu-1.example", "10.0.0.7", "::1"))
    folder = Path(row.folder)
    assert folder == authority.folder / "nodes" / "eu" / "eu-1"
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "cert.pem": 0o644,
        "key.pem": 0o600,
        "ca.pem": 0o644,
    }
    assert mode(authority.folder / "ca.key") == 0o600
    assert mode(authority.folder) == 0o700
    cert = folder / "cert.pem"
    found = read_certificate(cert.read_bytes(), cert, "x")
    assert (found.id, found.hosts, found.serial) == (EU1, ("eu-1.example", "10.0.0.7", "::1"), row.serial)
    assert found.not_after_s == row.not_after_s == NOW_S + 90 * DAY_S
    assert found.not_before_s == NOW_S - 600


def test_openssl_takes_the_chain_for_what_it_is_for(authority: Authority) -> None:
    node, client = authority.issue(EU1, NOW_S), authority.issue(BILLING, NOW_S)
    at = ["-attime", str(int(NOW_S + 5)), "-x509_strict", "-CAfile", str(authority.folder / "ca.pem")]
    for row, purposes in ((node, ("sslserver", "sslclient")), (client, ("sslclient",))):
        for purpose in purposes:
            assert "OK" in openssl("verify", *at, "-purpose", purpose, f"{row.folder}/cert.pem")
    with pytest.raises(subprocess.CalledProcessError):
        openssl("verify", *at, "-purpose", "sslserver", f"{client.folder}/cert.pem")
    text = openssl("x509", "-in", f"{node.folder}/cert.pem", "-noout", "-text")
    assert "URI:spiffe://mesh.example/region/eu/node/eu-1" in text
    assert "CA:FALSE" in text
    assert "prime256v1" in text
    # What it issued issues nothing.
    assert "pathlen:0" in openssl("x509", "-in", str(authority.folder / "ca.pem"), "-noout", "-text")


def test_a_name_is_issued_once_and_renewed_under_the_same_name(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue(EU1, NOW_S, hosts=("eu-1.example",), folder=tmp_path / "out", days=10)
    with pytest.raises(MeshError, match=r"MESH-A032 .*eu/eu-1 has one"):
        authority.issue(EU1, NOW_S)
    key = (tmp_path / "out" / "key.pem").read_bytes()
    second = authority.renew(EU1, NOW_S + 5 * DAY_S)
    assert (second.id, second.hosts, second.folder) == (first.id, first.hosts, first.folder)
    assert second.serial != first.serial
    assert second.not_after_s == NOW_S + 95 * DAY_S
    assert (tmp_path / "out" / "key.pem").read_bytes() != key
    assert [row.serial for row in authority.issued()] == [second.serial]
    assert not list((tmp_path / "out").glob(".*")), "nothing half written is left"
    with pytest.raises(MeshError, match="MESH-A031"):
        authority.renew(BILLING, NOW_S)


def test_the_list_survives_and_is_in_order(authority: Authority) -> None:
    for who in (BILLING, NodeId("mesh.example", NodeKey("us", "us-1")), EU1):
        authority.issue(who, NOW_S)
    again = Authority.open_ca(authority.folder)
    assert again.trust == "mesh.example"
    assert [(row.kind, row.name) for row in again.issued()] == [
        ("node", "eu/eu-1"),
        ("node", "us/us-1"),
        ("client", "client/billing"),
    ]
    again.issue(EU1, NOW_S, again=True)
    assert len(again.issued()) == 3


def test_nothing_outlives_the_ca(authority: Authority) -> None:
    late_s = NOW_S + 3_649 * DAY_S
    assert authority.issue(EU1, late_s).not_after_s == authority.not_after_s == NOW_S + 3_650 * DAY_S
    with pytest.raises(MeshError, match=r"MESH-A030 .*CA's own certificate has expired"):
        authority.issue(BILLING, NOW_S + 3_651 * DAY_S)


def test_folders_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(MeshError, match=r"MESH-A030 .*a CA is there already"):
        Authority.create(authority.folder, "mesh.example", NOW_S)
    with pytest.raises(MeshError, match="MESH-A030"):
        Authority.open_ca(tmp_path / "nothing")
    other = Authority.create(tmp_path / "other", "mesh.example", NOW_S)
    (authority.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    with pytest.raises(MeshError, match=r"MESH-A030 .*not the key of"):
        Authority.open_ca(authority.folder)
    (other.folder / "ca.pem").write_text("hello")
    with pytest.raises(MeshError, match="MESH-A030"):
        Authority.open_ca(other.folder)
    (authority.folder / "issued.json").write_text("[{}]")
    with pytest.raises(MeshError, match=r"MESH-A030 .*issued.json"):
        authority.issued()
    with pytest.raises(BadName):
        Authority.create(tmp_path / "bad", "Not A Domain", NOW_S)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(MeshError, match="MESH-A030"):
        Authority.create(file / "ca", "mesh.example", NOW_S)


@pytest.mark.parametrize("host", ["", "a b", "ä.example", "a..b", "x" * 254])
def test_hosts_that_are_none(authority: Authority, host: str) -> None:
    with pytest.raises(MeshError, match="MESH-A001 --host"):
        authority.issue(EU1, NOW_S, hosts=(host,))
    assert authority.issued() == []


def test_two_commands_at_once_lose_no_row(authority: Authority) -> None:
    def issue(number: int) -> None:
        Authority.open_ca(authority.folder).issue(ClientId("mesh.example", f"c{number}"), NOW_S)

    threads = [threading.Thread(target=issue, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(authority.issued()) == 8
