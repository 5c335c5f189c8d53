"""An HTTP connection from request to request, over the memory transport and the mock clock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from mesh.model.limits import Limits
from mesh.net.http import HttpServer
from mesh.net.http_connection import Connection, Stream
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.net.listener import Listener
from mesh.net.memory import BUFFER_BYTES, MemoryTransport, pair
from mesh.net.supervise import Crashes
from mesh.net.transport import READ_BYTES, LinkLost

LIMITS = Limits(request_timeout_s=10, idle_timeout_s=75, header_bytes=1000, body_bytes=1 << 20)
GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSE = b"GET /%b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class NoListener:
    """There is no port in these tests."""

    def close(self) -> None:
        """Nothing to close."""


class Site:
    """A server with a handler made of paths."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.refusals: Counter[str] = Counter()
        self.crashes = Crashes()
        self.stream: Stream | None = None
        self.after: list[str] = []
        self.begun: list[str] = []
        self.go = trio.Event()
        self.server = HttpServer(
            cast(Listener, NoListener()),
            self.handle,
            limits,
            crashes=self.crashes,
            count_refusal=lambda reason: self.refusals.update([reason]),
        )

    async def handle(self, request: Request, connection: Connection) -> Response | None:
        self.begun.append(request.path)
        match request.path:
            case "/echo":
                return Response(200, request.body, [("x-method", request.method)])
            case "/crash":
                raise KeyError("mistake")
            case "/none" | "/query":
                assert request.query is not None
                return None
            case "/wait":
                async with connection.watched():
                    await self.go.wait()
                self.after.append("gone" if connection.gone else "there")
                return Response(200, b"waited")
            case "/stream":
                async with connection.stream(200, [("content-type", "text/event-stream")]) as stream:
                    self.stream = stream
                    await stream.send(b"begin ")
                    await self.go.wait()
                    await stream.send(b"end")
                self.after.append("gone" if connection.gone else "done")
                return None
            case "/break":
                async with connection.stream() as stream:
                    raise KeyError("in the middle")
            case "/upgrade":
                transport, first = await connection.upgrade([("upgrade", "echo")])
                data = first
                while data:
                    await transport.send(data.upper())
                    data = await transport.receive()
                return None
        return Response(200, request.path.encode())

    @asynccontextmanager
    async def client(self, buffer_bytes: int = BUFFER_BYTES) -> AsyncIterator[MemoryTransport]:
        ours, theirs = pair(buffer_bytes=buffer_bytes)

        async def serve() -> None:
            try:
                await self.server.serve_one(theirs)
            except LinkLost:
                self.refusals["connection_lost"] += 1
            finally:
                theirs.abort()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.watch)
            nursery.start_soon(serve)
            yield ours
            nursery.cancel_scope.cancel()


