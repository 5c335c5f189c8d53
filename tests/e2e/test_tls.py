"""Links and clients' ports inside TLS, with real processes: who is let in, who is refused and told why at both ends, and new certificates
under traffic."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from processes import MESH, Mesh, NodeProcess, Subscriber, http, items, metrics, running, sees_regions, until


def ca(folder: Path, *words: str) -> str:
    """Run `mesh ca`; what it printed."""
    done = subprocess.run(
        [MESH, "ca", *words, f"--folder={folder}"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def issued(folder: Path, name: str, *words: str) -> Path:
    """A fresh certificate; the folder with its files."""
    out = folder.parent / "issued" / folder.name / name.replace("/", "-")
    ca(folder, "issue", name, f"--out={out}", *words)
    return out


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    folder = tmp_path / "ca"
    ca(folder, "init", "--trust=mesh.test")
    return folder


def tls(files: Path, *, ca: Path | None = None, table: str = "tls") -> list[str]:
    return [
        f"--set={table}.ca={(ca or files) / 'ca.pem'}",
        f"--set={table}.cert={files / 'cert.pem'}",
        f"--set={table}.key={files / 'key.pem'}",
    ]


def bridge_file(folder: Path, name: str, region: str, link: str, transport: str) -> str:
    file = folder / f"{name}.toml"
    file.write_text(f'[[bridge]]\nto = "{region}"\nseeds = ["{link}"]\ntransport = "{transport}"\n')
    return f"--config={file}"


async def two(mesh: Mesh, authority: Path, transport: str = "tcp") -> tuple[NodeProcess, NodeProcess]:
    """Region a, and region b whose node dials it."""
    file = mesh.folder / "a-1.toml"
    file.write_text('[[bridge]]\nto = "b"\n')
    a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), f"--config={file}")
    b = await mesh.start(
        "b-1",
        "b",
        *tls(issued(authority, "b/b-1")),
        bridge_file(mesh.folder, "b-1", "a", a.link, transport),
    )
    return a, b


async def told(node: NodeProcess, *words: str, timeout_s: float = 10.0) -> str:
    """The first line of the node's log with all these words, as soon as it is there."""
    found: list[str] = []

    async def there() -> bool:
        found[:] = [line for line in node.log.read_text().splitlines() if all(word in line for word in words)]
        return bool(found)

    await until(there, timeout_s, f"{node.name} logs {words}: {node.log.read_text()[-3000:]}")
    return found[0]


async def refusals(node: NodeProcess, reason: str, port: str = "link") -> float:
    return (await metrics(node)).get(f'mesh_refusals_total{{port="{port}",reason="{reason}"}}', 0.0)


async def counts(node: NodeProcess, reason: str, port: str = "link", least: float = 1) -> None:
    async def there() -> bool:
        return await refusals(node, reason, port) >= least

    await until(there, 10.0, f"{node.name} counts {reason}")


async def no_bridge(node: NodeProcess) -> None:
    assert not [link for link in await items(node, "links") if link["state"] == "open"]


@pytest.mark.parametrize("transport", ["tcp", "ws"])
async def test_events_cross_between_regions_inside_tls(
    tmp_path: Path, authority: Path, transport: str
) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a, b = await two(mesh, authority, transport)
        await sees_regions(a, "b")
        await sees_regions(b, "a")
        [link] = [each for each in await items(a, "links") if each["node"] == "a-1"]
        assert (link["state"], link["certificate"]) == ("open", "b/b-1")
        here, there = Subscriber(), Subscriber()
        await nursery.start(here.run, a.events, "filter=x/%23&wait=mesh")
        await nursery.start(there.run, b.events, "filter=x/%23&wait=mesh")
        body = b"z" * 200_000
        for number in range(20):
            await http(a.events if number % 2 else b.events, "POST", f"/v1/events/x/{number}", body=body)
        await here.wait(20)
        await there.wait(20)
        nursery.cancel_scope.cancel()


