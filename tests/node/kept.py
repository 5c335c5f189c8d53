"""A node with durable clients, and events that it is handed as at-least-once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from node.events_port import RawClient

from mesh.model.event import NewEvent
from mesh.model.limits import Limits
from mesh.net.listener import open_listener
from mesh.net.supervise import Crashes
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings
from mesh.protocols.serve import serve_events
from mesh.testing.memory_store import MemoryStore

ATTRIBUTES = ("specversion", "1.0", "id", "1", "source", "/s", "type", "t", "datacontenttype", "text/plain")


def keep(node: Node, *data: str, topic: str = "t", key: str = "") -> list[str]:
    """Publish here at least once. Returns their mesh ids."""
    events = [NewEvent(topic, key, 0, ATTRIBUTES, one.encode()) for one in data]
    published, _, _ = node.machine.publish_kept(events, trio.current_time())
    node.machine.flush(trio.current_time())
    node.after_call()
    region, name = node.key
    return [f"{region}/{name}/{node.settings.epoch}/{published.first_seq + at}" for at in range(len(data))]


class Served:
    """A node and the address of its events port."""

    def __init__(self, node: Node, port: int) -> None:
        self.node = node
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> RawClient:
        return RawClient(await trio.open_tcp_stream("127.0.0.1", self.port))


@asynccontextmanager
async def served_node(limits: Limits | None = None) -> AsyncIterator[Served]:
    """A node of its own, eu/n1, that serves its events port on a real socket."""
    found = limits or Limits()
    node = Node(NodeSettings("eu", "n1", "i", 7, "test", alone=True, limits=found), store=MemoryStore())
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        async with serving(node, found) as served:
            yield served
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(node: Node, limits: Limits) -> AsyncIterator[Served]:
    """The events port of a node that runs."""
    listener = await open_listener("listen.events", "127.0.0.1:0")
    crashes = Crashes(lambda kind, name, error: None)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_events, listener, node.clients, limits, crashes)
            yield Served(node, int(listener.address.rpartition(":")[2]))
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
    assert crashes.counts == {}
