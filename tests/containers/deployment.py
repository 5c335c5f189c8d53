"""The containers of docker-compose.yml: up, in health, asked, broken, down.

Decides which Compose is used (the plug-in of `docker`, else `docker-compose`; both read the same file) and how a container is
spoken to: by `docker exec`, as the README does. Never changes the file: images come in by its own variables.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from containers.commands import Failed, run, tail, wait_until
from containers.engine import Engine
from containers.images import ETCD, NACOS, PRODUCT, ROOT

PROJECT = "hopmesh-test"
NODES = ("cloud-1", "cloud-2", "dmz-1", "dmz-2", "inner-1", "inner-2")
REGISTRIES = ("etcd", "nacos")
SERVICES = (*NODES, *REGISTRIES)
REGIONS = ("cloud", "dmz", "inner")
UP_S = 300.0
DOWN_S = 180.0
CALL_S = 60.0
# Six nodes and a Java server start at the same time; a machine that does other things too has been seen to need minutes.
HEALTHY_S = 420.0
PYTHON = "/opt/hopmesh/bin/python"


class Deployment:
    """What Compose made of the file in one engine. compose: the command, "" for whichever is there."""

    def __init__(self, engine: Engine, compose: str = "") -> None:
        self.engine = engine
        self._environment = {
            **engine.environment,
            "HOPMESH_IMAGE": PRODUCT,
            "ETCD_IMAGE": ETCD,
            "NACOS_IMAGE": NACOS,
        }
        has_plugin = not compose and engine.ask("compose", "version")[0] == 0
        self.command = compose.split() or (["docker", "compose"] if has_plugin else ["docker-compose"])
        self._ids: dict[str, str] = {}

    def _compose(self, *words: str, within_s: float) -> str:
        file = ["--project-name", PROJECT, "--file", str(ROOT / "docker-compose.yml")]
        return run([*self.command, *file, *words], within_s, environment=self._environment, folder=ROOT)

    # Its life

    def version(self) -> str:
        return run([*self.command, "version", "--short"], CALL_S, environment=self._environment).strip()

    def up(self) -> None:
        """Create and start everything; without waiting for health."""
        self._compose("up", "--detach", "--no-build", within_s=UP_S)
        self._ids = {name: self._compose("ps", "--quiet", name, within_s=CALL_S).strip() for name in SERVICES}
        if missing := [name for name, number in self._ids.items() if not number]:
            raise Failed(f"no container of {', '.join(missing)}")

    def down(self) -> None:
        self._compose("down", "--volumes", "--timeout", "15", within_s=DOWN_S)

    def stop(self, name: str) -> None:
        """SIGTERM: a node drains and leaves."""
        self.engine.docker("stop", "--time", "20", self._ids[name], within_s=CALL_S)

    def kill(self, name: str) -> None:
        """SIGKILL. Not started again by its restart policy, because it was asked for."""
        self.engine.docker("kill", self._ids[name], within_s=CALL_S)

    def start(self, name: str) -> None:
        self.engine.docker("start", self._ids[name], within_s=CALL_S)

    # What it looks like

    def health(self, name: str) -> str:
        """starting, healthy, unhealthy; or what the container does instead of running."""
        state = self.inspect(name)["State"]
        return str(state["Health"]["Status"] if state["Running"] else state["Status"])

    def wait_healthy(self, names: Sequence[str] = SERVICES, within_s: float = HEALTHY_S) -> float:
        """The seconds until all of them are in health.

        Raises:
            Failed: with the log's last lines of the first that is not.
        """
        try:
            return wait_until(
                "all in health", lambda: all(self.health(name) == "healthy" for name in names), within_s, 1.0
            )
        except Failed:
            states = {name: self.health(name) for name in names}
            bad = next((name for name, state in states.items() if state != "healthy"), names[0])
            raise Failed(
                f"not all in health within {within_s:.0f} s: {states}\n{bad}:\n{self.log(bad)}"
            ) from None

    def inspect(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", self._ids[name]))
        return found[0]

    def container(self, name: str) -> str:
        """The container's own name, which depends on the release of Compose."""
        return str(self.inspect(name)["Name"]).lstrip("/")

    def address(self, name: str, network: str) -> str:
        """Its IPv4 address in one of the file's networks."""
        networks = self.inspect(name)["NetworkSettings"]["Networks"]
        return str(networks[f"{PROJECT}_{network}"]["IPAddress"])

    def log(self, name: str) -> str:
        _, said, complained = self.engine.ask("logs", "--tail", "40", self._ids[name])
        return tail(said + complained)

    # Talking to it

    def mesh(self, name: str, *words: str, within_s: float = CALL_S) -> str:
        """What `mesh ...` says in that container."""
        return self.engine.docker("exec", self._ids[name], "mesh", *words, within_s=within_s)

    def items(self, name: str, *words: str) -> list[dict[str, Any]]:
        """The items of a list command; [] while the node does not answer it."""
        code, said, _ = self.engine.ask(
            "exec", self._ids[name], "mesh", *words, "-o", "json", within_s=CALL_S
        )
        if code not in (0, 4):  # 4: not every node of the region answered
            return []
        found: list[dict[str, Any]] = json.loads(said)["items"]
        return found

    def python(self, name: str, program: str, *words: str, within_s: float = CALL_S) -> str:
        """What a small Python program prints in that container."""
        return self.engine.docker(
            "exec", self._ids[name], PYTHON, "-I", "-c", program, *words, within_s=within_s
        )

    def begin(self, name: str, *words: str | Path) -> subprocess.Popen[str]:
        """A command that goes on in that container; its output is read from the process."""
        return subprocess.Popen(
            ["docker", "exec", self._ids[name], *(str(word) for word in words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._environment},
        )

    def routes(self, name: str, region: str) -> list[dict[str, Any]]:
        """The routes in use at that node, the selected one first; [] when there is none."""
        routes = [r for r in self.items(name, "routes", "list", "--here") if r["region"] == region]
        return [r for state in ("selected", "in_use") for r in routes if r["state"] == state]