class HttpProxy:
    """A reverse proxy that understands HTTP and passes nothing else: it reads the opening, writes it anew with a header of its own, and
    lets the connection through only after the answer was 101."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.passed = bytearray()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._one, listeners)

    async def _one(self, client: trio.SocketStream) -> None:
        head, rest = await self._head(client)
        lines = head.split(b"\r\n")
        if not lines[0].startswith(b"GET /"):
            await client.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        host, _, port = self.target.rpartition(":")
        async with client, await trio.open_tcp_stream(host, int(port)) as server:
            await server.send_all(b"\r\n".join([*lines, b"X-Forwarded-For: 127.0.0.1"]) + b"\r\n\r\n" + rest)
            head, rest = await self._head(server)
            await client.send_all(head + b"\r\n\r\n" + rest)
            if b" 101 " in head:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, client, server, scope)
                        nursery.start_soon(self._pump, server, client, scope)

    async def _head(self, stream: trio.SocketStream) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            got = await stream.receive_some(4096)
            if not got:
                break
            data += got
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                self.passed += data
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


async def test_identity_and_secrecy_pass_a_proxy_that_speaks_only_http(
    tmp_path: Path, authority: Path
) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), "--bridge=b")
        proxy = HttpProxy(a.link)
        await nursery.start(proxy.run)
        b = await mesh.start(
            "b-1",
            "b",
            *tls(issued(authority, "b/b-1")),
            bridge_file(tmp_path, "b-1", "a", proxy.address, "ws"),
        )
        await sees_regions(b, "a")
        await sees_regions(a, "b")
        assert [link["certificate"] for link in await items(a, "links") if link["node"] == "a-1"] == ["b/b-1"]
        reader = Subscriber()
        await nursery.start(reader.run, a.events, "filter=secret/%23&wait=mesh")
        for number in range(10):
            await http(b.events, "POST", f"/v1/events/secret/{number}", body=b"payload" * 20)
        await reader.wait(10)
        assert len(proxy.passed) > 5_000
        for word in (b"secret", b"payload", b"b-1", b"a-1"):
            assert word not in proxy.passed
        # A stranger behind the same proxy is told apart from the node by its certificate.
        c = await mesh.start(
            "c-1",
            "c",
            *tls(issued(other_ca(tmp_path), "c/c-1"), ca=authority),
            bridge_file(tmp_path, "c-1", "a", proxy.address, "ws"),
        )
        assert "refused this end's certificate: it comes from a CA" in await told(c, "link refused")
        await counts(a, "tls_foreign_ca")
        nursery.cancel_scope.cancel()


def other_ca(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    ca(folder, "init", "--trust=mesh.test")
    return folder


async def test_a_websocket_may_also_be_inside_tls(tmp_path: Path, authority: Path) -> None:
    """The other way round: TLS around the WebSocket, as tools do that know only wss://."""
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")))
        stranger = await trio.to_thread.run_sync(Stranger, a.link, issued(authority, "b/b-1"))
        opening = (
            f"GET /v1/link HTTP/1.1\r\nHost: {a.link}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: mesh.link.1\r\n\r\n"
        )
        stranger.socket.sendall(opening.encode())
        said = await trio.to_thread.run_sync(stranger.socket.recv, 65536)
        assert b" 101 " in said.split(b"\r\n")[0]
        stranger.socket.close()


async def test_two_nodes_of_a_region_and_what_is_shown_of_it(tmp_path: Path, authority: Path) -> None:
    async with running(tmp_path) as mesh:
        first = issued(authority, "a/a-1", "--days=10")
        a1 = await mesh.start("a-1", "a", *tls(first))
        a2 = await mesh.start("a-2", "a", *tls(issued(authority, "a/a-2")), f"--seed={a1.link}")

        async def two_alive() -> bool:
            return [n["state"] for n in await items(a2, "nodes")] == ["alive", "alive"]

        await until(two_alive, 10, "two members")
        [own] = [n for n in await items(a1, "nodes") if n["id"] == "a-1"]
        assert own["security"]["links"] == "TLS"
        assert own["security"]["links_certificate"] == "spiffe://mesh.test/region/a/node/a-1"
        assert own["security"]["clients"] == "clear text, loopback only"
        left_s = (await metrics(a1))['mesh_certificate_expires_seconds{use="links"}']
        assert 9.9 * 86_400 < left_s <= 10 * 86_400
        assert "it expires in 10.0 days" in await told(a1, "MESH-C042")
        assert "MESH-C042" not in a2.log.read_text()


# -- refused ---------------------------------------------------------------------------------------------------------


async def start_fails(tmp_path: Path, *words: str) -> str:
    command = [
        MESH,
        "run",
        f"--data={tmp_path / 'refused'}",
        "--events=none",
        "--admin=none",
        "--link=127.0.0.1:0",
    ]
    with trio.fail_after(15):
        done = await trio.run_process(
            [*command, *words], capture_stdout=True, capture_stderr=True, check=False
        )
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("MESH-")]
    assert done.returncode == 1
    assert len(said) == 1, done.stderr.decode()
    return said[0]


