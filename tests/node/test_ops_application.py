"""The ops of mesh.v1.json on a real socket, with trio-websocket as the independent peer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from node.events_port import binary, events_port, masked
from node.fake_service import FakeService
from node.websocket_clients import WHOLE, ops_client, raw_socket

from mesh.model.event import NewEvent


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
            ({"op": "publish", "topic": "t", "event": json.loads(WHOLE), "ack": "region"}, "MESH-E011"),
            (
                {"op": "publish", "topic": "t", "event": json.loads(WHOLE), "level": "twice"},
                "MESH-E011",
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

    async def test_many_requests_wait_together_up_to_a_bound(self) -> None:
        async with events_port(session_calls=2) as port, ops_client(port) as client:
            await client.call(op="subscribe", sid=1, filter="svc")
            for number in (1, 2):
                await client.send(
                    op="request", id=number, topic="svc", timeout="60s", event=json.loads(WHOLE)
                )
                assert (await client.receive())["op"] == "event"
            answer = await client.call(op="request", id=3, topic="svc", event=json.loads(WHOLE))
            assert (answer["id"], answer["problem"]["code"]) == (3, "MESH-E030")


KEPT = (("a/1", b'{"id":"1"}'), ("gap", b'{"id":"2"}'), ("a/2", b'{"id":"3"}'))


class TestReplay:
    async def test_replayed_events_are_marked_and_live_is_told_behind_them(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            port.service.kept = list(KEPT)
            await client.send(op="subscribe", id=1, sid=4, filter="#", **{"from": "10m"})
            told = [await client.receive() for _ in range(6)]
            assert told[0] == {"op": "ok", "id": 1, "sid": 4}
            assert [one["op"] for one in told] == ["ok", "event", "event", "gap", "event", "live"]
            assert told[1] == {
                "op": "event",
                "sids": [4],
                "topic": "a/1",
                "mesh_id": "eu/eu-1/7/1",
                "path": [],
                "replayed": True,
                "event": {"id": "1"},
            }
            assert told[3] == {"op": "gap", "sid": 4, "reason": "stopped", "since": None}
            assert told[5] == {"op": "live", "sid": 4, "replayed": 3}
            port.service.publish([NewEvent("a", "", 0, None, b"{}")])
            assert "replayed" not in await client.receive()

    async def test_credit_holds_a_replay_back(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            port.service.kept = list(KEPT)
            assert (await client.call(op="credit", events=1))["credit"] == 1
            assert (await client.call(op="subscribe", sid=1, filter="#", **{"from": "1h"}))["op"] == "ok"
            assert (await client.receive())["topic"] == "a/1"
            assert (await client.call(op="ping"))["op"] == "ok"
            assert (await client.call(op="credit", events=9))["op"] == "ok"
            assert [(await client.receive())["op"] for _ in range(4)] == ["event", "gap", "event", "live"]

    async def test_with_wait_the_receipt_is_told_as_well(self) -> None:
        async with events_port() as port, ops_client(port) as client:
            await client.send(op="subscribe", id=2, sid=1, filter="#", wait="mesh", **{"from": "1h"})
            told = {(await client.receive())["op"] for _ in range(3)}
            assert told == {"ok", "receipt", "live"}

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"from": "gone/1"}, "MESH-E033"),
            ({"from": "10m", "group": "g"}, "MESH-E034"),
            ({"from": 7}, "MESH-E022"),
            ({"form": "10m"}, "MESH-E010"),
        ],
    )
    async def test_what_cannot_be_replayed_is_an_error_and_the_sid_is_free(
        self, fields: dict[str, Any], code: str
    ) -> None:
        async with events_port() as port, ops_client(port) as client:
            answer = await client.call(op="subscribe", id=1, sid=1, filter="a", **fields)
            assert (answer["op"], answer["id"], answer["problem"]["code"]) == ("error", 1, code)
            assert (await client.call(op="subscribe", sid=1, filter="a"))["op"] == "ok"
