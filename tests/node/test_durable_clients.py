"""Clients that acknowledge, on real sockets of a real node: durable ones, explicit acks, and streams that resume."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio_websocket
from node.events_port import masked, upgrade_request
from node.kept import Served, keep, served_node
from node.memory_mesh import until

from mesh.model.event import NewEvent
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.node.service import RefusedError

DURABLE = "/v1/ws?client=shop&durable=true"


class Socket:
    """One WebSocket of mesh.v1.json."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self.socket = socket

    async def get(self) -> dict[str, Any]:
        with trio.fail_after(5):
            found: dict[str, Any] = json.loads(await self.socket.get_message())
        return found

    async def say(self, op: str, **fields: object) -> None:
        await self.socket.send_message(json.dumps({"op": op, **fields}))

    async def data(self) -> str:
        """The data of the next event."""
        found = await self.get()
        assert found["op"] == "event", found
        return str(found["event"]["data"])


@asynccontextmanager
async def opened(served: Served, path: str = DURABLE) -> AsyncIterator[Socket]:
    async with trio_websocket.open_websocket_url(
        f"ws://127.0.0.1:{served.port}{path}", subprotocols=["mesh.v1.json"]
    ) as socket:
        yield Socket(socket)


def away(served: Served) -> bool:
    return not any(one.connected for one in served.node.clients.receivers.clients())


async def test_a_durable_client_gets_everything_across_its_absences_until_it_acknowledges() -> None:
    async with served_node() as served:
        async with opened(served) as client:
            assert await client.get() == {
                "op": "resumed",
                "client": "shop",
                "subscriptions": [],
                "waiting": 0,
            }
            await client.say("subscribe", id=1, sid=4, filter="t")
            await client.say("subscribe", id=2, sid=5, filter="jobs/#", group="g")
            assert [(await client.get())["id"], (await client.get())["id"]] == [1, 2]
            ids = keep(served.node, "a", "b")
            event = await client.get()
            assert (event["sids"], event["mesh_id"], event["event"]["data"]) == ([4], ids[0], "a")
            assert "redelivered" not in event
            assert await client.data() == "b"
            await client.say("ack", id=3, mesh_id=ids[0])
            assert await client.get() == {"op": "ok", "id": 3, "acked": 1}
        await until(lambda: away(served))
        keep(served.node, "c")
        (item,) = served.node.clients.receivers.clients()
        assert (item.client, item.connected, item.waiting, item.unacked) == ("shop", False, 2, 0)
        async with opened(served) as client:
            resumed = await client.get()
            assert resumed["subscriptions"] == [
                {"sid": 4, "filter": "t"},
                {"sid": 5, "filter": "jobs/#", "group": "g"},
            ]
            assert resumed["waiting"] == 2
            again = await client.get()
            assert (again["event"]["data"], again["redelivered"], again["deliveries"]) == ("b", True, 2)
            fresh = await client.get()
            assert fresh["event"]["data"] == "c"
            assert "deliveries" not in fresh
            await client.say("subscribe", id=9, sid=4, filter="t")  # said again: nothing happens
            assert await client.get() == {"op": "ok", "id": 9, "sid": 4}
            await client.say("ack", id=10, mesh_id=fresh["mesh_id"], upto=True)
            assert await client.get() == {"op": "ok", "id": 10, "acked": 2}
        assert len(served.node.machine.custody.store.journal) == 0


async def test_a_refused_event_comes_again_and_in_the_end_no_more() -> None:
    async with served_node() as served, opened(served, DURABLE + "&max_deliveries=2") as client:
        await client.get()
        await client.say("subscribe", sid=1, filter="t")
        await client.get()
        (mesh_id,) = keep(served.node, "a")
        assert await client.data() == "a"
        await client.say("nack", mesh_id=mesh_id)
        assert (await client.get())["redelivered"]
        await client.say("nack", id=5, mesh_id=mesh_id)
        assert await client.get() == {"op": "ok", "id": 5, "refused": 1}
        assert served.node.machine.counters.dead_letters == {Drop.MAX_DELIVERIES: 1}


async def test_what_is_not_acknowledged_in_time_comes_again() -> None:
    async with served_node() as served, opened(served, DURABLE + "&ack_timeout=200ms") as client:
        await client.get()
        await client.say("subscribe", sid=1, filter="t")
        await client.get()
        keep(served.node, "a")
        begun = trio.current_time()
        assert await client.data() == "a"
        assert (await client.get())["redelivered"]
        assert trio.current_time() - begun > 0.19