async def test_a_node_does_not_start_with_files_that_are_not_its_own(tmp_path: Path, authority: Path) -> None:
    files = issued(authority, "a/a-1")
    said = await start_fails(tmp_path, "--region=b", "--id=b-1", *tls(files))
    assert "MESH-C040 tls.cert" in said
    assert "a/a-1, and this node is b/b-1" in said
    client = issued(authority, "client/shop")
    assert "MESH-C040" in await start_fails(tmp_path, "--region=a", "--id=a-1", *tls(client))
    other = issued(authority, "a/a-2")
    shutil.copy(other / "key.pem", files / "key.pem")
    said = await start_fails(tmp_path, "--region=a", "--id=a-1", *tls(files))
    assert "MESH-C026 tls.cert" in said
    assert "key values mismatch" in said
    said = await start_fails(tmp_path, "--region=a", "--id=a-2", *tls(other)[:2])
    assert "MESH-C043 --set tls.ca: tls.key is missing" in said
    short = issued(authority, "a/a-3", "--days=0.00001")
    await trio.sleep(1.0)
    assert "has expired" in await start_fails(tmp_path, "--region=a", "--id=a-3", *tls(short))


async def test_off_loopback_needs_tls_or_the_word_of_the_operator(tmp_path: Path, authority: Path) -> None:
    files = issued(authority, "a/a-1")
    words = ("--region=a", "--id=a-1", "--seed=192.0.2.1:7946")
    said = await start_fails(tmp_path, *words)
    assert "MESH-C016 --seed" in said
    async with running(tmp_path) as mesh:
        secure = await mesh.start("a-1", "a", *words[2:], *tls(files))
        [own] = await items(secure, "nodes")
        assert own["security"]["links"] == "TLS"
        assert "insecure" not in secure.log.read_text()
        assert (await metrics(secure))['mesh_exposed{what="links"}'] == 0
        open_ = await mesh.start("a-2", "a", *words[2:], "--insecure-links")
        [own] = await items(open_, "nodes")
        assert own["security"]["links"] == "insecure"
        assert "clear text" in await told(open_, "insecure")
        assert (await metrics(open_))['mesh_exposed{what="links"}'] == 1


class Stranger:
    """A peer that is not Hopmesh's: TLS by Python's own sockets, frames by hand."""

    def __init__(self, address: str, files: Path) -> None:
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(files / "cert.pem", files / "key.pem")
        host, _, port = address.rpartition(":")
        self.socket = context.wrap_socket(socket.create_connection((host, int(port)), 10))

    def say(self, frame: Any) -> bytes:
        """Send one frame; everything that comes until the end."""
        from mesh.wire.codec import encode

        self.socket.sendall(encode(frame))
        self.socket.settimeout(10)
        found = b""
        while data := self.socket.recv(65536):
            found += data
        self.socket.close()
        return found


async def test_a_valid_certificate_under_another_name_is_refused_with_both_names(
    tmp_path: Path, authority: Path
) -> None:
    from mesh.core.opening import Identity, Terms, said_first
    from mesh.wire.frames import LinkKind

    async with running(tmp_path) as mesh:
        a, _ = await two(mesh, authority)
        await sees_regions(a, "b")
        stolen = issued(authority, "dmz/d-1")
        for region, node in (("b", "b-9"), ("a", "a-2"), ("dmz", "d-2")):
            me = Identity(region, node, "f" * 16, int(time.time()), "stranger", "")
            frame = said_first(me, Terms(), LinkKind.BRIDGE, (1 << 20, 1000), int(time.time() * 1e3))
            stranger = await trio.to_thread.run_sync(Stranger, a.link, stolen)
            said = await trio.to_thread.run_sync(stranger.say, frame)
            assert b"name_not_certified" in said
            assert f"its certificate is for dmz/d-1, and it says to be {region}/{node}".encode() in said
        assert "MESH-L031" in await told(a, "link_closed", "dmz/d-1")
        assert await refusals(a, "name_not_certified") == 3
        assert {n["id"] for n in await items(a, "nodes")} == {"a-1"}
        # A client's certificate is no node's.
        stranger = await trio.to_thread.run_sync(Stranger, a.link, issued(authority, "client/shop"))
        assert b"is no node's" in await trio.to_thread.run_sync(stranger.say, frame)
        await counts(a, "tls_not_a_node")
        assert [link["state"] for link in await items(a, "links") if link["node"] == "a-1"] == ["open"]


