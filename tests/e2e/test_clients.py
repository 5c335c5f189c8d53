"""What other makers' clients see: curl, a plain WebSocket client and the CloudEvents SDK, each publishing and subscribing."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_websocket
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from processes import NodeProcess, Subscriber, bridge, http, running, sees_regions

BINARY = bytes(range(256))
ATTRIBUTES = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.created"}


@asynccontextmanager
async def two_regions(folder: Path) -> AsyncIterator[tuple[NodeProcess, NodeProcess]]:
    async with running(folder) as mesh:
        a = await mesh.start("a-1", "a")
        b = await mesh.start("b-1", "b", *bridge(a))
        await sees_regions(b, "a")
        yield a, b


async def curl(*arguments: str, stdin: bytes = b"") -> bytes:
    done = await trio.run_process(
        ["curl", "-sS", "--max-time", "15", *arguments], capture_stdout=True, stdin=stdin
    )
    return bytes(done.stdout)


async def test_curl_publishes_every_mode_and_reads_the_stream(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (a, b):
        url = f"http://{a.events}/v1/events"
        stream = await trio.lowlevel.open_process(
            [
                "curl",
                "-sSN",
                "-H",
                "Accept: text/event-stream",
                f"http://{b.events}/v1/events?filter=shop/%23&wait=mesh",
            ],
            stdout=subprocess.PIPE,
        )
        assert stream.stdout is not None
        text = b""
        try:
            while b"complete" not in text:
                text += await stream.stdout.receive_some()
            await curl("-d", "hello", f"{url}/shop/plain")
            binary = [f"-Hce-{name}: {value}" for name, value in ATTRIBUTES.items()]
            await curl(
                *binary,
                "-HContent-Type: application/octet-stream",
                "--data-binary",
                "@-",
                f"{url}/shop/binary",
                stdin=BINARY,
            )
            structured = json.dumps({**ATTRIBUTES, "topic": "shop/structured", "data": {"ü": 1}})
            await curl("-HContent-Type: application/cloudevents+json", "-d", structured, url)
            batch = json.dumps(
                [{**ATTRIBUTES, "id": str(n), "topic": f"shop/batch/{n}", "data": n} for n in range(3)]
            )
            answer = json.loads(
                await curl("-HContent-Type: application/cloudevents-batch+json", "-d", batch, url)
            )
            assert answer["accepted"] == 3
            assert [event["regions"] for event in answer["events"]] == [["b"]] * 3
            with trio.fail_after(10):
                while text.count(b"event: event") < 6:
                    text += await stream.stdout.receive_some()
        finally:
            stream.terminate()
            await stream.wait()
        got = [
            json.loads(line[6:]) for line in text.decode().split("\n") if line.startswith('data: {"topic"')
        ]
        assert [one["topic"] for one in got] == [
            "shop/plain",
            "shop/binary",
            "shop/structured",
            "shop/batch/0",
            "shop/batch/1",
            "shop/batch/2",
        ]
        assert got[0]["event"]["data"] == "hello"
        assert base64.b64decode(got[1]["event"]["data_base64"]) == BINARY
        assert got[2]["event"] == json.loads(structured)


@asynccontextmanager
async def websocket(
    node: NodeProcess, target: str, protocol: str
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    url = f"ws://{node.events}{target}"
    async with trio_websocket.open_websocket_url(url, subprotocols=[protocol]) as ws:
        assert ws.subprotocol == protocol
        yield ws


async def receive(ws: trio_websocket.WebSocketConnection) -> Any:
    with trio.fail_after(10):
        return json.loads(await ws.get_message())


async def test_a_plain_websocket_client_does_everything_on_one_connection(tmp_path: Path) -> None:
    async with (
        two_regions(tmp_path) as (a, b),
        websocket(a, "/v1/ws", "mesh.v1.json") as near,
        websocket(b, "/v1/ws", "mesh.v1.json") as far,
    ):
        await far.send_message(json.dumps({"op": "subscribe", "sid": 1, "filter": "shop/#", "wait": "mesh"}))
        receipts = [await receive(far), await receive(far)]
        assert any(one["op"] == "receipt" and one["complete"] for one in receipts), receipts
        event = {**ATTRIBUTES, "data_base64": base64.b64encode(BINARY).decode()}
        await near.send_message(json.dumps({"op": "publish", "topic": "shop/x", "event": event}))
        assert (await receive(near))["op"] == "ok"
        got = await receive(far)
        assert (got["op"], got["topic"], got["event"]) == ("event", "shop/x", event)
        await near.send_message(json.dumps({"op": "nonsense"}))
        problem = await receive(near)
        assert problem["op"] == "error"
        await far.send_message(json.dumps({"op": "unsubscribe", "sid": 1}))
        assert (await receive(far))["op"] == "ok"


async def test_the_cloudevents_websocket_binding_carries_structured_events_both_ways(tmp_path: Path) -> None:
    async with (
        two_regions(tmp_path) as (a, b),
        websocket(b, "/v1/events?filter=shop/%23&wait=mesh", "cloudevents.json") as far,
        websocket(a, "/v1/events?filter=none", "cloudevents.json") as near,
    ):
        sent = {**ATTRIBUTES, "topic": "shop/y", "data": {"text": "grüße"}}

        async def keep_sending() -> None:
            while True:
                await near.send_message(json.dumps(sent))
                await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_sending)
            assert await receive(far) == sent
            nursery.cancel_scope.cancel()


async def test_the_cloudevents_sdk_publishes_and_understands_what_it_gets(tmp_path: Path) -> None:
    async with two_regions(tmp_path) as (a, b):
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, b.events, "filter=shop/%23&wait=mesh")
            sent = CloudEvent({**ATTRIBUTES, "datacontenttype": "application/json"}, {"n": 1})
            raw = CloudEvent({**ATTRIBUTES, "datacontenttype": "application/octet-stream"}, BINARY)
            for event in (sent, raw):
                for form in (to_binary_event, to_structured_event):
                    message = form(event)
                    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
                    answer = await http(
                        a.events,
                        "POST",
                        "/v1/events/shop/sdk",
                        headers=list(message.headers.items()),
                        body=body,
                    )
                    assert answer.status == 202, answer.body
            await subscriber.wait(4)
            for told, event in zip(subscriber.events, (sent, sent, raw, raw), strict=True):
                headers = {"content-type": "application/cloudevents+json"}
                got = from_http_event(HTTPMessage(headers, json.dumps(told["event"]).encode()))
                assert got.get_data() == event.get_data()
                assert got.get_id() == event.get_id()
                assert got.get_source() == event.get_source()
            nursery.cancel_scope.cancel()
