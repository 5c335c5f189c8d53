"""The nodes of a fault run: real processes on loopback, linked through a proxy, killed and started again, and watched.

Decides how a node is started (ports of the system's choice, a data folder of its own, everybody else's front as a seed), and
what is read of it every second. Never decides when something goes wrong.
Invariant: whatever was started is stopped when `running` ends. A process that ends without being killed is in `deaths`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import trio

from mesh.model.errors import MeshError
from mesh.testing.fault_connection import Broken, ask_once
from mesh.testing.fault_disk import Disk, open_disk
from mesh.testing.fault_plan import FaultKind, FaultPlan
from mesh.testing.proxy import Proxy

START_S: Final = 30.0
STOP_S: Final = 12.0
ROUTES_S: Final = 30.0
SAMPLE_S: Final = 1.0
RETRY_S: Final = 0.5
_METRIC: Final = re.compile(r"^(mesh_[a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)$", re.MULTILINE)
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Sample(msgspec.Struct, array_like=True):
    """One node at one moment. start: which of its processes, from 1. cpu_s: of all its processes so far. counters: of this process, {} while it does not answer."""

    at_s: float
    node: str
    start: int
    rss_bytes: int
    cpu_s: float
    counters: dict[str, float]


@dataclass(eq=False)
class MeshNode:
    """One node over all its processes."""

    name: str
    region: str
    folder: Path
    process: trio.Process | None = None
    events: str = ""
    admin: str = ""
    starts: int = 0
    paused: bool = False
    expected_down: bool = False
    disk: Disk | None = None
    disk_full: bool = False
    rss_bytes: int = 0
    peak_rss_bytes: int = 0
    cpu_before_s: float = 0.0
    cpu_s: float = 0.0
    start_s: list[float] = field(default_factory=list)
    struck: trio.Lock = field(default_factory=trio.Lock)
    """Held by whoever kills or pauses it, until it serves again: one thing happens to a node at a time."""

    @property
    def alive(self) -> bool:
        """Whether its process runs, paused or not."""
        return self.process is not None and self.process.returncode is None

    @property
    def serves(self) -> bool:
        """Whether clients may be sent there, as far as the runner knows."""
        return self.alive and bool(self.events) and not self.paused

    @property
    def pid(self) -> int:
        """Of its process, 0 when it is down."""
        return self.process.pid if self.process is not None and self.process.returncode is None else 0

    @property
    def log(self) -> Path:
        """What all its processes logged."""
        return self.folder / "log"

    def signal(self, number: signal.Signals) -> None:
        """Nothing when it is down."""
        if self.alive:
            assert self.process is not None
            self.process.send_signal(number)

    def measure(self) -> None:
        """Bring `cpu_s` and `peak_rss_bytes` up to date."""
        if not self.alive:
            return
        assert self.process is not None
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            self.cpu_s = self.cpu_before_s + (int(fields[11]) + int(fields[12])) / _TICKS
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            self.rss_bytes = pages * _PAGE_BYTES
            self.peak_rss_bytes = max(self.peak_rss_bytes, self.rss_bytes)


class FaultMesh:
    """The mesh of one plan. Args: nursery: where what watches it runs; ends with `running`."""

    def __init__(self, plan: FaultPlan, folder: Path, nursery: trio.Nursery) -> None:
        self.plan = plan
        self.proxy = Proxy()
        self.samples: list[Sample] = []
        self.deaths: list[str] = []
        self.began_s = trio.current_time()
        self._nursery = nursery
        self.nodes = {
            name: MeshNode(name, region, folder / name) for name, region in plan.shape.nodes.items()
        }
        self._full = {fault.target for fault in plan.faults if fault.kind is FaultKind.DISK_FULL}

    def of(self, region: str) -> list[MeshNode]:
        """The region's nodes."""
        return [node for node in self.nodes.values() if node.region == region]

    # -- starting ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all nodes and wait until each knows a route to every region. Raises: MeshError MESH-A020."""
        for name in self.nodes:
            await self._nursery.start(self.proxy.serve, name)
        async with trio.open_nursery() as starting:
            for node in self.nodes.values():
                node.folder.mkdir(parents=True, exist_ok=True)
                if node.name in self._full:
                    node.disk = open_disk(node.folder / "data", self.plan.disk_mb)
                starting.start_soon(self.launch, node)
        await self.converge(ROUTES_S)
        self._nursery.start_soon(self._sample)

    async def launch(self, node: MeshNode) -> None:
        """Start a node that is down, and wait until it serves. Raises: MeshError MESH-A020 with the end of its log."""
        begun = trio.current_time()
        node.starts += 1
        node.expected_down = False
        process = await trio.lowlevel.open_process(
            self._command(node),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        node.process = process
        self._nursery.start_soon(self._log, node, process)
        line = b""
        with trio.move_on_after(START_S):
            assert process.stdout is not None
            while not line.endswith(b"\n"):
                data = await process.stdout.receive_some()
                if not data:
                    break
                line += data
        if not line.startswith(b"ready "):
            node.expected_down = True
            process.kill()
            await process.wait()
            raise MeshError("MESH-A020", node.name, f"the node did not start: {_tail(node.log)}")
        told = dict(pair.split("=", 1) for pair in line.decode().split()[1:])
        node.events, node.admin = told["events"], told["admin"]
        self.proxy.targets[node.name] = told["link"]
        node.start_s.append(trio.current_time() - begun)
        if node.disk is not None and node.disk_full:
            node.disk.fill(process.pid)
        self._nursery.start_soon(self._watch, node, process)

    def _command(self, node: MeshNode) -> list[str]:
        fronts = self.proxy.fronts
        seeds = [f"--seed={fronts[peer.name]}" for peer in self.of(node.region) if peer is not node]
        towards: dict[str, list[str]] = {}
        for dialler, target in self.plan.shape.bridges:
            if dialler == node.name:
                towards.setdefault(self.nodes[target].region, []).append(fronts[target])
        bridges = [f"--bridge={region}={','.join(addresses)}" for region, addresses in towards.items()]
        ports = [f"--{what}=127.0.0.1:0" for what in ("events", "link", "admin")]
        return [
            *(sys.executable, "-P", "-m", "mesh.testing.fault_node", fronts[node.name], "run"),
            *(f"--id={node.name}", f"--region={node.region}", f"--data={node.folder / 'data'}"),
            *ports,
            *seeds,
            *bridges,
            *self._topic_rules(node),
        ]

    def _topic_rules(self, node: MeshNode) -> list[str]:
        """A configuration file with the [[topic]] of each ordered stream, if there is one."""
        ordered = [stream for stream in self.plan.streams if stream.ordered]
        if not ordered:
            return []
        rules = [
            f'[[topic]]\nfilter = "{stream.filter}"\nlevel = "{stream.level}"\nordered = true\n'
            for stream in ordered
        ]
        path = node.folder / "mesh.toml"
        path.write_text("\n".join(rules))
        return [f"--config={path}"]

    async def _log(self, node: MeshNode, process: trio.Process) -> None:
        """A pipe, and not the file itself: a limit of the process's files must not hit its log."""
        assert process.stderr is not None
        ended = suppress(trio.BrokenResourceError, trio.ClosedResourceError)
        with node.log.open("ab", buffering=0) as file, ended:
            async for data in process.stderr:
                file.write(data)

    async def _watch(self, node: MeshNode, process: trio.Process) -> None:
        await process.wait()
        if node.process is process:
            self.proxy.targets.pop(node.name, None)
            node.cpu_before_s = node.cpu_s
        if not node.expected_down:
            self.deaths.append(f"{node.name} ended by itself ({process.returncode}): {_tail(node.log)}")

    async def converge(self, timeout_s: float) -> None:
        """Wait until every node is ready and has a route to every other region. Raises: MeshError MESH-A020."""
        missing = ""
        with trio.move_on_after(timeout_s):
            for node in self.nodes.values():
                while missing := await self._missing(node):
                    await trio.sleep(0.1)
            return
        raise MeshError("MESH-A020", "faults", f"not converged within {timeout_s:g} s: {missing}")

    async def _missing(self, node: MeshNode) -> str:
        """What a node lacks, "" if nothing."""
        try:
            ready = await ask_once(node.admin, "GET", "/readyz")
            if ready.status != 200:
                return f"{node.name} is not ready"
            answer = await ask_once(node.admin, "GET", "/v1/routes?here=true")
            members = await ask_once(node.admin, "GET", "/v1/nodes?here=true")
            routes = msgspec.json.decode(answer.body)["items"]
            alive = [item for item in msgspec.json.decode(members.body)["items"] if item["state"] == "alive"]
        except (Broken, msgspec.DecodeError, KeyError) as error:
            return f"{node.name} does not answer: {error}"
        for item in alive:
            if item["addresses"] not in ([], [self.proxy.fronts.get(item["id"])]):
                raise MeshError("MESH-A020", node.name, f"{item['id']} is reached around the proxy: {item}")
        used = {item["region"] for item in routes if item["state"] in ("selected", "in_use")}
        lacking = set(self.plan.shape.regions) - used - {node.region}
        if lacking:
            return f"{node.name} has no route to {', '.join(sorted(lacking))}"
        if len(alive) < len(self.of(node.region)):
            return f"{node.name} sees {len(alive)} of {len(self.of(node.region))} members"
        return ""

    # -- watching ----------------------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        while True:
            await self.sample()
            await trio.sleep(SAMPLE_S)

    async def sample(self) -> None:
        """Read everything once, of every node that answers."""
        for node in self.nodes.values():
            node.measure()
            if node.serves:
                await self._one_sample(node)

    async def _one_sample(self, node: MeshNode) -> None:
        counters: dict[str, float] = {}
        with suppress(Broken):
            answer = await ask_once(node.admin, "GET", "/metrics", timeout_s=1.0)
            counters = {name: float(value) for name, value in _METRIC.findall(answer.body.decode())}
        at_s = trio.current_time() - self.began_s
        self.samples.append(
            Sample(round(at_s, 3), node.name, node.starts, node.rss_bytes, node.cpu_s, counters)
        )

    # -- stopping ----------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """SIGTERM to all, SIGKILL to what is left after STOP_S; disks are taken away."""
        running = [node for node in self.nodes.values() if node.alive]
        for node in running:
            node.measure()
            node.expected_down = True
            node.signal(signal.SIGCONT)
            node.signal(signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            for node in running:
                assert node.process is not None
                await node.process.wait()
        for node in running:
            assert node.process is not None
            if node.alive:
                self.deaths.append(f"{node.name} did not stop within {STOP_S:g} s")
                node.process.kill()
            await node.process.wait()
        for node in self.nodes.values():
            if node.disk is not None:
                node.disk.close()


def _tail(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-800:].strip()
    except OSError:
        return "(no log)"


@asynccontextmanager
async def running(plan: FaultPlan, folder: Path) -> AsyncIterator[FaultMesh]:
    """The mesh of a plan, started; it is gone at the end, also after Ctrl-C. Raises: MeshError MESH-A020."""
    async with trio.open_nursery() as nursery:
        mesh = FaultMesh(plan, folder, nursery)
        try:
            await mesh.start()
            yield mesh
        finally:
            with trio.CancelScope(shield=True):
                await mesh.stop()
            nursery.cancel_scope.cancel()
