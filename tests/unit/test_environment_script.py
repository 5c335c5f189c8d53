"""Which Python `scripts/environment` takes, with interpreters that only say what they are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "environment"


def python(folder: Path, name: str, kind: str) -> Path:
    """An interpreter as the script asks it: "fast", "slow" or "" for one that does not suit."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {kind}\n")
    path.chmod(0o755)
    return path


def found(path: list[Path], wish: str = "") -> str:
    """What the script finds, with only these folders (and the shell's own tools) to look in."""
    tools = path[0].parent / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "dirname"):
        link = tools / tool
        if not link.exists():
            link.symlink_to(f"/usr/bin/{tool}" if Path(f"/usr/bin/{tool}").exists() else f"/bin/{tool}")
    done = subprocess.run(
        [tools / "bash", "-c", f'. "{SCRIPT}"; find_python'],
        env={"PATH": os.pathsep.join(map(str, [*path, tools])), "PYTHON": wish},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode == 0) == bool(done.stdout), done.stderr
    return done.stdout.strip() or done.stderr.strip()


def test_one_that_was_built_with_optimizations_goes_before_a_newer_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    python(first, "python3.13", "")
    newer = python(first, "python3.12", "slow")
    python(first, "python3.11", "slow")
    fast = python(second, "python3.11", "fast")
    assert found([first, second]) == str(fast)
    assert found([first]) == str(newer)


def test_the_one_that_is_asked_for_wins_or_is_missed(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    python(folder, "python3.13", "fast")
    slow = python(folder, "mine", "slow")
    assert found([folder], "mine") == str(slow)
    assert found([folder], str(slow)) == str(slow)
    assert found([folder], "nowhere").startswith("Hopmesh needs Python 3.11")


@pytest.mark.parametrize("kinds", [[], ["", ""]])
def test_without_any_it_says_what_is_needed(tmp_path: Path, kinds: list[str]) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    for name, kind in zip(("python3.11", "python3"), kinds, strict=False):
        python(folder, name, kind)
    assert "apt install python3-venv" in found([folder])
