"""The connection below `mesh.client`: one WebSocket of mesh.v1.json, made again when it breaks; calls and their answers; credit.

Decides when to connect again, and that a call which was under way when a connection broke fails: nobody knows what it did.
Never decides what an op says.
Invariant: every call is answered, refused or lost. Source: docs/clients.md.
"""

from __future__ import annotations

import itertools
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast
from urllib.parse import urlsplit

import msgspec
import trio
import trio_websocket

from mesh.client_tls import client_context
from mesh.model.errors import ERRORS, MeshError
from mesh.net.supervise import unwrapped

_RECEIVE_BYTES: Final = 256 * 1024
_MESSAGE_BYTES: Final = 16 << 20
_BACKOFF_S: Final = (0.1, 5.0)
_GRANT_EVENTS: Final = 250  # consumed events are granted again in steps of this


class CallRefused(MeshError):
    """The node refused a call. code: row of the error table; problem: the whole RFC 9457 object."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = dict(problem)
        code = str(problem.get("code", ""))
        known = code if code in ERRORS else "MESH-E011"
        super().__init__(known, "", str(problem.get("detail", "refused")), str(problem.get("remedy", "")))
        self.code = code


class ConnectionLost(MeshError):
    """The connection to the node is gone: what the call did is unknown, or it could not be made in time."""

    def __init__(self, what: str, url: str) -> None:
        super().__init__("MESH-A002", url, what)


class Answer(msgspec.Struct, gc=False):
    """Any op of the node."""

    op: str
    id: int | None = None
    sids: list[int] = []
    sid: int = -1
    topic: str = ""
    mesh_id: str = ""
    path: list[str] = []
    redelivered: bool = False
    replayed: bool | int = False
    reason: str = ""
    since: str | None = None
    until: str | None = None
    deliveries: int = 0
    client: str = ""
    subscriptions: list[dict[str, Any]] = []
    waiting: int = 0
    reply_to: str = ""
    correlation: str = ""
    event: msgspec.Raw = msgspec.Raw(b"")
    events: list[dict[str, Any]] | int | None = []
    problem: dict[str, Any] = {}
    installed: list[str] = []
    missing: list[dict[str, str]] = []
    complete: bool = True


_decode: Final = msgspec.json.Decoder(Answer).decode


class Call:
    """A call whose answer is awaited."""

    __slots__ = ("answered", "lost", "result")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.result: Answer | None = None
        self.lost = ""


class ClientConnection:
    """Keeps a connection to one of several addresses.

    Args:
        deliver: called with each `event`, `live` and `gap` op, in order. resume: called with a nursery of the connection whenever one was made;
            returns the credit it begins with. timeout_s: for connecting, and for a call made while there is no connection.
    """

    def __init__(
        self,
        urls: Sequence[str],
        timeout_s: float,
        deliver: Callable[[Answer], Awaitable[None]],
        resume: Callable[[trio.Nursery], int],
        *,
        path: str = "/v1/ws",
        resumed: Callable[[Answer], None] | None = None,
        ended: Callable[[MeshError], None] | None = None,
        token: str | Callable[[], str] = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._token = token
        self._tls = tls
        self.urls = tuple(urls)
        self.number = 0
        """Counts the connections made."""
        self.final: MeshError | None = None
        """Why there will be no connection any more: another one took over, or the client was removed."""
        self._timeout_s = timeout_s
        self._deliver = deliver
        self._resume = resume
        self._path = path
        self._resumed = resumed
        self._ended = ended
        self._ids = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._receipts: dict[int, Call] = {}
        self._socket: trio_websocket.WebSocketConnection | None = None
        self._connected = trio.Event()
        self._stop: trio.CancelScope | None = None
        self._closing = False
        self._unread = 0
        self._turn = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection now, as far as is known."""
        return self._socket is not None

    # -- calls ------------------------------------------------------------------------------------------

    async def call(self, op: dict[str, Any]) -> Answer:
        """Send an op and wait for its answer. Raises: CallRefused; ConnectionLost."""
        call, number = Call(), next(self._ids)
        self._calls[number] = call
        try:
            await self._send(op | {"id": number})
            return await self.answer_of(call)
        finally:
            self._calls.pop(number, None)

    def expect_receipt(self, sid: int) -> Call:
        """To be asked for before the subscribe is sent, and given back with `forget_receipt`."""
        self._receipts[sid] = call = Call()
        return call

    def forget_receipt(self, sid: int) -> None:
        """No receipt is waited for any more. Idempotent."""
        self._receipts.pop(sid, None)

    async def answer_of(self, call: Call) -> Answer:
        """Wait for an answer. Raises: CallRefused; ConnectionLost."""
        await call.answered.wait()
        if call.result is None:
            self._lost(call.lost)
        if call.result.op == "error":
            raise CallRefused(call.result.problem)
        return call.result

    async def _send(self, op: dict[str, Any]) -> None:
        if self._socket is None:
            with trio.move_on_after(self._timeout_s):
                await self._connected.wait()
        socket = self._socket
        if socket is None:
            self._lost("there is no connection")
        try:
            await self._write(socket, msgspec.json.encode(op).decode())
        except trio_websocket.ConnectionClosed as closed:
            self._lost(_why(closed))

    async def _write(self, socket: trio_websocket.WebSocketConnection, text: str) -> None:
        """Send a text whole: a caller that is cancelled must not leave half a frame. Raises: ConnectionClosed."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._timeout_s) as scope:
            await socket.send_message(text)
        if scope.cancelled_caught:
            if self._stop is not None:
                self._stop.cancel()  # the node does not read: what was sent of the frame is of no use
            raise trio_websocket.ConnectionClosed(None)

    def _lost(self, what: str) -> NoReturn:
        raise ConnectionLost(what, self.urls[self._turn % len(self.urls)])

    async def say(self, op: dict[str, Any]) -> None:
        """Send an op that is not answered. Raises: ConnectionLost."""
        await self._send(op)

    # -- credit -----------------------------------------------------------------------------------------

    async def consumed(self, number: int) -> None:
        """An event of connection `number` has left its queue: let the node send others, some at a time."""
        if number == self.number:
            self._unread += 1
            if self._unread >= _GRANT_EVENTS:
                granted, self._unread = self._unread, 0
                await self.grant(granted)

    async def grant(self, events: int) -> None:
        """Let the node send so many more events."""
        socket = self._socket
        if socket is not None:
            try:
                await self._write(socket, f'{{"op":"credit","events":{events}}}')
            except trio_websocket.ConnectionClosed:
                return  # the next connection begins with credit of its own

    # -- life -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, receive, and again, until cancelled. Raises: only where no address answers at first."""
        begun, pause_s = False, _BACKOFF_S[0]
        try:
            while True:
                before = self.number
                why = await self._connect_once(task_status, begun)
                begun = True
                self._disconnected(why)
                if self.final is not None:
                    if self._ended is not None:
                        self._ended(self.final)
                    return
                self._turn += 1
                if self.number > before:
                    pause_s = _BACKOFF_S[0]
                await trio.sleep(random.uniform(pause_s / 2, pause_s))
                pause_s = min(pause_s * 2, _BACKOFF_S[1])
        finally:
            self._disconnected("the client was closed")

    async def _connect_once(self, task_status: trio.TaskStatus[None], begun: bool) -> str:
        """One connection to its end; returns why it ended. Raises: where it is the first, and no address answers."""
        while True:
            try:
                url = self.urls[self._turn % len(self.urls)]
                with trio.fail_after(self._timeout_s):
                    stream, host = await _open_stream(url, self._tls)
                # trio-websocket leaves the stream of a refused opening to its collector: it is closed here.
                with unwrapped():
                    async with stream, trio.open_nursery() as nursery:
                        socket = await self._connect(nursery, stream, host)
                        self._stop = nursery.cancel_scope
                        self._adopt(socket)
                        await self.grant(self._resume(nursery))
                        if not begun:
                            begun = True
                            task_status.started()
                        await self._receive(socket)
                return "the node does not read"
            except _BROKEN as error:
                if begun:
                    self.final = _final(error, url)
                    return _why(error)
                self._turn += 1
                if self._turn >= len(self.urls):
                    raise _first_failure(error, ", ".join(self.urls)) from None

    async def _connect(
        self, nursery: trio.Nursery, stream: trio.abc.Stream, host: str
    ) -> trio_websocket.WebSocketConnection:
        with trio.fail_after(self._timeout_s):
            return await trio_websocket.wrap_client_stream(
                nursery,
                cast("trio.SocketStream", stream),
                host,
                self._path,
                subprotocols=["mesh.v1.json"],
                extra_headers=self._proof(),
                max_message_size=_MESSAGE_BYTES,
                receive_buffer_size=_RECEIVE_BYTES,
            )

    def _proof(self) -> list[tuple[bytes, bytes]]:
        token = self._token() if callable(self._token) else self._token
        return [(b"authorization", b"Bearer " + token.encode())] if token else []

    def _adopt(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self.number += 1
        self._unread = 0
        self._connected.set()

    async def _receive(self, socket: trio_websocket.WebSocketConnection) -> None:
        while True:
            try:
                text = await socket.get_message()
            except trio_websocket.ConnectionClosed:
                if not self._closing:
                    raise
                await trio.sleep_forever()  # `close` is still waiting for the node's close frame
            answer = _decode(text)
            if answer.op in ("event", "live", "gap"):
                await self._deliver(answer)
            elif answer.op == "resumed":
                if self._resumed is not None:
                    self._resumed(answer)
            elif answer.op == "receipt":
                self._settle(self._receipts.get(answer.sid), answer)
            elif answer.id is not None:
                self._settle(self._calls.get(answer.id), answer)

    async def close(self) -> None:
        """Say goodbye; calls under way are lost. `run` is cancelled by its owner."""
        self._closing = True
        socket = self._socket
        if socket is not None:
            with trio.move_on_after(1):
                await socket.aclose()
        self._disconnected("the client was closed")

    @staticmethod
    def _settle(call: Call | None, answer: Answer) -> None:
        if call is not None:
            call.result = answer
            call.answered.set()

    def _disconnected(self, why: str) -> None:
        """Nobody answers the calls that are under way."""
        if self._socket is not None:
            self._socket = None
            self._connected = trio.Event()
        for call in (*self._calls.values(), *self._receipts.values()):
            if call.result is None:
                call.lost = why
                call.answered.set()


_BROKEN: Final = (
    OSError,
    trio.TooSlowError,
    trio_websocket.HandshakeError,
    trio_websocket.ConnectionClosed,
    msgspec.DecodeError,
)


def _why(error: BaseException) -> str:
    """Why a connection broke or was not made, for a person."""
    if isinstance(error, trio_websocket.ConnectionClosed):
        if error.reason is None:
            return "the connection was closed"
        said = f": {error.reason.reason}" if error.reason.reason else ""
        return f"the connection was closed ({error.reason.code}{said})"
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, trio_websocket.ConnectionRejected):
        return f"the WebSocket was refused with status {error.status_code}"
    if isinstance(error, msgspec.DecodeError):
        return f"the other end does not speak mesh.v1.json: {error}"
    return str(error) or type(error).__name__