async def test_another_ca_and_another_trust_domain_are_refused_at_both_ends(
    tmp_path: Path, authority: Path
) -> None:
    other = tmp_path / "other"
    ca(other, "init", "--trust=else.test")
    both = tmp_path / "both"
    both.mkdir()
    (both / "ca.pem").write_bytes((authority / "ca.pem").read_bytes() + (other / "ca.pem").read_bytes())
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), "--bridge=b", "--bridge=c")
        # It trusts only its own CA: it refuses the node it dials.
        b = await mesh.start("b-1", "b", *tls(issued(other, "b/b-1")), f"--bridge=a={a.link}")
        assert "the other end's certificate comes from a CA that is not trusted here" in await told(
            b, "MESH-L030"
        )
        assert "refused this end's certificate: it comes from a CA" in await told(a, "MESH-L030")
        await counts(b, "tls_foreign_ca")
        await counts(a, "tls_refused_by_peer")
        assert not [link for link in await items(a, "links") if link["state"] == "open"]
        [dialled] = await items(b, "links")
        assert dialled["reason"].startswith("tls_failed: the other end's certificate")
        await b.stop()
        # It trusts both: it is refused by the node it dials.
        c = await mesh.start("c-1", "c", *tls(issued(other, "c/c-1"), ca=both), f"--bridge=a={a.link}")
        assert "is of trust domain mesh.test, not else.test" in await told(c, "MESH-L030")
        await counts(c, "tls_foreign_trust")
        await c.stop()
        # And the other way round: the one that is dialled trusts both.
        d = await mesh.start("d-1", "d", *tls(issued(authority, "d/d-1"), ca=both), "--bridge=e")
        e = await mesh.start("e-1", "e", *tls(issued(other, "e/e-1"), ca=both), f"--bridge=d={d.link}")
        assert "is of trust domain mesh.test, not else.test" in await told(e, "MESH-L030")
        assert "is of trust domain else.test, not mesh.test" in await told(d, "MESH-L030")


async def test_clear_text_and_tls_do_not_meet(tmp_path: Path, authority: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), "--bridge=b")
        b = await mesh.start("b-1", "b", f"--bridge=a={a.link}")
        assert "MESH-L032" in await told(b, "link refused", "this node's links are inside TLS")
        assert "MESH-L030" in await told(a, "TLS refused", "does not speak TLS")
        await counts(a, "tls_plain")
        c = await mesh.start("c-1", "c", *tls(issued(authority, "c/c-1")), f"--bridge=b={b.link}")
        assert "the other end does not speak TLS" in await told(c, "MESH-L030")
        await counts(c, "tls_plain")
        await no_bridge(a)
        await no_bridge(c)


async def test_an_expired_certificate_is_refused_at_both_ends(tmp_path: Path, authority: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), "--bridge=b", "--bridge=c")
        await a.stop()
        short = issued(
            authority, "b/b-1", "--days=0.00014"
        )  # 12 s: a busy machine takes some to start a node
        b = await mesh.start("b-1", "b", *tls(short), f"--bridge=a={a.link}")
        await told(b, "MESH-C042")

        async def expired() -> bool:
            return (await metrics(b))['mesh_certificate_expires_seconds{use="links"}'] < -1

        await until(expired, 30, "it is expired")
        await mesh.restart(a)
        assert "the other end's certificate has expired" in await told(a, "MESH-L030")
        assert "refused this end's certificate: it has expired" in await told(b, "MESH-L030")
        await counts(a, "tls_expired")
        await no_bridge(a)
        # New files put it right, without a restart.
        ca(authority, "renew", "b/b-1")
        await sees_regions(b, "a")


# -- new files -------------------------------------------------------------------------------------------------------


def serial_at(address: str, files: Path) -> str:
    """The serial number that a port shows in a fresh handshake."""
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(files / "cert.pem", files / "key.pem")
    host, _, port = address.rpartition(":")
    with context.wrap_socket(socket.create_connection((host, int(port)), 10)) as connection:
        told = connection.getpeercert()
        assert told is not None
        return str(told["serialNumber"])


