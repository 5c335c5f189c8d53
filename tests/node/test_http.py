"""The HTTP server on a real port, with clients of other makers and hostile ones."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.limits import Limits
from mesh.net.dial import dial
from mesh.net.http import Connection, HttpServer
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.net.listener import open_listener
from mesh.net.supervise import Crashes
from mesh.net.transport import LinkLost, Transport

LIMITS = Limits(request_timeout_s=0.4, idle_timeout_s=5.0, body_bytes=1 << 20)


class Site:
    """A running server. /stream streams until its client leaves, everything else echoes."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.crashes = Crashes()
        self.address = ""
        self.left = 0
        self.server: HttpServer

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        if request.path == "/stream":
            async with connection.stream(200, [("content-type", "text/event-stream")]) as stream:
                for n in range(3):
                    await stream.send(b"data: %d\n\n" % n)
                await trio.sleep_forever()
            self.left += 1
            return None
        return Response(200, request.body or request.path.encode(), [("content-type", "text/plain")])

    async def works(self) -> bool:
        async with dial(self.address, "tcp", 5) as transport:
            await transport.send(b"GET /works HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            return (await everything(transport)).endswith(b"/works")


@asynccontextmanager
async def site(limits: Limits = LIMITS) -> AsyncIterator[Site]:
    made = Site()
    listener = await open_listener("listen.events", "127.0.0.1:0")
    made.address = listener.address
    made.server = HttpServer(
        listener,
        made.handle,
        limits,
        crashes=made.crashes,
        count_refusal=lambda reason: made.refusals.update([reason]),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.server.serve)
        yield made
        nursery.cancel_scope.cancel()


async def everything(transport: Transport) -> bytes:
    data = b""
    try:
        with trio.fail_after(10):
            while piece := await transport.receive():
                data += piece
    except LinkLost:
        pass
    return data


async def test_httpx_publishes_and_keeps_its_connection() -> None:
    async with site() as made, httpx.AsyncClient(base_url=f"http://{made.address}") as client:
        for n in range(3):
            answer = await client.post("/echo", content=b"body %d" % n)
            assert (answer.status_code, answer.content) == (200, b"body %d" % n)
        big = bytes(range(256)) * 4000
        assert (await client.post("/echo", content=big)).content == big

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"piece"

        assert (await client.post("/echo", content=pieces())).content == b"piece" * 10
        head = await client.head("/abc")
        assert (head.headers["content-length"], head.content) == ("4", b"")
        assert made.server.statistics().connections == 1
    assert made.refusals == {}
    assert made.crashes.counts == {}


async def test_an_upload_that_is_refused_reads_why_although_it_was_still_sending() -> None:
    async with site() as made, dial(made.address, "tcp", 5) as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                with suppress(LinkLost):
                    await client.send(b"x" * 3_000_000)

            nursery.start_soon(upload)
            answer = await everything(client)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"MESH-E007" in answer
        assert made.refusals == {"body_too_large": 1}


async def test_slow_senders_are_told_408_and_others_notice_nothing() -> None:
    async with site() as made:
        async with dial(made.address, "tcp", 5) as slow_head, dial(made.address, "tcp", 5) as slow_body:
            await slow_head.send(b"GET / HTTP/1.1\r\nHo")
            await slow_body.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
            assert await made.works()
            for client in (slow_head, slow_body):
                assert (await everything(client)).startswith(b"HTTP/1.1 408 ")
        assert made.refusals == {"slow_sender": 2}


async def test_resets_at_every_stage_leave_the_server_working() -> None:
    stages = [
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nHost: h\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 50,
        b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ]
    async with site() as made:
        host, _, port = made.address.rpartition(":")
        for stage in stages * 5:
            sock = socket.create_connection((host, int(port)))
            sock.sendall(stage)
            await trio.testing.wait_all_tasks_blocked()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert await made.works()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert made.server.statistics().connections == 0
        assert made.crashes.counts == {}
        assert made.left == 5


async def test_a_thousand_silent_clients_do_not_disturb_the_others() -> None:
    async with site() as made:
        host, _, port = made.address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(1000)]
        assert await made.works()
        assert made.server.statistics().connections >= 900
        for sock in silent:
            sock.close()


async def test_over_the_limit_clients_get_503_to_read() -> None:
    async with site(Limits(client_connections=2)) as made:
        host, _, port = made.address.rpartition(":")
        held = [socket.create_connection((host, int(port))) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        async with dial(made.address, "tcp", 5) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.send_eof()
            assert (await everything(client)).startswith(b"HTTP/1.1 503 ")
        for sock in held:
            sock.close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await made.works()
        assert made.refusals == {"too_many_connections": 1}


@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_a_client_that_leaves_its_stream_is_noticed(how: str) -> None:
    async with site() as made, dial(made.address, "tcp", 5) as client:
        await client.send(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 200 OK\r\n")
        if how == "eof":
            await client.aclose()
        else:
            client.abort()
        with trio.fail_after(5):
            while made.left == 0:
                await trio.testing.wait_all_tasks_blocked(0.001)


async def test_draining_lets_requests_finish_and_ends_the_server() -> None:
    listener = await open_listener("listen.events", "127.0.0.1:0")
    made = Site()
    server = HttpServer(
        listener,
        made.handle,
        LIMITS,
        crashes=made.crashes,
        count_refusal=lambda reason: made.refusals.update([reason]),
    )
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve)
            async with dial(listener.address, "tcp", 5) as idle:
                await idle.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await idle.receive()).endswith(b"/")
                server.drain()
                assert await idle.receive() == b""
    assert made.refusals == {}


REQUEST = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(REQUEST)), st.binary(max_size=30)), min_size=1, max_size=10))
def test_garbage_at_any_byte_leaves_the_server_working(garbage: list[tuple[int, bytes]]) -> None:
    async def run() -> None:
        async with site() as made:
            for place, bad in garbage:
                async with dial(made.address, "tcp", 5) as client:
                    await client.send(REQUEST[:place] + bad + REQUEST[place:])
                    await client.send_eof()
                    await everything(client)
            assert await made.works()
            assert made.crashes.counts == {}

    trio.run(run)
