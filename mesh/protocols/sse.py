"""Subscribing over Server-Sent Events: one GET, a receipt, then events for as long as the client reads.

Decides the form of the stream: first `subscribed`, then `event` after `event` (with `from`: `live` behind the replayed ones, and
`gap` where events are missing), a comment when nothing else was sent for
KEEP_ALIVE_S, and `closing` when the node ends it. Never decides what a client gets.
Invariant: no event comes before the receipt. Source: WHATWG HTML section 9.2; design page "What a person sees".
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.net.http import Connection
from mesh.net.http_connection import Stream
from mesh.net.http_request import Request
from mesh.node.service import RefusedError, Replaying, Resumed, Service
from mesh.protocols.home_proxy import proxied
from mesh.protocols.problem import Problem
from mesh.protocols.receiving import read_mesh_id, tell_written
from mesh.protocols.render import Renderer, sse_event
from mesh.protocols.session import ClientSession, Goodbye
from mesh.protocols.subscribing import (
    Wish,
    read_wish,
    receipt_object,
    replay,
    resubscribe,
    subscribe,
)

EVENT_STREAM: Final = "text/event-stream"
KEEP_ALIVE_S: Final = 15.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"
_HEADERS: Final = (("content-type", EVENT_STREAM), ("cache-control", "no-store"), ("x-accel-buffering", "no"))


def accepts_stream(request: Request) -> bool:
    """Whether the client said that it reads an event stream (a bare */* did not)."""
    accept = (request.header(b"accept") or b"").decode("latin-1")
    return any(one.partition(";")[0].strip().lower() == EVENT_STREAM for one in accept.split(","))


async def stream_events(
    service: Service, request: Request, connection: Connection, renderer: Renderer, limits: Limits
) -> None:
    """Answer GET /v1/events until the client leaves or the node ends it. Raises: RefusedError before the answer began."""
    if not accepts_stream(request):
        raise Problem(
            "MESH-E025", "this path answers with an event stream, and the Accept header does not name it"
        )
    wish = read_wish(request.query, limits)
    receiving = wish.receiving
    if receiving.durable and await proxied(service, request, connection, receiving.client):
        return
    session = ClientSession(limits, service.count_drop, credit=0)
    resumed: Resumed | None = None
    if receiving.durable:
        assert receiving.acks is not None, "a durable client acknowledges somehow"
        last = (request.header(b"last-event-id") or b"").decode("latin-1")
        resumed = service.receivers.connect(
            session,
            protocol="sse",
            client=receiving.client,
            acks=receiving.acks,
            resume_after=read_mesh_id(last, "last-event-id") if last else None,
        )
        number = resumed.session
    else:
        name = receiving.client or connection.remote
        number = service.open_session(session, protocol="sse", name=name)
    tell_written(session, service.receivers, number)
    ended = Close.PEER_CLOSED
    try:
        replaying: Replaying | None = None
        if resumed is not None:
            sids = await _resubscribe(service, resumed, wish)
        elif wish.since:
            sids, replaying = replay(service, number, _resumed(request, wish))
            await replaying.find()
        else:
            sids = subscribe(service, number, wish)

        async def send_receipt() -> None:
            receipt = await service.wait_installed(number, sids, wish.wait, wish.regions, wish.wait_timeout_s)
            told = receipt_object(receipt)
            if resumed is not None:
                told |= {"client": receiving.client, "waiting": resumed.waiting}
            session.answer(sse_event(b"subscribed", msgspec.json.encode(told)))
            session.unlimited()

        async with connection.stream(200, _HEADERS) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(send_receipt, name="sse receipt")
            if replaying is not None:
                nursery.start_soon(replaying.run, name="sse replay")
            with renderer.reader("sse"):
                ended = await _write(session, stream, renderer)
            nursery.cancel_scope.cancel()
            if ended is Close.SLOW_CONSUMER:
                connection.left()  # the end of the body would wait for this client too
    finally:
        session.send_now = None
        session.end()
        service.close_session(number, ended)


async def _resubscribe(service: Service, resumed: Resumed, wish: Wish) -> tuple[int, ...]:
    """A durable client's subscriptions, on the disk. Raises: RefusedError; a client that is new is not made then."""
    try:
        sids = resubscribe(service, resumed, wish)
    except RefusedError:
        if resumed.created:
            service.receivers.remove(wish.receiving.client)
        raise
    await service.receivers.noted()
    return sids


def _resumed(request: Request, wish: Wish) -> Wish:
    """A client that was away asks for the same URL again, and says what it had last: that is where its replay goes on.
    Source: WHATWG HTML section 9.2.4 (Last-Event-ID)."""
    last = (request.header(b"last-event-id") or b"").decode("latin-1").strip()
    return wish._replace(since=last) if last else wish


async def _write(session: ClientSession, stream: Stream, renderer: Renderer) -> Close:
    """Send what waits until a goodbye; the stream's owner cancels it when the client leaves. Raises: LinkLost."""

    def send_now() -> bool:
        data, goodbye = _gather(session, renderer)
        if not stream.try_send(data):
            session.put_back(data)
        elif stream.pending:
            session.put_back(b"")
        assert goodbye is None, "a session that is being closed takes no delivery"
        return not session.has_work()

    session.send_now = send_now
    while True:
        with trio.move_on_after(KEEP_ALIVE_S):
            await session.work()
        if not session.has_work():
            await stream.send(_KEEP_ALIVE)
            continue
        data, goodbye = _gather(session, renderer)
        with session.bounded_send(float("inf")) as bound:
            await stream.send(data)
        if goodbye is not None:
            return goodbye.reason
        if bound.cancelled_caught:
            return Close.SLOW_CONSUMER


def _gather(session: ClientSession, renderer: Renderer) -> tuple[bytes, Goodbye | None]:
    waiting = session.take()
    data = b"".join(waiting.answers)
    if waiting.deliveries:
        data += renderer.sse(waiting.deliveries)
    if waiting.goodbye is not None:
        found = {"reason": waiting.goodbye.reason, "detail": waiting.goodbye.detail}
        data += sse_event(b"closing", msgspec.json.encode(found))
    return data, waiting.goodbye
