from __future__ import annotations

import json
from collections import Counter
from typing import cast

import pytest
import trio
import trio.testing
from unit.admin.fake_inspect import FakeInspect

from mesh.admin.api import WATCH_PATH
from mesh.admin.port import KEEP_ALIVE_S, AdminPort
from mesh.model.limits import Limits
from mesh.net.http import HttpServer
from mesh.net.listener import Listener
from mesh.net.memory import MemoryTransport, pair
from mesh.net.supervise import Crashes


class Port:
    """The admin port behind a real HTTP server, on a memory transport."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.inspect = FakeInspect()
        self.refusals: Counter[str] = Counter()
        self.server = HttpServer(
            cast(Listener, None),
            AdminPort(self.inspect).handle,
            Limits(),
            crashes=Crashes(),
            count_refusal=lambda reason: self.refusals.update([reason]),
        )
        self._nursery = nursery

    def connect(self) -> MemoryTransport:
        client, server = pair()
        self._nursery.start_soon(self.server.serve_one, server)
        return client


async def ask(client: MemoryTransport, target: str, method: str = "GET") -> tuple[int, bytes]:
    await client.send(f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += await client.receive()
    head, _, body = raw.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
    while len(body) < length:
        body += await client.receive()
    return int(head.split()[1]), body


class Events:
    """The server-sent events of a chunked answer, one after the other; comments are events named "comment"."""

    def __init__(self, client: MemoryTransport) -> None:
        self._client = client
        self._text = ""

    async def next(self) -> tuple[str, object]:
        while "\n\n" not in self._text:
            self._text += (await self._client.receive()).decode()
        block, _, self._text = self._text.partition("\n\n")
        lines = [line for line in block.splitlines() if line.startswith(("event: ", "data: ", ": "))]
        if lines[-1].startswith(": "):
            return "comment", lines[-1]
        return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


async def watch(port: Port) -> Events:
    client = port.connect()
    await client.send(f"GET {WATCH_PATH} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    events = Events(client)
    assert await events.next() == ("watching", {"node": "eu-1", "region": "eu"})
    return events


@pytest.fixture
async def port(nursery: trio.Nursery) -> Port:
    return Port(nursery)


async def test_calls_are_answered_and_refusals_counted(port: Port) -> None:
    client = port.connect()
    assert (await ask(client, "/v1/nodes"))[0] == 200
    status, body = await ask(client, "/v1/nods")
    assert (status, json.loads(body)["code"]) == (404, "MESH-A005")
    assert (await ask(client, "/v1/node/leave", "POST"))[0] == 202
    assert port.inspect.refusals == [("admin", "status_404")]
    assert port.inspect.leaving == 1


async def test_a_head_request_gets_no_body(port: Port) -> None:
    client = port.connect()
    await client.send(b"HEAD /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    raw = b""
    while piece := await client.receive():
        raw += piece
    assert raw.startswith(b"HTTP/1.1 200")
    assert raw.endswith(b"\r\n\r\n")


async def test_a_watcher_sees_changes_as_they_happen(port: Port) -> None:
    events = await watch(port)
    port.inspect.feed.publish({"change": "added", "region": "us"})
    assert await events.next() == ("change", {"change": "added", "region": "us"})
    port.inspect.feed.publish({"change": "removed", "region": "us"})
    assert await events.next() == ("change", {"change": "removed", "region": "us"})


async def test_a_quiet_stream_shows_that_it_lives(port: Port, autojump_clock: trio.testing.MockClock) -> None:
    events = await watch(port)
    begun = trio.current_time()
    assert await events.next() == ("comment", ": alive")
    assert trio.current_time() - begun == pytest.approx(KEEP_ALIVE_S)


async def test_a_watcher_that_lost_changes_is_told_how_many(port: Port) -> None:
    events = await watch(port)
    for number in range(1_030):
        port.inspect.feed.publish({"n": number})
    assert await events.next() == ("lost", {"lost": 6})
    assert await events.next() == ("change", {"n": 6})


async def test_the_end_of_the_feed_is_told(port: Port) -> None:
    events = await watch(port)
    port.inspect.feed.close()
    assert await events.next() == ("closing", {"reason": "the node stops"})


async def test_a_watcher_that_leaves_is_forgotten(port: Port, autojump_clock: trio.testing.MockClock) -> None:
    client = port.connect()
    await client.send(f"GET {WATCH_PATH} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await Events(client).next()
    assert port.inspect.feed
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert not port.inspect.feed


@pytest.mark.parametrize(
    ("target", "method", "status"), [(WATCH_PATH, "POST", 405), (f"{WATCH_PATH}?x=1", "GET", 400)]
)
async def test_a_wrong_watch_is_refused(port: Port, target: str, method: str, status: int) -> None:
    assert (await ask(port.connect(), target, method))[0] == status


async def test_one_watcher_too_many_is_refused(port: Port) -> None:
    port.inspect.feed._watchers = 0
    status, body = await ask(port.connect(), WATCH_PATH)
    assert (status, json.loads(body)["code"]) == (503, "MESH-A019")
