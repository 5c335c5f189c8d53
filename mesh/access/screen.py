"""What a client's rights let through of what the node hands over: the last gate, event by event.

Decides for each event whether the client may see it, by its rights now, whatever was said when it subscribed. Events that are not
shown are counted (access_deny) and, where they wait for an acknowledgement, settled, so that they do not come again.
Invariant: nothing reaches the client's sink that `Rights.may` denies.
Cost: 0.1 us an event whose topic was seen lately; deliveries of which everything may be seen are passed on as they are, so that
clients go on sharing what was rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Final, Protocol

from mesh.access.rights import Rights
from mesh.access.rule_file import Right
from mesh.model.event import Delivery, Event, queue_bytes
from mesh.model.reasons import Close
from mesh.node.service import Sink

PIECE: Final = 1 << 32
"""A subscription that was cut into pieces has them under its sid, its sid + PIECE, ..."""
_topic: Final = attrgetter("topic")


class Withheld(Protocol):
    """Told of events that were not shown."""

    def withheld(self, right: Right, delivery: Delivery, events: Sequence[Event]) -> None: ...


class Screen:
    """A sink before a client's own. groups: sids of its queue groups, judged by another right."""

    def __init__(self, sink: Sink, rights: Rights, groups: Collection[int], owner: Withheld) -> None:
        self.rights = rights
        self.cut = False
        """Some subscription was cut into pieces: sids are mapped back."""
        self._sink = sink
        self._groups = groups
        self._owner = owner

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """See Sink."""
        kept = [delivery for one in deliveries if (delivery := self.shown(one)) is not None]
        if kept:
            self._sink.deliver(kept)

    def close(self, reason: Close, detail: str) -> None:
        """See Sink."""
        self._sink.close(reason, detail)

    async def room(self) -> None:
        """See Sink."""
        await self._sink.room()

    def sift(self) -> None:
        """The rights changed: what waits for the client is looked at again."""
        sift: Callable[[Callable[[Delivery], Delivery | None]], None] | None
        sift = getattr(self._sink, "sift", None)
        if sift is not None:
            sift(self.shown)

    def shown(self, delivery: Delivery) -> Delivery | None:
        """The delivery with what may be seen of it; None where nothing may."""
        if self.cut and delivery.sids[-1] >= PIECE:
            delivery = delivery._replace(sids=tuple(sorted({sid % PIECE for sid in delivery.sids})))
        events = delivery.events
        if not events:
            return delivery
        right = Right.GROUP if self._groups and delivery.sids[0] in self._groups else Right.SUBSCRIBE
        known = self.rights.known(right)
        if all(map(known.get, map(_topic, events))):
            return delivery
        may = self.rights.may
        kept: list[Event] = []
        hidden: list[Event] = []
        for event in events:
            (kept if may(right, event.topic) else hidden).append(event)
        if not hidden:
            return delivery
        self._owner.withheld(right, delivery, hidden)
        if not kept:
            return None
        return delivery._replace(events=tuple(kept), size_bytes=queue_bytes(kept))
