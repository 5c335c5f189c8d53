"""A node with durable clients, and events that it is handed as at-least-once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from node.events_port import RawClient

from mesh.core.custody.volatile import pack
from mesh.core.handover import Way
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.net.listener import open_listener
from mesh.net.supervise import Crashes
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings
from mesh.protocols.serve import serve_events
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Leg

ATTRIBUTES = ("specversion", "1.0", "id", "1", "source", "/s", "type", "t", "datacontenttype", "text/plain")


def keep(node: Node, *data: str, topic: str = "t", key: str = "", group: str = "") -> list[str]:
    """What custody does with events published here at least once. Returns their mesh ids."""
    machine = node.machine
    ingress = machine.forwarder.ingress
    events = [Event(ingress.next_seq(), topic, key, 0, None, ATTRIBUTES, one.encode()) for one in data]
    groups = ((group, topic, node.key.region),) if group else ()
    region, name = node.key
    header = BatchHeader(
        Leg.LOCAL, 0, region, name, node.settings.epoch, (region,), 0, 9, 0, (), 1, len(events), groups
    )
    wanted = machine.consumers.sort(header, events, machine.forwarder.region_plans)
    if wanted.parts:
        lsn = machine.store.append(tuple(wanted.parts), pack(header), encode_body(events), 0)
        machine.consumers.add(lsn, header, events, wanted, trio.current_time())
    for audience, some in wanted.direct:
        for one in some:
            way = Way((header.region, header.node, header.epoch), (), False)
            machine.forwarder.deliverer.to_sessions(audience, way, one)
    node.after_call()
    return [f"{region}/{name}/{node.settings.epoch}/{one.seq}" for one in events]


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
    node = Node(NodeSettings("eu", "n1", "i", 7, "test", limits=found))
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
