"""Publishing, requesting and replying over plain HTTP: one call, one answer.

Decides the paths of the events port and what each answers; streams and WebSockets are `sse` and `serve`. Never decides where an
event goes.
Invariant: every answer that is no success is a problem object; an unknown parameter is never ignored.
Source: CloudEvents 1.0.2 HTTP binding; design page "What a person sees", Publishing and subscribing; RFC 9110 section 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from mesh.model.event import Event, NewEvent
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.topic_rules import Level
from mesh.net.http import Connection
from mesh.net.http_request import Request
from mesh.net.http_response import Response
from mesh.node.service import AckLevel, Answer, DurableItem, Outcomes, RefusedError, Service
from mesh.protocols.parameters import ACK_TIMEOUT_S, LONGEST_LIFE_S, Parameters
from mesh.protocols.problem import Problem, problem_headers, problem_json
from mesh.protocols.publishing import (
    REPLY_TOPIC,
    Envelope,
    Taken,
    check_ack,
    nobody_interested,
    outcome_objects,
    outcomes_json,
    take_common_batch,
    take_http,
    ttl_ms,
    unanswered,
)
from mesh.wire.cloudevents import STRUCTURED_TYPE, CloudEventError, to_binary, to_http_headers

EVENTS: Final = "/v1/events"
REQUEST: Final = "/v1/request"
REPLY: Final = "/v1/reply"
CLIENTS: Final = "/v1/clients"
_PUBLISH: Final = ("ack", "deadline", "key", "level", "require")
_REQUEST: Final = ("timeout", "key")
_REPLY: Final = ("to", "correlation", "topic")
_TIMEOUT_S: Final = 5.0
_JSON: Final = ("content-type", "application/json")


def refused_response(refused: RefusedError, *, close: bool = False) -> Response:
    """The problem+json answer of a refusal. close: the client has to connect elsewhere."""
    return Response(refused.status, problem_json(refused), problem_headers(refused), close)


def wrong_method(method: str, *allowed: str) -> Problem:
    """The 405 of a path."""
    allow = ", ".join(allowed)
    return Problem("MESH-E024", f"{method} is not for this path; {allow} is", headers=[("allow", allow)])


def topic_of(request: Request, prefix: str) -> str:
    """The topic behind `prefix` in the path; "" where the path ends with it. Raises: Problem MESH-E001 on ".../"."""
    if request.path == prefix:
        return ""
    topic = request.path[len(prefix) + 1 :]
    if not topic:
        raise Problem(
            "MESH-E001",
            "the path ends before the topic; leave the last '/' out for topics of the events' own",
        )
    return topic


async def publish(service: Service, request: Request, limits: Limits) -> Response:
    """POST /v1/events[/TOPIC]: 202 and what became of each event. Cost: about 15 us; 2 us an event of a batch.

    At least once the answer waits until the events are on this node's disk. Raises: RefusedError."""
    parameters = Parameters(request.query, _PUBLISH)
    ack = parameters.choice("ack", ("accepted", "region", "delivered"))
    level = parameters.choice("level", ("", "at-most-once", "at-least-once"))
    interest_needed = parameters.choice("require", ("", "interest")) == "interest"
    life_s = parameters.duration_s("deadline", 0.0, LONGEST_LIFE_S)
    envelope = Envelope(topic_of(request, EVENTS), parameters.text("key"), ttl_ms(life_s))
    batch = None if interest_needed else take_common_batch(request.headers, request.body, envelope, limits)
    if batch is not None:
        ids, events = batch
        if _level(service, events, level, ack) is Level.AT_LEAST_ONCE:
            told = outcomes_json(ids, await _keep(service, events, ack, life_s))
        else:
            told = outcomes_json(ids, service.publish(events))
        return Response(202, b'{"accepted":%d,"events":%b}\n' % (len(ids), told), [_JSON])
    taken = take_http(request.headers, request.body, envelope, service.key, limits)
    events = [one.event for one in taken]
    if _level(service, events, level, ack) is Level.AT_LEAST_ONCE:
        outcomes = await _keep(service, events, ack, life_s)
    else:
        outcomes = service.publish(events)
    found = outcome_objects(taken, outcomes)
    if interest_needed and taken and all(map(nobody_interested, outcomes.each)):
        raise Problem("MESH-E012", "nobody in reach subscribes to it", more={"events": found})
    body = msgspec.json.encode({"accepted": len(taken), "events": found})
    return Response(202, body + b"\n", [_JSON])


