"""Whoever takes events at this node: consumers, who acknowledge, and plain sessions, who are served at once.

Decides nothing of its own: `wanted` sorts a batch, `consumers`, `log_shares` and `mesh.core.handover` deliver it, `again` finds another place for
a group's event that found no member here.
Invariant: `add` delivers exactly what `sort` found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mesh.core.counters import Counters
from mesh.core.custody.consumers import Consumers
from mesh.core.custody.log_shares import LOG, LogShares
from mesh.core.custody.wanted import Wanted
from mesh.core.delivery import Deliverer
from mesh.core.handover import Way
from mesh.core.plan import PlanMemory
from mesh.model.event import Event
from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader, Flag

Again = Callable[[BatchHeader, Event, str, str, float], int]
"""(header, event, group, filter, now): another place for a group's event. Returns the record that has it then."""


class Listeners:
    """Args: plans: of topics inside the region."""

    def __init__(
        self,
        consumers: Consumers,
        deliverer: Deliverer,
        plans: PlanMemory,
        again: Again,
        log: LogShares,
        counters: Counters,
    ) -> None:
        self._consumers = consumers
        self._deliverer = deliverer
        self._plans = plans
        self._again = again
        self._log = log
        self._counters = counters

    def sort(self, header: BatchHeader, events: Sequence[Event]) -> Wanted:
        """Who gets which of these events. Its `parts` are those of the record; none when nobody here acknowledges."""
        receipt = bool(header.flags & Flag.RECEIPT_DELIVERED)
        return self._consumers.sort(header, events, self._plans, receipt=receipt)

    def wanted_since(self, topic: str, now: float) -> float:
        """See `Consumers.wanted_since`."""
        return self._consumers.wanted_since(topic, now)

    def away(self, parts: Iterable[str]) -> tuple[str, ...]:
        """Those of some parts that belong to durable clients who are not connected."""
        return tuple(
            part for part in parts if part.startswith("c/") and not self._consumers.is_connected(part[2:])
        )

    def add(self, lsn: int, header: BatchHeader, events: Sequence[Event], wanted: Wanted, now: float) -> int:
        """Deliver. lsn 0: there is no record. Returns the last record that was made elsewhere of what nobody here takes."""
        if wanted.direct:
            origin = (header.region, header.node, header.epoch)
            way = Way(origin, header.path, bool(header.flags & Flag.REDELIVERED))
            for audience, some in wanted.direct:
                self._deliverer.handover.add_all(audience, way, some)
                self._counters.delivered += len(audience) * len(some)
        if lsn:
            self._consumers.add(lsn, header, events, wanted, now)
            if LOG in wanted.parts:
                self._log.add(lsn, header, events, wanted.parts[LOG])
        if wanted.nobody:
            self._counters.drop(Drop.INTEREST_GONE, len(wanted.nobody))
        last = 0
        for group, filter in wanted.unserved:
            for event in events:
                last = max(last, self._again(header, event, group, filter, now))
        return last
