"""Which requests of a durable client go to another node, in what form, and how a spliced connection ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from node.events_port import Port, events_port, upgrade_request
from node.fake_service import FakeService, NoReceivers

from mesh.node.service import Home

TARGET = "/v1/events?client=shop&durable=true&filter=t"


class Kept(NoReceivers):
    """Says where "shop" is kept."""

    def __init__(self, home: Home | None) -> None:
        self._home = home

    def home(self, client: str) -> Home | None:
        return self._home if client == "shop" else None


class Elsewhere(FakeService):
    """A node that does not keep "shop"."""

    found: Home | None = None

    @property
    def receivers(self) -> Kept:
        return Kept(self.found)


class HomeNode:
    """A socket in place of the home's events port."""

    def __init__(self) -> None:
        self.address = ""
        self.heads: list[bytes] = []
        self.streams: list[trio.SocketStream] = []
        self.more = b""
        self.ended = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        head, _, self.more = data.partition(b"\r\n\r\n")
        self.heads.append(head)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhome")
        with suppress(trio.BrokenResourceError):  # the proxy may end it with a reset
            while more := await stream.receive_some():
                self.more += more
        self.ended.set()


@asynccontextmanager
async def two_nodes(alive: bool = True) -> AsyncIterator[tuple[Port, HomeNode]]:
    home = HomeNode()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    home.address = f"127.0.0.1:{port}"
    service = Elsewhere()
    service.found = Home("eu-2", home.address, alive)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, home.serve, [listener])
        async with events_port(service) as served:
            yield served, home
        nursery.cancel_scope.cancel()


async def test_a_request_goes_on_as_it_came_marked_and_for_a_connection_of_its_own() -> None:
    async with two_nodes() as (served, home):
        client = await served.connect()
        accepts = ("Accept: text/event-stream", "Connection: keep-alive", "Last-Event-ID: eu/n/1/2")
        status, _, body = await client.call("GET", TARGET, b"", *accepts)
        assert (status, body) == (200, b"home")
        first, *lines = home.heads[0].decode().split("\r\n")
        assert first == f"GET {TARGET} HTTP/1.1"
        fields = [line.lower() for line in lines]
        assert "last-event-id: eu/n/1/2" in fields
        assert [line for line in fields if line.startswith("connection")] == ["connection: close"]
        assert "mesh-proxied-by: eu/eu-1" in fields
        await client.stream.aclose()
        with trio.fail_after(5):
            await home.ended.wait()


async def test_bytes_go_both_ways_on_a_socket_until_the_home_ends_it() -> None:
    async with two_nodes() as (served, home):
        client = await served.connect()
        await client.send(upgrade_request("/v1/ws?client=shop&durable=true", "mesh.v1.json") + b"early")
        await client.until(b"home")
        fields = home.heads[0].decode().lower().split("\r\n")
        (words,) = [line for line in fields if line.startswith("connection:")]
        assert "upgrade" in words, "a socket's opening keeps its words"
        await client.send(b" and later")
        with trio.fail_after(5):
            while home.more != b"early and later":
                await trio.sleep(0.01)
            await home.streams[0].send_all(b"answer")
            await client.until(b"answer")
            await home.streams[0].send_eof()
            assert await client.rest() == b""
        await client.stream.aclose()


@pytest.mark.parametrize("why", ["marked", "dead", "no address", "silent"])
async def test_a_home_that_cannot_be_asked_is_named_and_nobody_is_asked_in_its_place(why: str) -> None:
    async with two_nodes(alive=why != "dead") as (served, home):
        service = served.service
        assert isinstance(service, Elsewhere)
        if why == "no address":
            service.found = Home("eu-2", "", True)
        if why == "silent":
            unused = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
            service.found = Home("eu-2", f"127.0.0.1:{unused.socket.getsockname()[1]}", True)
            await unused.aclose()
        client = await served.connect()
        more = ["Accept: text/event-stream", *(["Mesh-Proxied-By: eu/eu-3"] if why == "marked" else [])]
        status, _, body = await client.call("GET", TARGET, b"", *more)
        problem = json.loads(body)
        assert (status, problem["code"], problem["home"]) == (503, "MESH-E041", "eu-2")
        said = {"marked": "not where this request came from", "silent": "does not answer"}
        assert said.get(why, "which is down") in problem["detail"]
        assert home.heads == []
        await client.stream.aclose()


async def test_other_clients_and_live_ones_are_served_here() -> None:
    async with two_nodes() as (served, home):
        client = await served.connect()
        status, _, body = await client.call("DELETE", "/v1/clients/shop")
        assert (status, body) == (200, b"home"), "what is asked of a durable client goes to its home, too"
        await client.stream.aclose()
        client = await served.connect()
        await client.send(
            b"GET /v1/events?client=shop&filter=t HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
        )
        assert b"subscribed" in await client.until(b"event: subscribed")
        assert len(home.heads) == 1
        await client.stream.aclose()