async def answer(transport: MemoryTransport) -> tuple[int, dict[str, str], bytes]:
    """One answer with a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await transport.receive()
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += await transport.receive()
    assert len(body) == length
    return int(lines[0].split()[1]), headers, body


async def everything(transport: MemoryTransport) -> bytes:
    data = b""
    while piece := await transport.receive():
        data += piece
    return data


async def test_requests_of_one_connection_are_answered_one_after_the_other() -> None:
    site = Site()
    async with site.client() as client:
        for n in range(3):
            await client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n%d" % n)
            status, headers, body = await answer(client)
            assert (status, body, headers["x-method"]) == (200, b"%d" % n, "POST")
        assert site.server.statistics().requests == 3
        assert site.server.statistics().connections == 1
    assert site.server.statistics().connections == 0
    assert site.server.statistics().body_bytes_held == 0
    assert not site.refusals


async def test_pipelined_requests_are_answered_in_order_also_behind_one_that_waits() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(b"".join([GET % b"1", GET % b"wait", GET % b"2", CLOSE % b"3"]))
        assert (await answer(client))[2] == b"/1"
        await trio.testing.wait_all_tasks_blocked()
        assert site.begun == ["/1", "/wait"]
        site.go.set()
        rest = await everything(client)
        assert [rest.index(body) for body in (b"waited", b"/2", b"/3")] == sorted(
            rest.index(body) for body in (b"waited", b"/2", b"/3")
        )
        assert rest.count(b"HTTP/1.1 200") == 3
        assert rest.count(b"Connection: close") == 1


async def test_many_pipelined_requests_in_one_piece_are_all_answered() -> None:
    site = Site()
    async with site.client(1 << 20) as client:
        await client.send(GET % b"x" * 1000 + CLOSE % b"x")
        assert (await everything(client)).count(b"HTTP/1.1 200 OK") == 1001


async def test_a_half_closed_client_still_gets_its_answers() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"a" + GET % b"b")
        await client.send_eof()
        assert (await everything(client)).count(b"HTTP/1.1 200 OK") == 2
    assert not site.refusals


async def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(b"HEAD /abc HTTP/1.1\r\nHost: h\r\n\r\n" + CLOSE % b"d")
        data = await everything(client)
        assert b"Content-Length: 4\r\n\r\nHTTP/1.1 200" in data


async def test_an_http_1_0_client_is_answered_and_its_connection_closed() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert (await everything(client)).endswith(b"/old")


async def test_a_client_that_expects_100_gets_it_before_the_body() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert await client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await answer(client))[2] == b"body"


async def test_a_body_too_large_is_refused_before_it_is_sent() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n"
        )
        status, headers, body = await answer(client)
        assert status == 413
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["code"] == "MESH-E007"
    assert site.refusals == {"body_too_large": 1}


async def test_answers_before_a_refused_request_come_first_and_the_connection_ends() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"good" + b"GET /bad HTTP/3.9\r\n\r\n" + GET % b"never")
        assert (await answer(client))[2] == b"/good"
        status, headers, _ = await answer(client)
        assert (status, headers["connection"]) == (505, "close")
        assert await client.receive() == b""
    assert site.begun == ["/good"]
    assert site.refusals == {"unsupported_version": 1}


async def test_a_handler_that_crashes_answers_500_and_the_next_request_is_served() -> None:
    site = Site()
    with capture_logs() as logs:
        async with site.client() as client:
            await client.send(GET % b"crash")
            status, _, body = await answer(client)
            assert status == 500
            assert json.loads(body)["code"] == "MESH-A014"
        async with site.client() as client:
            await client.send(GET % b"none")
            assert (await answer(client))[0] == 500
        async with site.client() as client:
            await client.send(GET % b"fine")
            assert (await answer(client))[0] == 200
    assert site.crashes.counts == {"request": 2}
    assert len(logs) == 2


async def test_a_query_that_does_not_decode_is_the_clients_mistake() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"query?a=%zz")
        assert (await answer(client))[0] == 400
    assert site.refusals == {"bad_target": 1}
    assert site.crashes.counts == {}


async def test_a_slow_request_is_answered_408_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    async with site.client() as client:
        begun = trio.current_time()
        await client.send(b"GET / HT")
        for byte in (b"T", b"P", b"/"):
            await trio.sleep(3)
            await client.send(byte)
        status, headers, _ = await answer(client)
        assert (status, headers["connection"]) == (408, "close")
        assert 10 <= trio.current_time() - begun <= 11.1
        assert await client.receive() == b""
    assert site.refusals == {"slow_sender": 1}


async def test_a_slow_body_is_cut_off_too(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"first" + b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
        assert (await answer(client))[0] == 200
        for _ in range(4):
            await client.send(b"x")
            await trio.sleep(2)
        assert (await answer(client))[0] == 408
    assert site.server.statistics().body_bytes_held == 0


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"x")
        await answer(client)
        begun = trio.current_time()
        assert await client.receive() == b""
        assert 75 <= trio.current_time() - begun <= 77
    assert not site.refusals


async def test_a_handler_may_take_longer_than_any_limit(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"wait")
        await trio.sleep(300)
        site.go.set()
        assert (await answer(client))[2] == b"waited"
    assert site.after == ["there"]


async def test_a_client_that_reads_nothing_is_expired(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    async with site.client(buffer_bytes=READ_BYTES) as client:
        body = b"x" * 300_000
        with trio.move_on_after(200):
            await client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n" + body)
        await trio.sleep(100)
        with pytest.raises(LinkLost):
            await everything(client)
    assert site.refusals == {"slow_reader": 1}


async def test_a_client_that_reads_slowly_gets_everything(autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    async with site.client(buffer_bytes=READ_BYTES) as client:
        body = bytes(range(256)) * 1200
        await client.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        got = b""
        while piece := await client.receive(20_000):
            got += piece
            await trio.sleep(20)
        assert got.endswith(body)
    assert not site.refusals


async def test_a_body_cut_short_is_counted() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
        await client.send_eof()
        assert await everything(client) == b""
    assert site.refusals == {"cut_short": 1}
    assert site.server.statistics().body_bytes_held == 0


async def test_a_stream_is_chunked_and_the_connection_goes_on_behind_it() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"stream")
        await trio.testing.wait_all_tasks_blocked()
        assert site.stream is not None
        assert site.stream.try_send(b"mid ")
        assert not site.stream.pending
        await client.send(CLOSE % b"next")  # early: kept until the stream is over
        await trio.testing.wait_all_tasks_blocked()
        site.go.set()
        data = await everything(client)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert rest.startswith(b"6\r\nbegin \r\n4\r\nmid \r\n3\r\nend\r\n0\r\n\r\nHTTP/1.1 200 OK")
    assert data.endswith(b"/next")
    assert site.after == ["done"]


async def test_a_stream_for_http_1_0_ends_with_the_connection() -> None:
    site = Site()
    site.go.set()
    async with site.client() as client:
        await client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        data = await everything(client)
    assert b"chunked" not in data
    assert b"Connection: close" in data
    assert data.endswith(b"\r\n\r\nbegin end")


async def test_head_of_a_stream_ends_at_once() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(b"HEAD /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        data = await everything(client)
    assert data.endswith(b"\r\n\r\n")
    assert data.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_a_client_that_leaves_a_stream_is_noticed_at_once(how: str) -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"stream")
        await trio.testing.wait_all_tasks_blocked()
        if how == "eof":
            await client.aclose()
        else:
            client.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert site.after == ["gone"]
        assert site.stream is not None
        assert site.stream.gone
        assert site.stream.try_send(b"into the void")
        assert site.server.statistics().connections == 0
    assert site.crashes.counts == {}


async def test_a_client_that_leaves_while_its_request_waits_is_noticed() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(GET % b"wait")
        await trio.testing.wait_all_tasks_blocked()
        client.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert site.after == ["gone"]
        assert site.server.statistics().connections == 0


async def test_a_client_that_sends_much_during_a_stream_is_cut_off() -> None:
    site = Site()
    async with site.client(1 << 20) as client:
        await client.send(GET % b"stream")
        await client.send(b"x" * (2 * READ_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        assert site.after == ["gone"]
    assert site.refusals == {"pipelined_too_much": 1}


async def test_try_send_takes_a_chunk_whole_or_not_at_all() -> None:
    site = Site()
    async with site.client(buffer_bytes=1000) as client:
        await client.send(GET % b"stream")
        await trio.testing.wait_all_tasks_blocked()
        stream = site.stream
        assert stream is not None
        sent = 0
        while stream.try_send(b"x" * 300):
            sent += 1
        assert stream.pending or sent > 0
        assert not stream.try_send(b"y")
        await client.receive()
        await stream.flush()
        assert not stream.pending
        assert stream.try_send(b"tail")
        site.go.set()
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += await client.receive()
        assert data.count(b"\r\n4\r\ntail\r\n3\r\nend\r\n") == 1


async def test_a_handler_that_crashes_in_a_stream_breaks_the_answer_off() -> None:
    site = Site()
    with capture_logs():
        async with site.client() as client:
            await client.send(GET % b"break")
            with pytest.raises(LinkLost, match="reset"):
                await everything(client)
    assert site.crashes.counts == {"request": 1}


async def test_a_websocket_upgrade_hands_over_the_transport_and_what_came_behind() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(
            b"GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        )
        data = b""
        while not data.endswith(b"EARLY"):
            data += await client.receive()
        assert data.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"Content-Length" not in data
        await client.send(b"late")
        assert await client.receive() == b"LATE"
        await client.send_eof()
        assert await client.receive() == b""


async def test_draining_ends_idle_connections_now_and_others_behind_their_answer() -> None:
    site = Site()
    async with site.client() as idle, site.client() as busy:
        await idle.send(GET % b"x")
        await answer(idle)
        await busy.send(GET % b"wait")
        await trio.testing.wait_all_tasks_blocked()
        site.server.drain()
        assert await idle.receive() == b""
        site.go.set()
        _, headers, body = await answer(busy)
        assert (headers["connection"], body) == ("close", b"waited")
        assert await busy.receive() == b""


async def test_clients_over_the_limit_are_told_503_and_the_others_notice_nothing() -> None:
    site = Site(Limits(client_connections=1))
    async with site.client() as first:
        await first.send(GET % b"a")
        assert (await answer(first))[0] == 200
        async with site.client() as second:
            status, headers, body = await answer(second)
            assert status == 503
            assert headers["retry-after"] == "1"
            assert json.loads(body)["code"] == "MESH-E017"
        await first.send(GET % b"a")
        assert (await answer(first))[0] == 200
    async with site.client() as third:
        await third.send(GET % b"a")
        assert (await answer(third))[0] == 200
    assert site.refusals == {"too_many_connections": 1}


async def test_every_byte_alone_makes_the_same_requests() -> None:
    site = Site()
    async with site.client() as client:
        for byte in GET % b"a" + CLOSE % b"b":
            await client.send(bytes([byte]))
        assert (await everything(client)).count(b"HTTP/1.1 200") == 2


async def test_a_request_of_a_foreign_web_page_is_refused_and_counted_and_reaches_nobody() -> None:
    site = Site()
    async with site.client() as client:
        await client.send(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n"
        )
        status, _, body = await answer(client)
        assert (status, json.loads(body)["code"]) == (403, "MESH-A021")
    assert site.begun == []
    assert site.refusals == {"foreign_origin": 1}
