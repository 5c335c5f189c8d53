"""An event in the forms clients read it, each made once however many clients get it.

Decides the bytes of a Server-Sent Event, of a `cloudevents.json` frame and of a mesh.v1.json `event` op. Never decides who gets
an event, and never changes a byte of an event published in the structured form (in an SSE its line ends become line feeds).
Invariant: a rendered form depends on the event, its origin, path and sids alone, so that clients share one bytes object.
Source: CloudEvents 1.0.2 JSON format and WebSocket binding; WHATWG HTML section 9.2 (SSE); wire.md, rule 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Generic, TypeVar
from urllib.parse import quote

import msgspec

from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Delivery, Event
from mesh.model.reasons import Drop
from mesh.protocols.websocket_frames import text_frame
from mesh.wire.cloudevents import is_json, to_structured

_KEPT_EVENTS: Final = 2_048  # forms kept in each generation
_KEPT_BYTES: Final = 4 << 20
_Form = TypeVar("_Form")

_encode_json = msgspec.json.encode


class _Forms(Generic[_Form]):
    """Rendered forms of the latest events, in two generations: the older one is forgotten when the younger is full.

    An entry holds its event, so that the event's identity stays its own while it is a key.
    """

    __slots__ = ("_bytes", "_old", "_young")

    def __init__(self) -> None:
        self._young: dict[int, tuple[Event, _Form]] = {}
        self._old: dict[int, tuple[Event, _Form]] = {}
        self._bytes = 0

    def get(self, event: Event) -> _Form | None:
        found = self._young.get(id(event)) or self._old.get(id(event))
        return found[1] if found is not None else None

    def put(self, event: Event, form: _Form, size_bytes: int) -> None:
        self._young[id(event)] = (event, form)
        self._bytes += size_bytes
        if len(self._young) >= _KEPT_EVENTS or self._bytes >= _KEPT_BYTES:
            self._old, self._young, self._bytes = self._young, {}, 0


class Renderer:
    """The forms of one node's events; one instance is shared by all its client connections.

    Keeps: at most two generations of each form. Cost: 3 us the first time an event is rendered (more where it must be
    converted from the binary form), 0.3 us for every further client.
    """

    def __init__(self, count_drop: Callable[[Drop, int], None]) -> None:
        """Args: count_drop: told of events that another node took in without judging them: no JSON, so no form for clients."""
        self._count_drop = count_drop
        self._sse: _Forms[bytes] = _Forms()
        self._cloudevents: _Forms[bytes] = _Forms()
        self._ops: _Forms[tuple[tuple[int, ...], bytes, bytes]] = _Forms()

    def sse(self, deliveries: Sequence[Delivery]) -> bytes:
        """Server-Sent Events, one after the other. Cost: see the class, an event."""
        forms, rendered = self._sse, []
        for delivery in deliveries:
            form = forms.get(delivery.event)
            if form is None:
                form = _sse_form(delivery, self._structured(delivery.event))
                forms.put(delivery.event, form, len(form))
            rendered.append(form)
        return b"".join(rendered)

    def cloudevents_frames(self, deliveries: Sequence[Delivery]) -> bytes:
        """Text frames of structured CloudEvents."""
        forms, rendered = self._cloudevents, []
        for delivery in deliveries:
            form = forms.get(delivery.event)
            if form is None:
                structured = self._structured(delivery.event)
                form = text_frame(structured) if structured else b""
                forms.put(delivery.event, form, len(form))
            rendered.append(form)
        return b"".join(rendered)

    def op_frames(self, deliveries: Sequence[Delivery]) -> bytes:
        """Text frames of `event` ops. Clients that gave the subscription the same sid share the whole frame."""
        forms, rendered = self._ops, []
        for delivery in deliveries:
            found = forms.get(delivery.event)
            if found is not None and found[0] == delivery.sids:
                rendered.append(found[1])
                continue
            rest = found[2] if found is not None else _op_rest(delivery, self._structured(delivery.event))
            frame = (
                text_frame(b'{"op":"event","sids":%b,%b' % (_json_of(delivery.sids), rest)) if rest else b""
            )
            if found is None:
                forms.put(delivery.event, (delivery.sids, frame, rest), 2 * len(rest))
            rendered.append(frame)
        return b"".join(rendered)

    def _structured(self, event: Event) -> bytes:
        """The event in the JSON format; b"" for one that would break the frame of whoever reads it."""
        structured = to_structured(event)
        if event.attributes is None and not is_json(structured):
            self._count_drop(Drop.MALFORMED, 1)
            return b""
        return structured


@lru_cache(maxsize=4_096)
def _json_of(value: str | tuple[int, ...] | tuple[str, ...]) -> bytes:
    """JSON of what repeats from event to event: topics, paths, sids."""
    return _encode_json(value)


@lru_cache(maxsize=1_024)
def _origin_text(origin: tuple[str, str, int]) -> bytes:
    names = (
        quote(origin[0], safe=""),
        quote(origin[1], safe=""),
    )  # the same text, for names that keep their grammar
    return f"{names[0]}/{names[1]}/{origin[2]}/".encode()


def mesh_id_text(delivery: Delivery) -> bytes:
    """REGION/NODE/EPOCH/SEQ, as it may stand in JSON and in a line."""
    return b"%b%d" % (_origin_text(delivery.origin), delivery.event.seq)


def _request_fields(event: Event) -> bytes:
    if event.extra is None or not event.extra[EXTRA_REPLY_TO]:
        return b""
    reply_to, correlation = event.extra[EXTRA_REPLY_TO], event.extra[EXTRA_CORRELATION]
    return b'"reply_to":%b,"correlation":%b,' % (_encode_json(reply_to), _encode_json(correlation))


def _op_rest(delivery: Delivery, structured: bytes) -> bytes:
    """An `event` op behind its sids: what is equal for every client."""
    if not structured:
        return b""
    event = delivery.event
    return b'"topic":%b,"mesh_id":"%b","path":%b,%b%b"event":%b}' % (
        _json_of(event.topic),
        mesh_id_text(delivery),
        _json_of(delivery.path),
        b'"redelivered":true,' if delivery.redelivered else b"",
        _request_fields(event),
        structured,
    )


def _sse_form(delivery: Delivery, structured: bytes) -> bytes:
    if not structured:
        return b""
    event = delivery.event
    data = b'{"topic":%b,"path":%b,%b"event":%b}' % (
        _json_of(event.topic),
        _json_of(delivery.path),
        _request_fields(event),
        structured,
    )
    return sse_event(b"event", data, mesh_id_text(delivery))


def sse_event(name: bytes, data: bytes, last_id: bytes = b"") -> bytes:
    """One Server-Sent Event. Line ends inside `data` (between the tokens of somebody's JSON) start a new data line each."""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    if last_id:
        return b"event: %b\nid: %b\ndata: %b\n\n" % (name, last_id, data)
    return b"event: %b\ndata: %b\n\n" % (name, data)
