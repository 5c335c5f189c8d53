from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from mesh.client_tls import client_context
from mesh.identity.authority import Authority
from mesh.model.certificate import ClientId
from mesh.model.errors import MeshError


def test_whom_a_client_trusts_and_what_it_shows(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "t", time.time())
    folder = Path(authority.issue(ClientId("t", "shop"), time.time()).folder)
    environ = {"MESH_CA": str(folder / "ca.pem"), "MESH_CERT": str(folder / "cert.pem")}
    context = client_context(environ | {"MESH_KEY": str(folder / "key.pem")})
    assert [ca["subject"] for ca in context.get_ca_certs()] == [((("commonName", "t mesh CA"),),)]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert client_context({}).check_hostname


@pytest.mark.parametrize("name", ["MESH_CA", "MESH_CERT"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MeshError, match=f"MESH-A017 {name}="):
        client_context({name: str(tmp_path / "none.pem")})