async def test_new_certificates_drop_no_link_and_no_event(tmp_path: Path, authority: Path) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a, b = await two(mesh, authority)
        await sees_regions(b, "a")
        await sees_regions(a, "b")
        reader = Subscriber()
        await nursery.start(reader.run, b.events, "filter=x/%23&wait=mesh")
        [before] = [link for link in await items(a, "links") if link["node"] == "a-1"]
        sent, going = 0, True

        async def publish() -> None:
            nonlocal sent
            host, _, port = a.events.rpartition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                while going:
                    answer = await http(a.events, "POST", "/v1/events/x/y", body=b"%d" % sent, stream=stream)
                    assert answer.status == 202
                    sent += 1
                    await trio.sleep(0.005)

        nursery.start_soon(publish)
        stranger = issued(authority, "c/c-1")
        old = await trio.to_thread.run_sync(serial_at, a.link, stranger)
        for name in ("a/a-1", "b/b-1"):
            ca(authority, "renew", name)
        await told(a, "certificates reloaded")
        await told(b, "certificates reloaded")
        new = await trio.to_thread.run_sync(serial_at, a.link, stranger)
        assert new != old
        # Files that do not fit each other, and then none: told with a code, and what was in use stays so.
        files = authority.parent / "issued" / "ca" / "a-a-1"
        (files / "key.pem").write_bytes((stranger / "key.pem").read_bytes())
        assert "MESH-C026 tls.cert" in await told(a, "not reloaded", "mismatch")
        (files / "cert.pem").unlink()
        a.signal(signal.SIGHUP)
        assert "no such file" in (await told(a, "not reloaded", "cert.pem", "file")).lower()
        assert await trio.to_thread.run_sync(serial_at, a.link, stranger) == new
        ca(authority, "renew", "a/a-1", f"--out={files}")
        a.signal(signal.SIGHUP)

        async def renewed() -> bool:
            return await trio.to_thread.run_sync(serial_at, a.link, stranger) not in (old, new)

        await until(renewed, 10, "a third certificate")
        going = False
        await reader.wait(sent)
        assert len(reader.events) == sent > 200
        [after] = [
            link for link in await items(a, "links") if link["node"] == "a-1" and link["state"] == "open"
        ]
        assert after["id"] == before["id"]
        assert after["age_s"] > before["age_s"]
        assert 'reason="connection_lost"' not in str(await metrics(b))
        nursery.cancel_scope.cancel()


async def test_a_second_ca_is_trusted_from_when_its_file_has_it_and_no_link_ends(
    tmp_path: Path, authority: Path
) -> None:
    async with running(tmp_path) as mesh:
        mine = issued(authority, "a/a-1")
        a = await mesh.start("a-1", "a", *tls(mine), "--bridge=b", "--bridge=c")
        b = await mesh.start("b-1", "b", *tls(issued(authority, "b/b-1")), f"--bridge=a={a.link}")
        await sees_regions(b, "a")
        [before] = [link for link in await items(a, "links") if link["node"] == "a-1"]
        theirs = issued(other_ca(tmp_path), "c/c-1")
        both = tmp_path / "both"
        both.mkdir()
        (both / "ca.pem").write_bytes((mine / "ca.pem").read_bytes() + (theirs / "ca.pem").read_bytes())
        c = await mesh.start("c-1", "c", *tls(theirs, ca=both), f"--bridge=a={a.link}")
        await counts(a, "tls_foreign_ca")
        shutil.copy(both / "ca.pem", mine / "ca.pem")
        await sees_regions(c, "a", "b")
        links = [link for link in await items(a, "links") if link["node"] == "a-1"]
        assert before["id"] in {link["id"] for link in links if link["state"] == "open"}
        assert {link["certificate"] for link in links} == {"b/b-1", "c/c-1"}


# -- clients ---------------------------------------------------------------------------------------------------------


