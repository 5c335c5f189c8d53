"""A small client for applications on trio: publish, subscribe, request and reply over one WebSocket (mesh.v1.json).

Decides when to connect again and what is done again then: subscriptions are, calls that were under way are not, because nobody
knows whether they took effect. Never decides anything about the mesh.
Invariant: a subscription's queue is bounded; over it its oldest event is dropped and counted in `lost`, so that one
subscription nobody reads never holds the others up.
Source: docs/clients.md; design page "What a person sees", Publishing and subscribing.

    async with Client("http://127.0.0.1:7222") as client:
        async with await client.subscribe("orders/#", wait="mesh") as orders:
            await client.publish("orders/eu/created", b"hello")
            async for delivery in orders:
                print(delivery.topic, delivery.data)
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final

import msgspec
import trio

from mesh.client_connection import Answer, CallRefused, ClientConnection, ConnectionLost
from mesh.client_events import Delivery, PlainEvent, Publishable, Structured, structured_json
from mesh.model.errors import MeshError

__all__ = [
    "CallRefused",
    "Client",
    "ConnectionLost",
    "Delivery",
    "PlainEvent",
    "Published",
    "Structured",
    "Subscription",
]

GAPS: Final = 100
QUEUED_EVENTS: Final = 1_000  # of one subscription; also the credit it adds to the connection's


@dataclass(frozen=True, slots=True)
class Published:
    """What the node said about one published event. reasons: why somebody does not get it."""

    id: str
    mesh_id: str
    regions: tuple[str, ...]
    local: int
    reasons: tuple[Mapping[str, str], ...]


class Subscription:
    """Events of one filter, in order: an async iterator, and an async context manager that unsubscribes.

    lost: events dropped here because they were not read in time. receipt: where the interest is installed, if `wait` asked.
    live: set when the last replayed event is in the queue. gaps: where the node's log had no events, the latest GAPS of them.
    """

    def __init__(self, client: Client, sid: int, op: dict[str, Any]) -> None:
        self.lost = 0
        self.receipt: Mapping[str, Any] = {}
        self.live = trio.Event()
        self.gaps: list[Mapping[str, str | None]] = []
        self._client = client
        self.sid = sid
        self.op = op
        self._queue: deque[Delivery] = deque()
        self._arrived = trio.Event()
        self._closed = False
        self._failure: MeshError | None = None

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await self.close()

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise StopAsyncIteration
            self._arrived = trio.Event()
            await self._arrived.wait()
        delivery = self._queue.popleft()
        await self._client.consumed(delivery)
        return delivery

    async def close(self) -> None:
        """Unsubscribe; the iteration ends behind what was received. Idempotent. A lost connection is no error here."""
        if not self._closed:
            self.end(None)
            await self._client.forget(self.sid)

    def put(self, delivery: Delivery) -> Delivery | None:
        """Queue it; returns the oldest one where there was no room."""
        self._queue.append(delivery)
        if "from" in self.op:
            self.op["from"] = delivery.mesh_id
        self._arrived.set()
        if len(self._queue) <= QUEUED_EVENTS:
            return None
        self.lost += 1
        return self._queue.popleft()

    def tell(self, answer: Answer) -> None:
        """Something of the replay that the node said behind what it sent so far."""
        if answer.op == "live":
            self.live.set()
        else:
            self.gaps.append({"reason": answer.reason, "since": answer.since, "until": answer.until})
            del self.gaps[:-GAPS]

    def end(self, failure: MeshError | None) -> None:
        """Nothing more comes; a failure is raised behind what was received."""
        self._closed = True
        self._failure = failure
        self._arrived.set()


class Client:
    """One connection to the events port of a node, made again when it breaks."""

    def __init__(
        self,
        url: str | Sequence[str] = "http://127.0.0.1:7222",
        *,
        name: str = "client",
        connect_timeout_s: float = 5.0,
    ) -> None:
        """Args: url: of the events port; several are tried in turn. name: source (mesh://client/NAME) of plain data.
        connect_timeout_s: for connecting, and for a call made while there is no connection."""
        self.urls = (url,) if isinstance(url, str) else tuple(url)
        self.source = f"mesh://client/{name}"
        self._timeout_s = connect_timeout_s
        self._sids = itertools.count(1)
        self._subscriptions: dict[int, Subscription] = {}
        self._connection = ClientConnection(self.urls, connect_timeout_s, self._deliver, self._resume)

    @property
    def reconnects(self) -> int:
        """How often the connection was made again."""
        return max(0, self._connection.number - 1)

    # -- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            with trio.fail_after(self._timeout_s):
                await self._nursery.start(self._connection.run)
        except BaseException as error:
            await self._leave()
            if isinstance(error, trio.TooSlowError):
                raise ConnectionLost(f"no connection within {self._timeout_s:g} s", self.urls[0]) from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._connection.close()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._nursery.cancel_scope.cancel()
        # The background tasks keep their errors to themselves, so the body's own exception passes as it is.
        await self._manager.__aexit__(None, None, None)
        for subscription in self._subscriptions.values():
            subscription.end(None)

    # -- calls ------------------------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        event: Publishable,
        *,
        key: str = "",
        deadline_s: float = 0.0,
        level: str = "",
        ack: str = "",
    ) -> Published:
        """Publish one event; returns when the node has taken it in. Raises: CallRefused; ConnectionLost (then perhaps twice).

        Args: level: "at-most-once", "at-least-once" or "" (what `[[topic]]` says). ack: at least once: "accepted" (the default),
        "region" or "delivered".
        """
        published = await self.publish_all(
            topic, [event], key=key, deadline_s=deadline_s, level=level, ack=ack
        )
        return published[0]

    async def publish_all(
        self,
        topic: str,
        events: Iterable[Publishable],
        *,
        key: str = "",
        deadline_s: float = 0.0,
        level: str = "",
        ack: str = "",
    ) -> list[Published]:
        """Publish several with one call, all or none; with topic "" each on the topic of its extension `topic`."""
        written = [msgspec.Raw(structured_json(event, self.source)) for event in events]
        op: dict[str, Any] = {"op": "publish", "events": written}
        answer = await self._connection.call(
            op | _given(topic=topic, key=key, deadline=deadline_s, level=level, ack=ack)
        )
        return [
            Published(
                entry["id"],
                entry["mesh_id"],
                tuple(entry["regions"]),
                entry["local"],
                tuple(entry.get("reasons", ())),
            )
            for entry in _entries(answer)
        ]

    async def subscribe(
        self,
        filter: str,
        *,
        group: str = "",
        wait: str = "",
        regions: Sequence[str] = (),
        wait_timeout_s: float = 5.0,
        since: str = "",
    ) -> Subscription:
        """Subscribe; with `wait` ("node", "region", "mesh") or `regions` it returns when the receipt is there, complete or not.

        since: begin in the node's event log: "10m" ago, at an RFC 3339 time, or behind a mesh_id. `Subscription.live` is set
        when the replay is over. After a lost connection the subscription is made again, without waiting; with `since` it goes
        on behind the last event that it got. Raises: CallRefused; ConnectionLost.
        """
        sid = next(self._sids)
        op = (
            {"op": "subscribe", "sid": sid, "filter": filter}
            | _given(group=group)
            | _given(**{"from": since})
        )
        subscription = Subscription(self, sid, op)
        waiting = _given(wait=wait, regions=list(regions))
        if waiting:
            waiting["wait_timeout"] = wait_timeout_s
        receipt = self._connection.expect_receipt(sid)
        self._subscriptions[sid] = subscription
        try:
            await self._connection.call(op | waiting)
            await self._connection.grant(QUEUED_EVENTS)
            if waiting:
                answer = await self._connection.answer_of(receipt)
                subscription.receipt = {
                    "installed": answer.installed,
                    "missing": answer.missing,
                    "complete": answer.complete,
                }
        except BaseException:
            self._subscriptions.pop(sid, None)
            raise
        finally:
            self._connection.forget_receipt(sid)
        return subscription

    async def request(
        self, topic: str, event: Publishable, *, key: str = "", timeout_s: float = 5.0
    ) -> Delivery:
        """Publish a request and wait for the first reply.

        Raises: CallRefused (MESH-E013 nobody answers, E014 out of reach, E015 no reply in time); ConnectionLost.
        """
        written = msgspec.Raw(structured_json(event, self.source))
        op: dict[str, Any] = {"op": "request", "topic": topic, "event": written, "timeout": timeout_s}
        answer = await self._connection.call(op | _given(key=key))
        return Delivery("", bytes(answer.event), path=tuple(answer.path))

    async def reply(self, request: Delivery, event: Publishable) -> None:
        """Answer a request that a subscription delivered. Raises: CallRefused (MESH-E028, E029); ConnectionLost."""
        written = msgspec.Raw(structured_json(event, self.source))
        to = {"reply_to": request.reply_to, "correlation": request.correlation}
        await self._connection.call({"op": "reply", "event": written, **to})

    # -- what the connection and the subscriptions ask ------------------------------------------------------

    def _resume(self, nursery: trio.Nursery) -> int:
        for subscription in self._subscriptions.values():
            nursery.start_soon(self._subscribe_again, subscription)
        return QUEUED_EVENTS * (1 + len(self._subscriptions))

    async def _subscribe_again(self, subscription: Subscription) -> None:
        try:
            await self._connection.call(subscription.op)
        except CallRefused as refused:
            self._subscriptions.pop(subscription.sid, None)
            subscription.end(refused)
        except ConnectionLost:
            return  # the next connection tries again

    async def _deliver(self, answer: Answer) -> None:
        if answer.op != "event":
            subscription = self._subscriptions.get(answer.sid)
            if subscription is not None:
                subscription.tell(answer)
            return
        delivery = Delivery(
            answer.topic,
            bytes(answer.event),
            answer.mesh_id,
            tuple(answer.path),
            answer.redelivered,
            answer.reply_to,
            answer.correlation,
            self._connection.number,
            bool(answer.replayed),
        )
        put = False
        for sid in answer.sids:
            subscription = self._subscriptions.get(sid)
            if subscription is not None:
                # One event is one credit, however many subscriptions get it: the first counts.
                oldest = subscription.put(replace(delivery, connection=0) if put else delivery)
                put = True
                if oldest is not None:
                    await self.consumed(oldest)
        if not put:
            await self.consumed(delivery)

    async def consumed(self, delivery: Delivery) -> None:
        """An event has left a subscription's queue."""
        await self._connection.consumed(delivery.connection)

    async def forget(self, sid: int) -> None:
        """Unsubscribe. Where there is no connection, there is nothing to undo."""
        if self._subscriptions.pop(sid, None) is not None and self._connection.connected:
            try:
                await self._connection.call({"op": "unsubscribe", "sid": sid})
            except MeshError:
                return  # gone with its connection


def _entries(answer: Answer) -> list[dict[str, Any]]:
    return answer.events if isinstance(answer.events, list) else []


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value}
