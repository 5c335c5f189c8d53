"""Durable clients at a real node: what they are told is on the disk, and a journal without room for notes disturbs nobody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from node.events_port import upgrade_request
from node.kept import Served, keep, serving
from node.memory_mesh import until
from node.test_durable_clients import Socket, away, opened

from mesh.model.limits import Limits
from mesh.model.reasons import Refuse
from mesh.node import receivers
from mesh.node.runner import Node
from mesh.node.settings import NodeSettings
from mesh.testing.memory_store import MemoryStore

SSE = (
    b"GET /v1/events?client=%b&durable=true&filter=%b HTTP/1.1\r\n"
    b"Host: x\r\nAccept: text/event-stream\r\n\r\n"
)


class HeldStore(MemoryStore):
    """Its notes are on the disk when the test says so."""

    held = 0
    """So many of the newest notes are not."""

    @property
    def notes_synced(self) -> int:
        return self.notes_made - self.held


@asynccontextmanager
async def served_with(store: MemoryStore) -> AsyncIterator[Served]:
    node = Node(NodeSettings("eu", "n1", "i", 7, "test", alone=True), store=store)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        async with serving(node, Limits()) as served:
            yield served
        nursery.cancel_scope.cancel()


async def silent(client: Socket) -> bool:
    """Whether nothing comes from the node, however long it has to do all that is ready."""
    with trio.move_on_after(0.1):
        await client.socket.get_message()
        return False
    return True


async def test_each_answer_waits_for_the_disk_and_for_what_is_kept_already_nobody_waits() -> None:
    store = HeldStore()
    async with served_with(store) as served, trio.open_nursery() as nursery:
        store.held = 1
        found: list[Socket] = []
        over = trio.Event()

        async def enter() -> None:
            async with opened(served) as client:
                found.append(client)
                await over.wait()

        nursery.start_soon(enter)
        await until(lambda: "client/shop" in store.notes)
        await trio.sleep(0.1)
        assert not found, "the opening is not answered before its client is on the disk"
        store.held = 0
        served.node.stored()
        await until(lambda: bool(found))
        (client,) = found
        assert (await client.get())["op"] == "resumed"
        for op in ("subscribe", "unsubscribe"):
            store.held = 1
            more = {"filter": "t"} if op == "subscribe" else {}
            await client.say(op, id=op, sid=1, **more)
            await client.say("ping", id="ping")
            assert (await client.get())["id"] == "ping", "what needs no disk is answered"
            assert await silent(client)
            store.held = 0
            served.node.stored()
            assert await client.get() == {"op": "ok", "id": op, "sid": 1}
        await client.say("subscribe", sid=2, filter="t")
        await client.get()
        over.set()
        await until(lambda: away(served))
        made = store.notes_made
        async with opened(served) as client:
            assert (await client.get())["subscriptions"] == [{"sid": 2, "filter": "t"}]
            await client.say("subscribe", id=3, sid=2, filter="t")
            assert await client.get() == {"op": "ok", "id": 3, "sid": 2}
        assert store.notes_made == made, "nothing new to write"


async def test_a_receipt_that_was_asked_for_comes_behind_the_answer() -> None:
    store = HeldStore()
    async with served_with(store) as served, opened(served) as client:
        await client.get()
        store.held = 1
        await client.say("subscribe", id=1, sid=1, filter="t", wait="node")
        assert await silent(client)
        store.held = 0
        served.node.stored()
        assert [(await client.get())["op"], (await client.get())["op"]] == ["ok", "receipt"]


@pytest.mark.parametrize("how", ["fails", "slow"])
async def test_a_disk_that_does_not_take_the_note_is_told(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "slow":
        monkeypatch.setattr(receivers, "NOTED_S", 0.2)
    store = HeldStore()
    async with served_with(store) as served, opened(served) as client:
        await client.get()
        store.held = 1
        await client.say("subscribe", id=1, sid=1, filter="t")
        assert await silent(client)
        if how == "fails":
            store.fault = Refuse.NO_SPACE
            served.node.stored()
        answer = await client.get()
        assert (answer["op"], answer["id"], answer["problem"]["code"]) == ("error", 1, "MESH-E044")
        assert answer["problem"]["status"] == 503
        assert ("no_space" if how == "fails" else "not on the disk in time") in answer["problem"]["detail"]
        reason = "no_space" if how == "fails" else "timeout"
        assert served.node.refusals["events", reason] == 1


async def test_without_room_for_notes_one_client_is_refused_and_nothing_changes_for_anybody() -> None:
    store = MemoryStore()
    async with served_with(store) as served, opened(served) as client:
        await client.get()
        await client.say("subscribe", sid=1, filter="t")
        await client.get()
        store.notes_bytes = sum(len(key) + len(value) for key, value in store.notes.items())
        machine = served.node.machine
        before = (dict(store.notes), machine.subscriptions.held())

        await client.say("subscribe", id=2, sid=2, filter="u")
        answer = await client.get()
        assert (answer["op"], answer["id"]) == ("error", 2)
        assert (answer["problem"]["code"], answer["problem"]["status"]) == ("MESH-E044", 503)
        assert "journal_notes_bytes" in answer["problem"]["detail"]
        for request in (
            SSE % (b"till", b"u"),
            upgrade_request("/v1/ws?client=x&durable=true", "mesh.v1.json"),
        ):
            raw = await served.connect()
            await raw.send(request)
            status, _, body = await raw.answer()
            await raw.stream.aclose()
            assert (status, json.loads(body)["code"]) == (503, "MESH-E044")
        assert (dict(store.notes), machine.subscriptions.held()) == before
        assert served.node.refusals["events", "notes_full"] == 3
        (item,) = served.node.clients.receivers.clients()
        assert (item.client, item.connected) == ("shop", True), "who was there was not even thrown out"
        keep(served.node, "a")
        assert await client.data() == "a"
        await client.say("unsubscribe", id=3, sid=1)
        assert (await client.get())["op"] == "ok"
        await client.say("subscribe", id=4, sid=2, filter="u")
        assert await client.get() == {"op": "ok", "id": 4, "sid": 2}, "there is room again"


async def test_a_stream_of_a_known_client_whose_new_filter_finds_no_room_leaves_it_with_those_it_had() -> (
    None
):
    store = MemoryStore()
    async with served_with(store) as served:
        async with opened(served) as client:
            await client.get()
            await client.say("subscribe", sid=1, filter="t")
            await client.get()
        await until(lambda: away(served))
        room = sum(len(key) + len(value) for key, value in store.notes.items())
        store.notes_bytes = room + 40  # for one more filter, not for two
        raw = await served.connect()
        status, _, body = await raw.call(
            "GET",
            "/v1/events?client=shop&durable=true&filter=u&filter=v&filter=w",
            b"",
            "Accept: text/event-stream",
        )
        await raw.stream.aclose()
        assert (status, json.loads(body)["code"]) == (503, "MESH-E044")
        await until(lambda: away(served))
        async with opened(served) as client:
            assert (await client.get())["subscriptions"] == [{"sid": 1, "filter": "t"}]
