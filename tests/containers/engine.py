"""A container engine of this run's own: one dockerd with everything it writes in one throw-away folder.

Decides where it keeps its data, that it makes no network of its own (`--bridge none`: images are built in the machine's
network), and the order of its end: the engine, then what it changed on the machine, then the folder. Never touches another
engine, and does not start beside one: two take away each other's rules in the packet filter.
Invariant: after `down` the machine is as `Host.look` saw it before the start, also when the start failed half-way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from containers.commands import Failed, ask, need, run, tail, wait_until
from containers.host import Host, engines

PROGRAMS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "iptables": "iptables",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
}
READY_S = 60.0
STOP_S = 60.0
CALL_S = 120.0
# The socket's whole path is limited to 108 bytes.
FOLDER_BYTES = 60


class Engine:
    """The engine of `folder`. Not started by construction; another `Engine` over the same folder is the same one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if len(str(self.folder)) > FOLDER_BYTES:
            raise Failed(f"{self.folder} is too long a name for a folder with sockets: set TMPDIR")
        self.socket = self.folder / "docker.sock"
        self.log = self.folder / "dockerd.log"
        self._pid_file = self.folder / "dockerd.pid"
        self._host_file = self.folder / "host.json"

    @property
    def environment(self) -> dict[str, str]:
        """What docker and Compose need to talk to this engine and to no other."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "COMPOSE_", "BUILDKIT"))}
        return {
            **kept,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.folder / "config"),
            # The builder that every engine has; it needs no plug-in.
            "DOCKER_BUILDKIT": "0",
        }

    # Its life

    def start(self) -> float:
        """Start it and wait until it answers; the seconds that took.

        Raises:
            Failed: packages are missing, another engine runs, or it did not come up; with its log's last lines.
        """
        if os.getuid() != 0:
            raise Failed("a container engine can only be started by root")
        need(PROGRAMS)
        if others := engines():
            raise Failed(
                f"another dockerd runs (pid {others[0]}), and its rules would be overwritten: stop it first "
                "(one that was kept: scripts/containers --down FOLDER)"
            )
        for name in ("data", "exec", "config"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        Host.look().write(self._host_file)
        command = ["dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec"]
        command += ["--pidfile", self._pid_file, "-H", f"unix://{self.socket}"]
        command += ["--bridge", "none", "--log-level", "warn"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

        def is_ready() -> bool:
            if process.poll() is not None:
                raise Failed(f"dockerd ended with {process.returncode}:\n{self._tail()}")
            return ask(["docker", "version"], CALL_S, environment=self.environment)[0] == 0

        return wait_until(f"dockerd answers\n{self._tail()}", is_ready, READY_S)

    def down(self) -> list[str]:
        """Remove its containers, end it, put the machine back and remove the folder.

        Returns: what is left of it, for a person; [] when nothing is. Every step is done whatever came of the others.
        """
        left: list[str] = []
        if self._pid() is not None:
            try:
                code, ids, _ = self.ask("ps", "--all", "--quiet")
                if code == 0 and ids.split():
                    self.ask("rm", "--force", "--volumes", *ids.split())
            except Failed as failed:
                left.append(str(failed))
            left += self._end()
        if self._host_file.exists():
            left += Host.read(self._host_file).restore()
        self._unmount()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            left.append(f"folder {self.folder}")
        return left

    def _end(self) -> list[str]:
        """SIGTERM and, when that does nothing, SIGKILL; its containerd ends with it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            pid = self._pid()
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with contextlib.suppress(Failed):
                wait_until("dockerd ends", lambda: self._pid() is None, STOP_S)
        with contextlib.suppress(Failed):
            wait_until("containerd ends", lambda: not self._processes(), STOP_S)
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(Failed):
            wait_until("everything of it ends", lambda: not self._processes(), STOP_S)
        return [f"process {pid}" for pid in self._processes()]

    def _pid(self) -> int | None:
        """The engine's process, known by its folder in the command line; None when it does not run."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return pid if pid in self._processes() else None

    def _processes(self) -> list[int]:
        """Processes whose command line names this engine's folder: dockerd, containerd and its shims."""
        found = []
        mark = f"{self.folder}/".encode()
        for each in Path("/proc").iterdir():
            if each.name.isdigit() and int(each.name) != os.getpid():
                with contextlib.suppress(OSError):
                    words = (each / "cmdline").read_bytes()
                    program = (each / "comm").read_text().strip()
                    if mark in words and program in ("dockerd", "containerd", "containerd-shim"):
                        found.append(int(each.name))
        return found

    def _unmount(self) -> None:
        """What an engine that was killed leaves mounted would keep its folder."""
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in sorted((m for m in mounted if m.startswith(f"{self.folder}/")), reverse=True):
            ask(["umount", "--lazy", place], CALL_S)

    def _tail(self) -> str:
        try:
            return tail(self.log.read_text(errors="replace"))
        except OSError:
            return "(no log)"

    # Talking to it

    def docker(self, *words: str | Path, within_s: float = CALL_S, text: str = "") -> str:
        """What `docker ...` said.

        Raises:
            Failed: it failed or took too long.
        """
        return run(["docker", *words], within_s, environment=self.environment, text=text)

    def ask(self, *words: str | Path, within_s: float = CALL_S) -> tuple[int, str, str]:
        """Exit code, output and errors of a `docker ...` that may fail."""
        return ask(["docker", *words], within_s, environment=self.environment)

    def build(self, tag: str, context: Path, *options: str, within_s: float) -> float:
        """Build an image in the machine's network; the seconds it took.

        Raises:
            Failed: with the build's last lines.
        """
        begun = time.monotonic()
        self.docker("build", "--network", "host", "--tag", tag, *options, context, within_s=within_s)
        return time.monotonic() - begun

    def size_bytes(self, image: str) -> int:
        """Of all its layers."""
        return int(self.docker("image", "inspect", "--format", "{{.Size}}", image))

    def has(self, images: Sequence[str]) -> bool:
        return all(self.ask("image", "inspect", image)[0] == 0 for image in images)
