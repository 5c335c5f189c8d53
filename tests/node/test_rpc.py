"""gRPC on trio, against a real gRPC server in threads, and against ports that are no such thing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trio

from registry.rpc import RECEIVE_QUEUE, SEND_QUEUE, RpcChannel, RpcError

Handler = Callable[..., object]


class Service(grpc.GenericRpcHandler):
    """/t/Echo answers, /t/Wait waits until it is cancelled, /t/Fail fails, /t/Chat repeats, /t/Flood never stops."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.sent = 0
        self.metadata: tuple[tuple[str, str], ...] = ()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        match details.method:
            case "/t/Echo":
                self.metadata = tuple((str(key), str(value)) for key, value in details.invocation_metadata)
                return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
            case "/t/Wait":
                return grpc.unary_unary_rpc_method_handler(self.wait)
            case "/t/Fail":
                return grpc.unary_unary_rpc_method_handler(self.fail)
            case "/t/Chat":
                return grpc.stream_stream_rpc_method_handler(self.chat)
            case "/t/Flood":
                return grpc.stream_stream_rpc_method_handler(self.flood)
        return None

    def wait(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(20)
        return b""

    def fail(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")

    def chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            if request == b"stop":
                return
            if request == b"fail":
                context.abort(grpc.StatusCode.DATA_LOSS, "as asked")
            yield request

    def flood(self, _: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        while context.is_active():
            self.sent += 1
            yield b"x" * 8192


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, handlers=(service,))
    service.port = server.add_insecure_port("127.0.0.1:0")  # type: ignore[attr-defined]
    server.start()
    yield service
    service.cancelled.set()
    server.stop(0).wait(5)
    pool.shutdown()


def channel(port: int, **options: float) -> RpcChannel:
    return RpcChannel(f"127.0.0.1:{port}", credentials=None, receive_bytes=100_000, **options)


@pytest.fixture
def hung_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


CHAT = """
import grpc, time
from concurrent.futures import ThreadPoolExecutor
handler = grpc.stream_stream_rpc_method_handler(lambda requests, context: (request for request in requests))
class Service(grpc.GenericRpcHandler):
    def service(self, details):
        return handler
options = [("grpc.http2.min_ping_interval_without_data_ms", 100)]
server = grpc.server(ThreadPoolExecutor(8), handlers=(Service(),), options=options)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
time.sleep(60)
"""


@pytest.fixture
def chat_process() -> Iterator[tuple[int, int]]:
    """Port and process id of a server that can be stopped."""
    process = subprocess.Popen([sys.executable, "-c", CHAT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def eventually(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.01)


def of_grpc(before: set[threading.Thread]) -> list[str]:
    """Threads that were not there before; trio's worker threads are not counted."""
    return [t.name for t in threading.enumerate() if t not in before and "rio" not in t.name]


class TestCalls:
    async def test_an_answer_is_the_bytes_that_were_sent(self, service: Service) -> None:
        async with channel(service.port) as one:
            assert await one.unary("/t/Echo", b"\x00abc", timeout_s=5, metadata=[("k", "v")]) == b"\x00abc"
            assert await one.unary("/t/Echo", b"", timeout_s=5) == b""

    async def test_metadata_arrives(self, service: Service) -> None:
        async with channel(service.port) as one:
            await one.unary("/t/Echo", b"", timeout_s=5, metadata=[("token", "v")])
        assert ("token", "v") in service.metadata

    async def test_a_failure_has_its_code_and_details(self, service: Service) -> None:
        async with channel(service.port) as one:
            with pytest.raises(RpcError) as error:
                await one.unary("/t/Fail", b"", timeout_s=5)
            assert (error.value.code, error.value.details) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
            with pytest.raises(RpcError) as error:
                await one.unary("/t/None", b"", timeout_s=5)
            assert error.value.code is grpc.StatusCode.UNIMPLEMENTED

    async def test_a_call_ends_at_its_deadline(self, service: Service, hung_port: int) -> None:
        for port, method in ((service.port, "/t/Wait"), (hung_port, "/t/Echo")):
            async with channel(port) as one:
                with trio.fail_after(3), pytest.raises(RpcError) as error:
                    await one.unary(method, b"", timeout_s=0.3)
                assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED

    async def test_a_refused_port_is_unavailable_at_once(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            async with channel(closed.getsockname()[1]) as one:
                with trio.fail_after(3), pytest.raises(RpcError) as error:
                    await one.unary("/t/Echo", b"", timeout_s=10)
        assert error.value.code is grpc.StatusCode.UNAVAILABLE

    async def test_cancelling_the_task_cancels_the_call_at_the_peer(self, service: Service) -> None:
        async with channel(service.port) as one:
            with trio.move_on_after(0.3) as scope:
                await one.unary("/t/Wait", b"", timeout_s=60)
            assert scope.cancelled_caught
            await eventually(service.cancelled.is_set)

    async def test_an_answer_that_is_too_large_is_refused(self, service: Service) -> None:
        async with channel(service.port) as one:
            with pytest.raises(RpcError) as error:
                await one.unary("/t/Echo", b"x" * 200_000, timeout_s=5)
            assert error.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_many_calls_at_once(self, service: Service) -> None:
        async def call(number: int) -> None:
            assert await one.unary("/t/Echo", b"%d" % number, timeout_s=10) == b"%d" % number

        async with channel(service.port) as one, trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(call, number)

    async def test_a_closed_channel_refuses(self, service: Service) -> None:
        one = channel(service.port)
        await one.aclose()
        await one.aclose()
        with pytest.raises(RpcError):
            await one.unary("/t/Echo", b"", timeout_s=5)
        with pytest.raises(RpcError):
            one.stream("/t/Chat")


class TestStreams:
    async def test_both_sides_speak(self, service: Service) -> None:
        async with channel(service.port) as one:
            stream = one.stream("/t/Chat")
            for number in range(300):
                stream.send(b"%d" % number)
                assert await stream.receive() == b"%d" % number

    @pytest.mark.parametrize(
        ("word", "code"), [(b"stop", grpc.StatusCode.OK), (b"fail", grpc.StatusCode.DATA_LOSS)]
    )
    async def test_the_end_is_raised_after_what_came_before_it(
        self, service: Service, word: bytes, code: grpc.StatusCode
    ) -> None:
        async with channel(service.port) as one:
            stream = one.stream("/t/Chat")
            stream.send(b"a")
            stream.send(word)
            assert await stream.receive() == b"a"
            for _ in range(2):
                with pytest.raises(RpcError) as error:
                    await stream.receive()
                assert error.value.code is code
            with pytest.raises(RpcError):
                stream.send(b"more")

    async def test_a_reader_that_stands_still_holds_the_peer_and_loses_nothing(
        self, service: Service
    ) -> None:
        async with channel(service.port) as one:
            stream = one.stream("/t/Flood")
            await stream.receive()
            sent = -1
            while sent != service.sent:
                sent = service.sent
                await trio.sleep(0.2)
            for _ in range(3 * RECEIVE_QUEUE):
                assert len(await stream.receive()) == 8192
            stream.close()
            await stream.ended()

    async def test_what_a_peer_does_not_take_is_refused(self, hung_port: int) -> None:
        async with channel(hung_port) as one:
            stream = one.stream("/t/Chat")
            for _ in range(SEND_QUEUE):
                stream.send(b"x")
            with pytest.raises(RpcError) as error:  # noqa: PT012 - grpcio's thread may have taken one already
                stream.send(b"x")
                stream.send(b"x")
            assert error.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_closing_wakes_who_receives(self, service: Service) -> None:
        async with channel(service.port) as one, trio.open_nursery() as nursery:
            stream = one.stream("/t/Chat")

            @nursery.start_soon
            async def receive() -> None:
                with pytest.raises(RpcError) as error:
                    await stream.receive()
                assert error.value.code is grpc.StatusCode.CANCELLED

            await trio.testing.wait_all_tasks_blocked()
            stream.close()

    async def test_cancelling_receive_loses_nothing(self, service: Service) -> None:
        async with channel(service.port) as one:
            stream = one.stream("/t/Chat")
            with trio.move_on_after(0.1):
                await stream.receive()
            stream.send(b"a")
            assert await stream.receive() == b"a"

    async def test_a_peer_that_fell_silent_is_given_up(self, chat_process: tuple[int, int]) -> None:
        """A server process that is stopped takes bytes and answers no ping."""
        port, pid = chat_process
        async with channel(port, keepalive_s=1.0, keepalive_timeout_s=1.0) as one:
            stream = one.stream("/t/Chat")
            stream.send(b"a")
            assert await stream.receive() == b"a"
            os.kill(pid, signal.SIGSTOP)
            with trio.fail_after(10), pytest.raises(RpcError) as error:
                await stream.receive()
            assert error.value.code is grpc.StatusCode.UNAVAILABLE


class TestThreads:
    async def test_none_is_left_after_closing(self, chat_process: tuple[int, int]) -> None:
        before = set(threading.enumerate())
        one = channel(chat_process[0])
        for _ in range(4):
            stream = one.stream("/t/Chat")
            stream.send(b"a")
            await stream.receive()
        assert len(of_grpc(before)) >= 4
        await one.aclose()
        await eventually(lambda: not of_grpc(before))

    async def test_a_peer_that_is_stopped_does_not_keep_them(self, chat_process: tuple[int, int]) -> None:
        before = set(threading.enumerate())
        one = channel(chat_process[0])
        stream = one.stream("/t/Chat")
        stream.send(b"a")
        await stream.receive()
        os.kill(chat_process[1], signal.SIGSTOP)
        with trio.fail_after(1.0):
            await one.aclose()
        await eventually(lambda: not of_grpc(before))

    async def test_a_hung_peer_does_not_hold_up_closing(self, hung_port: int) -> None:
        before = set(threading.enumerate())
        one = channel(hung_port)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                with pytest.raises(RpcError):
                    await one.unary("/t/Echo", b"", timeout_s=60)

            stream = one.stream("/t/Chat")
            stream.send(b"a")
            await trio.sleep(0.2)
            with trio.fail_after(1.0):
                await one.aclose()
        await eventually(lambda: not of_grpc(before))

    async def test_cancelled_closing_closes(self, chat_process: tuple[int, int]) -> None:
        before = set(threading.enumerate())
        one = channel(chat_process[0])
        stream = one.stream("/t/Chat")
        stream.send(b"a")
        await stream.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            await one.aclose()
        await eventually(lambda: not of_grpc(before))


def test_a_node_without_such_a_registry_never_imports_grpc() -> None:
    script = "import sys, mesh.app, mesh.cli.run, registry.base; print([m for m in sys.modules if m.partition('.')[0] in ('grpc', 'google')])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
