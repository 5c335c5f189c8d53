"""What enters this node's store: records that lead on, and records for whoever listens here.

Decides what is fresh, what is too late, and in which order store, delivery and dispatch hear of a batch. Never decides where it
goes, never acknowledges.
Invariant: an event counts as seen only when it is in the store or was handed to everybody who gets it here; a batch that the store
refuses leaves no trace, so that it may come again.
Source: design page "Routing", Delivery; decision 0016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.copies import Copies
from mesh.core.custody.dead_letters import DeadLetters
from mesh.core.custody.departure import Departure
from mesh.core.custody.listeners import Listeners
from mesh.core.custody.order import Gate, before
from mesh.core.custody.receipts import Outgoing, ranges
from mesh.core.custody.record import Head, Held, encode_head
from mesh.core.custody.spools import Spools
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.custody.wanted import Wanted
from mesh.core.dedupe import Dedupe, Origin, Seen, Window
from mesh.core.hop import expired
from mesh.core.plan import Plan
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic_rules import DEFAULT, TopicRule
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Flag

_extra = attrgetter("extra")
CUSTODY = "custody"
"""The variant of the dedupe windows of this level: what waits in a spool must not fall out of a window that at-most-once moves on."""


class Keeping:
    """Args: listeners: of this node. plan_of: a topic's plan inside the region."""

    def __init__(
        self,
        region: str,
        *,
        store: Store,
        copies: Copies,
        departure: Departure,
        listeners: Listeners,
        spools: Spools,
        letters: DeadLetters,
        matched: Callable[[list[Event]], tuple[list[Event], list[Plan]]],
        plan_of: Callable[[str], Plan],
        receipts: Outgoing,
        limits: Limits,
        counters: Counters,
    ) -> None:
        self._receipts = receipts
        self._copies = copies
        self._store = store
        self._departure = departure
        self._listeners = listeners
        self._spools = spools
        self._letters = letters
        self._matched = matched
        self.plan_of = plan_of
        self._limits = limits
        self._counters = counters
        self.dedupe = Dedupe(limits)
        self.gate: Gate[tuple[int, BatchHeader, Event, Wanted]] = Gate(region, counters)

    def keep(
        self,
        header: BatchHeader,
        body: bytes,
        outward: tuple[str, ...],
        now: float,
        *,
        deadline_ms: int = 0,
        rule: TopicRule = DEFAULT,
    ) -> int:
        """Store a batch for destinations elsewhere and send it on. Returns its number. Raises: StoreRefusedError, nothing happened.

        rule: whose spool it waits in."""
        copied = header.flags & Flag.COPIES
        head = encode_head(Head(header, deadline_ms, rule.filter, self._copies.epoch if copied else 0))
        lsn = self._store.append(outward, head, body)
        if copied:
            self._copies.added(lsn, outward, head, body, header, now)
        left_ms = deadline_ms or header.remaining_ms
        expires_at = now + (left_ms / 1e3 if left_ms else self._limits.spool_age_s)
        ends_as = Drop.EXPIRED if left_ms else Drop.SPOOL_AGE
        held = Held(
            lsn, len(body), header.count, outward, expires_at, rule.filter, since=now, ends_as=ends_as
        )
        if rule.spool_bytes:
            self._spools.add(rule, lsn, len(body))
        self._departure.keep(held, header, body, now)
        return lsn

    def deliver(
        self,
        header: BatchHeader,
        events: list[Event],
        body: bytes,
        now: float,
        *,
        fresh: bool = False,
        matched: bool = False,
    ) -> int:
        """Events for whoever listens here: each one once, in time. Returns the number of their record, 0 when none was needed.

        fresh: published here, so that none can have been seen. matched: their topics are known to be sound. Raises: StoreRefusedError, nothing happened.
        """
        if not fresh and not matched:
            events, _ = self._matched(events)
        if not events:
            return 0
        seen: list[Event] = events
        window: Window | None = None
        if not fresh:
            window = self._window(header, now)
            seen = self._fresh(window, events)
        kept = seen
        if header.remaining_ms:
            kept = [event for event in seen if not (event.deadline_ms and expired(header, event))]
        lsn = 0
        try:
            if kept:
                lsn = self._hand_over(header, kept, body, window, now)
        except StoreRefusedError:
            if window is not None:
                for event in seen:
                    window.forget(event.seq)
            raise
        if len(kept) < len(seen):
            late = set(map(id, kept))
            for event in seen:
                if id(event) not in late:
                    lsn = max(lsn, self._letters.put(header, event, "here", Drop.EXPIRED, 0, 0.0))
        return lsn

    def _hand_over(
        self,
        header: BatchHeader,
        events: list[Event],
        body: bytes,
        window: Window | None,
        now: float,
    ) -> int:
        """Store and deliver, but for events of ordered topics that have to wait for another: those are only stored."""
        early: list[Event] = []
        if window is not None and any(map(_extra, events)):
            early = self._early(header, events, window)
        if early:
            events = [event for event in events if event not in early]
        lsn = self._store_here(header, events, body, now) if events else 0
        for event in early:
            assert window is not None
            alone = replace(header, count=1)
            wanted = self._listeners.sort(alone, [event])
            record = self._append(alone, [event], encode_body([event]), wanted, now)
            self.gate.hold(header, event, window, (record, alone, event, wanted), now)
            lsn = max(lsn, record)
        if len(self.gate):
            self.release(now)
        return lsn

    def _early(self, header: BatchHeader, events: list[Event], window: Window) -> list[Event]:
        """Events that have to wait for one that is not here, or for one of these that has to."""
        early: list[Event] = []
        for event in events:
            said = before(event, header.regions[0]) if event.extra is not None else None
            if said is None:
                continue
            if self.gate.must_wait(header, event, window) or any(
                other.seq == said.seq and other.key == event.key for other in early
            ):
                early.append(event)
        return early

    def release(self, now: float) -> None:
        """Deliver events of ordered topics that need not wait any longer."""
        for lsn, header, event, wanted in self.gate.release(now):
            self._listeners.add(lsn, header, [event], wanted, now)

    def mark(self, header: BatchHeader, events: Sequence[Event], now: float) -> None:
        """These are in the store since an earlier process: seen."""
        window = self._window(header, now)
        for event in events:
            window.see(event.seq)

    def _store_here(self, header: BatchHeader, events: list[Event], body: bytes, now: float) -> int:
        wanted = self._listeners.sort(header, events)
        if len(events) != header.count:
            header = replace(header, count=len(events))
            body = encode_body(events) if wanted.parts else b""
        lsn = self._append(header, events, body, wanted, now)
        return max(lsn, self._listeners.add(lsn, header, events, wanted, now))

    def inherit(
        self, header: BatchHeader, events: list[Event], body: bytes, parts: Sequence[str], now: float
    ) -> tuple[int, BatchHeader, list[Event]]:
        """Store what clients of a home that is gone were owed (flag MOVED), each event once. Returns (number, 0 for nothing new, header
        and events as stored). Raises: StoreRefusedError, nothing happened."""
        window = self._window(header, now)
        fresh = self._fresh(window, events)
        if not fresh:
            return 0, header, fresh
        if len(fresh) != header.count:
            header = replace(header, count=len(fresh))
            body = encode_body(fresh)
        try:
            return self._put(header, body, tuple(parts), now), header, fresh
        except StoreRefusedError:
            for event in fresh:
                window.forget(event.seq)
            raise

    def _put(self, header: BatchHeader, body: bytes, parts: tuple[str, ...], now: float) -> int:
        if not header.flags & Flag.COPIES:
            return self._store.append(parts, encode_head(Head(header)), body)
        head = encode_head(Head(header, epoch=self._copies.epoch))
        lsn = self._store.append(parts, head, body)
        self._copies.added(lsn, parts, head, body, header, now)
        return lsn

    def _append(
        self, header: BatchHeader, events: list[Event], body: bytes, wanted: Wanted, now: float
    ) -> int:
        parts = tuple(wanted.parts)
        lsn = self._put(header, body, parts, now) if parts else 0
        if header.flags & Flag.RECEIPT_DELIVERED:
            away = self._listeners.away(parts)
            self._receipts.node_has(header, ranges([event.seq for event in events]), lsn, parts, away)
        return lsn

    def _window(self, header: BatchHeader, now: float) -> Window:
        variant = CUSTODY
        if header.flags & Flag.GROUP_ONLY:
            variant += "/".join(f"{group}/{filter}" for group, filter, _ in header.groups)
        elif header.flags & Flag.MOVED:
            variant += f" moved {header.to_node}" + "".join(f" {name}" for _, name, _ in header.groups)
        return self.dedupe.window(Origin(header.region, header.node, header.epoch, variant), now)

    def _fresh(self, window: Window, events: list[Event]) -> list[Event]:
        """The events not seen before, and those nobody can say of any more: they are delivered, counted as such."""
        first, last = events[0].seq, events[-1].seq
        if last - first == len(events) - 1 and window.see_run(first, last):
            return events
        fresh: list[Event] = []
        for event in events:
            seen = window.see(event.seq)
            if seen is not Seen.DUPLICATE:
                fresh.append(event)
                if seen is Seen.BELOW_WINDOW:
                    self._counters.passed_window += 1
            else:
                self._counters.drop(Drop.DUPLICATE, 1)
        return fresh
