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
from typing import Final, Generic, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec

from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Delivery, Event
from mesh.model.reasons import Drop
from mesh.protocols.websocket_frames import HEADER_16, text_frame, text_header
from mesh.wire.cloudevents import is_json, to_structured

_KEPT_EVENTS: Final = 2_048  # forms kept in each generation
_KEPT_BYTES: Final = 4 << 20
_Form = TypeVar("_Form")

_EVENT: Final = b'"event":'

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


_Head: TypeAlias = tuple[bytes, bytes]
"""What a form begins with, until the seq of the mesh_id; and what stands between that and the event."""


class _Heads:
    """The heads of one form, by everything they depend on: origin and path, then topic and sids.

    Cost: 0.2 us where the event before came the same way. Keeps: at most _KEPT_EVENTS heads.
    """

    __slots__ = ("_by_way", "_make", "_of_way", "_size", "_way")

    def __init__(self, make: Callable[[Delivery], _Head]) -> None:
        self._make = make
        self._forget()

    def _forget(self) -> None:
        self._by_way: dict[tuple[object, ...], dict[tuple[object, ...], _Head]] = {}
        self._of_way: dict[tuple[object, ...], _Head] = {}
        self._way: tuple[object, ...] = (None, None, None)
        self._size = 0

    def of(self, delivery: Delivery) -> _Head:
        event, sids, origin, path, redelivered = delivery
        return self.way(origin, path, redelivered).get((event.topic, sids)) or self._made(delivery)

    def way(
        self, origin: tuple[str, str, int], path: tuple[str, ...], redelivered: bool
    ) -> dict[tuple[object, ...], _Head]:
        """The heads of events that came one way, by topic and sids; `of` makes what is missing, and may begin anew."""
        last_origin, last_path, last_redelivered = self._way
        if last_origin is not origin or last_path is not path or last_redelivered is not redelivered:
            self._way = (origin, path, redelivered)
            self._of_way = self._by_way.setdefault(self._way, {})
        return self._of_way

    def _made(self, delivery: Delivery) -> _Head:
        if self._size >= _KEPT_EVENTS:
            self._forget()
            return self.of(delivery)
        self._size += 1
        found = self._of_way[delivery.event.topic, delivery.sids] = self._make(delivery)
        return found


