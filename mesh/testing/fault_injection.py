"""Carries out the faults of a plan on a running mesh and its readers, and undoes every one of them.

Decides how each kind is done; never when (the plan) and never what it means (the checker). Everything is written into the history
as it is done. Invariant: when `run` returns nothing is cut, stalled, slow, full, paused or down.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final, assert_never

import trio

from mesh.model.errors import MeshError
from mesh.testing.fault_mesh import FaultMesh, MeshNode
from mesh.testing.fault_plan import FaultKind, TimedFault
from mesh.testing.fault_traffic import Traffic
from mesh.testing.proxy import Ailment, Line

STARTS: Final = 5
"""A node that does not start is tried so often, a second apart, before that is a trouble."""

SHORTEST_S: Final = 0.1
"""How long a node is struck at least, when the one before took longer than the plan thought."""

POLL_S: Final = 0.05

Undo = Callable[[], None]


class Injection:
    """The faults of one run."""

    def __init__(self, mesh: FaultMesh, traffic: Traffic) -> None:
        self._mesh = mesh
        self._traffic = traffic

    async def run(self) -> None:
        """All faults of the plan, from now on. Cost: as long as the plan."""
        async with trio.open_nursery() as nursery:
            for fault in self._mesh.plan.faults:
                nursery.start_soon(self._one, fault)

    async def _one(self, fault: TimedFault) -> None:
        begun = self._traffic.clock.began_s
        await trio.sleep_until(begun + fault.at_s)
        amount = f" {fault.amount:g}" if fault.amount else ""
        self._note(f"{fault.kind} {fault.target}{amount} for {fault.lasts_s:g} s")
        ends_at = begun + fault.at_s + fault.lasts_s
        match fault.kind:
            case FaultKind.KILL | FaultKind.PAUSE:
                strike = self._kill if fault.kind is FaultKind.KILL else self._pause
                node = self._mesh.nodes[fault.target]
                async with node.struck:
                    await self._until_not_last(node)
                    await strike(node, max(ends_at, trio.current_time() + SHORTEST_S))
            case FaultKind.DISK_FULL:
                await self._fill(self._mesh.nodes[fault.target], ends_at)
            case FaultKind.AWAY:
                self._traffic.subscribers[fault.target].crash(fault.lasts_s)
                await trio.sleep_until(ends_at)
            case FaultKind.ISOLATE:
                undo = [self._cut(line) for line in self._bridges_of(fault.target)]
                await self._until(ends_at, undo)
            case _:
                a, _, b = fault.target.partition(">")
                await self._until(ends_at, self._spoil(fault, self._mesh.proxy.line(a, b), a, b))
        self._note(f"{fault.kind} {fault.target} is over")

    async def _until_not_last(self, node: MeshNode) -> None:
        """A node that takes long to start must not leave its region empty, unless the plan wants that."""
        others = [other for other in self._mesh.of(node.region) if other is not node]
        while not self._mesh.plan.whole_regions and not any(other.serves for other in others):
            await trio.sleep(POLL_S)

    def _note(self, what: str) -> None:
        self._traffic.note(what)

    async def _until(self, ends_at: float, undo: list[Undo]) -> None:
        try:
            await trio.sleep_until(ends_at)
        finally:
            for one in undo:
                one()

    # -- nodes -------------------------------------------------------------------------------------------------------

    async def _kill(self, node: MeshNode, ends_at: float) -> None:
        node.measure()
        node.expected_down = True
        node.signal(signal.SIGKILL)
        await trio.sleep_until(ends_at)
        for left in reversed(range(STARTS)):
            try:
                await self._mesh.launch(node)
            except MeshError as error:
                if not left and not node.disk_full:
                    self._traffic.history.troubles.append(str(error))
                    return
                self._note(f"{node.name} did not start")
                await trio.sleep(1.0)
            else:
                self._note(f"{node.name} serves again after {node.start_s[-1]:.2f} s")
                return

    async def _pause(self, node: MeshNode, ends_at: float) -> None:
        node.paused = True
        node.signal(signal.SIGSTOP)
        try:
            await trio.sleep_until(ends_at)
        finally:
            node.signal(signal.SIGCONT)
            node.paused = False

    async def _fill(self, node: MeshNode, ends_at: float) -> None:
        assert node.disk is not None
        node.disk_full = True
        node.disk.fill(node.pid)
        try:
            await trio.sleep_until(ends_at)
        finally:
            node.disk_full = False
            node.disk.free(node.pid)

    # -- lines -------------------------------------------------------------------------------------------------------

    def _bridges_of(self, region: str) -> list[Line]:
        nodes = self._mesh.nodes
        return [
            self._mesh.proxy.line(a, b)
            for a, b in self._mesh.plan.shape.bridges
            if region in (nodes[a].region, nodes[b].region)
        ]

    def _cut(self, line: Line) -> Undo:
        line.refusals += 1
        line.reset()

        def undo() -> None:
            line.refusals -= 1

        return undo

    def _spoil(self, fault: TimedFault, line: Line, a: str, b: str) -> list[Undo]:
        """Begin what ails a line; how to end it."""
        both = [(a, b), (b, a)]
        match fault.kind:
            case FaultKind.CUT:
                return [self._cut(line)]
            case FaultKind.RESET:
                line.reset()
                return []
            case FaultKind.HALF_CLOSE:
                line.half_close(a)
                return []
            case FaultKind.STALL:
                return _ail(line, both, Ailment(stalled=True))
            case FaultKind.ONE_WAY:
                return _ail(line, both[:1], Ailment(stalled=True))
            case FaultKind.NARROW:
                return _ail(line, both, Ailment(rate_bytes_s=fault.amount))
            case FaultKind.DELAY:
                return _ail(line, both, Ailment(delay_s=fault.amount))
            case FaultKind.KILL | FaultKind.PAUSE | FaultKind.DISK_FULL | FaultKind.ISOLATE | FaultKind.AWAY:
                raise AssertionError(f"{fault.kind} is no fault of a line")
            case _:
                assert_never(fault.kind)


def _ail(line: Line, ways: list[tuple[str, str]], ailment: Ailment) -> list[Undo]:
    found: list[Undo] = []
    for key in ways:
        way = line.ways[key]
        way.begin(ailment)
        found.append(lambda way=way: way.end(ailment))  # type: ignore[misc]
    return found
