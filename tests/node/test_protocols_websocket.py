"""Both WebSocket subprotocols on a real socket: trio-websocket as the independent peer, raw frames for the hostile ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from node.events_port import Port, RawClient, events_port, masked, upgrade_request
from node.fake_service import FakeService

from mesh.model.event import NewEvent
from mesh.model.reasons import Drop

ATTRIBUTES = ("specversion", "1.0", "id", "1", "source", "/s", "type", "t", "datacontenttype", "text/plain")
WHOLE = '{"specversion":"1.0","id":"1","source":"/","type":"t"}'


def binary(topic: str, data: bytes) -> NewEvent:
    return NewEvent(topic, "", 0, ATTRIBUTES, data)


class Ops:
    """A client of mesh.v1.json on an independent WebSocket."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self.socket = socket

    async def send(self, **op: Any) -> None:
        await self.socket.send_message(json.dumps(op))

    async def receive(self) -> dict[str, Any]:
        return json.loads(await self.socket.get_message())

    async def call(self, **op: Any) -> dict[str, Any]:
        await self.send(**op)
        return await self.receive()


@asynccontextmanager
async def ops_client(port: Port) -> AsyncIterator[Ops]:
    async with port.websocket() as socket:
        yield Ops(socket)


@asynccontextmanager
async def raw_socket(
    port: Port, path: str = "/v1/ws", subprotocol: str = "mesh.v1.json"
) -> AsyncIterator[RawClient]:
    client = await port.connect()
    async with client.stream:
        status, headers, _ = await client.upgrade(path, subprotocol)
        assert (status, headers["sec-websocket-protocol"]) == (101, subprotocol)
        yield client


