"""Nodes as processes: a ready line is read, a failure tells the log's end, and nothing outlives its fleet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from mesh.model.errors import MeshError
from mesh.testing import fleet as fleets
from mesh.testing.fleet import fleet

READY = "ready node=n1 events=127.0.0.1:1 link=127.0.0.1:2 admin=127.0.0.1:3"


def stand_in(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Something much lighter than a node."""
    monkeypatch.setattr(fleets, "MESH", [sys.executable, "-S", "-c", script])


SERVES = f"import sys, time; print(sys.argv[1:], file=sys.stderr, flush=True); print({READY!r}, flush=True); time.sleep(60)"


async def test_a_node_that_says_ready_is_known_by_its_addresses_and_stopped_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, SERVES)
    async with fleet(tmp_path) as nodes:
        node = await nodes.start("n1", "eu", "--seed=x")
        assert (node.events, node.link, node.admin) == ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
        assert node.alive
        assert nodes.nodes == {"n1": node}
        assert node.rss_bytes() > 1_000_000
        assert node.cpu_s() >= 0.0
    assert not node.alive
    assert node.process.returncode == -15


async def test_a_killed_node_is_started_again_on_the_ports_it_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, SERVES)
    async with fleet(tmp_path) as nodes:
        node = await nodes.start("n1", "eu")
        node.kill()
        again = await nodes.restart(node)
        assert node.process.returncode == -9
        assert again.alive
        assert nodes.nodes["n1"] is again
        with trio.fail_after(10):
            while len(lines := (tmp_path / "n1" / "log").read_text().splitlines()) < 2:
                await trio.sleep(0.01)
        assert "--events=127.0.0.1:0" in lines[0]
        assert "--events=127.0.0.1:1" in lines[1]
        assert "--region=eu" in lines[1]


async def test_a_node_that_does_not_start_is_told_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, "import sys; sys.exit('MESH-A003 the port is in use')")
    async with fleet(tmp_path) as nodes:
        with pytest.raises(MeshError, match="the port is in use"):
            await nodes.start("n1", "eu")


async def test_a_node_that_hangs_is_stopped_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deaf = f"import signal, time; signal.signal(15, signal.SIG_IGN); print({READY!r}, flush=True); time.sleep(60)"
    stand_in(monkeypatch, deaf)
    monkeypatch.setattr(fleets, "STOP_S", 0.1)
    with trio.fail_after(20):
        async with fleet(tmp_path) as nodes:
            node = await nodes.start("n1", "eu")
    assert node.process.returncode == -9


async def test_what_was_started_is_stopped_when_its_user_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, SERVES)
    with trio.CancelScope() as scope:
        async with fleet(tmp_path) as nodes:
            node = await nodes.start("n1", "eu")
            scope.cancel()
            await trio.sleep(10)
    assert scope.cancelled_caught
    assert not node.alive
