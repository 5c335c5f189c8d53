"""The Python client's connection: made, refused, lost and made again, against a served events port."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.events_port import binary, events_port
from node.fake_service import FakeService
from node.python_client import connected

from mesh.client import CallRefused, Client, ConnectionLost
from mesh.client_connection import ClientConnection
from mesh.model.errors import MeshError


class TestConnection:
    async def test_where_nobody_listens_the_error_says_so(self) -> None:
        async with events_port() as port:
            url = port.url
        for address in (url, "http://127.0.0.1:99999", "ftp://x", "http://"):
            with pytest.raises(ConnectionLost) as lost:
                async with Client(address):
                    pytest.fail("connected")
            assert lost.value.code == "MESH-A002"
            assert address in str(lost.value)

    async def test_a_node_that_refuses_is_quoted(self) -> None:
        async with events_port(FakeService(most_sessions=0)) as port:
            with pytest.raises(CallRefused) as refused:
                async with Client(port.url):
                    pytest.fail("connected")
            assert refused.value.code == "MESH-E017"

    async def test_something_that_is_no_node_is_told_apart(self) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, _answer_404, 0)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(MeshError, match="404"):
                async with Client(f"http://127.0.0.1:{port}"):
                    pytest.fail("connected")
            nursery.cancel_scope.cancel()

    async def test_the_next_address_is_tried(self) -> None:
        async with events_port() as port, Client(["http://127.0.0.1:1", port.url]) as client:
            assert (await client.publish("t", b"x")).mesh_id == "eu/eu-1/7/1"

    async def test_a_lost_connection_is_made_again_and_subscriptions_with_it(self) -> None:
        async with connected() as (port, client), await client.subscribe("t") as subscription:
            port.service.publish([binary("t", b"1")])
            assert (await anext(subscription)).data == "1"
            port.service.drain()
            await port.service.until(lambda: not port.service.sinks)
            port.service.draining = False
            await port.service.until(lambda: bool(port.service.subscriptions))
            port.service.publish([binary("t", b"2")])
            assert (await anext(subscription)).data == "2"
            assert client.reconnects == 1
            assert (await client.publish("u", b"x")).local == 0

    async def test_a_call_under_way_is_lost_with_its_connection(self) -> None:
        async with connected() as (port, client), trio.open_nursery() as nursery:
            await client.subscribe("svc")

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(ConnectionLost):
                    await client.request("svc", b"x", timeout_s=60)

            await port.service.until(lambda: len(port.service._inboxes) == 1)
            port.service.drain()

    async def test_a_subscription_refused_after_reconnecting_ends_with_the_reason(self) -> None:
        async with connected() as (port, client):
            subscription = await client.subscribe("t")

            def refuse(*_: object) -> None:
                from mesh.node.service import RefusedError

                raise RefusedError("MESH-E018", "full", status=429)

            port.service.subscribe = refuse  # type: ignore[method-assign]
            port.service.drain()
            port.service.draining = False
            with pytest.raises(CallRefused) as refused:
                await anext(subscription)
            assert refused.value.code == "MESH-E018"

    async def test_without_a_connection_a_call_waits_for_the_next_and_not_for_ever(self) -> None:
        async with events_port() as port, Client(port.url, connect_timeout_s=0.2) as client:
            port.service.drain()
            await port.service.until(lambda: not port.service.sinks)
            with pytest.raises(ConnectionLost):
                await client.publish("t", b"x")

    async def test_an_exception_of_the_body_passes_as_it_is(self) -> None:
        async with events_port() as port:
            with pytest.raises(KeyError, match="mine"):
                async with Client(port.url):
                    raise KeyError("mine")

    async def test_a_cancelled_body_leaves_no_task_behind(self) -> None:
        async with events_port() as port:
            with trio.move_on_after(0.05) as scope:
                async with Client(port.url) as client, await client.subscribe("t") as subscription:
                    await anext(subscription)
            assert scope.cancelled_caught
            await port.service.until(lambda: not port.service.sinks)

    async def test_leaving_ends_iterations_that_are_under_way(self) -> None:
        async with events_port() as port, trio.open_nursery() as nursery:
            async with Client(port.url) as client:
                subscription = await client.subscribe("t")
                ended = trio.Event()

                @nursery.start_soon
                async def listen() -> None:
                    async for _ in subscription:
                        pytest.fail("nothing was published")
                    ended.set()

                await trio.testing.wait_all_tasks_blocked()
            await ended.wait()


async def _answer_404(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")


# -- the connection alone --------------------------------------------------------------------------------------------


async def nothing(answer: object) -> None:
    raise AssertionError("no event was sent")


@pytest.mark.parametrize(
    "url",
    ["ftp://x:1", "http://", "http://:80", "http://h:port", "http://h:99999", "", "://x", "http://[::1"],
)
async def test_what_is_no_address_of_an_events_port_is_told_before_anything_is_dialled(url: str) -> None:
    connection = ClientConnection([url], 1, nothing, lambda nursery: 1)
    with pytest.raises(ConnectionLost, match="write http://HOST:PORT"):
        await connection.run()


async def test_credit_is_given_back_some_at_a_time_and_only_to_the_connection_that_spent_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    granted: list[int] = []

    async def grant(self: ClientConnection, events: int) -> None:
        granted.append(events)

    monkeypatch.setattr(ClientConnection, "grant", grant)
    connection = ClientConnection(["http://h:1"], 1, nothing, lambda nursery: 1)
    connection.number = 2
    for _ in range(600):
        await connection.consumed(1)
    assert granted == [], "events of the connection before: the new one began with credit of its own"
    for _ in range(600):
        await connection.consumed(2)
    assert granted == [250, 250]


async def test_a_call_that_is_given_up_is_forgotten_and_its_late_answer_harms_nobody() -> None:
    async with events_port() as port:
        async with trio.open_nursery() as nursery:
            connection = ClientConnection([port.url], 5, nothing, lambda nursery: 1)
            await nursery.start(connection.run)
            assert connection.connected
            with trio.move_on_after(0) as scope:
                await connection.call({"op": "ping"})
            assert scope.cancelled_caught
            assert (await connection.call({"op": "ping"})).op == "ok"
            assert connection._calls == {}
            nursery.cancel_scope.cancel()


async def test_after_closing_calls_are_lost_and_not_sent() -> None:
    async with events_port() as port:
        async with trio.open_nursery() as nursery:
            connection = ClientConnection([port.url], 0.05, nothing, lambda nursery: 1)
            await nursery.start(connection.run)
            await connection.close()
            assert not connection.connected
            with pytest.raises(ConnectionLost):
                await connection.call({"op": "ping"})
            nursery.cancel_scope.cancel()
