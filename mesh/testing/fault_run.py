"""One plan from its first process to its verdict: start, subscribe, load and spoil, heal, wait, collect, stop, judge.

Decides the order, and how long is waited for what: until everything promised was read, or nothing more comes. Prints nothing.
Invariant: when `run_plan` returns or raises, no process of it is left.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from mesh.model.errors import MeshError
from mesh.net.supervise import unwrapped
from mesh.testing.fault_check import Verdict, check
from mesh.testing.fault_connection import Broken, ask_once
from mesh.testing.fault_history import DeadLetter, History, history_json
from mesh.testing.fault_injection import Injection
from mesh.testing.fault_mesh import FaultMesh, running
from mesh.testing.fault_plan import FaultPlan, plan_json
from mesh.testing.fault_traffic import Traffic

ANSWERED_S: Final = 10.0
"""After the last fault, publishers try so long to get an answer for what they have."""
SUBSCRIBED_S: Final = 60.0
"""A reader that cannot begin within this time fails the plan before its load begins."""
POLL_S: Final = 0.5
QUIET_S: Final = 1.0
"""When everything has come, copies may still follow."""
STUCK_S: Final = 5.0
"""After `heal_s` nothing is waited for any more when nothing came for so long."""

Say = Callable[[str], None]


class Figures(msgspec.Struct):
    """What a run cost. cpu_s and peak_rss_mb: by node. drops: reason -> how many, of all processes as far as they were read.
    load_cpu_s: of the runner itself. left_out: events that publishers did not send because the mesh took none. later: batches
    that were answered 503 or 429. start_s: the slowest start after a kill, with recovery."""

    took_s: float = 0.0
    cpu_s: dict[str, float] = {}
    peak_rss_mb: dict[str, float] = {}
    drops: dict[str, int] = {}
    load_cpu_s: float = 0.0
    left_out: int = 0
    later: int = 0
    restarts: int = 0
    start_s: float = 0.0
    disks: dict[str, str] = {}


class Run(msgspec.Struct):
    """A plan that was carried out."""

    plan: FaultPlan
    verdict: Verdict
    figures: Figures
    folder: str

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.verdict.violations)


def run_plan(plan: FaultPlan, folder: Path, say: Say) -> Run:
    """Carry a plan out. `folder` then has plan.json, history.json, verdict.json, samples.json, and each node's log and data.

    Raises: MeshError MESH-A020 when the mesh does not start; NotOffered when the nodes do not have what the plan asks for;
        KeyboardInterrupt on SIGINT or SIGTERM, after everything was stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan_json(plan))
    with unwrapped():
        history, figures, mesh = trio.run(_until_interrupted, plan, folder, say)
    verdict = check(history)
    (folder / "history.json").write_bytes(history_json(history))
    (folder / "samples.json").write_bytes(msgspec.json.encode(mesh.samples))
    run = Run(plan, verdict, figures, str(folder))
    (folder / "verdict.json").write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    return run


