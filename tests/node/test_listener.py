"""Listening ports that nothing a client does can stop."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from mesh.model.errors import MeshError
from mesh.net.dial import dial
from mesh.net.listener import Listener, open_listener
from mesh.net.port_holder import port_holder
from mesh.net.supervise import Crashes
from mesh.net.transport import LinkLost, Transport


class Port:
    """A listener whose connections echo; "!" crashes the task, and "?" loses the connection."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.refusals: Counter[str] = Counter()
        self.crashes = Crashes()

    async def echo(self, transport: Transport) -> None:
        while data := await transport.receive():
            if data == b"!":
                raise RuntimeError("mistake")
            if data == b"?":
                raise LinkLost("gone")
            await transport.send(data)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.listener.serve(
            self.echo,
            kind="test",
            crashes=self.crashes,
            count_refusal=lambda reason: self.refusals.update([reason]),
            task_status=task_status,
        )


@asynccontextmanager
async def echo_port() -> AsyncIterator[Port]:
    port = Port(await open_listener("listen.test", "127.0.0.1:0"))
    async with trio.open_nursery() as nursery:
        await nursery.start(port.serve)
        yield port
        nursery.cancel_scope.cancel()


async def works(address: str) -> bool:
    async with dial(address, "tcp", 5) as transport:
        await transport.send(b"hello")
        return await transport.receive() == b"hello"


async def test_port_0_is_told_and_connections_are_counted() -> None:
    async with echo_port() as port:
        assert port.listener.port > 0
        assert port.listener.address == f"127.0.0.1:{port.listener.port}"
        async with dial(port.listener.address, "tcp", 5) as transport:
            await transport.send(b"a")
            await transport.receive()
            assert port.listener.connections == 1
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert port.listener.connections == 0
        assert port.listener.accepted == 1


async def test_a_crash_and_a_lost_connection_leave_the_others_alone() -> None:
    async with echo_port() as port:
        with capture_logs():
            async with dial(port.listener.address, "tcp", 5) as other:
                for sent in (b"!", b"?"):
                    async with dial(port.listener.address, "tcp", 5) as transport:
                        await transport.send(sent)
                        with pytest.raises(LinkLost):
                            await transport.receive()
                await other.send(b"still here")
                assert await other.receive() == b"still here"
        assert port.crashes.counts == {"test": 1}
        assert port.refusals == {"connection_lost": 1}


async def test_clients_that_reset_at_once_do_not_stop_the_port() -> None:
    async with echo_port() as port:
        host, number = "127.0.0.1", port.listener.port
        for _ in range(200):
            sock = socket.create_connection((host, number))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        assert await works(port.listener.address)


async def test_without_descriptors_clients_are_turned_away_and_later_ones_served() -> None:
    async with echo_port() as port:
        await trio.testing.wait_all_tasks_blocked()
        clients = [socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            for sock in clients:
                sock.connect(("127.0.0.1", port.listener.port))
            with trio.fail_after(5):
                while port.refusals["no_descriptors"] < 3:
                    await trio.testing.wait_all_tasks_blocked(0.02)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for sock in clients:
            with sock:
                assert sock.recv(1) == b""
        assert await works(port.listener.address)


async def test_closing_stops_accepting_and_lets_connections_end() -> None:
    port = Port(await open_listener("listen.test", "127.0.0.1:0"))
    async with trio.open_nursery() as nursery:
        await nursery.start(port.serve)
        async with dial(port.listener.address, "tcp", 5) as transport:
            await transport.send(b"a")
            await transport.receive()
            port.listener.close()
            port.listener.close()
            with pytest.raises(LinkLost):
                await works(port.listener.address)
            await transport.send(b"b")
            assert await transport.receive() == b"b"


async def test_a_port_in_use_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        with pytest.raises(MeshError) as caught:
            await open_listener("listen.events", f"127.0.0.1:{number}")
        assert caught.value.code == "MESH-C012"
        assert caught.value.where == "listen.events"
        assert f"port {number} is already used by pid {os.getpid()} (" in str(caught.value)
    assert port_holder(number) == ""


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1", "MESH-C005"),
        (":7222", "MESH-C005"),
        ("192.0.2.1:0", "MESH-C013"),
        ("nowhere.invalid:0", "MESH-C013"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_one_clear_error(address: str, code: str) -> None:
    with pytest.raises(MeshError) as caught:
        await open_listener("listen.link", address)
    assert caught.value.code == code


async def test_a_name_with_port_0_and_all_addresses_work() -> None:
    for address in ("localhost:0", "0.0.0.0:0"):
        listener = await open_listener("listen.link", address)
        assert listener.port
        listener.close()