async def curl(*words: str) -> tuple[int, str]:
    """(exit code, output) of curl; an exit code is 0 for any HTTP status."""
    done = await trio.run_process(
        ["curl", "-sS", "--max-time", "10", *words], capture_stdout=True, capture_stderr=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("asked", ["none", "optional", "required"])
async def test_curl_and_the_command_reach_the_ports_inside_tls(
    tmp_path: Path, authority: Path, asked: str
) -> None:
    files = issued(authority, "a/a-1")
    mine = issued(authority, "client/shop")
    shown = ["--cert", str(mine / "cert.pem"), "--key", str(mine / "key.pem")]
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a", *tls(files), f"--set=tls.clients.certificates={asked}")
        url = f"https://{a.events}/v1/events/x/y"
        code, said = await curl("--cacert", str(files / "ca.pem"), *shown, "-d", "hello", url)
        assert (code, '"accepted":1' in said) == (0, True), said
        code, said = await curl("--cacert", str(files / "ca.pem"), "-d", "hello", url)
        assert (code == 0) is (asked != "required"), said
        code, said = await curl(*shown, "-d", "hello", url)
        assert code == 60, "curl does not know the CA"
        code, said = await curl("-i", f"http://{a.events}/v1/events/x/y", "-d", "hello")
        assert " 400 " in said.splitlines()[0]
        assert "MESH-E060" in said
        other = tmp_path / "other"
        ca(other, "init")
        foreign = issued(other, "client/shop")
        words = ["--cert", str(foreign / "cert.pem"), "--key", str(foreign / "key.pem")]
        code, said = await curl("--cacert", str(files / "ca.pem"), *words, "-d", "hello", url)
        assert (code == 0) is (asked == "none"), said
        environ = {**os.environ, "MESH_CA": str(files / "ca.pem")}
        environ |= {"MESH_CERT": str(mine / "cert.pem"), "MESH_KEY": str(mine / "key.pem")}
        for command in (
            ["node", "show", "a-1", "--node", f"https://{a.admin}"],
            ["publish", "x/y", "hello", "--events", f"https://{a.events}"],
        ):
            done = await trio.run_process(
                [MESH, *command], env=environ, capture_stdout=True, capture_stderr=True, check=False
            )
            assert done.returncode == 0, done.stderr
        code, said = await curl("--cacert", str(files / "ca.pem"), *shown, f"https://{a.admin}/metrics")
        assert 'mesh_refusals_total{port="events",reason="tls_plain"} 1.0' in said
        assert 'mesh_certificate_expires_seconds{use="clients"}' in said
        if asked == "required":
            assert 'mesh_refusals_total{port="events",reason="tls_no_certificate"} 1.0' in said
        if asked != "none":
            assert 'mesh_refusals_total{port="events",reason="tls_foreign_ca"} 1.0' in said


async def test_the_name_in_a_certificate_is_what_the_access_rules_go_by(
    tmp_path: Path, authority: Path
) -> None:
    acl = tmp_path / "mesh.acl"
    acl.write_text("allow shop publish orders/#\nscope shop read\n")
    file = tmp_path / "auth.toml"
    file.write_text(f'[auth]\nacl = "{acl}"\ncertificates = true\n[tls.clients]\ncertificates = "optional"\n')
    files = issued(authority, "a/a-1")
    cacert = ["--cacert", str(files / "ca.pem"), "-w", " %{http_code}"]

    def shown(folder: Path) -> list[str]:
        return [*cacert, "--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]

    shop, other = shown(issued(authority, "client/shop")), shown(issued(authority, "client/other"))
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a", *tls(files), f"--config={file}")
        events = f"https://{a.events}/v1/events"
        for words, topic, status, code in (
            (shop, "orders/1", 202, ""),
            (shop, "hr/1", 403, "MESH-E063"),
            (other, "orders/1", 403, "MESH-E063"),
            (cacert, "orders/1", 401, "MESH-E061"),
            (shown(files), "orders/1", 401, "MESH-E061"),  # a node's certificate names no client
        ):
            left, said = await curl(*words, "-d", "hello", f"{events}/{topic}")
            assert (left, said.split()[-1]) == (0, str(status)), said
            assert code in said
        _, said = await curl(*shop, f"https://{a.admin}/v1/access")
        assert '"name":"shop"' in said.replace(" ", "")
        _, said = await curl(*other, f"https://{a.admin}/v1/access")
        assert "MESH-A040" in said

        async def audited() -> bool:
            lines = (a.folder / "data" / "audit.jsonl").read_text().splitlines()
            found = [line for line in map(json.loads, lines) if line["what"] == "publish"]
            return {(line["who"], line["kind"], line["result"]) for line in found} == {
                ("shop", "certificate", "denied"),
                ("other", "certificate", "denied"),
            }

        await until(audited, 10, "both denials are in the audit")


async def test_the_python_client_and_a_durable_one_at_another_node_than_its_home(
    tmp_path: Path, authority: Path
) -> None:
    from mesh.client import CallRefused, Client

    mine = issued(authority, "client/shop")
    context = ssl.create_default_context(cafile=str(mine / "ca.pem"))
    context.load_cert_chain(mine / "cert.pem", mine / "key.pem")
    asked = "--set=tls.clients.certificates=required"
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), asked)
        a2 = await mesh.start("a-2", "a", *tls(issued(authority, "a/a-2")), asked, f"--seed={a1.link}")
        with trio.fail_after(30):
            async with Client(f"https://{a1.events}", durable="keeper", tls=context) as client:
                await client.subscribe("x/#")
            async with Client(f"https://{a2.events}", durable="keeper", tls=context) as client:
                kept = await client.subscribe("x/#")
                async with Client(f"https://{a2.events}", tls=context) as writer:

                    async def accepted() -> bool:
                        try:
                            await writer.publish("x/1", "hello", level="at-least-once")
                        except CallRefused as refused:
                            if refused.code != "MESH-E050":
                                raise
                            return False
                        return True

                    await until(accepted, 15, "the node knows who wants what")
                async for delivery in kept:
                    assert delivery.topic == "x/1"
                    break


