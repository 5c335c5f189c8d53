"""The subprotocol cloudevents.json on a real socket, with trio-websocket and the SDK as independent peers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from node.events_port import ATTRIBUTES, Port, events_port, masked, upgrade_request
from node.fake_service import FakeService
from node.websocket_clients import WHOLE, raw_socket

from mesh.model.event import NewEvent


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
