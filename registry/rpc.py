"""gRPC for trio: one endpoint's channel, with calls that are awaited and streams of bytes.

Decides how grpcio's threads meet trio's tasks: a call's end is told to the run by its callback, a stream is read by one thread.
Never decides which endpoint is right, what a message means (bytes in, bytes out), or whether to try again.

| bound                    | policy                                                                              |
|--------------------------|-------------------------------------------------------------------------------------|
| a call                   | has a deadline; cancelling the task cancels it                                      |
| received and unread      | RECEIVE_QUEUE messages a stream; then the thread waits, and HTTP/2 holds the peer   |
| to be sent               | SEND_QUEUE messages a stream; a further one is refused                              |
| one message              | `receive_bytes`; larger: RpcError RESOURCE_EXHAUSTED                                |
| a peer that says nothing | is asked every `keepalive_s` while a call or stream is open, and given up `keepalive_timeout_s` later |

Invariant: after `aclose` no thread of the channel is left, whatever the peer does.
Source: gRPC core's channel arguments (grpc_types.h); trio's `TrioToken`, the only door from a thread into a run.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

# The core's own log lines would go to standard error between a node's. It reads this when it is loaded: so that this module is
# the only one that imports grpc.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import trio
from grpc import StatusCode

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["RpcChannel", "RpcError", "RpcStream", "StatusCode", "tls_credentials"]

RECEIVE_QUEUE: Final = 64
SEND_QUEUE: Final = 256
RECONNECT_MS: Final = (100, 1_000)
"""First and longest pause between attempts to connect. Who calls decides when another endpoint is better."""
CLOSE_S: Final = 2.0
"""Streams that did not end by then are left to the process: not seen so far."""

Metadata: TypeAlias = Sequence[tuple[str, str]]


class RpcError(Exception):
    """A call or stream ended without an answer. code: OK where the peer ended a stream in order."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


def tls_credentials(ca: bytes | None, cert: bytes | None, key: bytes | None) -> grpc.ChannelCredentials:
    """What a channel over TLS needs, from PEM. ca None: the machine's authorities are trusted."""
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