@pytest.mark.parametrize("asked", ["sse", "ws"])
async def test_a_client_that_reads_slowly_gets_every_byte_in_order(
    tmp_path: Path, authority: Path, asked: str
) -> None:
    """40 MB through a small window: the port's writes are taken in part again and again."""
    from mesh.client import Client

    files = issued(authority, "a/a-1")
    body, count = "0123456789" * 20_000, 200
    async with running(tmp_path) as mesh:
        a = await mesh.start(
            "a-1",
            "a",
            *tls(files),
            "--set=tls.clients.certificates=none",
            "--set=limits.session_queue_bytes=100MB",
        )
        context = ssl.create_default_context(cafile=str(files / "ca.pem"))
        host, _, port = a.events.rpartition(":")
        with trio.fail_after(60):
            async with Client(f"https://{a.events}", tls=context) as writer, trio.open_nursery() as nursery:

                async def publish() -> None:
                    for number in range(count):
                        await writer.publish(f"x/{number}", body)

                if asked == "ws":
                    async with Client(f"https://{a.events}", tls=context) as reader:
                        found = await reader.subscribe("x/#")
                        nursery.start_soon(publish)
                        topics = []
                        async for delivery in found:
                            topics.append(delivery.topic)
                            assert delivery.data == body
                            if len(topics) == count:
                                break
                            await trio.sleep(0.002)
                    assert topics == [f"x/{number}" for number in range(count)]
                    return
                raw = await trio.open_tcp_stream(host, int(port))
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                async with trio.SSLStream(
                    raw, context, server_hostname=host, https_compatible=True
                ) as stream:
                    request = (
                        "GET /v1/events?filter=x/%23 HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
                    )
                    await stream.send_all(request.encode())
                    text = b""
                    while b"event: subscribed" not in text:
                        text += await stream.receive_some(4_096)
                    nursery.start_soon(publish)
                    parts, seen, tail = [text], text.count(b"event: event"), text[-11:]
                    while seen < count or not tail.endswith(b"\n\n"):
                        parts.append(tail + await stream.receive_some(20_000))
                        seen += parts[-1].count(b"event: event")
                        parts[-1], tail = parts[-1][len(tail) :], parts[-1][-11:]
                text = b"".join(parts)
                datas = [line for line in text.split(b"\n") if line.startswith(b'data: {"topic"')]
                topics = [json.loads(line.removeprefix(b"data: "))["topic"] for line in datas]
                assert topics == [f"x/{number}" for number in range(count)]
                assert all(body.encode() in line for line in datas)


# -- strangers in great numbers --------------------------------------------------------------------------------------

STORM = 1_000


async def half_open(
    address: str, hello: bytes, nursery: trio.Nursery, streams: list[trio.SocketStream]
) -> None:
    """Begin handshakes that never end: some say nothing, some half a hello, some a whole one."""
    host, _, port = address.rpartition(":")
    limit = trio.CapacityLimiter(50)

    async def one(number: int) -> None:
        async with limit:
            stream = await trio.open_tcp_stream(host, int(port))
            streams.append(stream)
            await stream.send_all((b"", hello[:40], hello)[number % 3]) if number % 3 else None

    async with trio.open_nursery() as each:
        for number in range(STORM):
            each.start_soon(one, number)