_FINAL: Final = {4409: "MESH-E042", 4404: "MESH-E040"}
"""Close codes after which connecting again would only take the client away from whoever has it now."""
# A node that answers 401 or 403 would do so again: the same token does not become good.


def _final(error: BaseException, url: str) -> MeshError | None:
    if isinstance(error, trio_websocket.ConnectionClosed) and error.reason is not None:
        code = _FINAL.get(error.reason.code)
        if code is not None:
            return MeshError(code, url, error.reason.reason or "")
    if isinstance(error, trio_websocket.ConnectionRejected) and error.status_code in (401, 403):
        return _first_failure(error, url)
    return None


def _first_failure(error: BaseException, urls: str) -> MeshError:
    """What to raise where the first connection cannot be made: the node's own words, if it had any."""
    if isinstance(error, trio_websocket.ConnectionRejected) and error.body:
        try:
            return CallRefused(msgspec.json.decode(error.body, type=dict[str, Any]))
        except msgspec.DecodeError:
            pass  # not a node's answer
    return ConnectionLost(_why(error), urls)


_NO_ADDRESS: Final = "this is no address of an events port: write http://HOST:PORT"


async def _open_stream(url: str, tls: ssl.SSLContext | None) -> tuple[trio.abc.Stream, str]:
    """A stream to http://HOST:PORT, https://, ws://, wss:// or HOST:PORT, and the Host header's value. Raises: OSError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        secure = parts.scheme in ("https", "wss")
        port = parts.port or (443 if secure else 80)
    except ValueError:
        raise OSError(_NO_ADDRESS) from None
    if parts.scheme not in ("http", "https", "ws", "wss") or parts.hostname is None:
        raise OSError(_NO_ADDRESS)
    if secure:
        context = tls if tls is not None else client_context()
        return (
            await trio.open_ssl_over_tcp_stream(
                parts.hostname, port, ssl_context=context, https_compatible=True
            ),
            parts.netloc,
        )
    return await trio.open_tcp_stream(parts.hostname, port), parts.netloc
