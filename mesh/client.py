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
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode

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
        """Unsubscribe; the iteration ends behind what was received. Idempotent. A lost connection is no error here.

        A durable client's subscription stays with the node: see `unsubscribe`."""
        if not self._closed:
            self.end(None)
            await self._client.forget(self.sid)

    async def unsubscribe(self) -> None:
        """Close, and for a durable client tell the node that nothing of it is to be kept any more. Idempotent."""
        self.end(None)
        await self._client.forget(self.sid, kept=False)

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
        durable: str = "",
        acks: str = "",
        ack_timeout_s: float = 0.0,
        max_deliveries: int = 0,
        token: str | Callable[[], str] = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Args: url: of the events port; several are tried in turn. name: source (mesh://client/NAME) of plain data.
        connect_timeout_s: for connecting, and for a call made while there is no connection.
        durable: the name under which the mesh keeps subscriptions and at-least-once events while this client is away.
        acks: "explicit" (`ack` each event; the default of a durable client) or "auto". ack_timeout_s, max_deliveries: when an
        unacknowledged event comes again, and how often; 0: as the node has it.
        token: shown at each connection, where the node asks for one; a function is asked each time, for tokens that end.
        tls: for https:// and wss://; default: what MESH_CA, MESH_CERT and MESH_KEY say (`mesh.client_tls`)."""
        self.urls = (url,) if isinstance(url, str) else tuple(url)
        self.source = f"mesh://client/{name}"
        self._timeout_s = connect_timeout_s
        self._sids = itertools.count(1)
        self._subscriptions: dict[int, Subscription] = {}
        self.durable = durable
        self.waiting = 0
        """Events that were kept for this client when it connected last."""
        self._told = trio.Event()
        self._kept: dict[tuple[str, str], int] = {}
        self._early: deque[Delivery] = deque()
        self._early_sids: deque[tuple[int, ...]] = deque()
        asked = _given(
            client=durable,
            durable="true" if durable else "",
            acks=acks,
            ack_timeout=f"{ack_timeout_s:g}s" if ack_timeout_s else "",
            max_deliveries=max_deliveries,
        )
        self._connection = ClientConnection(
            self.urls,
            connect_timeout_s,
            self._deliver,
            self._resume,
            path="/v1/ws" + (f"?{urlencode(asked)}" if asked else ""),
            resumed=self._resumed,
            ended=self._end,
            token=token,
            tls=tls,
        )

    @property
    def kept(self) -> tuple[tuple[str, str], ...]:
        """(filter, group) of subscriptions that the node keeps for this durable client and nobody here has taken up yet."""
        taken = {subscription.sid for subscription in self._subscriptions.values()}
        return tuple(held for held, sid in self._kept.items() if sid not in taken)

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
                if self.durable:
                    await self._told.wait()
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
        sid = self._kept.get((filter, group), 0)
        if not sid or sid in self._subscriptions:
            sid = next(sid for sid in self._sids if sid not in self._kept.values())
        op = {"op": "subscribe", "sid": sid, "filter": filter} | _given(**{"group": group, "from": since})
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
        if self.durable:
            self._kept[filter, group] = sid
            await self._deliver_early()
        return subscription

    async def ack(self, delivery: Delivery, *, up_to: bool = False) -> None:
        """The event is done with: it does not come again. up_to: and every one delivered before it on this connection.

        Raises: ConnectionLost; then it may come again."""
        op: dict[str, Any] = {"op": "ack", "mesh_id": delivery.mesh_id}
        await self._connection.say(op | _given(upto=up_to))

    async def nack(self, delivery: Delivery) -> None:
        """The event could not be dealt with: it comes again after a while. Raises: ConnectionLost; then it comes again, too."""
        await self._connection.say({"op": "nack", "mesh_id": delivery.mesh_id})

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

    def _resumed(self, answer: Answer) -> None:
        self._told.set()
        self.waiting = answer.waiting
        self._kept = {(one["filter"], one.get("group", "")): one["sid"] for one in answer.subscriptions}

    def _end(self, failure: MeshError) -> None:
        """There will be no connection any more."""
        for subscription in self._subscriptions.values():
            subscription.end(failure)

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
            answer.deliveries,
            answer.reply_to,
            answer.correlation,
            self._connection.number,
            bool(answer.replayed),
        )
        await self._hand_over(delivery, tuple(answer.sids))

    async def _deliver_early(self) -> None:
        """What came before anybody here subscribed: a subscription may be there now."""
        early, sids = list(self._early), list(self._early_sids)
        self._early.clear()
        self._early_sids.clear()
        for delivery, wanted in zip(early, sids, strict=True):
            await self._hand_over(delivery, wanted)

    async def _hand_over(self, delivery: Delivery, sids: tuple[int, ...]) -> None:
        if self.durable and not any(sid in self._subscriptions for sid in sids):
            # Kept by the node for a subscription that is not made here yet. It sends no more than may be unacknowledged.
            self._early.append(delivery)
            self._early_sids.append(sids)
            if len(self._early) > QUEUED_EVENTS:
                await self.consumed(self._early.popleft())
                self._early_sids.popleft()
            return
        put = False
        for sid in sids:
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

    async def forget(self, sid: int, *, kept: bool = True) -> None:
        """Unsubscribe. Where there is no connection, there is nothing to undo. kept: not where the node keeps it for a durable
        client."""
        held = self._subscriptions.pop(sid, None)
        if self.durable and kept:
            return
        for name in [name for name, known in self._kept.items() if known == sid]:
            del self._kept[name]
        if (held is not None or self.durable) and self._connection.connected:
            try:
                await self._connection.call({"op": "unsubscribe", "sid": sid})
            except MeshError:
                return  # gone with its connection


def _entries(answer: Answer) -> list[dict[str, Any]]:
    return answer.events if isinstance(answer.events, list) else []


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value}
