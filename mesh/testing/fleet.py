"""Nodes as processes on this machine: started with ports of the system's choice, stopped whatever happens.

Used by the demo and the bench; the tests have their own, so that they do not share its mistakes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from mesh.model.errors import MeshError

START_S = 30.0
STOP_S = 12.0
MESH = [sys.executable, "-P", "-c", "import sys; from mesh.cli.main import main; sys.exit(main())"]


@dataclass
class RunningNode:
    """One `mesh run`. Addresses as its ready line told them."""

    name: str
    region: str
    arguments: tuple[str, ...]
    folder: Path
    process: trio.Process
    events: str
    link: str
    admin: str

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )


class Fleet:
    """The nodes of one run, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, RunningNode] = {}

    async def start(self, name: str, region: str, *arguments: str) -> RunningNode:
        """Start a node and wait until it serves. Raises MeshError MESH-A020 with the end of its log."""
        return await self._launch(name, region, arguments, ("127.0.0.1:0",) * 3)

    async def restart(self, node: RunningNode) -> RunningNode:
        """Start a stopped node again, on the ports it had."""
        await node.process.wait()
        return await self._launch(
            node.name, node.region, node.arguments, (node.events, node.link, node.admin)
        )

    async def _launch(
        self, name: str, region: str, arguments: tuple[str, ...], ports: tuple[str, ...]
    ) -> RunningNode:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        flags = [f"--{what}={port}" for what, port in zip(("events", "link", "admin"), ports, strict=True)]
        command = [
            *MESH,
            "run",
            f"--id={name}",
            f"--region={region}",
            f"--data={folder / 'data'}",
            *flags,
            *arguments,
        ]
        with (folder / "log").open("ab") as log:
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        node = RunningNode(name, region, arguments, folder, process, "", "", "")
        self.nodes[name] = node
        line = b""
        with trio.move_on_after(START_S):
            assert process.stdout is not None
            while not line.endswith(b"\n"):
                data = await process.stdout.receive_some()
                if not data:
                    break
                line += data
        if not line.startswith(b"ready "):
            raise MeshError(
                "MESH-A020", name, f"the node did not start: {(folder / 'log').read_text()[-600:]}"
            )
        told = dict(pair.split("=", 1) for pair in line.decode().split()[1:])
        node.events, node.link, node.admin = told["events"], told["link"], told["admin"]
        return node

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after STOP_S."""
        running = [node for node in self.nodes.values() if node.alive]
        for node in running:
            node.process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            for node in running:
                await node.process.wait()
        for node in running:
            if node.alive:
                node.process.kill()
            await node.process.wait()


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    """A fleet that is gone at the end, also after Ctrl-C."""
    nodes = Fleet(folder)
    try:
        yield nodes
    finally:
        with trio.CancelScope(shield=True):
            await nodes.stop()
