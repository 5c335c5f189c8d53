"""What waits for one consumer: shares of stored records in order, and the events that came back from a receiver.

Decides which event is next. What came back (refused, timed out, its connection ended) goes again when it is due, before newer
events of the same key; events of other keys do not wait for it. Never sends, never reads a clock.
Invariants: of one (origin, key) events leave in record order while none of them is out; what is held of a waiting event is its
place in its record, never its body.
Bounds: by the owner (`oldest`), and at most `most_pending` events that came back or wait behind one.
Source: design page "Routing", Delivery (Order).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple, TypeAlias

from mesh.core.custody.records import EventId, Opened, Records, Unreadable
from mesh.model.event import Event
from mesh.wire.codec import remaining_bucket
from mesh.wire.frames import BatchHeader

NEVER = float("inf")
LOOK_FOR = 20_000
"""Events of an earlier process that are looked through for the last one a client says it has."""
Lane: TypeAlias = tuple[object, ...]
"""Events that must keep their order: (region, node, key), or an event without a key alone."""


@dataclass(slots=True, eq=False)
class Share:
    """A consumer's events of one record.

    indexes: places in the record that were not taken yet, from `at` on. stamped_at: when the events' own remaining times held.
    expires_at: when the first of them may pass its deadline. left: events not settled. repeats: may have been delivered by an
    earlier process.
    """

    lsn: int
    indexes: Sequence[int]
    stamped_at: float
    expires_at: float
    size_bytes: int
    added_at: float
    left: int
    repeats: bool = False
    at: int = 0

    def size_of(self, events: int) -> int:
        """What so many of those that wait count for: their part of what all of them do, so that nobody has to look at each."""
        return self.size_bytes * events // (len(self.indexes) - self.at)


@dataclass(slots=True, eq=False)
class Handed:
    """An event that left its share. deliveries: times it was sent. strikes: those that ended badly. due_at: when it goes again,
    or, while it is out, when its acknowledgement is late (never, while it is not written)."""

    backlog: Backlog
    share: Share
    index: int
    id: EventId
    lane: Lane
    expires_at: float
    deliveries: int = 0
    strikes: int = 0
    due_at: float = NEVER

    def __lt__(self, other: Handed) -> bool:
        return (self.share.lsn, self.index) < (other.share.lsn, other.index)


class Next(NamedTuple):
    """The event whose turn it is."""

    handed: Handed
    header: BatchHeader
    event: Event


class Taken(NamedTuple):
    """Events of a share that were taken out of the queue for good. opened: None when the record cannot be read. attempts: times
    they were sent."""

    share: Share
    indexes: Sequence[int]
    opened: Opened | None
    attempts: int = 0
    size_bytes: int = 0


def stamp(header: BatchHeader, events: Sequence[Event], now: float) -> tuple[float, float]:
    """(when the exact remaining times of the events held, when the first one has passed; NEVER without deadlines)."""
    deadlines = [event.deadline_ms for event in events if event.deadline_ms] if header.remaining_ms else []
    if not deadlines:
        return now, NEVER
    lost_ms = remaining_bucket(deadlines[0]) - header.remaining_ms
    stamped_at = now - lost_ms / 1_000
    return stamped_at, stamped_at + min(deadlines) / 1_000


@dataclass(slots=True, eq=False)
class Backlog:
    """Args: part: whose events. session: its receiver's number; 0: a queue group's. Cost: O(1) an event; O(log n) one that came back."""

    part: str
    session: int
    records: Records
    most_pending: int
    group: tuple[str, str] = ("", "")
    events: int = 0
    """Waiting in shares."""
    bytes: int = 0
    wake_at: float = NEVER
    """When its owner looks at it next."""
    hand_back_at: float = NEVER
    """When a group without a member here is offered to others."""
    doomed: bool = False
    pending: dict[EventId, list[Handed]] = field(default_factory=dict)
    """What came back, or waits behind such an event."""
    _pending_count: int = 0
    _shares: deque[Share] = field(default_factory=deque)
    _lanes: dict[Lane, list[Handed]] = field(default_factory=dict)
    _heads: list[tuple[float, int, int, Lane]] = field(default_factory=list)
    _deadlines: list[tuple[float, int, int, Share | Handed]] = field(default_factory=list)

    def __len__(self) -> int:
        return self.events + self._pending_count

    def add(self, share: Share) -> None:
        """Queue a share behind the others."""
        self._shares.append(share)
        self.events += len(share.indexes)
        self.bytes += share.size_bytes
        if share.expires_at < NEVER:
            heappush(self._deadlines, (share.expires_at, share.lsn, -1, share))

    def come_back(self, handed: Handed, due_at: float) -> None:
        """An event that was out has to go again at `due_at`."""
        handed.due_at = due_at
        lane = self._lanes.setdefault(handed.lane, [])
        insort(lane, handed)
        self.pending.setdefault(handed.id, []).append(handed)
        self._pending_count += 1
        if lane[0] is handed:
            self._push_head(handed)
        if handed.expires_at < NEVER:
            heappush(self._deadlines, (handed.expires_at, handed.share.lsn, handed.index, handed))

    def _push_head(self, handed: Handed) -> None:
        heappush(self._heads, (handed.due_at, handed.share.lsn, handed.index, handed.lane))

    def withdraw(self, handed: Handed) -> None:
        """An event that came back need not go again."""
        twins = self.pending[handed.id]
        twins.remove(handed)
        if not twins:
            del self.pending[handed.id]
        self._pending_count -= 1
        lane = self._lanes[handed.lane]
        was_head = lane[0] is handed
        lane.remove(handed)
        if not lane:
            del self._lanes[handed.lane]
        elif was_head:
            self._push_head(lane[0])

    def _first_head(self) -> Handed | None:
        """The event that came back and is due first; entries of heads that changed are cleared on the way."""
        while self._heads:
            due_at, lsn, index, name = self._heads[0]
            lane = self._lanes.get(name)
            if lane is not None:
                head = lane[0]
                if (head.due_at, head.share.lsn, head.index) == (due_at, lsn, index):
                    return head
            heappop(self._heads)
        return None

    def ready(self, now: float) -> bool:
        """Whether `take` may find something."""
        head = self._first_head()
        return (head is not None and head.due_at <= now) or (
            bool(self._shares) and self._pending_count < self.most_pending
        )

    def next_deadline(self, now: float) -> float:
        """When an event that came back is due (one that is due already waits for room, not for time), or one that waits passes
        its deadline."""
        head = self._first_head()
        due_at = NEVER if head is None or head.due_at <= now else head.due_at
        return min(due_at, self._deadlines[0][0]) if self._deadlines else due_at

    def take(self, now: float) -> Next | None:
        """The next event out of the queue; None when nothing may go now. Raises: Unreadable (see `lose_damaged`)."""
        head = self._first_head()
        if head is not None and head.due_at <= now:
            opened = self.records.open(head.share.lsn)
            self.withdraw(head)
            return Next(head, opened.header, opened.events[head.index])
        while self._shares and self._pending_count < self.most_pending:
            share = self._shares[0]
            opened = self.records.open(share.lsn)
            index = share.indexes[share.at]
            event = opened.events[index]
            self._advance(share)
            handed = self._handed(share, index, opened.header, event)
            if handed.lane in self._lanes:
                self.come_back(handed, now)  # behind the one that has to go first
                continue
            return Next(handed, opened.header, event)
        return None

    def _advance(self, share: Share) -> None:
        size = share.size_of(1)
        share.at += 1
        share.size_bytes -= size
        self.events -= 1
        self.bytes -= size
        if share.at >= len(share.indexes):
            self._shares.popleft()

    def _handed(self, share: Share, index: int, header: BatchHeader, event: Event) -> Handed:
        id = (header.region, header.node, header.epoch, event.seq)
        lane: Lane = (header.region, header.node, event.key) if event.key else (share.lsn, index)
        timed = event.deadline_ms and share.expires_at < NEVER
        expires_at = share.stamped_at + event.deadline_ms / 1_000 if timed else NEVER
        return Handed(self, share, index, id, lane, expires_at, int(share.repeats))

    def lose_damaged(self) -> Taken:
        """Take out what the next record was to bring: it cannot be read."""
        head = self._first_head()
        share = head.share if head is not None and not self._readable(head.share) else self._shares[0]
        indexes = list(share.indexes[share.at :])
        if indexes:
            self._shares.remove(share)
            self._take_off(share, share.size_bytes, len(indexes))
            share.at = len(share.indexes)
        for handed in [one for twins in self.pending.values() for one in twins if one.share is share]:
            self.withdraw(handed)
            indexes.append(handed.index)
        return Taken(share, indexes, None)

    def _readable(self, share: Share) -> bool:
        try:
            self.records.open(share.lsn)
        except Unreadable:
            return False
        return True

    def _take_off(self, share: Share, size_bytes: int, count: int) -> None:
        share.size_bytes -= size_bytes
        self.events -= count
        self.bytes -= size_bytes

    def oldest(self, most: int) -> Taken | None:
        """Take up to `most` of the oldest events of shares out, all of one record; None when no share waits."""
        if not self._shares:
            return None
        share = self._shares[0]
        indexes = share.indexes[share.at : share.at + most]
        try:
            opened: Opened | None = self.records.open(share.lsn)
        except Unreadable:
            opened, indexes = None, share.indexes[share.at :]
        whole = len(indexes) == len(share.indexes) - share.at
        size = share.size_of(len(indexes))
        share.at += len(indexes)
        self._take_off(share, size, len(indexes))
        if whole:
            self._shares.popleft()
        return Taken(share, indexes, opened, 0, size)

    def put_back(self, taken: Taken) -> None:
        """Undo `oldest`: the events wait again, first of all."""
        share = taken.share
        if share.at >= len(share.indexes):
            self._shares.appendleft(share)
        share.at -= len(taken.indexes)
        self._take_off(share, -taken.size_bytes, -len(taken.indexes))

    def come_back_oldest(self) -> Handed | None:
        """Take the oldest event that came back out; None when there is none."""
        if not self.pending:
            return None
        oldest = min(one for twins in self.pending.values() for one in twins)
        self.withdraw(oldest)
        return oldest

    def expired(self, now: float) -> Iterator[Taken]:
        """Take out what waits and has passed its deadline. Cost: that of opening each record in which some may have."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, _, waiting = heappop(self._deadlines)
            if isinstance(waiting, Handed):
                if waiting in self.pending.get(waiting.id, ()):
                    self.withdraw(waiting)
                    opened = self._opened(waiting.share)
                    yield Taken(waiting.share, (waiting.index,), opened, waiting.deliveries)
            elif waiting.at < len(waiting.indexes):
                yield self._expired_of(waiting, now)

    def _opened(self, share: Share) -> Opened | None:
        try:
            return self.records.open(share.lsn)
        except Unreadable:
            return None

    def _expired_of(self, share: Share, now: float) -> Taken:
        opened = self._opened(share)
        waiting = share.indexes[share.at :]
        gone: list[int] = []
        kept: list[int] = []
        if opened is None:
            gone += waiting
        else:
            first = NEVER
            for index in waiting:
                deadline_ms = opened.events[index].deadline_ms
                expires_at = share.stamped_at + deadline_ms / 1_000 if deadline_ms else NEVER
                if expires_at <= now:
                    gone.append(index)
                else:
                    kept.append(index)
                    first = min(first, expires_at)
            if first < NEVER:
                heappush(self._deadlines, (first, share.lsn, -1, share))
        size = share.size_of(len(gone))
        share.indexes, share.at = kept, 0
        self._take_off(share, size, len(gone))
        if not kept:
            self._shares.remove(share)
        return Taken(share, gone, opened)

    def take_until(self, id: EventId) -> list[Taken]:
        """Take out what came back or waits, in record order, up to and with this event; nothing where it is not found among what may
        have been sent: all that came back, and the first LOOK_FOR events of shares of an earlier process."""
        last = min(self.pending.get(id, ()), default=None)
        if last is not None:
            sent = [
                one for twins in self.pending.values() for one in twins if one.deliveries and not last < one
            ]
            for handed in sent:
                self.withdraw(handed)
            return [Taken(one.share, (one.index,), None) for one in sent]
        looked = 0
        for share in self._shares:
            opened = self._opened(share) if share.repeats and looked < LOOK_FOR else None
            if opened is None:
                return []
            for place in range(share.at, len(share.indexes)):
                header, event = opened.header, opened.events[share.indexes[place]]
                looked += 1
                if (header.region, header.node, header.epoch, event.seq) == id:
                    return self._take_through(share, place)
        return []

    def _take_through(self, last: Share, place: int) -> list[Taken]:
        """Every share before `last`, and of `last` everything through this place."""
        found: list[Taken] = []
        while self._shares:
            share = self._shares[0]
            taken = self.oldest(place + 1 - share.at if share is last else len(share.indexes))
            assert taken is not None, "a share is there"
            found.append(taken)
            if share is last:
                break
        for handed in [one for twins in self.pending.values() for one in twins if one.share is not last]:
            self.withdraw(handed)
            found.append(Taken(handed.share, (handed.index,), None))
        return found

    def clear(self) -> list[tuple[Share, int]]:
        """Everything out, at once and unread: (share, how many of its events waited or had come back)."""
        found = [(share, len(share.indexes) - share.at) for share in self._shares]
        found += [(handed.share, 1) for twins in self.pending.values() for handed in twins]
        for share in self._shares:
            share.at = len(share.indexes)
        self._shares.clear()
        self.pending.clear()
        self._lanes.clear()
        self._heads.clear()
        self._deadlines.clear()
        self.events = self.bytes = self._pending_count = 0
        return found

    def oldest_at(self) -> float:
        """When the oldest waiting event came; NEVER without one. Cost: O(what came back)."""
        at = self._shares[0].added_at if self._shares else NEVER
        return min([at, *(one.share.added_at for twins in self.pending.values() for one in twins)])