class Renderer:
    """The forms of one node's events; one instance is shared by all its client connections.

    Forms are kept for other clients, but for those that only one client at a time reads.
    Keeps: at most two generations of each form. Cost: 1 us the first time an event is rendered (more where it must be
    converted from the binary form), 0.6 us more where it is kept, and 0.3 us for every further client.
    """

    def __init__(self, count_drop: Callable[[Drop, int], None]) -> None:
        """Args: count_drop: told of events that another node took in without judging them: no JSON, so no form for clients."""
        self._count_drop = count_drop
        self._sse: _Forms[bytes] = _Forms()
        self._cloudevents: _Forms[bytes] = _Forms()
        self._ops: _Forms[tuple[tuple[int, ...], bytes, bytes]] = _Forms()
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
        """Server-Sent Events, one after the other. Cost: see the class, an event."""
        if self._readers.get("sse") == 1:
            return b"".join([self._sse_form(delivery) for delivery in deliveries])
        forms, rendered = self._sse, []
        for delivery in deliveries:
            form = forms.get(delivery.event)
            if form is None:
                form = self._sse_form(delivery)
                forms.put(delivery.event, form, len(form))
            rendered.append(form)
        return b"".join(rendered)

    def cloudevents_frames(self, deliveries: Sequence[Delivery]) -> bytes:
        """Text frames of structured CloudEvents."""
        if self._readers.get("cloudevents") == 1:
            return b"".join([self._cloudevents_form(delivery.event) for delivery in deliveries])
        forms, rendered = self._cloudevents, []
        for delivery in deliveries:
            form = forms.get(delivery.event)
            if form is None:
                form = self._cloudevents_form(delivery.event)
                forms.put(delivery.event, form, len(form))
            rendered.append(form)
        return b"".join(rendered)

    def op_frames(self, deliveries: Sequence[Delivery]) -> bytes:
        """Text frames of `event` ops. Clients that gave the subscription the same sid share the whole frame."""
        if self._readers.get("ops") == 1:
            return self._op_frames_once(deliveries)
        forms, rendered = self._ops, []
        for delivery in deliveries:
            found = forms.get(delivery.event)
            if found is not None and found[0] == delivery.sids:
                rendered.append(found[1])
                continue
            structured = self._structured(delivery.event) if found is None else found[2]
            frame = b"".join(self._op_parts(delivery, structured))
            if found is None:
                forms.put(delivery.event, (delivery.sids, frame, structured), len(frame) + len(structured))
            rendered.append(frame)
        return b"".join(rendered)

    def _sse_form(self, delivery: Delivery) -> bytes:
        event = delivery.event
        structured = self._structured(event)
        if not structured:
            return b""
        head, middle = self._sse_heads.of(delivery)
        request = b"" if event.extra is None else _request_fields(event)
        if b"\n" in structured or b"\r" in structured:
            # Line ends between the tokens of somebody's JSON start a new data line each.
            structured = b"\ndata: ".join(structured.splitlines())
        return b'%b%d%b%b"event":%b}\n\n' % (head, event.seq, middle, request, structured)

    def _cloudevents_form(self, event: Event) -> bytes:
        structured = self._structured(event)
        return text_frame(structured) if structured else b""

    def _op_frames_once(self, deliveries: Sequence[Delivery]) -> bytes:
        """Frames that nobody else will ask for. One loop, for at this place each event's calls were half of its cost."""
        heads = self._op_heads
        last: tuple[object, ...] = (None, None, None)
        of_way: dict[tuple[object, ...], _Head] = {}
        parts: list[bytes] = []
        for delivery in deliveries:
            event, sids, origin, path, redelivered = delivery
            if event.attributes is not None or event.extra is not None:
                parts += self._op_parts(delivery, self._structured(event))
                continue
            data = event.data
            if not is_json(data):
                self._count_drop(Drop.MALFORMED, 1)
                continue
            if last[0] is not origin or last[1] is not path or last[2] is not redelivered:
                last, of_way = (origin, path, redelivered), heads.way(origin, path, redelivered)
            head, middle = of_way.get((event.topic, sids)) or heads.of(delivery)
            seq = b"%d" % event.seq
            size = len(head) + len(seq) + len(middle) + len(data) + 1
            header = HEADER_16(0x81, 126, size) if 126 <= size < 65_536 else text_header(size)
            parts += (header, head, seq, middle, data, b"}")
        return b"".join(parts)

    def _op_parts(self, delivery: Delivery, structured: bytes) -> tuple[bytes, ...]:
        if not structured:
            return ()
        event = delivery.event
        head, middle = self._op_heads.of(delivery)
        if event.extra is not None:
            middle = b"%b%b%b" % (middle[: -len(_EVENT)], _request_fields(event), _EVENT)
        seq = b"%d" % event.seq
        size = len(head) + len(seq) + len(middle) + len(structured) + 1
        return text_header(size), head, seq, middle, structured, b"}"

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


def _op_head(delivery: Delivery) -> tuple[bytes, bytes]:
    """An `event` op until the seq, and from there to the fields of a request."""
    return (
        b'{"op":"event","sids":%b,"topic":%b,"mesh_id":"%b'
        % (_json_of(delivery.sids), _json_of(delivery.event.topic), _origin_text(delivery.origin)),
        b'","path":%b,%b%b'
        % (_json_of(delivery.path), b'"redelivered":true,' if delivery.redelivered else b"", _EVENT),
    )


def _sse_head(delivery: Delivery) -> tuple[bytes, bytes]:
    return (
        b"event: event\nid: %b" % _origin_text(delivery.origin),
        b'\ndata: {"topic":%b,"path":%b,' % (_json_of(delivery.event.topic), _json_of(delivery.path)),
    )


def sse_event(name: bytes, data: bytes, last_id: bytes = b"") -> bytes:
    """One Server-Sent Event. Line ends inside `data` (between the tokens of somebody's JSON) start a new data line each."""
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    if last_id:
        return b"event: %b\nid: %b\ndata: %b\n\n" % (name, last_id, data)
    return b"event: %b\ndata: %b\n\n" % (name, data)
