"""What is out at one receiver: events that were handed to a connection and are not acknowledged yet.

Decides how much may be out at once, which acknowledgements are late, and what an acknowledgement covers. Never sends.
Invariant: `count` is the number of events out, at most `terms.window`.
Source: design page "What a person sees", Publishing and subscribing (acknowledgement per event or cumulative).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh.core.custody.backlog import NEVER, Handed
from mesh.core.custody.records import EventId


@dataclass(frozen=True, slots=True)
class AckTerms:
    """How a receiver acknowledges.

    auto: by its writer's taking an event. standing: by its connection's standing for `ack_timeout_s` since then. window: events out at
    once. unwritten: those of them that its writer has not taken.
    """

    auto: bool
    ack_timeout_s: float
    max_deliveries: int
    window: int
    standing: bool = False
    unwritten: int = 1 << 30


@dataclass(slots=True, eq=False)
class Window:
    """Cost: O(1) an event; a cumulative acknowledgement costs what it covers."""

    session: int
    terms: AckTerms
    count: int = 0
    unwritten: int = 0
    hungry: bool = False
    """Something waits for room here."""
    wake_at: float = NEVER
    _out: dict[EventId, list[Handed]] = field(default_factory=dict)

    @property
    def room(self) -> int:
        return min(self.terms.window - self.count, self.terms.unwritten - self.unwritten)

    def add(self, handed: Handed) -> None:
        """An event goes out now."""
        handed.due_at = NEVER
        twins = self._out.setdefault(handed.id, [])
        twins.append(handed)
        self.count += 1
        self.unwritten += 1

    def written(self, id: EventId, now: float) -> bool:
        """The receiver's writer took the event: from here on its acknowledgement can be late. False: it is not out."""
        twins = self._out.get(id)
        if twins is None:
            return False
        for handed in twins:
            if handed.due_at == NEVER:
                handed.due_at = now + self.terms.ack_timeout_s
                self.unwritten -= 1
        return True

    def pop(self, id: EventId) -> list[Handed]:
        """The event is out no more: as often as it was sent for different reasons (its own and a group's subscription)."""
        twins = self._out.pop(id, None)
        if twins is None:
            return []
        self._gone(twins)
        return twins

    def _gone(self, twins: list[Handed]) -> None:
        self.count -= len(twins)
        for handed in twins:
            if handed.due_at == NEVER:
                self.unwritten -= 1

    def up_to(self, id: EventId) -> list[EventId]:
        """The ids sent until and with this one, in order of sending; empty when it is not out."""
        if id not in self._out:
            return []
        found: list[EventId] = []
        for other in self._out:
            found.append(other)
            if other == id:
                break
        return found

    def late(self, now: float) -> Iterator[Handed]:
        """Take out what was not acknowledged in time."""
        while self._out:
            id, twins = next(iter(self._out.items()))
            if twins[0].due_at > now:
                return
            del self._out[id]
            self._gone(twins)
            yield from twins

    def next_deadline(self) -> float:
        """When the oldest acknowledgement is late."""
        return next(iter(self._out.values()))[0].due_at if self._out else NEVER

    def oldest_at(self, session: int) -> float:
        """When the oldest event that is out for the session itself, not for a group, came to this node; NEVER without one."""
        own = [one for twins in self._out.values() for one in twins if one.backlog.session == session]
        return min((one.share.added_at for one in own), default=NEVER)

    def take_all(self) -> list[Handed]:
        """Everything out of the window, in order of sending: the connection ended."""
        found = [handed for twins in self._out.values() for handed in twins]
        self._out.clear()
        self.count = self.unwritten = 0
        return found
