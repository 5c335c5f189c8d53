"""Users, passwords, tokens and certificates: what works, what is refused, and what is said then."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from services.etcd_clients import Follower, client, control, entry, eventually
from services.servers.certificates import Authority
from services.servers.etcd import Etcd, EtcdOptions
from services.servers.relay import Relay

from registry.base import RegistryUnavailable
from registry.etcd import EtcdRegistry

OwnServer = Callable[..., Any]


async def refused(one: EtcdRegistry, code: str, *words: str) -> None:
    """It says so, with this code and where; `words`: one of them is in the text."""
    with trio.fail_after(5.0), pytest.raises(RegistryUnavailable) as error:
        await one.register(entry(), 10)
    assert error.value.code == code, str(error.value)
    assert not words or any(word in str(error.value) for word in words), str(error.value)


class TestUsers:
    async def test_a_user_with_the_password_registers_and_others_are_refused(
        self, own_server: OwnServer, unique_name: str
    ) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(password="right"))
        await control(server.start)
        at = [server.address]
        async with client(at, unique_name, user="mesh", password="right") as one:
            await one.register(entry(), 10)
            assert len((await one.list()).entries) == 1
        async with client(at, unique_name, user="mesh", password="wrong") as one:
            await refused(one, "MESH-R009", "invalid user ID or password")
            with pytest.raises(RegistryUnavailable) as error:
                await one.watch().next()
            assert error.value.code == "MESH-R009"
        async with client(at, unique_name, user="nobody", password="right") as one:
            await refused(one, "MESH-R009")
        async with client(at, unique_name) as one:
            await refused(one, "MESH-R009", "user name is empty")

    async def test_a_user_without_the_right_is_told_so(self, own_server: OwnServer, unique_name: str) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(password="right"))
        await control(server.start)
        await control(server.etcdctl, "user", "add", "reader:right")
        async with client([server.address], unique_name, user="reader", password="right") as one:
            await refused(one, "MESH-R010", "permission denied")
            with pytest.raises(RegistryUnavailable) as error:
                await one.watch().next()
            assert error.value.code == "MESH-R010"
        # A role over the prefix is all that a mesh needs.
        await control(server.etcdctl, "role", "add", "one-mesh")
        await control(
            server.etcdctl, "role", "grant-permission", "one-mesh", "--prefix=true", "readwrite", f"/{unique_name}/"
        )  # fmt: skip
        await control(server.etcdctl, "user", "grant-role", "reader", "one-mesh")
        async with client([server.address], unique_name, user="reader", password="right") as one:
            lease = await one.register(entry(), 10)
            watch = one.watch("eu")
            await watch.next()
            await one.register(entry("b"), 10)
            await watch.next()
            await one.renew(lease)
            await one.unregister(lease)

    @pytest.mark.parametrize("token", ["jwt", "simple"])
    async def test_a_token_that_ran_out_is_replaced_and_nobody_notices(
        self, own_server: OwnServer, unique_name: str, token: str
    ) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(password="right", token=token, token_ttl_s=1))  # type: ignore[arg-type]
        await control(server.start)
        relay = Relay(("127.0.0.1", server.client_port))
        async with client([relay.address], unique_name, user="mesh", password="right") as one:
            async with trio.open_nursery() as nursery:
                lease = await one.register(entry(), 30)
                follower = Follower(one)
                nursery.start_soon(follower.run)
                await eventually(lambda: follower.nodes == ["eu-1"])
                first = one._connection._token
                await trio.sleep(2.5)  # etcd's own clock: the token's life is what is tested
                await one.renew(lease)
                await one.register(entry("b"), 30)
                await eventually(lambda: follower.nodes == ["b", "eu-1"])
                assert one._connection._token != first
                await trio.sleep(2.5)
                await control(relay.drop)
                await one.register(entry("c"), 30)
                await eventually(lambda: follower.nodes == ["b", "c", "eu-1"])
                assert follower.relists == 1
                assert set(follower.errors) <= {"MESH-R001"}
                nursery.cancel_scope.cancel()
        relay.close()

    async def test_a_restarted_server_that_knows_no_token_any_more(
        self, own_server: OwnServer, unique_name: str
    ) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(password="right"))
        await control(server.start)
        async with client([server.address], unique_name, user="mesh", password="right") as one:
            lease = await one.register(entry(), 30)
            await control(server.restart)
            before = one._connection._token
            await one.renew(lease)
            assert one._connection._token != before


@pytest.fixture
def tls_server(own_server: OwnServer) -> Etcd:
    server: Etcd = own_server("etcd", EtcdOptions(tls=True))
    server.start()
    return server


@pytest.fixture
def mutual_server(own_server: OwnServer) -> Etcd:
    server: Etcd = own_server("etcd", EtcdOptions(tls=True, client_certificates=True))
    server.start()
    return server


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "foreign")


class TestTls:
    async def test_a_certificate_of_the_authority_is_taken(self, tls_server: Etcd, unique_name: str) -> None:
        async with client([tls_server.url], unique_name, ca=tls_server.authority.certificate) as one:
            await one.register(entry(), 10)
            watch = one.watch("eu")
            await watch.next()

    async def test_one_of_another_is_not(
        self, tls_server: Etcd, foreign: Authority, unique_name: str
    ) -> None:
        async with client([tls_server.address], unique_name, ca=foreign.certificate) as one:
            await refused(one, "MESH-R011", "CERTIFICATE_VERIFY_FAILED")
        async with client([tls_server.address], unique_name, tls=True) as one:
            await refused(one, "MESH-R011", "CERTIFICATE_VERIFY_FAILED")

    async def test_an_end_without_tls_is_told_apart(
        self, tls_server: Etcd, etcd_server: Etcd, unique_name: str
    ) -> None:
        async with client([etcd_server.address], unique_name, ca=tls_server.authority.certificate) as one:
            await refused(one, "MESH-R011")
        async with client([tls_server.address], unique_name) as one:
            await refused(one, "MESH-R001", "TLS")

    async def test_files_that_cannot_be_used_are_named(
        self, tls_server: Etcd, unique_name: str, tmp_path: Path
    ) -> None:
        garbage = tmp_path / "garbage.pem"
        garbage.write_text("no certificate")
        for path in (tmp_path / "none.pem", garbage, tmp_path):
            async with client([tls_server.address], unique_name, ca=path) as one:
                await refused(one, "MESH-R012", "registry.ca")
        mine = tls_server.authority.issue("mine")
        ca = tls_server.authority.certificate
        for cert, key in ((mine.certificate, ca), (garbage, mine.key)):
            async with client([tls_server.address], unique_name, ca=ca, cert=cert, key=key) as one:
                await refused(one, "MESH-R012", "registry.cert")
        broken = tmp_path / "broken.pem"
        broken.write_text("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")
        async with client([tls_server.address], unique_name, ca=broken) as one:
            await refused(one, "MESH-R012", "registry.ca")

    async def test_a_server_whose_certificate_expired_is_not_trusted(
        self, own_server: OwnServer, unique_name: str
    ) -> None:
        server: Etcd = own_server("etcd", EtcdOptions(tls=True))
        server.authority.issue("server", named=False, expired=True)
        await control(server.begin)
        await eventually(lambda: _listens(server))
        async with client([server.address], unique_name, ca=server.authority.certificate) as one:
            await refused(one, "MESH-R011", "CERTIFICATE_VERIFY_FAILED")


def _listens(server: Etcd) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.client_port), 1.0).close()
    except OSError:
        return False
    return True


QUIET = """
import sys, trio
from pathlib import Path
from registry.base import RegistryUnavailable
from registry.etcd import EtcdRegistry, EtcdSettings
async def main():
    async with EtcdRegistry(EtcdSettings(endpoints=(sys.argv[1],), ca=Path(sys.argv[2]))) as one:
        try:
            await one.list()
        except RegistryUnavailable as error:
            print(error.code)
