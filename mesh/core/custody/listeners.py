"""Sessions of this node that take events at least once without acknowledging: they are served at once, and nothing is kept for them.

Decides nothing of its own: who matches, `mesh.core.plan` says; how it is handed over, `mesh.core.handover`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.core.delivery import Deliverer
from mesh.core.handover import Way
from mesh.core.plan import Plan
from mesh.model.event import Event
from mesh.wire.frames import BatchHeader, Flag

Again = Callable[[BatchHeader, Event, str, str, float], int]
"""(header, event, group, filter, now): another place for a group's event."""


class PlainListeners:
    """Args: again: finds another place for a group's event that found no member here."""

    def __init__(self, deliverer: Deliverer, plan_of: Callable[[str], Plan], again: Again) -> None:
        self._deliverer = deliverer
        self._plan_of = plan_of
        self._again = again

    def parts(
        self, header: BatchHeader, events: Sequence[Event], plans: Sequence[Plan], now: float
    ) -> tuple[str, ...]:
        return ()

    def add(self, lsn: int, header: BatchHeader, events: list[Event], now: float) -> None:
        origin = (header.region, header.node, header.epoch)
        way = Way(origin, header.path, bool(header.flags & Flag.REDELIVERED))
        only_group = bool(header.flags & Flag.GROUP_ONLY)
        for event in events:
            local = () if only_group else self._plan_of(event.topic).local
            if local:
                self._deliverer.to_sessions(local, way, event)
            for group, filter, _ in header.groups:
                if not self._deliverer.to_group(group, filter, way, event):
                    self._again(header, event, group, filter, now)