def _level(service: Service, events: Sequence[NewEvent], asked: str, ack: str) -> Level:
    level = service.level(events, asked)
    check_ack(level, ack)
    return level


async def _keep(service: Service, events: Sequence[NewEvent], ack: str, life_s: float) -> Outcomes:
    kept = service.keep(events, AckLevel(ack))
    await service.kept(kept, life_s or ACK_TIMEOUT_S)
    return kept.outcomes


async def request_reply(
    service: Service, request: Request, connection: Connection, limits: Limits
) -> Response:
    """POST /v1/request/TOPIC: 200 with the reply as an event in binary content mode. Raises: RefusedError; cancellation."""
    parameters = Parameters(request.query, _REQUEST)
    timeout_s = parameters.duration_s("timeout", _TIMEOUT_S, limits.request_wait_s)
    topic = topic_of(request, REQUEST)
    envelope = Envelope(topic, parameters.text("key"), ttl_ms(timeout_s))
    taken = _single(take_http(request.headers, request.body, envelope, service.key, limits))
    answers: list[Answer] = []
    async with connection.watched():
        answers.append(await service.request(taken.event, timeout_s))
    if not answers:
        return Response(close=True)  # the client left: nobody reads this
    answer = answers[0]
    if answer.event is None:
        raise unanswered(answer, taken.event.topic, timeout_s)
    return event_response(answer.event, answer.path)


def reply(service: Service, request: Request, limits: Limits) -> Response:
    """POST /v1/reply?to=REPLY_TO&correlation=C: 202. Raises: RefusedError."""
    parameters = Parameters(request.query, _REPLY)
    for name in ("to", "correlation"):
        if not parameters.text(name):
            raise Problem("MESH-E028", f"parameter {name!r} is missing: the request brought it", where=name)
    envelope = Envelope(parameters.text("topic") or REPLY_TOPIC)
    taken = _single(take_http(request.headers, request.body, envelope, service.key, limits, reserved=True))
    outcomes = service.reply(parameters.text("to"), parameters.text("correlation"), taken.event)
    body = msgspec.json.encode({"accepted": 1, "events": outcome_objects([taken], outcomes)})
    return Response(202, body + b"\n", [_JSON])


def clients(service: Service, request: Request) -> Response:
    """GET /v1/clients: the durable clients of this node; DELETE /v1/clients/NAME: 204. Raises: RefusedError."""
    Parameters(request.query, ())
    name = request.path[len(CLIENTS) + 1 :]
    if not name:
        if request.method != "GET":
            raise wrong_method(request.method, "GET")
        items = [client_object(one, service.key) for one in service.receivers.clients()]
        return Response(200, msgspec.json.encode({"clients": items}) + b"\n", [_JSON])
    if request.method != "DELETE":
        raise wrong_method(request.method, "DELETE")
    service.receivers.remove(name)
    return Response(204)


def client_object(item: DurableItem, home: NodeKey) -> dict[str, object]:
    """A durable client as clients and the admin port read it."""
    return {
        "client": item.client,
        "connected": item.connected,
        "home": home.node,
        "region": home.region,
        "subscriptions": item.subscriptions,
        "waiting": item.waiting,
        "waiting_bytes": item.waiting_bytes,
        "unacked": item.unacked,
        "oldest_s": None if item.oldest_s is None else round(item.oldest_s, 3),
        "away_s": None if item.away_s is None else round(item.away_s, 3),
    }


def _single(taken: list[Taken]) -> Taken:
    if len(taken) != 1:
        raise Problem("MESH-E006", f"a batch of {len(taken)} events; exactly one is needed here")
    return taken[0]


def event_response(event: Event, path: tuple[str, ...]) -> Response:
    """One event as an HTTP answer: binary content mode, or structured where it cannot be told in headers."""
    headers = [("mesh-path", ",".join(path))] if path else []
    try:
        attributes, data = to_binary(event)
        found = [
            (name.decode("ascii"), value.decode("latin-1")) for name, value in to_http_headers(attributes)
        ]
    except CloudEventError:
        return Response(200, event.data, [("content-type", STRUCTURED_TYPE), *headers])
    return Response(200, data, [*found, *headers])