trio.run(main)
"""


def test_nothing_is_written_between_a_nodes_log_lines(tls_server: Etcd, foreign: Authority) -> None:
    command = [sys.executable, "-c", QUIET, tls_server.address, str(foreign.certificate)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("MESH-R011\n", "")


class TestMutualTls:
    async def test_a_client_certificate_of_the_authority_is_taken_and_no_other(
        self, mutual_server: Etcd, foreign: Authority, unique_name: str
    ) -> None:
        authority = mutual_server.authority
        good, expired = authority.issue("good"), authority.issue("expired", expired=True)
        bad = foreign.issue("bad")
        at, ca = [mutual_server.address], authority.certificate
        async with client(at, unique_name, ca=ca, cert=good.certificate, key=good.key) as one:
            await one.register(entry(), 10)
        for other in (expired, bad):
            async with client(at, unique_name, ca=ca, cert=other.certificate, key=other.key) as one:
                await refused(one, "MESH-R011", "certificate", "alert", "TLS")
        async with client(at, unique_name, ca=ca) as one:
            await refused(one, "MESH-R011", "certificate", "alert", "TLS")

    async def test_renewed_files_are_used_by_the_next_connection(
        self, mutual_server: Etcd, unique_name: str, tmp_path: Path
    ) -> None:
        authority = mutual_server.authority
        good, expired = authority.issue("good"), authority.issue("expired", expired=True)
        cert, key = tmp_path / "node.crt", tmp_path / "node.key"

        def install(from_cert: Path, from_key: Path) -> None:
            shutil.copy(from_cert, cert)
            shutil.copy(from_key, key)

        install(expired.certificate, expired.key)
        async with client(
            [mutual_server.address], unique_name, ca=authority.certificate, cert=cert, key=key
        ) as one:
            await refused(one, "MESH-R011")
            install(good.certificate, good.key)
            await one.register(entry(), 10)
