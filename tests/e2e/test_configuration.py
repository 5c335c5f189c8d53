"""Bad configuration ends with one clear error, its code and what to do; never with a traceback."""

from __future__ import annotations

import struct
import subprocess
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from processes import MESH, running


async def refused(*arguments: str, timeout_s: float = 15.0) -> tuple[int, str]:
    """Run `mesh run` expecting it to end by itself; (exit code, what it said on standard error without log lines)."""
    with trio.fail_after(timeout_s):
        done = await trio.run_process(
            [MESH, "run", *arguments], capture_stdout=True, capture_stderr=True, check=False
        )
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("MESH-")]
    assert "Traceback" not in done.stderr.decode(), done.stderr.decode()
    assert len(said) == 1, done.stderr.decode()
    return done.returncode, said[0]


PORTS = ("--events=127.0.0.1:0", "--link=127.0.0.1:0", "--admin=127.0.0.1:0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\nregoin = 'eu'\n", ("MESH-C001", "regoin", "region")),
        ("[listen]\nlink = 'nowhere'\n", ("link", "HOST:PORT")),
        ("[node]\nregion = 'a b'\n", ("region",)),
        ("[registry]\nlease = 'soon'\n", ("lease", "5s")),
        ("[[topic]]\nfilter = 'a/#'\ncopies = 2\n", ("copies", "at-least-once")),
        (
            "[policy]\nfile = '/nowhere/policy.rules'\n",
            ("MESH-F020", "/nowhere/policy.rules", "no such file"),
        ),
        ("not toml at all", ("line 1",)),
    ],
)
async def test_a_bad_file_names_the_key_and_the_remedy(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(text)
    code, said = await refused(f"--config={file}", f"--data={tmp_path / 'data'}", *PORTS)
    assert code == 1
    for word in words:
        assert word in said


async def test_a_policy_file_is_refused_with_the_line_that_is_no_rule(tmp_path: Path) -> None:
    rules, file = tmp_path / "policy.rules", tmp_path / "mesh.toml"
    file.write_text(f"[policy]\nfile = '{rules}'\n")
    rules.write_text("# fine\nexport to dmz permit topic orders/#\n")
    _, said = await refused(f"--config={file}", f"--data={tmp_path / 'data'}", *PORTS)
    assert f"MESH-F021 {rules}:2: 'permit'" in said
    rules.write_text("key k file missing.key\n")
    _, said = await refused(f"--config={file}", f"--data={tmp_path / 'data'}", *PORTS)
    assert f"MESH-F022 {rules}:1" in said
    assert "missing.key" in said


async def test_a_port_in_use_names_the_holder(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        code, said = await refused(
            f"--data={tmp_path / 'other'}", "--link=127.0.0.1:0", "--admin=none", f"--events={a.events}"
        )
        assert code == 1
        assert "MESH-C012 listen.events" in said
        assert str(a.pid) in said


async def test_a_data_folder_in_use_or_not_writable_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        _, said = await refused("--id=a-2", "--region=a", f"--data={a.folder / 'data'}", *PORTS)
        assert "MESH-C015" in said
        assert str(a.pid) in said
    file = tmp_path / "a file"
    file.write_text("x")
    _, said = await refused(f"--data={file / 'data'}", *PORTS)
    assert "MESH-C014" in said


async def test_another_region_at_the_other_end_stops_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        a = await mesh.start("a-1", "a")
        code, said = await refused(
            "--id=b-1", "--region=b", f"--data={tmp_path / 'b'}", *PORTS, f"--bridge=us={a.link}"
        )
        assert code == 1
        assert "MESH-L002" in said
        assert "expected region us, found a" in said


async def test_a_second_live_process_with_the_same_name_is_refused_and_a_restart_takes_over(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a")
        a2 = await mesh.start("a-2", "a", f"--seed={a1.link}")
        code, said = await refused(
            "--id=a-2", "--region=a", f"--data={tmp_path / 'twin'}", *PORTS, f"--seed={a1.link}"
        )
        assert code == 1
        assert "MESH-L005" in said
        assert a2.link in said
        a2.kill()
        await mesh.restart(a2)


@pytest.mark.parametrize(
    ("protocol", "ahead_s", "code"),
    [(99, 0, "MESH-L001"), (1, 2 * 86_400, "MESH-L006"), (1, -2 * 86_400, "MESH-L006")],
)
async def test_a_version_or_a_clock_too_far_apart_stops_the_start(
    tmp_path: Path, protocol: int, ahead_s: int, code: str
) -> None:
    """The other end is played here: it answers with an Open that no node of this release and time would send."""

    async def play(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        now = time.time() + ahead_s
        fields = [
            protocol,
            "x",
            "us",
            "us-1",
            "i",
            int(now),
            int(now * 1e3),
            2,
            "",
            "transit",
            0,
            "",
            1 << 20,
            1_000,
        ]
        payload = msgspec.msgpack.encode(fields)
        await stream.send_all(struct.pack(">IB", len(payload) + 1, 1) + payload)
        with trio.move_on_after(5):
            while await stream.receive_some(65536):
                pass

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, play, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        folder = tmp_path / "b"
        _, said = await refused(
            "--id=b-1", "--region=b", f"--data={folder}", *PORTS, f"--bridge=us=127.0.0.1:{port}"
        )
        assert said.startswith(code)
        nursery.cancel_scope.cancel()


def test_config_check_says_it_without_starting_anything(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[node]\nregoin = 'eu'\n")
    done = subprocess.run(
        [MESH, "config", "check", "--config", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "regoin" in done.stdout + done.stderr
