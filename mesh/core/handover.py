"""What this node's client sessions get: events in order, in runs that sessions with the same subscriptions share.

Decides which events make one `Delivery`. Never decides who gets an event, never drops, never renders.
Invariant: the events of a session are handed over in the order in which they were added.
Source: design page "Wire and speed", rules 5 and 6 (no object per event and client; encode once, share).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from mesh.model.event import Delivery, Event, queue_bytes

Origin: TypeAlias = tuple[str, str, int]
"""(region, node, epoch)."""
Audience: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]
"""(session, sids) of each session that gets an event."""

RUN_EVENTS: Final = 512
"""A run grows no further: what a client's writer takes at once."""


class Way(NamedTuple):
    """How events came here: what those of one delivery have in common."""

    origin: Origin
    path: tuple[str, ...]
    redelivered: bool


@dataclass(slots=True, eq=False)
class _Run:
    audience: Audience
    way: Way
    events: list[Event]


class Handover:
    """Cost: 0.15 us an event where the one before had the same audience, O(audience) otherwise; `add_all` O(audience)."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[tuple[tuple[int, ...], _Run]]] = {}
        self._newest: dict[int, _Run] = {}
        self._open: dict[Audience, _Run] = {}
        """The run that an audience's next event may join: while it is the newest of each of its sessions."""
        self._last: _Run | None = None

    def add(self, audience: Audience, way: Way, event: Event) -> None:
        """One event for every session of an audience."""
        run = self._last
        if run is None or run.audience is not audience or not self._may_grow(run, way):
            run = self._open.get(audience)
            if run is None or not self._may_grow(run, way) or not self._is_newest(run):
                run = _Run(audience, way, [])
                self._begin(run)
                self._open[audience] = run
            self._last = run
        run.events.append(event)

    def add_all(self, audience: Audience, way: Way, events: list[Event]) -> None:
        """Many events for every session of an audience; the list is theirs from here on."""
        self._last = None
        self._open.pop(audience, None)
        self._begin(_Run(audience, way, events))

    def _may_grow(self, run: _Run, way: Way) -> bool:
        return len(run.events) < RUN_EVENTS and run.way == way

    def _is_newest(self, run: _Run) -> bool:
        return all(self._newest[session] is run for session, _ in run.audience)

    def _begin(self, run: _Run) -> None:
        for session, sids in run.audience:
            self._newest[session] = run
            self._waiting.setdefault(session, []).append((sids, run))

    def take(self) -> dict[int, list[Delivery]]:
        """Everything since the last call, by session."""
        if not self._waiting:
            return {}
        waiting, self._waiting = self._waiting, {}
        self._newest.clear()
        self._open.clear()
        self._last = None
        sizes: dict[int, int] = {}
        taken: dict[int, list[Delivery]] = {}
        for session, runs in waiting.items():
            deliveries = taken[session] = []
            for sids, run in runs:
                events = run.events
                size = sizes.get(id(events))
                if size is None:
                    size = sizes[id(events)] = queue_bytes(events)
                deliveries.append(Delivery(events, sids, *run.way, size))
        return taken


def delivery(
    events: Sequence[Event],
    sids: tuple[int, ...],
    origin: Origin,
    path: tuple[str, ...],
    redelivered: bool = False,
) -> Delivery:
    """A delivery with its size worked out."""
    return Delivery(events, sids, origin, path, redelivered, queue_bytes(events))
