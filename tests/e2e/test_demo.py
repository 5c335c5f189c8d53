"""The demo keeps its promises, and leaves nothing behind when it is interrupted."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import trio
from processes import MESH


async def test_the_demo_checks_itself() -> None:
    with trio.fail_after(80):
        done = await trio.run_process(
            [MESH, "demo", "--seconds", "8", "--check"], capture_stdout=True, capture_stderr=True, check=False
        )
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    assert "\x1b" not in text
    assert text.count("  ok  ") == 5
    assert "kill -9" in text


DEMO = Path(__file__).parents[2] / "scripts" / "demo"


async def test_the_demo_runs_without_any_address_in_a_folder() -> None:
    with trio.fail_after(90):
        done = await trio.run_process(
            [MESH, "demo", "--seconds", "8", "--check", "--registry", "file"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    assert text.count("  ok  ") == 5
    assert "they find each other in file" in text
    assert "mesh registry diff" in text


async def test_the_demo_starts_an_etcd_of_its_own_and_stops_it() -> None:
    before = set(children(0))
    with trio.fail_after(110):
        done = await trio.run_process(
            [str(DEMO), "--seconds", "8", "--check", "--registry", "etcd"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    assert text.count("  ok  ") == 5
    assert "they find each other in etcd at 127.0.0.1:" in text
    assert set(children(0)) <= before, "neither nodes nor the server are left behind"


async def test_a_registry_that_cannot_be_meant_is_one_line() -> None:
    done = await trio.run_process(
        [MESH, "demo", "--registry", "zookeeper"], capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("MESH-A001 --registry")


def children(pid: int) -> list[int]:
    """Processes of the demo: each node is told its data folder below the demo's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            try:
                if b"hopmesh-demo-" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


async def test_an_interrupted_demo_stops_everything_it_started() -> None:
    before = set(children(0))
    process = await trio.lowlevel.open_process([MESH, "demo", "--check"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = b""
    with trio.fail_after(40):
        while b"orders at" not in text:
            text += await process.stdout.receive_some()
    assert len(set(children(process.pid)) - before) == 6
    process.send_signal(signal.SIGINT)
    with trio.fail_after(25):
        while await process.stdout.receive_some():
            pass
        assert await process.wait() != 0
    assert set(children(0)) <= before
