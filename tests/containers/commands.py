"""Commands of other programs, each with a bound in time, and Debian's packages that they come from.

Decides how a failure is told: the command, and the last lines of what it said. A command that takes longer than its bound is
killed with everything that it started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TAIL_LINES = 25
POLL_S = 0.2
INSTALL_S = 900.0
LOCK_S = 600


class Failed(Exception):
    """Something that the run needs cannot be had; the text tells what, with the last lines of the program that failed."""


def run(
    command: Sequence[str | Path],
    within_s: float,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    text: str = "",
) -> str:
    """What the command wrote on standard output. text: its standard input.

    Raises:
        Failed: it failed, or took longer than `within_s`.
    """
    code, said, complained = ask(command, within_s, environment=environment, folder=folder, text=text)
    if code != 0:
        raise Failed(f"{told(command)}: exit code {code}\n{tail(said + complained)}")
    return said


def ask(
    command: Sequence[str | Path],
    within_s: float,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    text: str = "",
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that may fail.

    Raises:
        Failed: it took longer than `within_s`.
    """
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ if environment is None else environment),
        cwd=folder,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, complained = process.communicate(text, timeout=within_s)
    except BaseException as ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(ended, subprocess.TimeoutExpired):
            raise Failed(f"{told(command)}: took longer than {within_s:.0f} s") from None
        raise
    return process.returncode, said, complained


def told(command: Sequence[str | Path]) -> str:
    """A command line short enough for a message."""
    words = " ".join(str(word) for word in command)
    return words if len(words) <= 160 else f"{words[:157]}..."


def tail(text: str, lines: int = TAIL_LINES) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])


def wait_until(what: str, done: Callable[[], object], within_s: float, poll_s: float = POLL_S) -> float:
    """Poll until `done` is true; the seconds it took.

    Raises:
        Failed: it was not within `within_s`.
    """
    begun = time.monotonic()
    while not done():
        if time.monotonic() - begun > within_s:
            raise Failed(f"not within {within_s:.0f} s: {what}")
        time.sleep(poll_s)
    return time.monotonic() - begun


def need(programs: Mapping[str, str]) -> None:
    """Install the Debian package of every program that is missing. programs: name to package.

    Raises:
        Failed: not on Debian, or apt-get failed.
    """
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = sorted({package for name, package in programs.items() if not shutil.which(name)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failed(f"these Debian packages are needed, and there is no apt-get: {' '.join(missing)}")
    apt = ["apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_S}"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*apt, "update"], INSTALL_S, environment=environment)
    run([*apt, "install", "--no-install-recommends", *missing], INSTALL_S, environment=environment)
