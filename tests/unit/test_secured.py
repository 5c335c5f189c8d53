from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing

from mesh.config import load
from mesh.identity.authority import DAY_S, Authority
from mesh.model.certificate import NodeId
from mesh.model.ids import NodeKey
from mesh.model.reasons import Tls
from mesh.net.tls import TlsFailed
from mesh.secured import TOLD, Secured

NOW_S = 1_800_000_000.0
EU1 = NodeKey("eu", "eu-1")


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", "t", NOW_S)


@pytest.fixture
def folder(authority: Authority) -> Path:
    return Path(authority.issue(NodeId("t", EU1), NOW_S, days=30).folder)


def secured(folder: Path, clock: Clock, **more: str) -> Secured:
    flags = {
        f"tls.{name}": str(folder / f"{file}.pem")
        for name, file in (("ca", "ca"), ("cert", "cert"), ("key", "key"))
    }
    return Secured(load(flags=flags | more, environ={}), EU1, clock)


def codes(logged: list[structlog.typing.EventDict]) -> list[str]:
    return [str(line.get("code")) for line in logged if line["log_level"] == "warning"]


async def test_an_expiry_is_warned_of_from_fourteen_days_before_once_a_day(
    folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    clock = Clock()
    found = secured(folder, clock)
    with structlog.testing.capture_logs() as logged, trio.move_on_after(5):
        await found.run()
    assert codes(logged) == []
    clock.now_s += 16.5 * DAY_S
    with structlog.testing.capture_logs() as logged, trio.move_on_after(60):
        await found.run()
    assert codes(logged) == ["MESH-C042"]
    assert "it expires in 13.5 days" in str(logged[0]["problem"])
    clock.now_s += 1.1 * DAY_S
    with structlog.testing.capture_logs() as logged, trio.move_on_after(60):
        await found.run()
    assert codes(logged) == ["MESH-C042"]
    clock.now_s += 20 * DAY_S
    with structlog.testing.capture_logs() as logged, trio.move_on_after(60):
        await found.run()
    assert codes(logged) == ["MESH-C041"]
    assert found.expires_in_s()["links"] < 0


async def test_files_are_read_when_they_have_stopped_changing_and_a_bad_pair_is_told_once(
    authority: Authority, folder: Path, autojump_clock: trio.testing.MockClock
) -> None:
    clock = Clock()
    found = secured(folder, clock)
    assert found.links is not None
    old = found.links.certificate.serial
    good = (folder / "key.pem").read_bytes()
    with structlog.testing.capture_logs() as logged:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.run)
            for number in range(5):  # somebody writes on and on
                await trio.sleep(1.9)
                (folder / "key.pem").write_bytes(b"half" * (number + 1))
            assert codes(logged) == []
            await trio.sleep(20)
            assert codes(logged) == ["MESH-C026"]
            assert found.links.certificate.serial == old
            (folder / "key.pem").write_bytes(good)
            await trio.sleep(10)
            authority.renew(NodeId("t", EU1), clock.now_s, days=30)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
    assert codes(logged) == ["MESH-C026"]
    assert found.links.certificate.serial != old


def test_what_is_shown(folder: Path) -> None:
    item = secured(folder, Clock(), **{"tls.clients.certificates": "required"}).item()
    assert item == {
        "links": "TLS",
        "links_certificate": "spiffe://t/region/eu/node/eu-1",
        "links_expires_in_s": 30 * 86_400,
        "clients": "TLS",
        "clients_certificate": "spiffe://t/region/eu/node/eu-1",
        "clients_expires_in_s": 30 * 86_400,
        "client_certificates": "required",
    }
    plain = Secured(load(environ={}), EU1)
    assert plain.item() == {"links": "clear text, loopback only", "clients": "clear text, loopback only"}
    insecure = Secured(load(environ={}, insecure_links=True, insecure_clients=True), EU1)
    assert insecure.item() == {"links": "insecure", "clients": "insecure"}
    assert insecure.exposed() == {"links": True, "clients": True}


async def test_strangers_do_not_fill_the_log(folder: Path, autojump_clock: trio.testing.MockClock) -> None:
    found = secured(folder, Clock())
    with structlog.testing.capture_logs() as logged:
        for port in range(100):
            found.refused("link", f"192.0.2.1:{port}", TlsFailed(Tls.PLAIN, "no TLS"))
        found.refused("link", "192.0.2.9:1", TlsFailed(Tls.CUT_SHORT, "somebody looked"))
        assert len(logged) == 1
        found.refused("link", "192.0.2.1:1", TlsFailed(Tls.EXPIRED, "expired"))
        found.refused("link", "192.0.2.2:1", TlsFailed(Tls.PLAIN, "no TLS"))
        assert len(logged) == 3
        await trio.sleep(61)
        found.refused("link", "192.0.2.1:1", TlsFailed(Tls.PLAIN, "no TLS"))
        assert len(logged) == 4
        for number in range(1_000):
            found.refused("link", f"198.51.{number // 250}.{number % 250}:1", TlsFailed(Tls.PLAIN, "no TLS"))
    assert len(found._told) == TOLD


def test_sighup_reads_at_once(authority: Authority, folder: Path) -> None:
    found = secured(folder, Clock())
    assert found.links is not None
    old = found.links.certificate.serial
    authority.renew(NodeId("t", EU1), NOW_S, days=30)
    with structlog.testing.capture_logs():
        found.reload()
    assert found.links.certificate.serial != old
    os.truncate(folder / "cert.pem", 10)
    with structlog.testing.capture_logs() as logged:
        found.reload()
    assert codes(logged) == ["MESH-C026"]