class RpcChannel:
    """A connection to one endpoint, made when it is first used and again when it was lost.

    Args: target: HOST:PORT. credentials: of TLS; None: clear text. receive_bytes: largest message taken.
    keepalive_s, keepalive_timeout_s: see above; a server may refuse to be asked more often than it allows (etcd: 5 s).
    Use it inside one trio run, and close it with `aclose` or `async with`.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        receive_bytes: int,
        keepalive_s: float = 10.0,
        keepalive_timeout_s: float = 5.0,
    ) -> None:
        self.target = target
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", receive_bytes),
            ("grpc.keepalive_time_ms", round(keepalive_s * 1_000)),
            ("grpc.keepalive_timeout_ms", round(keepalive_timeout_s * 1_000)),
            # What newer cores wait for the answer to a ping, whatever the line above says; 60 s if it is not set.
            ("grpc.http2.ping_timeout_ms", round(keepalive_timeout_s * 1_000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS[0]),
            ("grpc.min_reconnect_backoff_ms", RECONNECT_MS[1]),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS[1]),
            ("grpc.enable_retries", 0),
            # Otherwise channels of one process with one target share a connection, and renewed certificates are not seen.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)
        self._methods: dict[str, Any] = {}
        self._streams: set[RpcStream] = set()
        self._closed = False

    async def __aenter__(self) -> RpcChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def unary(self, method: str, request: bytes, *, timeout_s: float, metadata: Metadata = ()) -> bytes:
        """Call a method ("/package.Service/Method") and wait for its answer.

        A method that streams may be called so too: it gets one request, and its first answer is returned if it gives one only.
        Raises: RpcError (DEADLINE_EXCEEDED after `timeout_s`, UNAVAILABLE, what the peer says). Cost: no thread a call.
        """
        self._check_open()
        callee = self._methods.get(method)
        if callee is None:
            callee = self._methods[method] = self._channel.unary_unary(method)
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def tell(_: grpc.Future[bytes]) -> None:
            _tell(token, done.set)

        call = callee.future(request, timeout=timeout_s, metadata=tuple(metadata))
        try:
            call.add_done_callback(tell)
            await done.wait()
        finally:
            call.cancel()
        code = call.code()
        if code is not grpc.StatusCode.OK:
            raise RpcError(code, call.details() or "")
        answer: bytes = call.result()
        return answer

    def stream(self, method: str, *, metadata: Metadata = ()) -> RpcStream:
        """Open a bidirectional stream. It has no deadline. What is wrong with it is raised by `receive`."""
        self._check_open()
        stream = RpcStream(self._channel, method, metadata, self._streams.discard)
        self._streams.add(stream)
        return stream

    async def aclose(self) -> None:
        """End all calls and streams, and wait until their threads are gone. Never waits for the peer."""
        self._closed = True
        streams = list(self._streams)
        for stream in streams:
            stream.close()
        self._channel.close()
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
            for stream in streams:
                await stream.ended()

    def _check_open(self) -> None:
        if self._closed:
            raise RpcError(grpc.StatusCode.CANCELLED, "the channel is closed")


class RpcStream:
    """A bidirectional stream of a channel. One task reads. Made by `RpcChannel.stream`."""

    def __init__(
        self, channel: grpc.Channel, method: str, metadata: Metadata, forget: Callable[[RpcStream], None]
    ) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._forget = forget
        self._outbox = _Outbox()
        self._send, self._receive = trio.open_memory_channel[bytes](RECEIVE_QUEUE)
        self._slots = threading.Semaphore(RECEIVE_QUEUE)
        self._closing = False
        self._error = RpcError(grpc.StatusCode.CANCELLED, "the stream was closed")
        self._ended = trio.Event()
        callee: Any = channel.stream_stream(method)
        self._call: Any = callee(iter(self._outbox), metadata=tuple(metadata))
        self._thread = threading.Thread(target=self._read, name=f"grpc stream {method}", daemon=True)
        self._thread.start()

    def send(self, message: bytes) -> None:
        """Queue a message. Raises: RpcError RESOURCE_EXHAUSTED if the peer takes none, CANCELLED after `close`."""
        if self._closing or self._ended.is_set():
            raise RpcError(grpc.StatusCode.CANCELLED, "the stream is closed")
        if not self._outbox.put(message):
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the peer does not take what is sent")

    async def receive(self) -> bytes:
        """The next message. Cancelling loses nothing. Raises: RpcError, at the end of the stream and ever after."""
        try:
            message = await self._receive.receive()
        except trio.EndOfChannel:
            raise RpcError(self._error.code, self._error.details) from None
        self._slots.release()
        return message

    def close(self) -> None:
        """End the stream, without waiting."""
        self._closing = True
        self._outbox.close()
        self._slots.release()
        self._call.cancel()

    async def ended(self) -> None:
        """Wait until the thread of the stream is gone."""
        await self._ended.wait()
        self._thread.join()

    # -- in the thread -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        error = RpcError(grpc.StatusCode.OK, "the peer ended the stream")
        try:
            for message in self._call:
                self._slots.acquire()
                if self._closing or not _tell(self._token, self._send.send_nowait, message):
                    break
        except grpc.RpcError:
            error = RpcError(self._call.code(), self._call.details() or "")
        finally:
            self._outbox.close()
            self._call.cancel()
            _tell(self._token, self._end, error)

    def _end(self, error: RpcError) -> None:
        if not self._closing:
            self._error = error
        self._send.close()
        self._ended.set()
        self._forget(self)


class _Outbox:
    """What a stream still has to send: grpcio takes it from a thread of its own. Closing it ends that thread."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._open = True

    def put(self, message: bytes) -> bool:
        """False if it is full."""
        with self._changed:
            if len(self._messages) >= SEND_QUEUE:
                return False
            self._messages.append(message)
            self._changed.notify()
        return True

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while self._open and not self._messages:
                    self._changed.wait()
                if not self._open:
                    return
                message = self._messages.popleft()
            yield message


def _tell(token: trio.lowlevel.TrioToken, tell: Callable[..., object], *args: object) -> bool:
    """Have the run call something. False if it is over."""
    try:
        token.run_sync_soon(tell, *args)
    except trio.RunFinishedError:
        return False
    return True
