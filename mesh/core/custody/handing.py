"""What consumers are handed until somebody takes it: events in runs that share their way, for the writers of clients.

Decides which events make one `Delivery`. Never decides who gets an event.
Invariant: the events of a session are handed over in the order in which they were added.
Source: design page "Wire and speed", rules 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.custody.records import EventId
from mesh.core.handover import RUN_EVENTS, Way
from mesh.model.event import Delivery, Event, queue_bytes


@dataclass(slots=True, eq=False)
class _Run:
    sids: tuple[int, ...]
    way: Way
    deliveries: int
    events: list[Event]


class Handing:
    """Cost: 0.3 us an event that goes the way of the one before it."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[_Run]] = {}

    def add(self, session: int, sids: tuple[int, ...], way: Way, deliveries: int, event: Event) -> None:
        """One event for one session. deliveries: times it was sent, this one included; more than one may repeat."""
        runs = self._waiting.setdefault(session, [])
        if runs:
            run = runs[-1]
            if (
                run.sids == sids
                and (run.way is way or run.way == way)
                and run.deliveries == deliveries
                and len(run.events) < RUN_EVENTS
            ):
                run.events.append(event)
                return
        runs.append(_Run(sids, way, deliveries, [event]))

    def take(self) -> dict[int, list[Delivery]]:
        """Everything since the last call, by session."""
        if not self._waiting:
            return {}
        waiting, self._waiting = self._waiting, {}
        return {
            session: [
                Delivery(run.events, run.sids, *run.way, queue_bytes(run.events), deliveries=run.deliveries)
                for run in runs
            ]
            for session, runs in waiting.items()
        }

    def forget(self, session: int) -> set[EventId]:
        """The session is gone: what it was handed goes back by another way. Returns what nobody took."""
        runs = self._waiting.pop(session, ())
        return {(*run.way.origin, event.seq) for run in runs for event in run.events}