class TestOpening:
    async def test_the_answer_proves_that_the_key_was_read(self) -> None:
        async with events_port() as port:
            client = await port.connect()
            async with client.stream:
                await client.send(
                    upgrade_request("/v1/ws", "x, mesh.v1.json", key="dGhlIHNhbXBsZSBub25jZQ==")
                )
                status, headers, _ = await client.answer()
                # the worked example of RFC 6455 section 1.3
                assert (status, headers["sec-websocket-accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")

    @pytest.mark.parametrize(
        ("request_bytes", "status", "code"),
        [
            (b"GET /v1/ws HTTP/1.1\r\nHost: t\r\n\r\n", 426, "MESH-E026"),
            (upgrade_request("/v1/ws", "mesh.v1.json", version="8"), 426, "MESH-E026"),
            (upgrade_request("/v1/ws", "mesh.v1.json", key="short"), 400, "MESH-E026"),
            (upgrade_request("/v1/ws", "mesh.v1.json", key="not base64 at all!!!"), 400, "MESH-E026"),
            (upgrade_request("/v1/ws", "cloudevents.json"), 400, "MESH-E027"),
            (upgrade_request("/v1/events", "mesh.v1.json"), 400, "MESH-E027"),
            (upgrade_request("/v1/ws?filter=a", "mesh.v1.json"), 400, "MESH-E010"),
            (upgrade_request("/v1/events?filter=%23/a", "cloudevents.json"), 400, "MESH-E002"),
            (upgrade_request("/v1/events?filter=a&durable=true", "cloudevents.json"), 501, "MESH-E009"),
            (upgrade_request("/v1/events/t", "cloudevents.json"), 405, "MESH-E024"),
        ],
    )
    async def test_an_opening_that_cannot_be_accepted_is_answered_in_http(
        self, request_bytes: bytes, status: int, code: str
    ) -> None:
        async with events_port() as port:
            client = await port.connect()
            async with client.stream:
                await client.send(request_bytes)
                found, headers, body = await client.answer()
                assert (found, json.loads(body)["code"]) == (status, code)
                if status == 426:
                    assert headers.get("sec-websocket-version") == "13" or headers["upgrade"] == "websocket"

    async def test_too_many_connections_and_a_leaving_node_are_503(self) -> None:
        async with events_port(FakeService(most_sessions=0)) as port:
            for leaving, code in ((False, "MESH-E017"), (True, "MESH-E016")):
                port.service.draining = leaving
                client = await port.connect()
                async with client.stream:
                    status, _, body = await client.upgrade()
                    assert (status, json.loads(body)["code"]) == (503, code)

    async def test_frames_that_come_with_the_opening_are_read(self) -> None:
        async with events_port() as port:
            client = await port.connect()
            async with client.stream:
                await client.send(
                    upgrade_request("/v1/ws", "mesh.v1.json") + masked(1, b'{"op":"ping","id":1}')
                )
                assert (await client.answer())[0] == 101
                assert await client.frame() == (1, b'{"op":"ok","id":1}')


class TestPublish:
    async def test_an_event_is_kept_byte_for_byte_and_its_outcome_told(self) -> None:
        raw = '{ "specversion" : "1.0", "id":"e\\u00e9", "source":"/",\n "type":"t" , "data": 1.50 }'
        async with events_port() as port, port.websocket() as socket:
            await socket.send_message(
                '{"op":"publish","id":"p1","topic":"a/b","key":"k","deadline":"2s","event":' + raw + "}"
            )
            answer = json.loads(await socket.get_message())
            entry = {"id": "eé", "mesh_id": "eu/eu-1/7/1", "regions": [], "local": 0}
            entry["reasons"] = [{"region": "", "reason": "no_interest"}]
            assert answer == {"op": "ok", "id": "p1", "accepted": 1, "events": [entry]}
            assert port.service.published == [NewEvent("a/b", "k", 2_000, None, raw.encode())]

    async def test_a_list_of_events_is_all_or_nothing(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            one = {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "topic": "own"}
            answer = await client.call(op="publish", events=[one, {**one, "id": "2"}])
            assert answer["accepted"] == 2
            assert [event.topic for event in port.service.published] == ["own", "own"]
            answer = await client.call(op="publish", topic="t", events=[one, {"id": "2"}], id=3)
            assert (answer["op"], answer["id"]) == ("error", 3)
            assert (answer["problem"]["code"], answer["problem"]["index"]) == ("MESH-E004", 1)
            assert len(port.service.published) == 2

    async def test_publishes_that_come_together_reach_the_node_in_order_and_each_is_answered(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            ops = [f'{{"op":"publish","id":{n},"topic":"t/{n}","event":{WHOLE}}}' for n in range(50)]
            ops[20] = '{"op":"publish","id":20,"topic":"t/+","event":' + WHOLE + "}"
            await client.send(b"".join(masked(1, op.encode()) for op in ops))
            answers = [json.loads((await client.frame())[1]) for _ in range(50)]
            assert [answer["id"] for answer in answers] == list(range(50))
            assert [answer["op"] for answer in answers].index("error") == 20
            assert [event.topic for event in port.service.published] == [
                f"t/{n}" for n in range(50) if n != 20
            ]

    async def test_without_an_acknowledgement_only_errors_are_answered(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            quiet = f'{{"op":"publish","ack":"none","topic":"t","event":{WHOLE}}}'
            wrong = f'{{"op":"publish","ack":"none","topic":"#","event":{WHOLE}}}'
            await client.send(b"".join(masked(1, op.encode()) for op in (quiet, wrong, '{"op":"ping"}')))
            assert json.loads((await client.frame())[1])["problem"]["code"] == "MESH-E001"
            assert (await client.frame())[1] == b'{"op":"ok"}'
            assert len(port.service.published) == 1

    @pytest.mark.parametrize(
        ("op", "code"),
        [
            ({"op": "publish", "topic": "t"}, "MESH-E022"),
            ({"op": "publish", "topic": "t", "event": {}, "events": []}, "MESH-E022"),
            ({"op": "publish", "topic": "t", "event": 7}, "MESH-E005"),
            ({"op": "publish", "topic": "$mesh/x", "event": json.loads(WHOLE)}, "MESH-E001"),
            ({"op": "publish", "event": json.loads(WHOLE)}, "MESH-E001"),
            ({"op": "publish", "topic": "t", "event": json.loads(WHOLE), "ack": "region"}, "MESH-E009"),
            (
                {"op": "publish", "topic": "t", "event": json.loads(WHOLE), "level": "at-least-once"},
                "MESH-E009",
            ),
            ({"op": "publish", "topic": "t", "event": json.loads(WHOLE), "deadline": "soon"}, "MESH-E011"),
            ({"op": "publish", "topic": "t", "event": json.loads(WHOLE), "deadlin": 1}, "MESH-E010"),
            ({"op": "subscribe", "sid": -1, "filter": "t"}, "MESH-E011"),
            ({"op": "subscribe", "sid": 1, "filter": "#/t"}, "MESH-E002"),
            ({"op": "subscribe", "sid": 1, "filter": "t", "wait": "mesh", "wait_timeout": "9h"}, "MESH-E011"),
            ({"op": "unsubscribe", "sid": 9}, "MESH-E020"),
            ({"op": "credit", "events": -1}, "MESH-E011"),
            ({"op": "reply", "reply_to": "x", "correlation": "c", "event": json.loads(WHOLE)}, "MESH-E028"),
            ({"op": "sing"}, "MESH-E021"),
        ],
    )
    async def test_a_wrong_op_is_answered_and_the_connection_goes_on(
        self, op: dict[str, Any], code: str
    ) -> None:
        async with events_port() as port, ops_client(port) as client:
            answer = await client.call(**op, id=5)
            assert (answer["op"], answer["id"], answer["problem"]["code"]) == ("error", 5, code)
            assert answer["problem"]["remedy"]
            assert await client.call(op="ping", id=6) == {"op": "ok", "id": 6}
            assert port.service.published == []


class TestSubscribe:
    async def test_events_come_with_the_sids_that_matched(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            assert await client.call(op="subscribe", sid=1, filter="a/#", id="s") == {
                "op": "ok",
                "id": "s",
                "sid": 1,
            }
            assert await client.call(op="subscribe", sid=7, filter="a/+") == {"op": "ok", "sid": 7}
            port.service.publish([binary("a/b", b"1"), binary("a/b/c", b"2")])
            first, second = await client.receive(), await client.receive()
            assert first == {
                "op": "event",
                "sids": [1, 7],
                "topic": "a/b",
                "mesh_id": "eu/eu-1/7/1",
                "path": [],
                "event": {
                    "specversion": "1.0",
                    "id": "1",
                    "source": "/s",
                    "type": "t",
                    "datacontenttype": "text/plain",
                    "data": "1",
                },
            }
            assert (second["sids"], second["event"]["data"]) == ([1], "2")

    async def test_a_structured_event_is_delivered_byte_for_byte(self) -> None:
        raw = b'{ "specversion" :"1.0","id":"1", "source":"/","type":"t",\n\t"data" : {"a": 1.0, "b":"\\u00fc"} }'
        async with events_port() as port, ops_client(port) as client:
            await client.call(op="subscribe", sid=1, filter="t")
            port.service.publish([NewEvent("t", "", 0, None, raw)])
            assert (await client.socket.get_message()).encode().endswith(b'"event":' + raw + b"}")

    async def test_a_client_hears_its_own_events(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            await client.call(op="subscribe", sid=1, filter="t")
            await client.send(op="publish", topic="t", event=json.loads(WHOLE), id=1)
            ops = {(await client.receive())["op"], (await client.receive())["op"]}
            assert ops == {"ok", "event"}

    async def test_a_sid_is_given_once_and_can_be_given_again_after_unsubscribing(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            await client.call(op="subscribe", sid=1, filter="t")
            assert (await client.call(op="subscribe", sid=1, filter="u"))["problem"]["code"] == "MESH-E019"
            assert await client.call(op="unsubscribe", sid=1) == {"op": "ok", "sid": 1}
            assert (await client.call(op="subscribe", sid=1, filter="u"))["op"] == "ok"

    async def test_a_receipt_follows_where_it_was_asked_for(self) -> None:
        service = FakeService()
        service.regions["us"] = []
        async with events_port(service) as port, ops_client(port) as client:
            assert (await client.call(op="subscribe", sid=1, filter="t", wait="mesh", id=1))["op"] == "ok"
            assert (await client.call(op="ping"))["op"] == "ok"  # nothing waits for the receipt
            service.install("us")
            receipt = await client.receive()
            assert receipt == {
                "op": "receipt",
                "id": 1,
                "sid": 1,
                "installed": ["eu", "us"],
                "missing": [],
                "complete": True,
            }
            many = [f"r{n}" for n in range(65)]
            refused = await client.call(op="subscribe", sid=9, filter="t", regions=many)
            assert refused["problem"]["code"] == "MESH-E011"
            assert (await client.call(op="subscribe", sid=2, filter="t", regions=["ap"], wait_timeout=0.01))[
                "op"
            ] == "ok"
            receipt = await client.receive()
            assert (receipt["sid"], receipt["complete"]) == (2, False)
            assert receipt["missing"] == [{"region": "ap", "why": "no_route"}]

    async def test_a_group_gives_each_event_to_one_member(self) -> None:
        async with events_port() as port, ops_client(port) as one, ops_client(port) as other:
            await one.call(op="subscribe", sid=1, filter="work", group="g")
            await other.call(op="subscribe", sid=1, filter="$share/g/work")
            port.service.publish([binary("work", b"x")] * 4)
            got = [await client.receive() for client in (one, one, other, other)]
            assert sorted(event["mesh_id"] for event in got) == [f"eu/eu-1/7/{n}" for n in (1, 2, 3, 4)]

    async def test_with_credit_no_more_events_come_than_were_granted(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            await client.call(op="subscribe", sid=1, filter="t")
            assert await client.call(op="credit", events=2) == {"op": "ok", "credit": 2}
            port.service.publish([binary("t", b"%d" % n) for n in range(5)])
            assert [(await client.receive())["event"]["data"] for _ in range(2)] == ["0", "1"]
            assert (await client.call(op="ping"))["op"] == "ok"
            await client.send(op="credit", events=2)
            answers = [await client.receive() for _ in range(3)]
            assert [answer["event"]["data"] for answer in answers if answer["op"] == "event"] == ["2", "3"]
            assert (await client.call(op="ping"))["op"] == "ok"

    async def test_the_session_ends_with_the_connection(self) -> None:
        async with events_port() as port:
            async with ops_client(port) as client:
                await client.call(op="subscribe", sid=1, filter="t")
                assert list(port.service.protocols.values()) == ["ws"]
            await port.service.until(lambda: not port.service.sinks)
            async with raw_socket(port) as client:
                await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
                await client.frame()
            await port.service.until(lambda: not port.service.sinks)


class TestRequest:
    async def test_a_request_is_answered_by_another_client(self) -> None:
        async with events_port() as port, ops_client(port) as asking, ops_client(port) as answering:
            await answering.call(op="subscribe", sid=1, filter="svc/+")
            await asking.send(op="request", id="r", topic="svc/x", timeout="5s", event=json.loads(WHOLE))
            request = await answering.receive()
            assert request["event"] == json.loads(WHOLE)
            raw = '{"specversion":"1.0","id":"re", "source":"/","type":"t","data":42}'
            to = f'"reply_to":"{request["reply_to"]}","correlation":"{request["correlation"]}"'
            await answering.socket.send_message('{"op":"reply","id":1,' + to + ',"event":' + raw + "}")
            assert await answering.receive() == {"op": "ok", "id": 1}
            assert (
                await asking.socket.get_message()
                == '{"op":"reply","id":"r","path":["us"],"event":' + raw + "}"
            )

    async def test_nobody_there_and_no_time_left_are_errors(self) -> None:
        async with events_port() as port, ops_client(port) as asking, ops_client(port) as silent:
            await silent.call(op="subscribe", sid=1, filter="svc/silent")
            answer = await asking.call(op="request", id=1, topic="svc/none", event=json.loads(WHOLE))
            assert (answer["id"], answer["problem"]["code"]) == (1, "MESH-E013")
            assert answer["problem"]["reasons"] == [{"region": "", "reason": "no_interest"}]
            answer = await asking.call(
                op="request", topic="svc/silent", timeout=0.01, event=json.loads(WHOLE)
            )
            assert answer["problem"]["code"] == "MESH-E015"

    async def test_many_requests_wait_together_up_to_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mesh.protocols.ops_application.WAITING_CALLS", 2)
        async with events_port() as port, ops_client(port) as client:
            await client.call(op="subscribe", sid=1, filter="svc")
            for number in (1, 2):
                await client.send(
                    op="request", id=number, topic="svc", timeout="60s", event=json.loads(WHOLE)
                )
                assert (await client.receive())["op"] == "event"
            answer = await client.call(op="request", id=3, topic="svc", event=json.loads(WHOLE))
            assert (answer["id"], answer["problem"]["code"]) == (3, "MESH-E030")


@asynccontextmanager
async def cloudevents_client(
    port: Port, query: str = ""
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    async with port.websocket(f"/v1/events{query}", "cloudevents.json") as socket:
        yield socket


class TestCloudEventsBinding:
    async def test_structured_events_go_both_ways_unchanged(self) -> None:
        raw = '{ "specversion":"1.0","id":"1","source":"/", "type":"t","topic":"a/b", "data":1.0 }'
        async with events_port() as port, cloudevents_client(port, "?filter=a/%23") as socket:
            await socket.send_message(raw)
            assert await socket.get_message() == raw
            assert port.service.published == [NewEvent("a/b", "", 0, None, raw.encode())]

    async def test_what_the_sdk_writes_is_what_it_reads(self) -> None:
        attributes = {"id": "1", "source": "/ü", "type": "t", "topic": "t"}
        events = [
            CloudEvent({**attributes}, {"total": 1.5}),
            CloudEvent({**attributes, "datacontenttype": "text/plain"}, "grüße"),
            CloudEvent({**attributes, "datacontenttype": "image/png"}, b"\x89PNG\xff"),
        ]
        async with events_port() as port, cloudevents_client(port, "?filter=t") as socket:
            for event in events:
                await socket.send_message(JSONFormat().write(event).decode())
                received = await socket.get_message()
                message = HTTPMessage({"content-type": "application/cloudevents+json"}, received.encode())
                found = from_structured(message, JSONFormat(), CloudEvent)
                assert found.get_attributes() == event.get_attributes()
                assert found.get_data() == event.get_data()

    async def test_events_published_in_binary_form_come_structured(self) -> None:
        async with events_port() as port, cloudevents_client(port, "?filter=t") as socket:
            attributes = (*ATTRIBUTES[:-1], "image/png")
            port.service.publish([NewEvent("t", "", 0, attributes, b"\x89PNG\xff")])
            assert JSONFormat().read(CloudEvent, await socket.get_message()).get_data() == b"\x89PNG\xff"

    async def test_the_connection_opens_when_the_interest_is_installed_and_says_where(self) -> None:
        service = FakeService()
        service.regions["us"] = []
        async with events_port(service) as port:
            client = await port.connect()
            async with client.stream:
                await client.send(upgrade_request("/v1/events?filter=t&wait=mesh", "cloudevents.json"))
                await service.until(lambda: bool(service.subscriptions))
                await trio.testing.wait_all_tasks_blocked()
                assert client.buffer == b""
                service.install("us")
                status, headers, _ = await client.answer()
                assert status == 101
                assert json.loads(headers["mesh-receipt"]) == {
                    "installed": ["eu", "us"],
                    "missing": [],
                    "complete": True,
                }

    async def test_a_client_that_leaves_while_it_waits_is_forgotten(self) -> None:
        async with events_port() as port:
            client = await port.connect()
            await client.send(
                upgrade_request("/v1/events?filter=t&regions=ap&wait_timeout=60s", "cloudevents.json")
            )
            await port.service.until(lambda: bool(port.service.subscriptions))
            await client.stream.aclose()
            await port.service.until(lambda: not port.service.sinks)

    @pytest.mark.parametrize(
        ("text", "code", "reason"),
        [
            ("{", 1007, "MESH-E005"),
            ('{"specversion":"1.0"}', 1007, "MESH-E004"),
            (WHOLE, 1008, "MESH-E001"),
            (WHOLE[:-1] + ',"topic":"a/#"}', 1008, "MESH-E001"),
            (WHOLE[:-1] + ',"topic":"t","data":"' + "x" * 1_000 + '"}', 1009, "MESH-E007"),
        ],
    )
    async def test_an_event_that_breaks_a_rule_ends_the_connection_and_what_came_before_counts(
        self, text: str, code: int, reason: str
    ) -> None:
        good = WHOLE[:-1] + ',"topic":"t"}'
        async with events_port(event_bytes=1_000) as port:
            async with raw_socket(port, "/v1/events", "cloudevents.json") as client:
                await client.send(
                    masked(1, good.encode()) + masked(1, text.encode()) + masked(1, good.encode())
                )
                found, said = await client.close_frame()
                assert (found, said[:9]) == (code, reason)
                assert await client.rest() == b""
            assert len(port.service.published) == 1
            await port.refused(reason)

    async def test_a_leaving_node_ends_it_with_going_away(self) -> None:
        async with events_port() as port, raw_socket(port, "/v1/events", "cloudevents.json") as client:
            port.service.draining = True
            await client.send(masked(1, WHOLE[:-1].encode() + b',"topic":"t"}'))
            assert (await client.close_frame())[0] == 1001


class TestEnds:
    async def test_a_close_is_answered(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            await client.send(masked(8, (1000).to_bytes(2, "big") + b"bye"))
            assert (await client.close_frame())[0] == 1000
            assert await client.rest() == b""

    async def test_a_node_that_leaves_says_so_behind_the_events_that_wait(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
            await client.frame()
            port.service.publish([binary("t", b"1")])
            port.service.drain("the node is leaving")
            assert b'"data":"1"' in (await client.frame())[1]
            assert await client.close_frame() == (1001, "the node is leaving")
            await client.send(masked(1, b'{"op":"ping"}') + masked(8, (1001).to_bytes(2, "big")))
            assert await client.rest() == b""

    async def test_a_client_that_does_not_answer_the_close_is_cut_off(self) -> None:
        async with events_port(close_timeout_s=0.02) as port, raw_socket(port) as client:
            port.service.drain()
            assert (await client.close_frame())[0] == 1001
            await port.service.until(lambda: not port.service.sinks)

    async def test_pings_are_answered_with_their_payload(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            await client.send(masked(9, b"are you there"))
            assert await client.frame() == (10, b"are you there")

    async def test_a_silent_client_is_pinged_and_given_up(self) -> None:
        async with events_port(idle_timeout_s=0.05) as port, raw_socket(port) as client:
            assert await client.frame() == (9, b"")
            await client.send(masked(10, b""))
            assert await client.frame() == (9, b"")
            assert (await client.close_frame())[0] == 1008
            await port.refused("ws_idle")

    @pytest.mark.parametrize(
        ("frames", "code", "counted"),
        [
            (b"\x81\x05hello", 1002, "ws_protocol_error"),
            (b"\xff\xff\xff\xff\xff\xff", 1002, "ws_protocol_error"),
            (b"GET / HTTP/1.1\r\n\r\n", 1002, "ws_protocol_error"),
            (masked(1, b"\xff\xfe"), 1007, "ws_invalid_payload"),
            (masked(1, b"\xe2", fin=False) + masked(0, b"\x28\xa1"), 1007, "ws_invalid_payload"),
            (masked(2, b"binary"), 1003, "ws_binary_frame"),
            (b"\x81\xff" + (1 << 40).to_bytes(8, "big"), 1009, "ws_too_big"),
            (masked(1, b"x" * 900, fin=False) + masked(0, b"x" * 900), 1009, "ws_too_big"),
        ],
    )
    async def test_what_is_no_websocket_is_told_why_and_counted(
        self, frames: bytes, code: int, counted: str
    ) -> None:
        async with events_port(body_bytes=1_000) as port:
            async with raw_socket(port) as client, raw_socket(port) as other:
                await client.send(frames)
                assert (await client.close_frame())[0] == code
                assert await client.rest() == b""
                await port.refused(counted)
                await other.send(masked(1, b'{"op":"ping"}'))
                assert await other.frame() == (1, b'{"op":"ok"}')

    async def test_a_client_that_resets_inside_a_frame_harms_nobody(self) -> None:
        async with events_port() as port:
            for cut in range(1, 12):
                async with raw_socket(port) as client:
                    await client.send(masked(1, b'{"op":"ping"}')[:cut])
            await port.service.until(lambda: not port.service.sinks)

    async def test_fragmented_texts_are_put_together_around_pings(self) -> None:
        async with events_port() as port, raw_socket(port) as client:
            text = b'{"op":"ping","id":"\xc3\xbc"}'
            pieces = [text[:20], text[20:21], text[21:]]
            frames = [masked(1 if n == 0 else 0, piece, fin=n == 2) for n, piece in enumerate(pieces)]
            for frame in (frames[0], masked(9, b"p"), frames[1], frames[2]):
                for byte in frame:
                    await client.send(bytes((byte,)))
            assert await client.frame() == (10, b"p")
            assert await client.frame() == (1, b'{"op":"ok","id":"\xc3\xbc"}')

    async def test_a_client_that_does_not_read_loses_its_oldest_and_nobody_else_loses_any(self) -> None:
        total, size = 300, 100_000
        async with (
            events_port(session_queue_events=50) as port,
            raw_socket(port) as slow,
            raw_socket(port) as quick,
        ):
            for client in (slow, quick):
                await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
                await client.frame()
            for number in range(total):
                port.service.publish([binary("t", b"%06d" % number + b"x" * size)])
                assert b'"mesh_id":"eu/eu-1/7/%d"' % (number + 1) in (await quick.frame())[1]
            dropped = port.service.drops[Drop.SLOW_CONSUMER]
            assert 0 < dropped < total
            got = [json.loads((await slow.frame())[1])["event"]["data"][:6] for _ in range(total - dropped)]
            assert got == sorted(got)
            assert got[-1] == f"{total - 1:06d}"
            assert port.service.drops == {Drop.SLOW_CONSUMER: dropped}

    async def test_a_client_that_never_reads_is_cut_off_when_the_node_leaves(self) -> None:
        async with events_port(close_timeout_s=0.05) as port, raw_socket(port) as client:
            await client.send(masked(1, b'{"op":"subscribe","sid":1,"filter":"t"}'))
            await client.frame()
            port.service.publish([binary("t", b"x" * 900_000)] * 12)
            await trio.testing.wait_all_tasks_blocked()
            port.service.drain()
            await port.refused("client_does_not_read")
            await port.service.until(lambda: not port.service.sinks)

    async def test_a_client_that_leaves_its_answers_unread_is_not_read_on(self) -> None:
        ping = masked(1, b'{"op":"ping","id":"' + b"x" * 100 + b'"}')
        async with events_port() as port, raw_socket(port) as client:
            with trio.move_on_after(0.3) as blocked:
                while True:
                    await client.send(ping * 1_000)
            assert blocked.cancelled_caught  # the node stopped reading, and the sockets between are full
            assert (await client.frame())[0] == 1
