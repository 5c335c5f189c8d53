"""Publishing, requesting and replying over HTTP on a real socket; the cloudevents SDK as the judge of forms."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import trio
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary,
    from_structured,
    to_binary,
    to_structured,
)
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from node.events_port import Port, events_port
from node.fake_service import FakeService

from mesh.model.event import Delivery, Event, NewEvent
from mesh.model.reasons import Close
from mesh.wire.cloudevents import to_structured as mesh_to_structured

REQUIRED = ("ce-specversion: 1.0", "ce-id: e1", "ce-source: /shop", "ce-type: order.created")


class Collector:
    """A subscriber inside the process."""

    def __init__(self, service: FakeService, filter: str = "#") -> None:
        self.got: list[Event] = []
        self.session = service.open_session(self, protocol="inproc", name="collector")
        self.service = service
        service.subscribe(self.session, 1, filter)

    def deliver(self, deliveries: list[Delivery]) -> None:
        self.got += [event for delivery in deliveries for event in delivery.events]

    def close(self, reason: Close, detail: str) -> None:
        self.service.close_session(self.session, reason)

    async def __aenter__(self) -> Collector:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.service.close_session(self.session, Close.NORMAL)


async def post(port: Port, target: str, body: bytes = b"", *headers: str) -> tuple[int, dict[str, str], dict]:
    client = await port.connect()
    async with client.stream:
        status, found, answer = await client.call("POST", target, body, *headers)
        return status, found, json.loads(answer)


def header_lines(message: HTTPMessage) -> list[str]:
    return [f"{name}: {value}" for name, value in message.headers.items()]


def sdk_events() -> list[CloudEvent]:
    common = {
        "source": "/shop/ü x",
        "type": "order.created",
        "time": datetime(2024, 5, 1, 12, 30, tzinfo=UTC),
    }
    return [
        CloudEvent({**common, "id": "json", "subject": "a b%c"}, {"total": 12.5, "name": "Zoë"}),
        CloudEvent({**common, "id": "text", "datacontenttype": "text/plain"}, "grüße\nsecond line"),
        CloudEvent({**common, "id": "xml", "datacontenttype": "application/xml"}, "<a>€</a>"),
        CloudEvent({**common, "id": "bytes", "datacontenttype": "application/octet-stream"}, b"\x00\xff\x80"),
        CloudEvent({**common, "id": "none", "partitionkey": "k1", "flag": "yes"}, None),
    ]


class TestPublish:
    async def test_a_plain_body_becomes_an_event_of_its_own(self) -> None:
        async with events_port() as port:
            status, headers, answer = await post(
                port, "/v1/events/orders/eu/created", b"hello", "Content-Type: text/plain"
            )
            assert (status, headers["content-type"]) == (202, "application/json")
            (entry,) = answer["events"]
            assert answer["accepted"] == 1
            assert entry["mesh_id"] == "eu/eu-1/7/1"
            assert (entry["regions"], entry["local"]) == ([], 0)
            assert entry["reasons"] == [{"region": "", "reason": "no_interest"}]
            (event,) = port.service.published
            assert (event.topic, event.data) == ("orders/eu/created", b"hello")
            attributes = dict(zip(event.attributes[::2], event.attributes[1::2], strict=True))
            assert attributes == {
                "specversion": "1.0",
                "id": entry["id"],
                "source": "mesh://eu/eu-1",
                "type": "mesh.raw",
                "datacontenttype": "text/plain",
            }

    @pytest.mark.parametrize("event", sdk_events(), ids=CloudEvent.get_id)
    async def test_what_the_sdk_sends_in_binary_mode_means_the_same_to_it_when_delivered(
        self, event: CloudEvent
    ) -> None:
        sent = to_binary(event, JSONFormat())
        async with events_port() as port, Collector(port.service) as collector:
            status, _, answer = await post(port, "/v1/events/t", sent.body, *header_lines(sent))
            assert status == 202
            assert answer["events"][0]["id"] == event.get_id()
            assert answer["events"][0]["local"] == 1
            (got,) = collector.got
            assert got.data == sent.body
            structured = HTTPMessage(
                {"content-type": "application/cloudevents+json"}, mesh_to_structured(got)
            )
            received = from_structured(structured, JSONFormat())
            assert received.get_attributes() == event.get_attributes()
            assert received.get_data() == event.get_data()

    @pytest.mark.parametrize("event", sdk_events(), ids=CloudEvent.get_id)
    async def test_a_structured_event_travels_byte_for_byte(self, event: CloudEvent) -> None:
        sent = to_structured(event, JSONFormat())
        async with events_port() as port:
            status, _, _ = await post(port, "/v1/events/t", sent.body, *header_lines(sent))
            assert status == 202
            (published,) = port.service.published
            assert published.attributes is None
            assert published.data == sent.body

    async def test_a_batch_of_the_sdk_is_published_in_order(self) -> None:
        events = sdk_events()
        pieces = [to_structured(event, JSONFormat()).body for event in events]
        body = b"[\n" + b" ,\t".join(pieces) + b"\n]"
        async with events_port() as port:
            status, _, answer = await post(port, "/v1/events/t", body, BATCH)
            assert status == 202
            assert [entry["id"] for entry in answer["events"]] == [event.get_id() for event in events]
            assert answer["accepted"] == len(events)
            assert [published.data for published in port.service.published] == pieces

    async def test_levels_are_percent_decoded(self) -> None:
        async with events_port() as port:
            await post(port, "/v1/events/a%20b/gr%C3%BC%C3%9Fe/c%2Bd", b"x")
            # "+" belongs to filters, in whatever way it is written
            assert port.service.published == []
            await post(port, "/v1/events/a%20b/gr%C3%BC%C3%9Fe", b"x")
            assert port.service.published[0].topic == "a b/grüße"

    async def test_each_event_names_its_own_topic_where_the_path_has_none(self) -> None:
        body = (
            b'[{"specversion":"1.0","id":"1","source":"/","type":"t","topic":"a/1","partitionkey":"k"},'
            b' {"specversion":"1.0","id":"2","source":"/","type":"t","topic":"a/2"}]'
        )
        async with events_port() as port:
            kind = "Content-Type: application/cloudevents-batch+json"
            assert (await post(port, "/v1/events", body, kind))[0] == 202
            assert [(event.topic, event.key) for event in port.service.published] == [
                ("a/1", "k"),
                ("a/2", ""),
            ]
            await post(port, "/v1/events/other?key=q", body, kind)
            assert [(event.topic, event.key) for event in port.service.published[2:]] == [("other", "q")] * 2

    async def test_a_deadline_is_a_lifetime_in_milliseconds(self) -> None:
        async with events_port() as port:
            for deadline in ("5s", "250ms", "0s"):
                await post(port, f"/v1/events/t?deadline={deadline}&level=at-most-once&ack=accepted", b"x")
            assert [event.ttl_ms for event in port.service.published] == [5_000, 250, 0]

    async def test_where_it_went_is_told(self) -> None:
        service = FakeService()
        service.regions["us"] = ["t/#"]
        service.unreachable["ap"] = ["t/#"]
        async with events_port(service) as port, Collector(service, "$share/g/t/#"):
            _, _, answer = await post(port, "/v1/events/t/1", b"x")
            (entry,) = answer["events"]
            assert (entry["regions"], entry["local"]) == (["us"], 1)
            assert entry["groups"] == [{"group": "g", "region": "eu"}]
            assert entry["reasons"] == [
                {"region": "ap", "reason": "unreachable", "detail": "no route for 4s"}
            ]

    async def test_a_publish_that_requires_interest_is_404_only_where_nobody_gets_any_of_it(self) -> None:
        async with events_port() as port, Collector(port.service, "heard"):
            status, _, answer = await post(port, "/v1/events/unheard?require=interest", b"x")
            assert (status, answer["code"], answer["events"][0]["local"]) == (404, "MESH-E012", 0)
            assert (await post(port, "/v1/events/heard?require=interest", b"x"))[0] == 202

    async def test_an_empty_batch_is_accepted(self) -> None:
        async with events_port() as port:
            kind = "Content-Type: application/cloudevents-batch+json"
            assert (await post(port, "/v1/events/t", b"[]", kind))[2] == {"accepted": 0, "events": []}


STRUCTURED = "Content-Type: application/cloudevents+json"
BATCH = "Content-Type: application/cloudevents-batch+json"
WHOLE = b'{"specversion":"1.0","id":"1","source":"/","type":"t"}'


class TestRefusals:
    @pytest.mark.parametrize(
        ("target", "body", "headers", "status", "code", "words"),
        [
            ("/v1/events/a/%23", b"x", [], 400, "MESH-E001", "'#'"),
            ("/v1/events/$mesh/x", b"x", [], 400, "MESH-E001", "$mesh"),
            ("/v1/events/", b"x", [], 400, "MESH-E001", "topic"),
            ("/v1/events", b"x", [], 400, "MESH-E001", "topic"),
            ("/v1/events/" + "/".join("a" * 17), b"x", [], 400, "MESH-E001", "levels"),
            ("/v1/events/" + "a" * 513, b"x", [], 400, "MESH-E001", "bytes"),
            ("/v1/events/t", b"x", REQUIRED[:3], 400, "MESH-E004", "type"),
            ("/v1/events/t", b"x", ["ce-id: 1"], 400, "MESH-E004", "specversion, source, type"),
            ("/v1/events/t", b"x", [*REQUIRED, "ce-bad-name: 1"], 400, "MESH-E003", "bad-name"),
            ("/v1/events/t", b"x", [*REQUIRED, "ce-time: yesterday"], 400, "MESH-E003", "time"),
            ("/v1/events/t", b"x", [*REQUIRED[1:], "ce-specversion: 0.3"], 400, "MESH-E003", "0.3"),
            ("/v1/events/t", b"{", [STRUCTURED], 400, "MESH-E005", ""),
            ("/v1/events/t", b"[" * 100_000, [STRUCTURED], 400, "MESH-E005", ""),
            ("/v1/events/t", b'"\xff"', [STRUCTURED], 400, "MESH-E005", "UTF-8"),
            ("/v1/events/t", b'{"specversion":"1.0"}', [STRUCTURED], 400, "MESH-E004", "id, source, type"),
            ("/v1/events/t", WHOLE, [BATCH], 400, "MESH-E006", "array"),
            ("/v1/events/t", b"[" + WHOLE + b",7]", [BATCH], 400, "MESH-E005", ""),
            ("/v1/events/t", b"x", ["Content-Type: application/cloudevents+avro"], 415, "MESH-E008", "avro"),
            ("/v1/events/t", WHOLE, [STRUCTURED + "; charset=utf-16"], 415, "MESH-E008", "utf-16"),
            ("/v1/events/t", b"x", ["Content-Encoding: gzip"], 415, "MESH-E008", "Content-Encoding"),
            ("/v1/events/t?ack=region", b"x", [], 400, "MESH-E011", "ack=region"),
            ("/v1/events/t?ack=delivered", b"x", [], 400, "MESH-E011", "ack=delivered"),
            ("/v1/events/t?ack=never", b"x", [], 400, "MESH-E011", "'accepted'"),
            ("/v1/events/t?level=twice", b"x", [], 400, "MESH-E011", "level"),
            ("/v1/events/t?deadlin=5s", b"x", [], 400, "MESH-E010", "did you mean 'deadline'"),
            ("/v1/events/t?deadline=5", b"x", [], 400, "MESH-E011", "deadline"),
            ("/v1/events/t?key=a&key=b", b"x", [], 400, "MESH-E011", "twice"),
            ("/v1/events/t?require=luck", b"x", [], 400, "MESH-E011", "require"),
            ("/v1/events/t?key=%zz", b"x", [], 400, "MESH-E031", "hexadecimal"),
            ("/v1/event/t", b"x", [], 404, "MESH-E023", "/v1/event/t"),
            ("/v1/reply", b"x", [], 400, "MESH-E028", "'to'"),
            ("/v1/reply?to=nowhere&correlation=c", b"x", [], 400, "MESH-E028", "REGION/NODE/INBOX"),
            ("/v1/reply?to=ap/ap-1/i&correlation=c", b"x", [], 503, "MESH-E029", "ap"),
            ("/v1/request/t?timeout=1h", b"x", [], 400, "MESH-E011", "300s"),
        ],
    )
    async def test_what_is_wrong_is_said_and_nothing_is_published(
        self, target: str, body: bytes, headers: list[str], status: int, code: str, words: str
    ) -> None:
        async with events_port() as port:
            found, fields, problem = await post(port, target, body, *headers)
            assert (found, problem["code"]) == (status, code)
            assert fields["content-type"] == "application/problem+json"
            assert problem["status"] == status
            assert words in problem["detail"]
            assert problem["remedy"]
            assert port.service.published == []
            assert sum(port.service.refusals.values()) == 1

    async def test_the_bad_one_of_a_batch_is_named(self) -> None:
        async with events_port() as port:
            bad = b"[" + WHOLE + b',{"specversion":"1.0","id":"2"}]'
            assert (await post(port, "/v1/events/t", bad, BATCH))[2]["index"] == 1
            topicless = b"[" + WHOLE.replace(b"}", b',"topic":"a"}') + b"," + WHOLE + b"]"
            assert (await post(port, "/v1/events", topicless, BATCH))[2]["index"] == 1
            assert port.service.published == []

    async def test_too_large_an_event_or_batch_is_413(self) -> None:
        async with events_port(event_bytes=100, batch_request_events=2, body_bytes=2_000) as port:
            assert (await post(port, "/v1/events/t", b"x" * 101))[2]["code"] == "MESH-E007"
            three = b"[" + b",".join([WHOLE] * 3) + b"]"
            assert (await post(port, "/v1/events/t", three, BATCH))[0] == 413
            assert (await post(port, "/v1/events/t", b"x" * 2_001))[0] == 413
            assert port.service.published == []

    async def test_what_is_cut_or_lies_about_its_length_is_counted_and_the_port_goes_on(self) -> None:
        async with events_port() as port:
            for broken in (
                b"POST /v1/events/t HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nshort",
                b"POST /v1/events/t HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
                b"POST /v1/events/t HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                b"POST /v1/events/t HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            ):
                client = await port.connect()
                async with client.stream:
                    await client.send(broken)
                    await client.stream.send_eof()
                    await client.rest()
            assert port.service.published == []
            assert sum(port.service.refusals.values()) == 5
            assert (await post(port, "/v1/events/t", b"x"))[0] == 202


class Echo:
    """A client in the process that answers every request with its data in capitals."""

    def __init__(self, service: FakeService, topic: str, reply: bytes | None = None) -> None:
        self.service, self.reply = service, reply
        self.session = service.open_session(self, protocol="inproc", name="echo")
        service.subscribe(self.session, 1, topic)

    def deliver(self, deliveries: list[Delivery]) -> None:
        for event in (event for delivery in deliveries for event in delivery.events):
            assert event.extra is not None
            if self.reply is None:
                continue
            attributes = (
                "specversion",
                "1.0",
                "id",
                "r",
                "source",
                "/ü",
                "type",
                "r",
                "datacontenttype",
                "text/plain",
            )
            new = NewEvent("$mesh/reply", "", 0, attributes, self.reply)
            self.service.reply(event.extra[0], event.extra[1], new)

    def close(self, reason: Close, detail: str) -> None: ...


class TestRequest:
    async def test_the_reply_comes_back_in_binary_mode_as_the_sdk_reads_it(self) -> None:
        async with events_port() as port:
            echo = Echo(port.service, "svc/upper", "HÉLLO".encode())
            client = await port.connect()
            async with client.stream:
                status, headers, body = await client.call(
                    "POST", "/v1/request/svc/upper?timeout=5s", b"hello"
                )
            assert (status, headers["mesh-path"]) == (200, "us")
            event = from_binary(HTTPMessage(headers, body), JSONFormat(), CloudEvent)
            assert (event.get_source(), event.get_data()) == ("/ü", "HÉLLO")
            assert port.service.published == []
            port.service.close_session(echo.session, Close.NORMAL)

    async def test_nobody_there_is_404_at_once_and_nobody_in_reach_503(self) -> None:
        async with events_port() as port:
            status, _, problem = await post(port, "/v1/request/svc/none", b"x")
            assert (status, problem["code"], problem["reason"]) == (404, "MESH-E013", "no_responders")
            port.service.unreachable["ap"] = ["svc/#"]
            status, headers, problem = await post(port, "/v1/request/svc/none", b"x")
            assert (status, problem["code"], headers["retry-after"]) == (503, "MESH-E014", "1")
            assert problem["reasons"] == [
                {"region": "ap", "reason": "unreachable", "detail": "no route for 4s"}
            ]

    async def test_a_reply_that_does_not_come_is_504(self) -> None:
        async with events_port() as port:
            echo = Echo(port.service, "svc/slow")
            status, _, problem = await post(port, "/v1/request/svc/slow?timeout=20ms", b"x")
            assert (status, problem["code"]) == (504, "MESH-E015")
            port.service.close_session(echo.session, Close.NORMAL)

    async def test_a_batch_is_no_request(self) -> None:
        async with events_port() as port:
            two = b"[" + WHOLE + b"," + WHOLE + b"]"
            assert (await post(port, "/v1/request/t", two, BATCH))[2]["code"] == "MESH-E006"

    async def test_a_request_over_http_is_answered_over_http(self) -> None:
        async with events_port() as port:
            asking, answering = await port.connect(), await port.connect()
            async with asking.stream, answering.stream:
                await answering.subscribe("filter=svc/%2B")
                assert (await answering.event())["event"] == "subscribed"
                await asking.send(b"POST /v1/request/svc/a HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n?")
                data = (await answering.event())["data"]
                target = f"/v1/reply?to={data['reply_to']}&correlation={data['correlation']}"
                assert (await post(port, target, b"42", "Content-Type: application/json"))[0] == 202
                status, headers, body = await asking.answer()
                assert (status, headers["ce-type"], body) == (200, "mesh.raw", b"42")

    async def test_a_client_that_leaves_ends_its_request(self) -> None:
        async with events_port() as port:
            echo = Echo(port.service, "svc/slow")
            client = await port.connect()
            await client.send(
                b"POST /v1/request/svc/slow?timeout=60s HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"
            )
            await port.service.until(lambda: port.server.requests == 1)
            await client.stream.aclose()
            while port.server.statistics().connections:
                await trio.lowlevel.checkpoint()
            port.service.close_session(echo.session, Close.NORMAL)
