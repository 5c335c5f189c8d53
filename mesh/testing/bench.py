"""`mesh bench`: a chain of regions on this machine, loaded through the protocols clients speak, and what it costs.

Decides what is started and in which order it is measured: at rest, then per run at full speed and at a fixed rate, each
after a warm-up that is not counted. Never makes the load itself (`bench_load`, a process of its own) and never prints.
Invariant: processor time is that of the nodes' processes alone, between two moments at which no event is under way.
Source: design page "Wire and speed", The benchmark.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import trio

from mesh.model.errors import MeshError
from mesh.model.ids import NodeKey
from mesh.testing.bench_load import Plan, quantiles_us
from mesh.testing.bench_machine import describe
from mesh.testing.fleet import Fleet, RunningNode, fleet

ROUTES_S: Final = 20.0
BUSY_SHARE: Final = 0.85
"""A generator that uses more of one core than this may be what limits the figures."""

ACKED: Final = 1_000
"""Events that one publisher sends, each after the answer to the one before."""
SYNCS: Final = 300

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What to measure. events: of one run at full speed. warm_up: events before it. rate: events/s of the latency run, over
    rate_s seconds. idle_s: how long the nodes are watched at rest. window: events under way at most."""

    nodes: int = 4
    events: int = 200_000
    warm_up: int = 40_000
    batch: int = 100
    publishers: int = 4
    window: int = 4_000
    payload: int = 256
    topics: int = 100
    protocol: str = "ws"
    rate: float = 1_000.0
    rate_s: float = 5.0
    idle_s: float = 5.0
    runs: int = 3
    seed: int = 1
    level: str = "at-most-once"
    tls: bool = False


async def measure(wish: Wish, command: str, say: Say) -> dict[str, Any]:
    """Start the chain, measure, stop it. Returns: the report as JSON shows it. Raises: MeshError MESH-A020."""
    with tempfile.TemporaryDirectory(prefix="hopmesh-bench-") as folder:
        async with fleet(Path(folder)) as nodes:
            say(f"starting {wish.nodes} regions of one node each")
            chain = await start_chain(nodes, wish.nodes, tls=wish.tls)
            await _rest(chain)
            say(f"at rest for {wish.idle_s:g} s")
            idle = await _idle(chain, wish.idle_s)
            async with _load(wish, chain) as load:
                say(f"warming up with {wish.warm_up} events")
                await load.do(do="closed", events=wish.warm_up)
                fast, slow = [], []
                for run in range(wish.runs):
                    say(f"run {run + 1} of {wish.runs}: {wish.events} events at full speed")
                    fast.append(await _full_speed(load, chain, wish.events))
                    if wish.rate_s > 0:
                        say(f"run {run + 1} of {wish.runs}: {wish.rate:g} events/s for {wish.rate_s:g} s")
                        slow.append(await _fixed_rate(load, chain, wish))
                acks: dict[str, Any] = {}
                if wish.level != "at-most-once":
                    say(f"{ACKED} events one by one, each answered before the next")
                    fsync_us = fsync_times_us(Path(folder))
                    told = await load.do(do="acked", events=ACKED)
                    acks = {"fsync_us": fsync_us, "ack_us": told["ack_us"], "lost": told["lost"]}
                memory = {node.name: _mb(node.rss_bytes()) for node in chain}
    return {
        "apiVersion": "mesh/v1",
        "kind": "bench",
        "topology": "chain",
        "command": command,
        "machine": describe(),
        "settings": asdict(wish),
        "idle": idle,
        "throughput": {"runs": fast, **_summary(fast, ("events_per_s", "cpu_us_per_event"))},
        "latency": {"runs": slow, **_summary(slow, ("p50_us", "p99_us", "p99.9_us", "cpu_us_per_event"))},
        "acknowledgement": acks,
        "rss_mb_after": memory,
        "lost": sum(run["lost"] for run in (*fast, *slow)) + acks.get("lost", 0),
        "duplicates": sum(run["duplicates"] for run in (*fast, *slow)),
        "load_limits": any(run["load_limits"] for run in fast),
    }


def fsync_times_us(folder: Path) -> dict[str, float]:
    """What it takes to write 512 bytes to the end of a file in this folder and have them on the disk (fdatasync)."""
    took_ns = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            begun_ns = time.monotonic_ns()
            file.write(bytes(512))
            os.fdatasync(file.fileno())
            took_ns.append(time.monotonic_ns() - begun_ns)
    return quantiles_us(took_ns)


def certified(folder: Path, key: NodeKey) -> list[str]:
    """Flags that put a node's links inside TLS, with a certificate of a CA that is made when it is not there. Whoever has one may dial in."""
    from mesh.identity.authority import Authority
    from mesh.model.certificate import NodeId

    trust, now_s = "bench.local", time.time()
    authority = Authority.open_ca(folder) if folder.exists() else Authority.create(folder, trust, now_s)
    return [f"--tls={authority.issue(NodeId(trust, key), now_s).folder}", "--set=federation.accept=any"]


async def start_chain(nodes: Fleet, count: int, *, tls: bool = False) -> list[RunningNode]:
    """Regions a, b, c, ... of one node each; every node is told its left neighbour's address and nothing else. tls: and is given a
    certificate.

    Returns when the first and the last know a route to each other. Raises: MeshError MESH-A020.
    """
    chain: list[RunningNode] = []
    for number in range(count):
        region = chr(ord("a") + number) if count <= 26 else f"r{number}"
        bridge = [f"--bridge={chain[-1].region}={chain[-1].link}"] if chain else []
        secure = certified(nodes.folder / "ca", NodeKey(region, f"{region}-1")) if tls else []
        chain.append(await nodes.start(f"{region}-1", region, *bridge, *secure))
    first, last = chain[0], chain[-1]
    with trio.move_on_after(ROUTES_S):
        while first is not last and not (await _knows(first, last) and await _knows(last, first)):
            await trio.sleep(0.1)
        return chain
    raise MeshError(
        "MESH-A020", "bench", f"no route between {first.region} and {last.region} within {ROUTES_S:g} s"
    )