async def test_thousands_wait_and_arrive_in_order_with_a_window_at_a_time() -> None:
    async with served_node() as served:
        async with opened(served) as client:
            await client.get()
            await client.say("subscribe", sid=1, filter="t")
            await client.get()
        await until(lambda: away(served))
        for first in range(0, 3_000, 100):
            keep(served.node, *(str(at) for at in range(first, first + 100)), key="k")
        async with opened(served) as client:
            assert (await client.get())["waiting"] == 3_000
            for at in range(3_000):
                event = await client.get()
                assert event["event"]["data"] == str(at)
                if at % 50 == 49:
                    await client.say("ack", mesh_id=event["mesh_id"], upto=True)
            await until(lambda: len(served.node.machine.custody.store.journal) == 0)


async def test_acks_by_reading_need_no_op_and_a_reader_of_thousands_does_not_nest() -> None:
    async with served_node() as served:
        async with opened(served, DURABLE + "&acks=auto") as client:
            await client.get()
            await client.say("subscribe", sid=1, filter="t")
            await client.get()
        await until(lambda: away(served))
        for first in range(0, 5_000, 500):
            keep(served.node, *(str(at) for at in range(first, first + 500)))
        async with opened(served, DURABLE + "&acks=auto") as client:
            await client.get()
            for at in range(5_000):
                assert await client.data() == str(at)
            await until(lambda: len(served.node.machine.custody.store.journal) == 0)
            await client.say("ack", id=7, mesh_id="eu/n1/7/1")
            assert (await client.get())["problem"]["code"] == "MESH-E011"


async def test_the_newer_connection_of_a_client_wins() -> None:
    async with served_node() as served:
        older = await served.connect()
        await older.upgrade(DURABLE)
        assert json.loads((await older.frame())[1])["op"] == "resumed"
        await older.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
        await older.frame()
        keep(served.node, "a")
        assert json.loads((await older.frame())[1])["event"]["data"] == "a"
        async with opened(served) as newer:
            assert (await newer.get())["waiting"] == 1
            assert await newer.data() == "a"
            code, reason = await older.close_frame()
            assert (code, reason) == (4409, "another connection of this client came after this one")
            await older.send(masked(1, b'{"op":"ack","mesh_id":"eu/n1/7/1"}'))
            await older.stream.aclose()
            keep(served.node, "b")
            assert await newer.data() == "b"
            assert len(served.node.machine.custody.store.journal) == 2, (
                "what was taken over acknowledges nothing"
            )


async def test_a_live_session_may_acknowledge_too_and_loses_what_waits_when_it_goes() -> None:
    async with served_node() as served:
        async with opened(served, "/v1/ws?acks=explicit&client=me") as client:
            await client.say("subscribe", sid=1, filter="t")
            await client.get()
            mesh_id, *_ = keep(served.node, "a", "b")
            assert await client.data() == "a"
            await client.say("ack", mesh_id=mesh_id)
            assert await client.data() == "b"
        await until(lambda: len(served.node.machine.custody.store.journal) == 0)
        assert served.node.machine.counters.drops == {Drop.SESSION_CLOSED: 1}


async def test_a_group_members_death_gives_its_events_to_another() -> None:
    async with served_node() as served, opened(served, "/v1/ws?acks=explicit") as left:
        async with opened(served, "/v1/ws?acks=explicit") as dying:
            for client in (left, dying):
                await client.say("subscribe", sid=1, filter="t", group="g")
                await client.get()
            keep(served.node, "a", "b", "c", "d")
            assert [await left.data(), await left.data()] == ["a", "c"]
            assert [await dying.data(), await dying.data()] == ["b", "d"]
        again = [await left.get(), await left.get()]
        assert [(one["event"]["data"], one["redelivered"]) for one in again] == [("b", True), ("d", True)]


async def test_at_most_once_events_are_not_kept_for_a_client_that_is_away() -> None:
    async with served_node() as served:
        async with opened(served) as client:
            await client.get()
            await client.say("subscribe", sid=1, filter="t")
            await client.get()
            served.node.clients.publish([NewEvent("t", "", 0, (), b"now")])
            assert (await client.get())["mesh_id"] == "eu/n1/7/1"
        await until(lambda: away(served))
        served.node.clients.publish([NewEvent("t", "", 0, (), b"later")])
        assert served.node.machine.counters.drops == {Drop.CLIENT_AWAY: 1}


async def test_unread_events_of_a_client_are_never_dropped_while_others_are() -> None:
    async with served_node(replace(Limits(), session_queue_events=10, max_unacked=50)) as served:
        async with opened(served) as client:
            await client.get()
            await client.say("credit", events=0)
            await client.get()
            await client.say("subscribe", sid=1, filter="t")
            await client.get()
            keep(served.node, *map(str, range(40)))
            served.node.clients.publish([NewEvent("t", "", 0, None, b'{"data":"x"}')] * 30)
            assert served.node.machine.counters.drops == {Drop.SLOW_CONSUMER: 20}
            await client.say("credit", events=60)
            assert (await client.get())["op"] == "ok"
            assert [await client.data() for _ in range(50)] == [*map(str, range(40)), *"xxxxxxxxxx"]