async def _until_interrupted(plan: FaultPlan, folder: Path, say: Say) -> tuple[History, Figures, FaultMesh]:
    done: list[tuple[History, Figures, FaultMesh]] = []

    async def watch(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        done.append(await _run(plan, folder, say))
        nursery.cancel_scope.cancel()
    if not done:
        raise KeyboardInterrupt
    return done[0]


async def _run(plan: FaultPlan, folder: Path, say: Say) -> tuple[History, Figures, FaultMesh]:
    history = History(plan)
    begun, used_s = trio.current_time(), time.process_time()
    say(f"starting {len(plan.shape.nodes)} nodes ({plan.topology})")
    async with running(plan, folder) as mesh:
        traffic = Traffic(plan, mesh, history)
        async with trio.open_nursery() as reading:
            for name, subscriber in traffic.subscribers.items():
                with trio.move_on_after(SUBSCRIBED_S) as waiting:
                    await reading.start(subscriber.run)
                if waiting.cancelled_caught:
                    raise MeshError(
                        "MESH-A020", name, f"the reader is not served: {subscriber.refused[:400]}"
                    )
            say(f"{len(plan.faults)} faults in {plan.seconds:g} s, {plan.rate:g} events/s")
            mesh.began_s = traffic.clock.began_s = trio.current_time()
            await _load(mesh, traffic)
            say("healed: waiting for what is still owed")
            await _settle(mesh, traffic)
            history.dead_letters = await _dead_letters(mesh)
            await mesh.sample()
            history.ended_s = traffic.clock.now()
            reading.cancel_scope.cancel()
    history.troubles += [*mesh.deaths, *_tracebacks(mesh)]
    history.peak_rss_mb = {name: round(node.peak_rss_bytes / 1e6, 1) for name, node in mesh.nodes.items()}
    figures = _figures(mesh, traffic)
    figures.took_s = round(trio.current_time() - begun, 1)
    figures.load_cpu_s = round(time.process_time() - used_s, 2)
    return history, figures, mesh


async def _load(mesh: FaultMesh, traffic: Traffic) -> None:
    """Publish and spoil; returns when the last fault is undone and every event has an answer, or will not get one."""
    give_up = trio.Event()
    async with trio.open_nursery() as loading:
        loading.start_soon(traffic.publish, give_up)
        await Injection(mesh, traffic).run()
        await trio.sleep_until(traffic.clock.began_s + mesh.plan.seconds)
        traffic.history.healed_s = traffic.clock.now()
        traffic.note("healed")
        loading.start_soon(_give_up, give_up, loading)
    give_up.set()


async def _give_up(give_up: trio.Event, loading: trio.Nursery) -> None:
    """Tell publishers that it is enough, unless they are done before."""
    with trio.move_on_after(ANSWERED_S):
        while len(loading.child_tasks) > 1:
            await trio.sleep(POLL_S)
    give_up.set()


async def _settle(mesh: FaultMesh, traffic: Traffic) -> None:
    """Wait until the mesh is whole and everything promised was read, or nothing more comes."""
    plan, history, clock = mesh.plan, traffic.history, traffic.clock
    try:
        await mesh.converge(plan.heal_s)
    except MeshError as error:
        history.troubles.append(str(error))
    came, since_s = -1, clock.now()
    while traffic.missing():
        now_came = sum(map(len, history.delivered.values()))
        if now_came != came:
            came, since_s = now_came, clock.now()
        if clock.now() > history.healed_s + plan.heal_s and clock.now() - since_s > STUCK_S:
            return
        await trio.sleep(POLL_S)
    await trio.sleep(QUIET_S)


async def _dead_letters(mesh: FaultMesh) -> list[DeadLetter]:
    """Of every node; none where there is no such list."""
    found: list[DeadLetter] = []
    for node in mesh.nodes.values():
        cursor = ""
        while node.serves:
            try:
                answer = await ask_once(node.admin, "GET", f"/v1/dlq?here=true&limit=1000{cursor}")
                told = msgspec.json.decode(answer.body) if answer.status == 200 else {}
            except (Broken, msgspec.DecodeError):
                break
            found += [
                DeadLetter(str(item.get("mesh_id", "")), str(item.get("reason", "")))
                for item in told.get("items", ())
            ]
            if not told.get("next"):
                break
            cursor = f"&cursor={told['next']}"
    return found


def _tracebacks(mesh: FaultMesh) -> list[str]:
    """Nothing that goes wrong around a node may make it raise."""
    found = []
    for node in mesh.nodes.values():
        with suppress(OSError):
            text = node.log.read_text(errors="replace")
            at = text.find("Traceback (most recent call last)")
            if at >= 0:
                found.append(f"{node.name} logged a traceback: {text[at : at + 200]} ... {text[-200:]}")
    return found


def _figures(mesh: FaultMesh, traffic: Traffic) -> Figures:
    last = {(sample.node, sample.start): sample for sample in mesh.samples if sample.counters}
    drops: dict[str, int] = {}
    for sample in last.values():
        for name, value in sample.counters.items():
            if name.startswith("mesh_drops_total{") and value:
                reason = name.split('"')[1]
                drops[reason] = drops.get(reason, 0) + int(value)
    nodes = mesh.nodes.values()
    return Figures(
        cpu_s={node.name: round(node.cpu_s, 2) for node in nodes},
        peak_rss_mb={node.name: round(node.peak_rss_bytes / 1e6, 1) for node in nodes},
        drops=drops,
        left_out=sum(publisher.left_out for publisher in traffic.publishers),
        later=traffic.later,
        restarts=sum(node.starts - 1 for node in nodes),
        start_s=round(max((took for node in nodes for took in node.start_s[1:]), default=0.0), 2),
        disks={node.name: node.disk.kind for node in nodes if node.disk is not None},
    )
