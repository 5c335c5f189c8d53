"""The events port: which protocol a request speaks, what has no answer, and sessions that end with their connections."""

from __future__ import annotations

import json

import pytest
import trio
from node.events_port import RawClient, events_port, upgrade_request
from node.fake_service import FakeService


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("DELETE", "/v1/events", "GET, POST"),
        ("GET", "/v1/events/t", "POST"),
        ("PUT", "/v1/request/t", "POST"),
        ("GET", "/v1/reply", "POST"),
        ("POST", "/v1/ws", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(method: str, target: str, allow: str) -> None:
    async with events_port() as port:
        client = await port.connect()
        async with client.stream:
            status, headers, _ = await client.call(method, target)
            assert (status, headers["allow"]) == (405, allow)


async def test_a_node_that_leaves_refuses_and_ends_the_connection() -> None:
    async with events_port() as port:
        client = await port.connect()
        async with client.stream:
            assert (await client.call("POST", "/v1/events/t", b"x"))[0] == 202
            port.service.draining = True
            status, headers, body = await client.call("POST", "/v1/events/t", b"x")
            assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
            assert json.loads(body)["code"] == "MESH-E016"
            assert await client.rest() == b""
        assert len(port.service.published) == 1


PATHS = ("/v1/events", "/v1/events/t", "/v1/ws", "/v1/request/t", "/v1/request", "/v1/reply")
"""Paths with an answer. Everything else has none, whatever it looks like."""


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/event",
        "/v1/eventsx",
        "/v1/ws/",
        "/v1/reply/x",
        "/v2/events",
        "//v1/ws",
        "/metrics",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_path_with_nothing_at_it_is_404_for_every_method(method: str, path: str) -> None:
    async with events_port() as port:
        client = await port.connect()
        async with client.stream:
            status, _, body = await client.call(method, path)
            assert (status, json.loads(body)["code"]) == (404, "MESH-E023")
            assert (await client.call("POST", "/v1/events/t", b"x"))[0] == 202, "the connection goes on"
        assert port.service.refusals == {("events", "MESH-E023"): 1}


@pytest.mark.parametrize("path", PATHS)
async def test_no_method_on_any_path_is_an_accident(path: str) -> None:
    """Every answer is one the node meant: a success or a problem with a code (`events_port` sees that nothing crashed)."""
    async with events_port() as port:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            client = await port.connect()
            async with client.stream:
                status, headers, body = await client.call(method, path, b"x" if method == "POST" else b"")
                assert 200 <= status < 500, (method, status)
                if status >= 400:
                    assert headers["content-type"] == "application/problem+json"
                    assert json.loads(body)["code"].startswith("MESH-E")


async def test_the_same_path_is_a_stream_or_a_websocket_as_the_request_says() -> None:
    async with events_port() as port:
        sse, ws = await port.connect(), await port.connect()
        await sse.subscribe("filter=t")
        await ws.send(upgrade_request("/v1/events?filter=t", "cloudevents.json"))
        assert (await ws.answer())[0] == 101
        assert sorted(port.service.protocols.values()) == ["sse", "ws-cloudevents"]
        await sse.stream.aclose()
        await ws.stream.aclose()
        await port.service.until(lambda: not port.service.sinks)


@pytest.mark.parametrize("opening", ["sse", "ws", "ws-cloudevents"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_session_is_closed_however_its_connection_ends(opening: str, reset: bool) -> None:
    async with events_port() as port:
        client: RawClient = await port.connect()
        if opening == "sse":
            await client.subscribe("filter=t")
        else:
            target, protocol = (
                ("/v1/ws", "mesh.v1.json") if opening == "ws" else ("/v1/events?filter=t", "cloudevents.json")
            )
            assert (await client.upgrade(target, protocol))[0] == 101
        await port.service.until(lambda: len(port.service.sinks) == 1)
        if reset:
            client.stream.socket.setsockopt(
                trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            client.stream.socket.close()
        else:
            await client.stream.send_eof()
        await port.service.until(lambda: not port.service.sinks)
        await client.stream.aclose()


async def test_a_refused_opening_leaves_no_session_behind() -> None:
    service = FakeService()
    async with events_port(service) as port:
        for target in ("/v1/events?filter=%23/a", "/v1/events?filter=a&wait=galaxy"):
            client = await port.connect()
            async with client.stream:
                await client.send(upgrade_request(target, "cloudevents.json"))
                assert (await client.answer())[0] == 400
        assert service.sinks == {}
        assert sum(service.refusals.values()) == 2