# -- streams -------------------------------------------------------------------------------------------------------


async def test_a_stream_resumes_after_the_last_event_it_saw() -> None:
    async with served_node() as served:
        client = await served.connect()
        await client.subscribe("filter=t&client=tail&durable=true")
        first = await client.event()
        assert (first["event"], first["data"]["client"], first["data"]["waiting"]) == (
            "subscribed",
            "tail",
            0,
        )
        ids = keep(served.node, "a", "b", "c")
        assert [(await client.event())["id"] for _ in ids] == ids
        await client.stream.aclose()
        await until(lambda: away(served))
        keep(served.node, "d")
        client = await served.connect()
        await client.send(
            b"GET /v1/events?client=tail&durable=true HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n"
            b"Last-Event-ID: %b\r\n\r\n" % ids[1].encode()
        )
        await client.until(b"\r\n\r\n")
        assert (await client.event())["data"]["waiting"] == 2
        again = await client.event()
        assert (again["id"], again["data"]["redelivered"]) == (ids[2], True)
        assert (await client.event())["data"]["event"]["data"] == "d"
        await client.stream.aclose()


async def test_what_a_stream_has_been_sent_is_acknowledged_when_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.node.receivers.STANDING_S", 0.2)
    async with served_node() as served:
        client = await served.connect()
        await client.subscribe("filter=t&client=tail&durable=true")
        await client.event()
        keep(served.node, "a")
        await client.event()
        assert len(served.node.machine.custody.store.journal) == 1
        await until(lambda: len(served.node.machine.custody.store.journal) == 0)
        await client.stream.aclose()


async def test_a_last_event_id_that_is_none_is_refused() -> None:
    async with served_node() as served:
        client = await served.connect()
        status, _, body = await client.call(
            "GET",
            "/v1/events?filter=t&client=tail&durable=true",
            b"",
            "Accept: text/event-stream",
            "Last-Event-ID: 7",
        )
        assert (status, json.loads(body)["code"]) == (400, "MESH-E011")
        await client.stream.aclose()


# -- the list ------------------------------------------------------------------------------------------------------


async def test_clients_are_listed_and_removed() -> None:
    async with served_node() as served:
        client = await served.connect()
        await client.upgrade(DURABLE)
        await client.frame()
        await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
        await client.frame()
        keep(served.node, "a")
        await client.frame()
        plain = await served.connect()
        status, _, body = await plain.call("GET", "/v1/clients")
        (item,) = json.loads(body)["clients"]
        assert status == 200
        assert item.pop("oldest_s") >= 0
        assert item == {
            "client": "shop",
            "connected": True,
            "home": "n1",
            "region": "eu",
            "subscriptions": 1,
            "waiting": 0,
            "waiting_bytes": 0,
            "unacked": 1,
            "away_s": None,
        }
        assert (await plain.call("DELETE", "/v1/clients/shop"))[0] == 204
        assert (await client.close_frame())[0] == 4404
        await client.stream.aclose()
        status, _, body = await plain.call("DELETE", "/v1/clients/shop")
        assert (status, json.loads(body)["code"]) == (404, "MESH-E040")
        assert (await plain.call("POST", "/v1/clients/shop"))[0] == 405
        assert served.node.machine.counters.drops == {Drop.CLIENT_REMOVED: 1}
        assert served.node.machine.subscriptions.member_count("", "t") == 0
        await plain.stream.aclose()


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("durable=true", "MESH-E011"),
        ("client=no%20name", "MESH-E011"),
        ("client=a&acks=explicit&ack_timeout=1ms", "MESH-E011"),
        ("client=a&acks=explicit&max_deliveries=0", "MESH-E011"),
        ("client=a&acks=never", "MESH-E011"),
        ("client=a&ack_timeout=1s", "MESH-E011"),
        ("cleint=a", "MESH-E010"),
    ],
)
async def test_an_opening_that_makes_no_sense_is_refused(query: str, code: str) -> None:
    async with served_node() as served:
        client = await served.connect()
        await client.send(upgrade_request(f"/v1/ws?{query}", "mesh.v1.json"))
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (400, code)
        await client.stream.aclose()


async def test_no_more_durable_clients_than_the_limit() -> None:
    async with served_node(replace(Limits(), durable_clients=1)) as served, opened(served) as client:
        await client.get()
        other = await served.connect()
        await other.send(upgrade_request("/v1/ws?client=b&durable=true", "mesh.v1.json"))
        status, _, body = await other.answer()
        assert (status, json.loads(body)["code"]) == (503, "MESH-E043")
        with pytest.raises(RefusedError):
            served.node.clients.receivers.remove("b")
        await other.stream.aclose()
