"""An event in the forms clients read it, each made once however many clients get it.

Decides the bytes of a Server-Sent Event, of a `cloudevents.json` frame and of a mesh.v1.json `event` op. Never decides who gets
an event, and never changes a byte of an event published in the structured form (in an SSE its line ends become line feeds).
Invariant: a rendered form depends on the event, its origin, path and sids alone, so that clients share one bytes object.
Source: CloudEvents 1.0.2 JSON format and WebSocket binding; WHATWG HTML section 9.2 (SSE); wire.md, rule 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import attrgetter
from typing import Final, Generic, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec

from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Delivery, Event
from mesh.model.reasons import Drop
from mesh.protocols.websocket_frames import text_frame, text_header
from mesh.wire.cloudevents import to_structured
from mesh.wire.structured import are_json, is_json

_KEPT_FORMS: Final = 2_048  # deliveries kept in each generation
_KEPT_HEADS: Final = 4_096
_KEPT_BYTES: Final = 4 << 20
_Form = TypeVar("_Form")

_EVENT: Final = b'"event":'
_REPLAYED: Final = b'"replayed":true,'

_encode_json = msgspec.json.encode
_attributes: Final = attrgetter("attributes")
_data: Final = attrgetter("data")


class _Forms(Generic[_Form]):
    """What was rendered of the latest deliveries, in two generations: the older one is forgotten when the younger is full.

    An entry holds the events, so that their identity stays their own while it is a key.
    """

    __slots__ = ("_bytes", "_old", "_young")

    def __init__(self) -> None:
        self._young: dict[tuple[object, ...], tuple[Sequence[Event], _Form]] = {}
        self._old: dict[tuple[object, ...], tuple[Sequence[Event], _Form]] = {}
        self._bytes = 0

    def get(self, delivery: Delivery, sids: object) -> _Form | None:
        """sids: those of the delivery where the form depends on them, else None."""
        key = (id(delivery.events), sids)
        found = self._young.get(key) or self._old.get(key)
        return found[1] if found is not None else None

    def put(self, delivery: Delivery, sids: object, form: _Form, size_bytes: int) -> None:
        self._young[id(delivery.events), sids] = (delivery.events, form)
        self._bytes += size_bytes
        if len(self._young) >= _KEPT_FORMS or self._bytes >= _KEPT_BYTES:
            self._old, self._young, self._bytes = self._young, {}, 0


_Head: TypeAlias = tuple[bytes, bytes]
"""What a form begins with, until the seq of the mesh_id; and what stands between that and the event."""


class _Heads:
    """The heads of one form, by everything they depend on: origin, path and sids, then topic.

    Keeps: at most _KEPT_HEADS heads.
    """

    __slots__ = ("_by_way", "_make", "_size")

    def __init__(self, make: Callable[[Delivery, str], _Head]) -> None:
        self._make = make
        self._by_way: dict[tuple[object, ...], dict[str, _Head]] = {}
        self._size = 0

    def way(self, delivery: Delivery) -> dict[str, _Head]:
        """Heads by topic for what came the way of this delivery; `add` makes what is missing."""
        if self._size >= _KEPT_HEADS:
            self._by_way, self._size = {}, 0
        way: tuple[object, ...] = delivery[1:5]
        if delivery.redelivered:
            way = (*way, delivery.deliveries)
        if delivery.replayed:
            way = (*way, True)
        heads = self._by_way.get(way)
        if heads is None:
            heads = self._by_way[way] = {}
            self._size += 1
        return heads

    def add(self, heads: dict[str, _Head], delivery: Delivery, topic: str) -> _Head:
        self._size += 1
        head = heads[topic] = self._make(delivery, topic)
        return head


class Renderer:
    """The forms of one node's events; one instance is shared by all its client connections.

    What was rendered of a delivery is kept for other clients, but not while only one reads that form.
    Keeps: at most two generations of each form. Cost: 1 us an event the first time (more where it must be converted from the
    binary form); O(1) a delivery for every further client.
    """

    def __init__(self, count_drop: Callable[[Drop, int], None]) -> None:
        """Args: count_drop: told of events that another node took in without judging them: no JSON, so no form for clients."""
        self._count_drop = count_drop
        self._texts: _Forms[list[bytes]] = _Forms()
        self._sse: _Forms[bytes] = _Forms()
        self._cloudevents: _Forms[bytes] = _Forms()
        self._ops: _Forms[bytes] = _Forms()
        self._sse_heads = _Heads(_sse_head)
        self._op_heads = _Heads(_op_head)
        self._readers: dict[str, int] = {}

    @contextmanager
    def reader(self, form: str) -> Iterator[None]:
        """While a client reads a form: "sse", "cloudevents" or "ops"."""
        readers = self._readers
        readers[form] = readers.get(form, 0) + 1
        try:
            yield
        finally:
            readers[form] -= 1

    def sse(self, deliveries: Sequence[Delivery]) -> bytes:
        """Server-Sent Events, one after the other."""
        return self._rendered("sse", self._sse, self._sse_form, deliveries)

    def cloudevents_frames(self, deliveries: Sequence[Delivery]) -> bytes:
        """Text frames of structured CloudEvents."""
        return self._rendered("cloudevents", self._cloudevents, self._cloudevents_form, deliveries)

    def op_frames(self, deliveries: Sequence[Delivery]) -> bytes:
        """Text frames of `event` ops. Clients that gave the subscription the same sid share them."""
        return self._rendered("ops", self._ops, self._op_form, deliveries)

    def _rendered(
        self,
        form: str,
        forms: _Forms[bytes],
        render: Callable[[Delivery], bytes],
        deliveries: Sequence[Delivery],
    ) -> bytes:
        if self._readers.get(form) == 1:
            return b"".join(map(render, deliveries))
        rendered: list[bytes] = []
        for delivery in deliveries:
            if delivery.replayed:  # each replay reads its own copy: nobody shares it
                rendered.append(render(delivery))
                continue
            sids = delivery.sids if form == "ops" else None
            found = forms.get(delivery, sids)
            if found is None:
                found = render(delivery)
                forms.put(delivery, sids, found, len(found))
            rendered.append(found)
        return b"".join(rendered)

    def _sse_form(self, delivery: Delivery) -> bytes:
        if delivery.told is not None:
            return sse_event(delivery.told.name.encode(), _encode_json(delivery.told.fields))
        heads = self._sse_heads.way(delivery)
        parts: list[bytes] = []
        for event, text in zip(delivery.events, self._texts_of(delivery), strict=True):
            if not text:
                continue
            head, middle = heads.get(event.topic) or self._sse_heads.add(heads, delivery, event.topic)
            request = b"" if event.extra is None else _extra_fields(event.extra)
            if b"\n" in text or b"\r" in text:
                # Line ends between the tokens of somebody's JSON start a new data line each.
                text = b"\ndata: ".join(text.splitlines())
            parts.append(b'%b%d%b%b"event":%b}\n\n' % (head, event.seq, middle, request, text))
        return b"".join(parts)

    def _cloudevents_form(self, delivery: Delivery) -> bytes:
        return b"".join([text_frame(text) for text in self._texts_of(delivery) if text])

    def _op_form(self, delivery: Delivery) -> bytes:
        if delivery.told is not None:
            told = {"op": delivery.told.name, "sid": delivery.sids[0], **delivery.told.fields}
            return text_frame(_encode_json(told))
        heads = self._op_heads.way(delivery)
        parts: list[bytes] = []
        for (seq, topic, _, _, extra, _, _), text in zip(
            delivery.events, self._texts_of(delivery), strict=True
        ):
            if not text:
                continue
            head, middle = heads.get(topic) or self._op_heads.add(heads, delivery, topic)
            if extra is not None:
                middle = b"%b%b%b" % (middle[: -len(_EVENT)], _extra_fields(extra), _EVENT)
            op = b"%b%d%b%b}" % (head, seq, middle, text)
            parts += (text_header(len(op)), op)
        return b"".join(parts)

    def _texts_of(self, delivery: Delivery) -> list[bytes]:
        """Each event in the JSON format; b"" for one that would break the frame of whoever reads it. Kept where somebody else
        may ask: converting costs more than all else."""
        shared = sum(self._readers.values()) != 1 and not delivery.replayed
        texts = self._texts.get(delivery, None) if shared else None
        if texts is None:
            texts = self._texts_made(delivery.events)
            if shared:
                self._texts.put(delivery, None, texts, sum(map(len, texts)))
        return texts

    def _texts_made(self, events: Sequence[Event]) -> list[bytes]:
        if list(map(_attributes, events)).count(None) == len(events):
            datas = list(map(_data, events))
            if are_json(datas):
                return datas
        return [self._text(event) for event in events]

    def _text(self, event: Event) -> bytes:
        if event.attributes is not None:
            return to_structured(event)
        if is_json(event.data):
            return event.data
        self._count_drop(Drop.MALFORMED, 1)
        return b""


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


def _extra_fields(extra: tuple[str, ...]) -> bytes:
    if not extra[EXTRA_REPLY_TO]:
        return b""
    reply_to, correlation = extra[EXTRA_REPLY_TO], extra[EXTRA_CORRELATION]
    return b'"reply_to":%b,"correlation":%b,' % (_encode_json(reply_to), _encode_json(correlation))


def _op_head(delivery: Delivery, topic: str) -> _Head:
    """An `event` op until the seq, and from there to the event; a request's fields go before the last of it."""
    return (
        b'{"op":"event","sids":%b,"topic":%b,"mesh_id":"%b'
        % (_json_of(delivery.sids), _json_of(topic), _origin_text(delivery.origin)),
        b'","path":%b,%b%b%b'
        % (
            _json_of(delivery.path),
            _repeats(delivery),
            _REPLAYED if delivery.replayed else b"",
            _EVENT,
        ),
    )


def _sse_head(delivery: Delivery, topic: str) -> _Head:
    return (
        b"event: event\nid: %b" % _origin_text(delivery.origin),
        b'\ndata: {"topic":%b,"path":%b,%b%b'
        % (
            _json_of(topic),
            _json_of(delivery.path),
            _repeats(delivery),
            _REPLAYED if delivery.replayed else b"",
        ),
    )


def _repeats(delivery: Delivery) -> bytes:
    """What a form says of events that may have been delivered before; how often is only known where they are acknowledged."""
    if not delivery.redelivered:
        return b""
    return b'"redelivered":true,' + (
        b'"deliveries":%d,' % delivery.deliveries if delivery.deliveries else b""
    )


def sse_event(name: bytes, data: bytes, last_id: bytes = b"") -> bytes:
    """One Server-Sent Event. Line ends inside `data` (between the tokens of somebody's JSON) start a new data line each."""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    if last_id:
        return b"event: %b\nid: %b\ndata: %b\n\n" % (name, last_id, data)
    return b"event: %b\ndata: %b\n\n" % (name, data)
