"""Real nodes of one process, joined by memory transports: addresses are names, and time is the test's clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from mesh.core.custody.store import Store
from mesh.core.opening import Terms
from mesh.model.event import Delivery, Event
from mesh.model.reasons import Close
from mesh.net.memory import MemoryTransport, pair
from mesh.net.transport import LinkLost, Transport
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings


class MemoryMesh:
    """A network of nodes by address ("n1:1"). `dialled` logs (time, address) of every attempt."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.nodes: dict[str, Node] = {}
        self.dialled: list[tuple[float, str]] = []
        self.refusing: set[str] = set()
        self.delay_s = 0.001

    def node(
        self,
        region: str,
        name: str,
        *,
        epoch: int = 1,
        run: bool = True,
        store: Store | None = None,
        **more: object,
    ) -> Node:
        """A node with a reachable address; `run`: started, and kept by the mesh until the test ends."""
        address = f"{name}:1"
        settings = NodeSettings(
            region=region,
            node=name,
            instance=f"{region}/{name}#{epoch}",
            epoch=epoch,
            software="test",
            address=address,
            **more,  # type: ignore[arg-type]
        )
        node = Node(
            settings, dice=random.Random(len(self.nodes)), wall_s=lambda: 1_700_000_000.0, store=store
        )
        self.nodes[address] = node
        if run:
            self.nursery.start_soon(node.run)
        return node

    @asynccontextmanager
    async def dial(
        self, address: str, transport: str, timeout_s: float, *_: object
    ) -> AsyncIterator[Transport]:
        """In place of mesh.net.dial.dial."""
        self.dialled.append((trio.current_time(), address))
        await trio.lowlevel.checkpoint()
        other = self.nodes.get(address)
        if other is None or address in self.refusing or other.stopped.is_set():
            raise LinkLost(f"{address}: connection refused")
        mine, theirs = pair(self.delay_s, names=("dialler:0", address))
        self.nursery.start_soon(self._accept, other, theirs)
        try:
            yield mine
        finally:
            mine.abort()

    async def _accept(self, node: Node, transport: MemoryTransport) -> None:
        try:
            await node.attach(transport, dialled=False, terms=Terms())
        finally:
            await transport.aclose()

    def link(self, a: Node, b: Node, terms: Terms | None = None) -> None:
        """Join two nodes once, without a dialler."""

        async def run() -> None:
            with suppress(LinkLost):
                async with self.dial(b.settings.address, "tcp", 1.0) as transport:
                    await a.attach(transport, dialled=True, terms=terms or Terms())

        self.nursery.start_soon(run)


@asynccontextmanager
async def memory_mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryMesh]:
    """A mesh whose nodes end with the block."""
    async with trio.open_nursery() as nursery:
        mesh = MemoryMesh(nursery)
        monkeypatch.setattr("mesh.node.dialler.dial", mesh.dial)
        yield mesh
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for something to become true, in virtual time."""
    with trio.fail_after(limit_s):
        while not condition():
            await trio.sleep(0.01)


class Box:
    """A client's sink that keeps everything."""

    def __init__(self) -> None:
        self.got: list[Event] = []
        self.closed: list[Close] = []

    def deliver(self, deliveries: list[Delivery]) -> None:
        self.got += [event for delivery in deliveries for event in delivery.events]

    def close(self, reason: Close, detail: str) -> None:
        self.closed.append(reason)

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
