"""One destination's queue of records that this node owes: a region (`r/eu`), or a node of the own region (`n/eu-2`).

Decides which record is next for its destination and whether one more may be under way. Never decides a next hop.
Invariant: records leave in the order of their numbers, those that come back first; under way + waiting = all that are owed.
Bounds: `window_bytes` and `window_events` under way (one record may always be); waiting ones are numbers only, their bytes are in
the store, which bounds them.
Source: design page "Routing", Delivery (credits per destination region, heal order oldest first).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mesh.model.reasons import Hold

FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 5.0


class Lane:
    """Args: part: the destination. window_bytes, window_events: under way at most. Cost: O(1) but for `back`."""

    __slots__ = (
        "_failures",
        "_window_bytes",
        "_window_events",
        "bytes",
        "events",
        "has_way",
        "held",
        "part",
        "refusal",
        "retry_at",
        "under_way",
        "waiting",
    )

    def __init__(self, part: str, window_bytes: int, window_events: int) -> None:
        self.part = part
        self._window_bytes = window_bytes
        self._window_events = window_events
        self.waiting: deque[int] = deque()
        self.under_way = 0
        self.bytes = 0
        self.events = 0
        self.has_way = True
        """False after no next hop was found: until routes or links change."""
        self.held: Hold | None = None
        """Why what waits was not sent, as the last decision said."""
        self.refusal = ""
        """Why the next hop did not take the last one (a Refuse), until one is taken."""
        self.retry_at = 0.0
        """Monotonic seconds: nothing leaves before, after a refusal."""
        self._failures = 0

    def may_send(self, now: float) -> bool:
        """Whether a record may leave now: a way, no refusal lately, and room in the window. `held` says why not."""
        if not self.has_way:
            self.held = Hold.NO_ROUTE
        elif now < self.retry_at:
            self.held = Hold.RETRY
        elif self.under_way and (self.bytes >= self._window_bytes or self.events >= self._window_events):
            self.held = Hold.NO_CREDIT
        else:
            return True
        return False

    def no_way(self) -> None:
        """No next hop was found for a record."""
        self.has_way = False
        self.held = Hold.NO_ROUTE

    def take_out(self, lsns: set[int]) -> set[int]:
        """Take records out of the queue. Returns those that waited. Cost: O(lsns) while they are the first ones, else O(waiting)."""
        found: set[int] = set()
        waiting = self.waiting
        while waiting and waiting[0] in lsns:
            found.add(waiting.popleft())
        if len(found) < len(lsns) and waiting:
            behind = lsns.intersection(waiting)
            if behind:
                self.waiting = deque(lsn for lsn in waiting if lsn not in behind)
                found |= behind
        return found

    def left(self, size_bytes: int, events: int) -> None:
        """A record is under way."""
        self.under_way += 1
        self.bytes += size_bytes
        self.events += events

    def ended(self, size_bytes: int, events: int) -> None:
        """A record is no longer under way, whatever became of it."""
        self.under_way -= 1
        self.bytes -= size_bytes
        self.events -= events
        assert self.under_way >= 0

    def arrived(self) -> None:
        """The next hop took one: no reason to hold back."""
        self._failures = 0
        self.retry_at = 0.0
        self.refusal = ""

    def refused(self, now: float, spread: float, why: str) -> None:
        """The next hop took one not: wait before the next, twice as long each time. spread: 0 to 1, dice. why: a Refuse."""
        self.refusal = why
        wait = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._failures, 10))
        self._failures += 1
        self.retry_at = now + wait * (0.5 + spread / 2)

    def back(self, lsn: int) -> None:
        """A record was not taken: it goes before all that came after it. Cost: O(1) while they come back newest first."""
        waiting = self.waiting
        if not waiting or lsn < waiting[0]:
            waiting.appendleft(lsn)
        elif lsn > waiting[-1]:
            waiting.append(lsn)
        elif lsn not in waiting:
            self.waiting = deque(sorted((*waiting, lsn)))
