"""Batches being filled: events that leave for the same places join one, until it is large enough or nothing more waits.

Decides when a batch is full, and keeps the order of events with the same key when their way changes. Never decides where an
event goes, and never waits: whoever filled it flushes it as soon as nothing more is to be read (wire.md, rule 4).
Invariant: an `Outgoing` is in the list of open ones exactly while it holds events; a batch passes its target size by less
than one event.
Source: design page "Wire and speed", rules 2 to 4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from msgspec.structs import replace

from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader

EVENT_OVERHEAD_BYTES = 48
"""What an event takes in a body beside its topic, key, data and attributes: an estimate for the target size."""

Row: TypeAlias = tuple[Any, ...]
"""An Event, or its fields in order: it is encoded the same."""


class Outgoing:
    """A batch being filled: `header` without batch number and count, for `link`."""

    __slots__ = ("header", "items", "link", "size")

    def __init__(self, link: int, header: BatchHeader) -> None:
        self.link = link
        self.header = header
        self.items: list[Row] = []
        self.size = 0


Outs: TypeAlias = tuple[Outgoing, ...]
"""The batches that an event joins: one for each next hop."""


class Outbox:
    """Args:
        limits: target size and most events of a batch. offer: takes a finished batch (link, header, body, now).
    Cost: 0.2 us an event and next hop; 0.1 us where many come at once (`join_many`). Encoding is 0.06 us an event.
    """

    def __init__(self, limits: Limits, offer: Callable[[int, BatchHeader, bytes, float], None]) -> None:
        self._target = limits.batch_target_bytes
        self._most = limits.batch_events
        self._offer = offer
        self._by_way: dict[tuple[object, ...], Outgoing] = {}
        self._open: list[Outgoing] = []
        self._ways_of_keys: dict[str, Outs] = {}

    def batch(self, link: int, header: BatchHeader) -> Outgoing:
        """The one batch for a header: all topics whose events get the same one share it."""
        way = (link, header.leg, header.regions, header.groups, header.flow, header.remaining_ms)
        out = self._by_way.get(way)
        if out is None:
            out = self._by_way[way] = Outgoing(link, header)
        return out

    def join(self, outs: Outs, event: Event, now: float) -> None:
        """Put one event into its batches. What it may not overtake (the same key, another way) leaves first."""
        key = event.key
        if key and outs and self._ways_of_keys.setdefault(key, outs) != outs:
            self.flush(now)
            self._ways_of_keys[key] = outs
        size = len(event.data) + len(event.topic) + EVENT_OVERHEAD_BYTES
        if event.attributes is not None:
            size += sum(map(len, event.attributes))
        for out in outs:
            if not out.items:
                self._open.append(out)
            out.items.append(event)
            out.size += size
            if out.size >= self._target or len(out.items) >= self._most:
                self._close(out, now)

    def join_many(self, outs: Outs, rows: Sequence[Row], ends: Sequence[int], now: float) -> None:
        """As `join` for each of them. They have no key and are in the structured form.

        Args: ends: topic and data bytes of the events up to and with each.
        """
        for out in outs:
            self._fill(out, rows, ends, now)

    def _fill(self, out: Outgoing, rows: Sequence[Row], ends: Sequence[int], now: float) -> None:
        at, before, count = 0, 0, len(rows)
        while at < count:

            def size_with(last: int, first: int = at, start: int = before) -> int:
                return ends[last] - start + EVENT_OVERHEAD_BYTES * (last - first + 1)

            most = min(count, at + self._most - len(out.items))
            last = min(bisect_left(range(most), self._target - out.size, lo=at, key=size_with), most - 1)
            if not out.items:
                self._open.append(out)
            out.items += rows[at : last + 1]
            out.size += size_with(last)
            if out.size >= self._target or len(out.items) >= self._most:
                self._close(out, now)
            at, before = last + 1, ends[last]

    def _close(self, out: Outgoing, now: float) -> None:
        self._open.remove(out)
        self._send((out,), now)

    def flush(self, now: float) -> None:
        """Hand over every open batch."""
        if self._open:
            outs, self._open = self._open, []
            self._ways_of_keys.clear()
            self._send(outs, now)

    def _send(self, outs: Iterable[Outgoing], now: float) -> None:
        for out in outs:
            items = out.items
            out.items = []
            out.size = 0
            self._offer(out.link, replace(out.header, count=len(items)), encode_body(items), now)

    def forget(self) -> None:
        """Where events go has changed: headers are made anew. Call it after `flush`."""
        assert not self._open
        self._by_way.clear()