async def _knows(node: RunningNode, other: RunningNode) -> bool:
    from mesh.cli.ask import Node

    def ask() -> bool:
        with Node(f"http://{node.admin}", 5.0) as admin:
            items = admin.list("/v1/routes", [("here", "true")])["items"]
        return any(
            item["region"] == other.region and item["state"] in ("selected", "in_use") for item in items
        )

    return await trio.to_thread.run_sync(ask)


# -- at rest -------------------------------------------------------------------------------------------------------------


async def _rest(chain: Sequence[RunningNode]) -> None:
    """Starting is over when a second passes in which no node used a tenth of a core."""
    for _ in range(10):
        before = [node.cpu_s() for node in chain]
        await trio.sleep(1.0)
        if all(node.cpu_s() - used < 0.1 for node, used in zip(chain, before, strict=True)):
            return


async def _idle(chain: Sequence[RunningNode], seconds: float) -> list[dict[str, Any]]:
    before = [node.cpu_s() for node in chain]
    begun = trio.current_time()
    await trio.sleep(seconds)
    took_s = max(1e-9, trio.current_time() - begun)
    return [
        {
            "node": node.name,
            "cpu_percent": round(100 * (node.cpu_s() - used) / took_s, 2),
            "rss_mb": _mb(node.rss_bytes()),
        }
        for node, used in zip(chain, before, strict=True)
    ]


def _mb(size: int) -> float:
    return round(size / 1e6, 1)


# -- under load ----------------------------------------------------------------------------------------------------------


class _Generator:
    """The load's process: a command a line to it, an answer a line from it."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def do(self, **command: object) -> dict[str, Any]:
        """Raises: MeshError MESH-A020 when the load or a node broke off."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")
        told = await self.answer()
        if told.get("failure"):
            raise MeshError("MESH-A020", "bench", f"the load broke off: {told['failure']}")
        return told

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            data = await self._process.stdout.receive_some()
            if not data:
                raise MeshError("MESH-A020", "bench", "the load's process ended; its error is above")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told


@asynccontextmanager
async def _load(wish: Wish, chain: Sequence[RunningNode]) -> AsyncIterator[_Generator]:
    first, last = chain[0], chain[-1]
    plan = Plan(
        publish=first.events,
        subscribe=last.events,
        regions=first.region if first is not last else "",
        protocol=wish.protocol,
        publishers=wish.publishers,
        batch=wish.batch,
        topics=wish.topics,
        payload=wish.payload,
        window=wish.window,
        seed=wish.seed,
        level=wish.level,
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", "mesh.testing.bench_load", json.dumps(asdict(plan))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        generator = _Generator(process)
        await generator.answer()
        yield generator
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def _full_speed(load: _Generator, chain: Sequence[RunningNode], events: int) -> dict[str, Any]:
    used = [node.cpu_s() for node in chain]
    told = await load.do(do="closed", events=events)
    run = _costs(chain, used, told)
    run["events_per_s"] = round(told["received"] / told["seconds"])
    run["seconds"] = round(told["seconds"], 3)
    run["load_limits"] = run["load_cpu_share"] > BUSY_SHARE
    return run


async def _fixed_rate(load: _Generator, chain: Sequence[RunningNode], wish: Wish) -> dict[str, Any]:
    used = [node.cpu_s() for node in chain]
    told = await load.do(do="open", rate=wish.rate, seconds=wish.rate_s)
    run = _costs(chain, used, told)
    run.update({f"{name}_us": round(value) for name, value in told["latency_us"].items()})
    run["late_p99_us"] = round(told["late_us"]["p99"])
    return run


def _costs(chain: Sequence[RunningNode], used: Sequence[float], told: dict[str, Any]) -> dict[str, Any]:
    """Processor time of each node since `used`, for each event that was published."""
    published = told["published"]
    nodes = {
        node.name: round((node.cpu_s() - before) * 1e6 / published, 3)
        for node, before in zip(chain, used, strict=True)
    }
    return {
        "published": published,
        "received": told["received"],
        "lost": told["lost"],
        "duplicates": told["duplicates"],
        "cpu_us_per_event": round(sum(nodes.values()), 3),
        "nodes": nodes,
        "load_cpu_us_per_event": round(told["load_cpu_s"] * 1e6 / published, 3),
        "load_cpu_share": round(told["load_cpu_s"] / told["seconds"], 3),
    }


def _summary(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Median and spread (smallest, largest) of each figure; nodes by their own medians."""
    if not runs:
        return {}
    found: dict[str, Any] = {}
    for name in names:
        values = [run[name] for run in runs]
        found[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    found["nodes"] = {
        node: round(statistics.median(run["nodes"][node] for run in runs), 3) for node in runs[0]["nodes"]
    }
    return found


# -- from the command ----------------------------------------------------------------------------------------------------


def run(wish: Wish, command: str, say: Say) -> dict[str, Any]:
    """`measure`, ended by SIGINT and SIGTERM. Raises: MeshError; KeyboardInterrupt, after everything was stopped."""
    try:
        return trio.run(_until_interrupted, wish, command, say)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _until_interrupted(wish: Wish, command: str, say: Say) -> dict[str, Any]:
    report: list[dict[str, Any]] = []

    async def watch(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        report.append(await measure(wish, command, say))
        nursery.cancel_scope.cancel()
    if not report:
        raise KeyboardInterrupt
    return report[0]
