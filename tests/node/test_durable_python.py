"""The Python client as a durable client: what is kept while its process is away, and acknowledgements."""

from __future__ import annotations

import pytest
import trio
from node.kept import keep, served_node
from node.memory_mesh import until

from mesh.client import Client
from mesh.model.errors import MeshError


async def test_a_new_process_takes_up_its_subscriptions_and_gets_what_was_not_acknowledged() -> None:
    async with served_node() as served:
        async with Client(served.url, durable="shop") as client, await client.subscribe("t") as events:
            keep(served.node, "a", "b", "c")
            first = await anext(events)
            assert (first.data, first.redelivered) == ("a", False)
            await client.ack(first)
            await anext(events)
        await until(lambda: not served.node.clients.receivers.clients()[0].connected)
        keep(served.node, "d")
        async with Client(served.url, durable="shop") as client:
            assert client.waiting == 3
            assert client.kept == (("t", ""),)
            other = await client.subscribe("other")
            events = await client.subscribe("t")
            assert (client.kept, events.sid == other.sid) == ((), False)
            with trio.fail_after(5):
                got = [await anext(events) for _ in range(3)]
            assert [(one.data, one.redelivered) for one in got] == [("b", True), ("c", True), ("d", False)]
            await client.ack(got[-1], up_to=True)
            await until(lambda: len(served.node.machine.custody.store.journal) == 0)
            await events.unsubscribe()
            assert served.node.clients.receivers.clients()[0].subscriptions == 1


async def test_a_refused_event_comes_again() -> None:
    async with served_node() as served, Client(served.url, durable="shop", max_deliveries=3) as client:
        events = await client.subscribe("t")
        keep(served.node, "a")
        await client.nack(await anext(events))
        again = await anext(events)
        assert (again.data, again.redelivered, again.deliveries) == ("a", True, 2)


async def test_a_client_whose_name_was_taken_over_does_not_fight_for_it() -> None:
    async with served_node() as served, Client(served.url, durable="shop") as older:
        events = await older.subscribe("t")
        async with Client(served.url, durable="shop") as newer:
            with pytest.raises(MeshError) as ended, trio.fail_after(5):
                await anext(events)
            assert ended.value.code == "MESH-E042"
            assert (older.reconnects, newer.reconnects) == (0, 0)
            keep(served.node, "a")
            assert (await anext(await newer.subscribe("t"))).data == "a"


async def test_a_live_client_may_acknowledge_explicitly() -> None:
    async with served_node() as served, Client(served.url, acks="explicit") as client:
        events = await client.subscribe("t")
        keep(served.node, "a")
        await client.ack(await anext(events))
        await until(lambda: len(served.node.machine.custody.store.journal) == 0)
