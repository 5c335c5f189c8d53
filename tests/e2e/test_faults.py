"""The fault runner on the real program: a quiet plan is sound, what is spoiled is found, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from mesh.testing.fault_check import check
from mesh.testing.fault_history import read_history

FAULTS = Path(__file__).parents[2] / "scripts" / "faults"
CALM = ["--scenario", "calm", "--topology", "pair", "--level", "at-most-once", "--rate", "300"]


def processes(folder: Path) -> set[str]:
    """Command lines of nodes whose data is below `folder`."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if f"--data={folder}" in words:
                found.add(words)
    return found


async def faults(*words: str, expect: int) -> dict[str, object]:
    with trio.fail_after(100):
        done = await trio.run_process(
            [str(FAULTS), *words, "-o", "json"], capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == expect, done.stdout.decode()[-2000:] + done.stderr.decode()[-4000:]
    told: dict[str, object] = json.loads(done.stdout) if done.stdout else {}
    return told


async def test_a_quiet_plan_loses_and_repeats_nothing_and_a_spoiled_history_is_found(tmp_path: Path) -> None:
    told = await faults(*CALM, "--seconds", "3", "--keep", str(tmp_path), expect=0)
    [plan] = told["plans"]  # type: ignore[misc]
    row = plan["row"]  # type: ignore[unreachable]
    assert row["accepted"] == 900
    assert (row["lost"], row["duplicated"], row["reordered"]) == (0, 0, 0)
    assert all(reader["delivered"] == reader["promised"] == 900 for reader in plan["verdict"]["readers"])
    assert processes(tmp_path) == set()
    text = (tmp_path / "plan-1" / "history.json").read_bytes()
    history = read_history(text)
    assert check(history).violations == []
    gone = history.delivered["far"].pop(100)
    history.delivered["near"].append(history.delivered["near"][5])
    found = {(one.kind, one.reader): one.detail for one in check(history).violations}
    assert set(found) == {("lost", "far"), ("duplicated", "near")}
    assert gone.mesh_id in found["lost", "far"]


@pytest.mark.long
async def test_nodes_are_killed_and_lines_spoiled_and_at_most_once_repeats_nothing(tmp_path: Path) -> None:
    told = await faults(
        *("--topology", "three", "--level", "at-most-once", "--rate", "300", "--seconds", "8"),
        *("--kinds", "kill,reset,stall,half_close", "--seed", "3", "--keep", str(tmp_path)),
        expect=0,
    )
    [plan] = told["plans"]  # type: ignore[misc]
    assert plan["figures"]["restarts"] > 0  # type: ignore[unreachable]
    assert plan["row"]["accepted"] > 1_500
    assert plan["row"]["duplicated"] == 0
    strikes = read_history((tmp_path / "plan-3" / "history.json").read_bytes()).strikes
    assert any(strike.what.startswith("kill ") for strike in strikes)
    assert any("serves again" in strike.what for strike in strikes)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
async def test_an_interrupted_run_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    process = await trio.lowlevel.open_process(
        [str(FAULTS), *CALM, "--seconds", "60", "--keep", str(tmp_path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stderr is not None
    said = b""
    with trio.fail_after(40):
        while b"events/s" not in said:
            data = await process.stderr.receive_some()
            assert data, said
            said += data
        assert len(processes(tmp_path)) == 2
        process.send_signal(number)
        async for data in process.stderr:
            said += data
        await process.wait()
    assert process.returncode == 130, said  # not torn down from outside: it ended by itself
    assert processes(tmp_path) == set()


@pytest.mark.long
async def test_a_full_disk_and_a_region_cut_off(tmp_path: Path) -> None:
    for scenario in ("disk", "outage"):
        await faults(
            *("--scenario", scenario, "--level", "at-most-once", "--seconds", "12", "--rate", "500"),
            *("--keep", str(tmp_path / scenario)),
            expect=0,
        )
