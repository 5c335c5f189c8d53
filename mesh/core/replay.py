"""From an event log to live events without gap or duplicate: the newest part of a log, and one subscription's way through it.

Decides what a replay does next: read older events from the log's engine, take newer ones from memory, or go live. A replay
goes live in the same call in which it took the last event there is, so that everything later comes to it as to every
session: nothing has to be held back for it, and a slow one holds no memory, because it reads only when it wants more.
Never reads, waits or stores: its caller does.
Invariant: the positions a replay hands out grow; between two of them the log holds nothing that its filters match, or a `gap`
was told. The positions of a tail follow one by one.
Source: docs/decisions/0015-event-log.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from mesh.model.event import Logged, Told, queue_bytes
from mesh.model.reasons import LogGap
from mesh.model.topic import matches

CHUNK_EVENTS: Final = 512
"""What a replay takes in one step."""
CHUNK_BYTES: Final = 256 * 1024
TAIL_EVENTS: Final = 2_048
"""Stored events that stay in memory, so that a replay that has caught up reads no disk."""
TAIL_BYTES: Final = 2 << 20
_REMEMBERED: Final = 8_192


class Gap(NamedTuple):
    """Events are missing before `position`. since_ms, until_ms: when they passed, wall clock (since 0: everything before).
    events: how many, None: unknown."""

    position: int
    since_ms: int
    until_ms: int
    events: int | None
    reason: LogGap


class Chunk(NamedTuple):
    """A part of a log in order. next: where to read on; everything before it that matches is in `entries`. oldest: the first
    position the log still had when it was read."""

    entries: Sequence[Logged]
    next: int
    oldest: int


class Tail:
    """The newest events of a log: those that wait for the disk, and some that are stored already.

    Args: next: the position of the first event to come. pending_bytes: what may wait for the disk.
    Cost: 0.5 us an event.
    """

    def __init__(self, next: int, pending_bytes: int) -> None:
        self.first = next
        """Position of the oldest event in memory; `next` when there is none."""
        self.stored = next
        """Events before this position are stored."""
        self._entries: list[Logged] = []
        self._sizes: list[int] = []
        self._most_pending_bytes = pending_bytes
        self.pending_bytes = 0
        self._stored_bytes = 0

    @property
    def next(self) -> int:
        return self.first + len(self._entries)

    @property
    def pending(self) -> int:
        """Events that wait for the disk."""
        return self.next - self.stored

    @property
    def full(self) -> bool:
        """Whether nothing more may be added until something is stored."""
        return self.pending_bytes >= self._most_pending_bytes

    def add(self, entry: Logged) -> None:
        """The next event. Its position is `next`, and the tail is not full."""
        size = queue_bytes((entry.event,))
        self._entries.append(entry)
        self._sizes.append(size)
        self.pending_bytes += size

    def unstored(self, most_events: int, most_bytes: int) -> list[Logged]:
        """The oldest events that wait for the disk, at least one where there is any."""
        begin = self.stored - self.first
        end = begin
        size = 0
        while end < len(self._entries) and end - begin < most_events and (end == begin or size < most_bytes):
            size += self._sizes[end]
            end += 1
        return self._entries[begin:end]

    def store(self, position: int) -> None:
        """Events before `position` are stored now: the oldest of them may leave."""
        moved = sum(self._sizes[self.stored - self.first : position - self.first])
        self.stored = position
        self.pending_bytes -= moved
        self._stored_bytes += moved
        stored = self.stored - self.first
        if stored <= TAIL_EVENTS and self._stored_bytes <= TAIL_BYTES:
            return
        leaving = 0
        while stored - leaving > TAIL_EVENTS // 2 or (
            leaving < stored and self._stored_bytes > TAIL_BYTES // 2
        ):
            self._stored_bytes -= self._sizes[leaving]
            leaving += 1
        del self._entries[:leaving], self._sizes[:leaving]
        self.first += leaving

    def after(self, position: int, most: int) -> list[Logged]:
        """Up to `most` events from `position` on, which is in memory or `next`."""
        begin = position - self.first
        return self._entries[begin : begin + most]


class Do(Enum):
    """What a replay wants next."""

    READ = "read"
    """`take` a chunk of the log from `next` up to the tail."""
    HAND_OVER = "hand_over"
    GO_LIVE = "go_live"
    """Hand over, and subscribe in the same call."""


Item: TypeAlias = tuple[Logged, tuple[int, ...]] | Told
"""An event with the sids that it is for, or something to be told."""


@dataclass(frozen=True, slots=True)
class Step:
    """do, and what it hands over. begin, end: positions to read, end not included."""

    do: Do
    items: Sequence[Item] = ()
    begin: int = 0
    end: int = 0


class Replay:
    """One subscriber's way through the log.

    Args: wanted: (sid, filter) of its subscriptions. start: the first position it wants. since_ms: where it wanted to begin,
    if that was a time: gaps that ended before do not concern it.
    """

    def __init__(
        self,
        wanted: Sequence[tuple[int, str]],
        start: int,
        gaps: Iterable[Gap],
        *,
        since_ms: int | None = None,
    ) -> None:
        self.next = start
        self.events = 0
        """Handed over so far."""
        self._wanted = tuple(wanted)
        self._sids: dict[str, tuple[int, ...]] = {}
        self._gaps = sorted(
            gap
            for gap in gaps
            if gap.position > start
            or (gap.position == start and (since_ms is None or gap.until_ms >= since_ms))
        )

    @property
    def filters(self) -> tuple[str, ...]:
        return tuple(filter for _, filter in self._wanted)

    def step(self, tail: Tail, *, behind: bool = False) -> Step:
        """What to do now. Where it hands events over, it has moved on behind them.

        behind: sessions had events that the log has not taken yet: it does not go live before them, and may have nothing to hand over.
        """
        if self.next < tail.first:
            return Step(Do.READ, begin=self.next, end=tail.first)
        entries = tail.after(self.next, CHUNK_EVENTS)
        end = self.next + len(entries)
        items = self._items(entries, end)
        if end < tail.next or behind:
            return Step(Do.HAND_OVER, items)
        return Step(Do.GO_LIVE, [*items, Told("live", {"replayed": self.events})])

    def take(self, chunk: Chunk) -> Step:
        """What was read for a READ. Events that were trimmed before they were read are told as a gap."""
        lost: list[Item] = []
        if chunk.oldest > self.next:
            lost = [Told("gap", {"reason": LogGap.TRIMMED.value})]
        return Step(Do.HAND_OVER, [*lost, *self._items(chunk.entries, chunk.next)])

    def skip(self, position: int, reason: LogGap) -> Step:
        """The log cannot be read before `position`: told as a gap."""
        self.next = position
        self._gaps = [gap for gap in self._gaps if gap.position > position]
        return Step(Do.HAND_OVER, [Told("gap", {"reason": reason.value})])

    def note(self, gap: Gap) -> None:
        """A gap that the log noted meanwhile."""
        if gap.position >= self.next:
            self._gaps.append(gap)

    def _items(self, entries: Sequence[Logged], end: int) -> list[Item]:
        items: list[Item] = []
        for entry in entries:
            if self._gaps and self._gaps[0].position <= entry.position:
                items += self._told_until(entry.position)
            sids = self._sids_of(entry.event.topic)
            if sids:
                self.events += 1
                items.append((entry, sids))
        items += self._told_until(end)
        self.next = end
        return items

    def _told_until(self, position: int) -> list[Told]:
        told = [_told(gap) for gap in self._gaps if gap.position <= position]
        self._gaps = self._gaps[len(told) :]
        return told

    def _sids_of(self, topic: str) -> tuple[int, ...]:
        sids = self._sids.get(topic)
        if sids is None:
            if len(self._sids) >= _REMEMBERED:
                self._sids.clear()
            sids = self._sids[topic] = tuple(
                sorted(sid for sid, filter in self._wanted if matches(filter, topic))
            )
        return sids


def wall_text(wall_ms: int) -> str:
    """Milliseconds since 1970 in RFC 3339."""
    at = datetime.fromtimestamp(wall_ms / 1e3, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _told(gap: Gap) -> Told:
    return Told(
        "gap",
        {
            "reason": gap.reason.value,
            "since": wall_text(gap.since_ms) if gap.since_ms else None,
            "until": wall_text(gap.until_ms),
            "events": gap.events,
        },
    )
