"""Links and clients' ports inside TLS, with real processes: who is let in, who is refused and told why at both ends, and new certificates
under traffic."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from functools import partial
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


async def two(
    mesh: Mesh, authority: Path, transport: str = "tcp", more: Sequence[str] = ()
) -> tuple[NodeProcess, NodeProcess]:
    """Region a, and region b whose node dials it."""
    a = await mesh.start("a-1", "a", *tls(issued(authority, "a/a-1")), "--bridge=b", *more)
    b = await mesh.start(
        "b-1",
        "b",
        *tls(issued(authority, "b/b-1")),
        bridge_file(mesh.folder, "b-1", "a", a.link, transport),
        *more,
    )
    return a, b


async def told(node: NodeProcess, *words: str, timeout_s: float = 10.0) -> str:
    """The first line of the node's log with all these words, as soon as it is there."""
    found: list[str] = []

    async def there() -> bool:
        found[:] = [
            line for line in node.log.read_text().splitlines() if all(word in line for word in words)
        ]
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