async def test_a_thousand_handshakes_that_never_end_disturb_nobody(tmp_path: Path, authority: Path) -> None:
    mine = issued(authority, "client/shop")
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    context.load_cert_chain(mine / "cert.pem", mine / "key.pem")
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        a, b = await two(mesh, authority)
        c = await mesh.start(
            "a-2",
            "a",
            *tls(issued(authority, "a/a-2")),
            f"--seed={a.link}",
            "--set=tls.clients.certificates=required",
        )
        await sees_regions(b, "a")
        await sees_regions(a, "b")
        reader = Subscriber()
        await nursery.start(reader.run, b.events, "filter=x/%23&wait=mesh")
        links = {
            link["id"]
            for link in await items(a, "links")
            if link["state"] == "open" and link["node"] == "a-1"
        }
        rss, cpu_s = a.rss_bytes(), a.cpu_s()
        streams: list[trio.SocketStream] = []
        delays: list[float] = []

        async def publish() -> None:
            for number in range(100):
                begun = trio.current_time()
                await http(a.events, "POST", f"/v1/events/x/{number}", body=b"z")
                delays.append(trio.current_time() - begun)
                await trio.sleep(0.02)

        with trio.fail_after(60):
            async with trio.open_nursery() as storm:
                storm.start_soon(publish)
                storm.start_soon(half_open, a.link, hello, storm, streams)
                storm.start_soon(half_open, c.events, hello, storm, streams)
        await reader.wait(100)
        assert a.rss_bytes() - rss < 60 << 20
        # A peer and a client that mean it get in at once, in the middle of it.
        begun = trio.current_time()
        stranger = issued(authority, "d/d-1")
        await trio.to_thread.run_sync(serial_at, a.link, stranger)
        assert trio.current_time() - begun < 5
        url = f"https://{c.events}/v1/events/x/y"
        shown = ["--cert", str(mine / "cert.pem"), "--key", str(mine / "key.pem")]
        code, said = await curl("--cacert", str(authority / "ca.pem"), *shown, "-d", "hello", url)
        assert code == 0, said
        now_open = {
            link["id"]
            for link in await items(a, "links")
            if link["state"] == "open" and link["node"] == "a-1"
        }
        assert links <= now_open, "no link was lost"
        print(
            f"storm: cpu {a.cpu_s() - cpu_s:.2f} s, rss +{(a.rss_bytes() - rss) >> 20} MiB, publish up to {max(delays):.3f} s"
        )
        assert sum(sorted(delays)[:50]) / 50 < 0.5
        for stream in streams:
            await stream.aclose()

        async def all_ended() -> bool:
            found = await metrics(a)
            return (
                sum(v for k, v in found.items() if k.startswith('mesh_refusals_total{port="link"')) >= STORM
            )

        await until(all_ended, 20, "every one was counted")
        nursery.cancel_scope.cancel()


# -- the tour --------------------------------------------------------------------------------------------------------


def test_five_commands_make_a_mesh_of_three_regions(tmp_path: Path) -> None:
    """The commands of docs/security.md as they stand, but for ports, the user's folder, and where nodes print."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    block = page.partition("<!-- tour -->\n```sh\n")[2].partition("```")[0]
    assert len(block.splitlines()) == 5
    defaults = " --events 127.0.0.1:7222 --link 127.0.0.1:7946 --admin 127.0.0.1:8222 &"
    lines = [
        (line.replace(" &", defaults) if "--id us-1" in line else line).replace(" &", " >> log 2>&1 &")
        for line in block.splitlines()
    ]
    text = "\n".join(
        [
            "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT",
            *lines,
            "until mesh routes list --node http://127.0.0.1:8224 2>/dev/null | grep -q us,eu; do sleep 0.2; done",
            "mesh links list -o json --node http://127.0.0.1:8222",
            "mesh node show us-1 --node http://127.0.0.1:8222",
        ]
    )
    ports = sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", text)))
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in ports]
    for port, one in zip(ports, sockets, strict=True):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{one.getsockname()[1]}")
        one.close()
    environ = {
        **os.environ,
        "PATH": f"{Path(MESH).parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["timeout", "60", "bash", "-c", text],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr + (tmp_path / "log").read_text()
    assert '"certificate": "eu/eu-1"' in said, said
    assert '"certificate": "ap/ap-1"' in said
    assert "TLS, spiffe://mesh.local/region/us/node/us-1, expires in 89d" in said
