"""Subscribing over Server-Sent Events on a real socket."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from node.events_port import Port, RawClient, binary, events_port
from node.fake_service import FakeService

from mesh.model.event import Event, NewEvent
from mesh.model.reasons import Drop


def structured(topic: str, data: bytes, key: str = "") -> NewEvent:
    return NewEvent(topic, key, 0, None, data)


async def subscribed(port: Port, query: str) -> tuple[RawClient, dict]:
    client = await port.connect()
    await client.subscribe(query)
    first = await client.event()
    assert first["event"] == "subscribed"
    return client, first["data"]


async def refused(port: Port, target: str, accept: str = "text/event-stream") -> tuple[int, dict]:
    client = await port.connect()
    async with client.stream:
        status, _, body = await client.call("GET", target, b"", f"Accept: {accept}")
        return status, json.loads(body)


class TestStream:
    async def test_the_receipt_comes_first_and_events_follow_with_their_ids(self) -> None:
        async with events_port() as port:
            client, receipt = await subscribed(port, "filter=a/%23&filter=b/%2B")
            assert receipt == {"installed": ["eu"], "missing": [], "complete": True}
            port.service.publish([binary("a/1", b"hi"), binary("c", b"no"), binary("b/x", "grüße".encode())])
            first, second = await client.event(), await client.event()
            assert (first["event"], first["id"]) == ("event", "eu/eu-1/7/1")
            assert first["data"]["topic"] == "a/1"
            assert first["data"]["path"] == []
            assert first["data"]["event"]["data"] == "hi"
            assert (second["id"], second["data"]["event"]["data"]) == ("eu/eu-1/7/3", "grüße")
            await client.stream.aclose()

    async def test_an_event_matched_by_two_filters_comes_once(self) -> None:
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=a/%23&filter=%23")
            port.service.publish([binary("a", b"1"), binary("b", b"2")])
            assert [(await client.event())["data"]["topic"] for _ in range(2)] == ["a", "b"]
            await client.stream.aclose()

    async def test_a_filter_may_hold_a_plus_as_it_is(self) -> None:
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=a/+/c")
            port.service.publish([binary("a/b/c", b"1")])
            assert (await client.event())["data"]["topic"] == "a/b/c"
            await client.stream.aclose()

    async def test_structured_events_keep_their_text_but_for_line_ends(self) -> None:
        raw = b'{\r\n  "specversion": "1.0", "id": "1",\n\r\t"source":"/", "type":"t", "data": 1.50, "x": "\\n" }'
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=%23")
            port.service.publish([structured("t", raw)])
            event = await client.event()
            assert event["data"]["event"] == json.loads(raw)
            assert event["id"] == "eu/eu-1/7/1"
            await client.stream.aclose()

    async def test_group_members_share_the_work(self) -> None:
        async with events_port() as port:
            one, _ = await subscribed(port, "filter=work&group=g")
            other, _ = await subscribed(port, "filter=$share/g/work")
            port.service.publish([binary("work", b"1"), binary("work", b"2")])
            ids = {(await one.event())["id"], (await other.event())["id"]}
            assert ids == {"eu/eu-1/7/1", "eu/eu-1/7/2"}
            await one.stream.aclose()
            await other.stream.aclose()

    async def test_no_event_overtakes_the_receipt(self) -> None:
        service = FakeService()
        service.regions["us"] = []
        async with events_port(service) as port:
            client = await port.connect()
            await client.subscribe("filter=t&wait=mesh&wait_timeout=60s")
            port.service.publish([binary("t", b"early")])
            await trio.testing.wait_all_tasks_blocked()
            assert client.buffer == b""
            service.install("us")
            receipt = await client.event()
            assert receipt["data"] == {"installed": ["eu", "us"], "missing": [], "complete": True}
            assert (await client.event())["data"]["event"]["data"] == "early"
            await client.stream.aclose()

    async def test_a_receipt_that_timed_out_is_incomplete_and_the_subscription_stands(self) -> None:
        async with events_port() as port:
            client, receipt = await subscribed(port, "filter=t&regions=us,ap&wait_timeout=10ms")
            assert receipt == {
                "installed": ["eu"],
                "missing": [{"region": "ap", "why": "no_route"}, {"region": "us", "why": "no_route"}],
                "complete": False,
            }
            port.service.publish([binary("t", b"1")])
            assert (await client.event())["event"] == "event"
            await client.stream.aclose()

    async def test_a_request_carries_where_to_reply(self) -> None:
        async with events_port() as port, trio.open_nursery() as nursery:
            client, _ = await subscribed(port, "filter=svc")
            nursery.start_soon(port.service.request, binary("svc", b"?"), 0.0)
            data = (await client.event())["data"]
            assert (data["reply_to"], data["correlation"]) == ("eu/eu-1/i1", "c1")
            await client.stream.aclose()

    async def test_what_another_node_passed_on_unchecked_does_not_break_the_stream(self) -> None:
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=%23")
            hostile = (b"", b"{", b'"a\nid: forged\n\n', b"\xff\xfe", b"[" * 5_000)
            port.service.publish([structured("t", data) for data in hostile] + [binary("t", b"good")])
            event = await client.event()
            assert (event["id"], event["data"]["event"]["data"]) == (f"eu/eu-1/7/{len(hostile) + 1}", "good")
            assert port.service.drops == {Drop.MALFORMED: len(hostile)}
            await client.stream.aclose()


class TestEnds:
    async def test_the_session_ends_with_its_client(self) -> None:
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=t")
            assert len(port.service.subscriptions) == 1
            await client.stream.aclose()
            await port.service.until(lambda: not port.service.sinks)
            assert port.service.subscriptions == {}

    async def test_a_node_that_leaves_says_so_behind_the_last_event(self) -> None:
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=t")
            port.service.publish([binary("t", b"last")])
            port.service.drain("the node is leaving")
            port.server.drain()
            assert (await client.event())["event"] == "event"
            closing = await client.event()
            assert closing["event"] == "closing"
            assert closing["data"] == {"reason": "draining", "detail": "the node is leaving"}
            with pytest.raises(EOFError):
                await client.event()
            assert await client.rest() == b"\r\n"
            await client.stream.aclose()
            assert port.service.drops == {}

    async def test_a_node_that_leaves_does_not_wait_for_a_receipt(self) -> None:
        async with events_port() as port:
            client = await port.connect()
            await client.subscribe("filter=t&regions=nowhere&wait_timeout=60s")
            await port.service.until(lambda: bool(port.service.sinks))
            port.service.drain()
            assert (await client.event())["event"] == "closing"
            await client.stream.aclose()

    async def test_a_silent_stream_is_kept_alive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mesh.protocols.sse.KEEP_ALIVE_S", 0.01)
        async with events_port() as port:
            client, _ = await subscribed(port, "filter=t")
            assert (await client.event()) == {"": "keep-alive"}
            await client.stream.aclose()

    async def test_a_client_that_does_not_read_loses_its_oldest_and_nobody_else_loses_any(self) -> None:
        total, size = 300, 100_000
        async with events_port(session_queue_events=50) as port:
            slow, _ = await subscribed(port, "filter=t")
            quick, _ = await subscribed(port, "filter=t")
            for number in range(total):
                port.service.publish([binary("t", b"%06d" % number + b"x" * size)])
                assert (await quick.event())["id"] == f"eu/eu-1/7/{number + 1}"
            dropped = port.service.drops[Drop.SLOW_CONSUMER]
            assert 0 < dropped < total
            got = [int((await slow.event())["id"].rpartition("/")[2]) for _ in range(total - dropped)]
            assert got == sorted(got)
            assert got[-1] == total
            assert port.service.drops == {Drop.SLOW_CONSUMER: dropped}
            await slow.stream.aclose()
            await quick.stream.aclose()

    async def test_a_client_that_never_reads_is_cut_off_when_the_node_leaves(self) -> None:
        async with events_port(close_timeout_s=0.05) as port:
            client, _ = await subscribed(port, "filter=t")
            port.service.publish([binary("t", b"x" * 900_000)] * 12)
            await trio.testing.wait_all_tasks_blocked()
            port.service.drain()
            await port.service.until(lambda: not port.service.sinks)
            await client.stream.aclose()


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "status", "code", "words"),
        [
            ("", 400, "MESH-E002", "filter"),
            ("filter=a/%23/b", 400, "MESH-E002", "#"),
            ("filter=a&fliter=b", 400, "MESH-E010", "did you mean 'filter'"),
            ("filter=a&wait=galaxy", 400, "MESH-E011", "'mesh'"),
            ("filter=a&wait_timeout=1d", 400, "MESH-E011", "300"),
            ("filter=a&client=no/name&durable=true", 400, "MESH-E011", "client"),
            ("filter=a&durable=true", 400, "MESH-E011", "client=NAME"),
            ("filter=a&client=shop&acks=explicit", 400, "MESH-E011", "WebSocket"),
            ("filter=a&max_deliveries=3", 400, "MESH-E011", "acknowledge"),
        ],
    )
    async def test_what_is_wrong_is_said(self, query: str, status: int, code: str, words: str) -> None:
        async with events_port() as port:
            found, problem = await refused(port, f"/v1/events?{query}")
            assert (found, problem["code"]) == (status, code)
            assert words in problem["detail"]

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html;q=1, */*"])
    async def test_without_the_accept_header_it_is_406_that_says_what_to_send(self, accept: str) -> None:
        async with events_port() as port:
            status, problem = await refused(port, "/v1/events?filter=t", accept)
            assert (status, problem["code"]) == (406, "MESH-E025")
            assert "text/event-stream" in problem["remedy"]

    async def test_too_many_connections_are_503(self) -> None:
        async with events_port(FakeService(most_sessions=0)) as port:
            assert (await refused(port, "/v1/events?filter=t"))[0] == 503

    async def test_one_bad_filter_refuses_all(self) -> None:
        async with events_port() as port:
            assert (await refused(port, "/v1/events?filter=good&filter=bad%2B"))[0] == 400
            assert port.service.subscriptions == {}
            assert port.service.sinks == {}


async def test_an_event_is_rendered_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[int] = []

    def counted(event: Event) -> bytes:
        rendered.append(event.seq)
        return b'{"n":%d}' % event.seq

    monkeypatch.setattr("mesh.protocols.render.to_structured", counted)
    async with events_port() as port:
        clients = [(await subscribed(port, "filter=t"))[0] for _ in range(10)]
        port.service.publish([binary("t", b"x")] * 3)
        for client in clients:
            assert [(await client.event())["data"]["event"]["n"] for _ in range(3)] == [1, 2, 3]
            await client.stream.aclose()
    assert rendered == [1, 2, 3]


KEPT = (("a/1", b'{"id":"1"}'), ("gap", b'{"id":"2"}'), ("b", b'{"id":"3"}'), ("a/2", b'{"id":"4"}'))


class TestReplay:
    async def test_replayed_events_come_behind_the_receipt_then_live_then_what_comes(self) -> None:
        async with events_port() as port:
            port.service.kept = list(KEPT)
            client, receipt = await subscribed(port, "filter=a/%23&filter=gap&from=10m")
            assert receipt["complete"]
            told = [await client.event() for _ in range(5)]
            assert [one["event"] for one in told] == ["event", "event", "gap", "event", "live"]
            assert told[0]["id"] == "eu/eu-1/7/1"
            assert told[0]["data"] == {"topic": "a/1", "path": [], "replayed": True, "event": {"id": "1"}}
            assert told[2]["data"] == {"reason": "stopped", "since": None}
            assert told[4]["data"] == {"replayed": 3}
            port.service.publish([structured("a/3", b'{"id":"5"}')])
            live = await client.event()
            assert live["data"] == {"topic": "a/3", "path": [], "event": {"id": "5"}}
            await client.stream.aclose()

    async def test_a_long_replay_to_a_client_that_does_not_read_drops_nothing_and_stays_bounded(self) -> None:
        async with events_port() as port:
            port.service.kept = [("a", b'{"n":%d,"x":"%b"}' % (n, b"x" * 2_000)) for n in range(12_000)]
            client, _ = await subscribed(port, "filter=a&from=10m")
            await trio.sleep(0.3)
            assert port.service.replaying, "it waits for the client"
            for n in range(12_000):
                assert (await client.event())["data"]["event"]["n"] == n
            assert (await client.event())["event"] == "live"
            assert not port.service.drops
            await client.stream.aclose()

    @pytest.mark.parametrize(
        ("query", "status", "code"),
        [
            ("filter=a&from=gone", 410, "MESH-E033"),
            ("filter=a&from=10m&group=g", 400, "MESH-E034"),
            ("filter=a&from=", 400, "MESH-E011"),
        ],
    )
    async def test_what_cannot_be_replayed_is_answered_before_the_stream_begins(
        self, query: str, status: int, code: str
    ) -> None:
        async with events_port() as port:
            found, problem = await refused(port, f"/v1/events?{query}")
            assert (found, problem["code"]) == (status, code)
            await port.service.until(lambda: not port.service.sinks)

    async def test_a_client_that_was_away_goes_on_behind_what_it_had_last(self) -> None:
        async with events_port() as port:
            port.service.kept = list(KEPT)
            client = await port.connect()
            await client.subscribe("filter=a/%23&from=10m", "Last-Event-ID: 1")
            assert (await client.event())["event"] == "subscribed"
            assert (await client.event())["data"]["topic"] == "a/2"
            assert (await client.event())["event"] == "live"
            await client.stream.aclose()
