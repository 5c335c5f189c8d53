"""Ordered topics: events of a key are handed over in the order in which they were published, whatever way they took.

Decides, at the origin, which event came before one (`Chains`), and at the delivering node which event has to wait for another, and
for how long (`Gate`). Never holds back an event of a topic that is not ordered, and never stores or delivers (`keeping` does).
An event says, for each region it goes to, the seq of the one before it of the same topic and key that went there too, and how long
before. A node that has not delivered that one holds the later one back until it has: at most `order_hold_s`, and no more than HELD.
It is not waited for if nobody here wanted it: it was published before the oldest subscription here was made, or so long ago that nobody
can say. Groups take turns, so that only plain subscriptions count.
Invariant: what is held back is in the store; it leaves the gate once, after the one it waits for or when its time is over.
Bounds: CHAINS keys are remembered at an origin, HELD events are held back at a node, about 300 bytes each.
Source: design page "Routing", Delivery (order).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Final, NamedTuple

from mesh.core.custody.record import HELD_BACK
from mesh.core.custody.records import EventId
from mesh.core.dedupe import Window
from mesh.model.event import Event

CHAINS: Final = 65_536
HELD: Final = 20_000
YOUNG_S: Final = 1.0
"""So soon after a subscription was made the region may not have known of it: what was published then may never come."""
YOUNG_HOLD_S: Final = 2.0
"""It is waited for so long."""
AGAIN_S: Final = 1.0
"""What the store did not take when its turn came is tried again after so long."""
BEFORE: Final = 2
"""Where `Event.extra` says what came before: "REGION=SEQ@AGE_MS", separated by spaces."""


class Chains:
    """At the origin: the last event of each topic and key, by region. Cost: O(regions) an ordered event."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], dict[str, tuple[int, float]]] = OrderedDict()

    def before(self, topic: str, key: str, regions: Iterable[str], seq: int, now: float) -> str:
        """What an event of these regions says of the ones before it; it is the last one from now on."""
        chain = self._last.pop((topic, key), None)
        if chain is None:
            chain = {}
            if len(self._last) >= CHAINS:
                self._last.popitem(last=False)
        self._last[topic, key] = chain
        said = []
        for region in regions:
            last = chain.get(region)
            if last is not None:
                said.append(f"{region}={last[0]}@{max(0, int((now - last[1]) * 1e3))}")
            chain[region] = (seq, now)
        return " ".join(said)


class Before(NamedTuple):
    """What an event says of the one before it. age_ms: how long before it was published."""

    seq: int
    age_ms: int


def before(event: Event, region: str) -> Before | None:
    """What an event says of the one before it in a region; None when it says nothing, or nothing that can be read."""
    extra = event.extra
    if extra is None or len(extra) <= BEFORE:
        return None
    for said in extra[BEFORE].split(" "):
        name, _, value = said.partition("=")
        if name == region:
            seq, _, age = value.partition("@")
            if seq.isdecimal() and age.isdecimal() and len(seq) < 20 and len(age) < 20:
                return Before(int(seq), int(age))
    return None


class Waiting(NamedTuple):
    """An event that is held back. lsn: its record, settled for `part` when it leaves. id: its own. before: seq of the one it waits for.
    since: when the remaining time in the record was true. until, since: monotonic seconds. size: of the record's body. again: an earlier
    process took it."""

    lsn: int
    id: EventId
    before: int
    until: float
    since: float
    size: int
    again: bool = False

    @property
    def part(self) -> str:
        """Of its record."""
        return f"{HELD_BACK}{self.before}"


class Gate:
    """At the delivering node. Args: hold_s: longest that an event is held back. Cost: 1 us an ordered event; O(log held) one that waits."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._after: dict[EventId, Waiting] = {}
        """By the one they wait for."""
        self._held: dict[EventId, Waiting] = {}
        self._untils: list[tuple[float, EventId]] = []

    def __len__(self) -> int:
        return len(self._held)

    def lacks(self, id: EventId, said: Before, window: Window) -> bool:
        """Whether the event before this one was not delivered here. window: of its origin, with everything seen here."""
        before = (*id[:3], said.seq)
        return (before in self._held or not window.knows(said.seq)) and before not in self._after

    def until(self, said: Before, wanted_since: float, now: float) -> float:
        """How long to wait for what is lacking; 0: not at all. wanted_since: when the oldest plain subscription to the topic was made
        here."""
        wanted_for_s = now - said.age_ms / 1e3 - wanted_since
        if wanted_for_s < 0 or said.age_ms > self._hold_s * 1e3 or len(self._held) >= HELD:
            return 0.0
        return now + (YOUNG_HOLD_S if wanted_for_s < YOUNG_S else self._hold_s)

    def hold(self, waiting: Waiting) -> None:
        """Keep an event back."""
        self._held[waiting.id] = waiting
        self._after[(*waiting.id[:3], waiting.before)] = waiting
        heappush(self._untils, (waiting.until, waiting.id))

    def take(self, id: EventId) -> Waiting | None:
        """Take an event out that is not to be delivered from here."""
        waiting = self._held.pop(id, None)
        if waiting is not None:
            del self._after[(*id[:3], waiting.before)]
        return waiting

    def waiting(self) -> list[Waiting]:
        """Everything that is held back, as it came."""
        return list(self._held.values())

    def holds(self, id: EventId) -> bool:
        """Whether an event is held back here."""
        return id in self._held

    def next_after(self, id: EventId) -> Waiting | None:
        """Let the event out that waited for this one, which has just been delivered."""
        waiting = self._after.pop(id, None)
        if waiting is not None:
            del self._held[waiting.id]
        return waiting

    def overdue(self, now: float) -> Iterator[Waiting]:
        """Let out what was held back for long enough, one by one: the one before it did not come."""
        while self._untils and self._untils[0][0] <= now:
            until, id = heappop(self._untils)
            waiting = self._held.get(id)
            if waiting is None or waiting.until != until:
                continue
            if (*id[:3], waiting.before) in self._held:
                # Its turn comes with that one's, which came later and may have been given longer.
                self.hold(waiting._replace(until=now + AGAIN_S))
                continue
            del self._held[id], self._after[(*id[:3], waiting.before)]
            yield waiting

    def next_deadline(self) -> float | None:
        """When something was held back for long enough."""
        return self._untils[0][0] if self._untils else None
