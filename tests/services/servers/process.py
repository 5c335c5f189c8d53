"""One server process: started apart from its starter, known by its pid file, and never mistaken for another.

The pid file holds the pid and the time the kernel gave it at its start: a pid that was used again is not the server.
Nothing here waits by a fixed sleep; every wait polls a condition and has a bound.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
# How long SIGTERM may take before SIGKILL: a JVM under load needs some seconds.
STOP_S = 15.0
LOG_LINES = 25


class ServerFailed(Exception):
    """A server did not start, or a command it needs failed; the text ends with the log's last lines."""


class PortTaken(ServerFailed):
    """Another process was faster: start again on other ports."""


@dataclass(frozen=True, slots=True)
class Pid:
    """A process, told apart from a later one with the same number."""

    number: int
    started_ticks: int

    @classmethod
    def of(cls, number: int) -> Pid | None:
        """None: there is no such process, or it has ended and only its starter has not looked yet."""
        try:
            fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            return None
        # A zombie with more than one thread still has its files, and so its ports, open.
        ended = fields[0] in "ZX" and int(fields[17]) <= 1
        return None if ended else cls(number, int(fields[19]))

    def alive(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.number, os.WNOHANG)
        return Pid.of(self.number) == self


class ServerProcess:
    """The process of one server; another `ServerProcess` over the same folder is the same one."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.pid_file = folder / f"{name}.pid"

    def pid(self) -> Pid | None:
        """The running process; None when there is none."""
        try:
            number, ticks = self.pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        pid = Pid(int(number), int(ticks))
        return pid if pid.alive() else None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it with its output going to the log, in a session of its own: it outlives its starter."""
        self.folder.mkdir(parents=True, exist_ok=True)
        opened = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        number = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", 'cd "$0" && exec "$@"', str(self.folder), *command],
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), opened, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        pid = Pid.of(number)
        if pid is None:
            os.waitpid(number, 0)
            raise self.failed("ended at once")
        self.pid_file.write_text(f"{pid.number} {pid.started_ticks}\n")

    def wait_ready(self, ready: Callable[[], bool], within_s: float) -> None:
        """Poll until `ready`.

        Raises:
            PortTaken: it ended because one of its ports was taken.
            ServerFailed: it ended, or was not ready in time.
        """
        end = time.monotonic() + within_s
        while not ready():
            if self.pid() is None:
                lines = self.tail().lower()
                if "already in use" in lines or "failed to bind" in lines:
                    raise PortTaken(f"{self.log.stem}: a port was taken meanwhile\n{self.tail()}")
                raise self.failed("ended before it was ready")
            if time.monotonic() > end:
                raise self.failed(f"was not ready within {within_s:.0f} s")
            time.sleep(POLL_S)

    def stop(self, within_s: float = STOP_S) -> None:
        """SIGTERM, then SIGKILL when that does nothing; returns when the process is gone."""
        pid = self.pid()
        if pid is not None:
            self.resume()
            _signal(pid, signal.SIGTERM)
            if not _gone(pid, within_s):
                self.kill()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL (kill -9); returns when the process is gone."""
        pid = self.pid()
        if pid is not None:
            _signal(pid, signal.SIGKILL)
            if not _gone(pid, STOP_S):
                raise ServerFailed(f"process {pid.number} is still there {STOP_S:.0f} s after SIGKILL")
        self.pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers on them."""
        self._signal_running(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_running(signal.SIGCONT)

    def _signal_running(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is None:
            raise ServerFailed(f"{self.log.stem} is not running")
        _signal(pid, number)

    def rss_bytes(self) -> int:
        """Memory in use; 0 when it does not run."""
        pid = self.pid()
        try:
            pages = int(Path(f"/proc/{pid.number}/statm").read_text().split()[1]) if pid else 0
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def tail(self, lines: int = LOG_LINES) -> str:
        """The log's last lines."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def failed(self, what: str) -> ServerFailed:
        return ServerFailed(f"{self.log.stem} {what}; the last lines of {self.log}:\n{self.tail()}")


def _signal(pid: Pid, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid.number, number)


def _gone(pid: Pid, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while pid.alive():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
