"""Events at the node whose sessions want them: each one once, in time, and one member of each assigned group.

Decides what is a duplicate, what came too late and which member of a group on this node is next. Never decides who is
interested (`mesh.core.plan` does), and never passes anything on.
Invariant: inside the dedupe window an event is delivered at most once to a subscription, unless it says `redelivered`.
Source: design page "Routing", Forwarding (dedupe at the delivering node) and Delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mesh.core.counters import Counters
from mesh.core.dedupe import Dedupe, Origin, Seen, Window
from mesh.core.handover import Audience, Handover, Way
from mesh.core.hop import expired
from mesh.core.plan import Plan, PlanMemory
from mesh.core.subscriptions import SubscriptionIndex
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader, Flag


class Unserved(Protocol):
    """What becomes of an event that found nobody on this node."""

    def nobody_at_node(self, header: BatchHeader, event: Event) -> None:
        """Nobody here wants it any more."""

    def reassign(
        self, header: BatchHeader, event: Event, group: str, filter: str, tried: str, now: float
    ) -> None:
        """Nobody of the group is left where it was `tried`."""


class Deliverer:
    """Args:
        region, node: whose sessions. plans: of topics as they enter the region. unserved: told of what found nobody.
    `handover` holds what sessions get. Cost: 0.3 us an event; O(1) an event for each further session with the same interest.
    """

    def __init__(
        self,
        region: str,
        node: str,
        *,
        plans: PlanMemory,
        subscriptions: SubscriptionIndex,
        unserved: Unserved,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self._place = f"{region}/{node}"
        self._plans = plans
        self._subscriptions = subscriptions
        self._unserved = unserved
        self._counters = counters
        self.dedupe = Dedupe(limits)
        self.handover = Handover()

    def to_sessions(self, audience: Audience, way: Way, event: Event) -> None:
        """One event for the sessions of an audience."""
        self.handover.add(audience, way, event)
        self._counters.delivered += len(audience)

    def to_group(self, group: str, filter: str, way: Way, event: Event) -> bool:
        """Give the event to the next member on this node. False when there is none."""
        member = self._subscriptions.next_in_group(group, filter)
        if member is None:
            return False
        session, sid = member
        self.to_sessions(((session, (sid,)),), way, event)
        return True

    def deliver(self, header: BatchHeader, events: list[Event], plans: Sequence[Plan], now: float) -> None:
        """Deliver to matching sessions of this node, each event once, and to one member of each assigned group.

        plans: those of the events' topics, each once; there may be more.
        """
        origin = (header.region, header.node, header.epoch)
        redelivered = bool(header.flags & Flag.REDELIVERED)
        only_group = bool(header.flags & Flag.GROUP_ONLY)
        variant = "/".join(f"{group}/{filter}" for group, filter, _ in header.groups) if only_group else ""
        if not events:
            return
        window = self.dedupe.window(Origin(*origin, variant), now)
        first, last = events[0].seq, events[-1].seq
        run = last - first == len(events) - 1 and window.see_run(first, last)
        if not run:
            events = self._fresh(window, events)
        if header.remaining_ms:
            events = self._in_time(header, events)
        if header.groups or only_group:
            self._deliver_with_groups(header, events, only_group, now)
            return
        if not events:
            return
        way = Way(origin, header.path, redelivered)
        local = plans[0].local
        if local and all(plan.local == local for plan in plans):
            self.handover.add_all(local, way, events)
            self._counters.delivered += len(local) * len(events)
            return
        plan_of = self._plans.of
        for event in events:
            local = plan_of(event.topic).local
            if local:
                self.to_sessions(local, way, event)
            else:
                self._unserved.nobody_at_node(header, event)

    def _fresh(self, window: Window, events: Sequence[Event]) -> list[Event]:
        """The events not seen before; the others are counted."""
        fresh: list[Event] = []
        for event in events:
            seen = window.see(event.seq)
            if seen is Seen.FRESH:
                fresh.append(event)
            else:
                self._counters.drop(
                    Drop.DUPLICATE if seen is Seen.DUPLICATE else Drop.DEDUPE_WINDOW_PASSED, 1
                )
        return fresh

    def _in_time(self, header: BatchHeader, events: list[Event]) -> list[Event]:
        """The events whose exact deadline has not passed; the others are counted."""
        kept = [event for event in events if not (event.deadline_ms and expired(header, event))]
        if len(kept) < len(events):
            self._counters.drop(Drop.EXPIRED, len(events) - len(kept))
        return kept

    def _deliver_with_groups(
        self, header: BatchHeader, events: Sequence[Event], only_group: bool, now: float
    ) -> None:
        redelivered = bool(header.flags & Flag.REDELIVERED)
        way = Way((header.region, header.node, header.epoch), header.path, redelivered)
        for event in events:
            local = () if only_group else self._plans.of(event.topic).local
            if local:
                self.to_sessions(local, way, event)
            for group, filter, _ in header.groups:
                if not self.to_group(group, filter, way, event):
                    self._unserved.reassign(header, event, group, filter, self._place, now)
