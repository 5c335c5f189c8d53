"""What enters this node's store: records that lead on, and records for whoever listens here.

Decides what is fresh, what is too late, and in which order store, delivery and dispatch hear of a batch. Never decides where it
goes, never acknowledges.
Invariant: an event counts as seen only when it is in the store or was handed to everybody who gets it here; a batch that the store
refuses leaves no trace, so that it may come again.
Source: design page "Routing", Delivery; decision 0016.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter

from msgspec.structs import replace

from mesh.core.counters import Counters
from mesh.core.custody.copies import Copies
from mesh.core.custody.dead_letters import DeadLetters
from mesh.core.custody.departure import Departure
from mesh.core.custody.listeners import Listeners
from mesh.core.custody.order import AGAIN_S, Gate, Waiting, before
from mesh.core.custody.receipts import Outgoing, ranges
from mesh.core.custody.record import Head, Held, decode_head, encode_head
from mesh.core.custody.records import EventId
from mesh.core.custody.spools import Spools
from mesh.core.custody.store import JournalDamaged, Store, StoreRefusedError
from mesh.core.custody.wanted import Wanted
from mesh.core.dedupe import Dedupe, Origin, Seen, Window
from mesh.core.hop import aged, expired, left_ms
from mesh.core.plan import Plan
from mesh.model.event import Event
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic_rules import DEFAULT, TopicRule
from mesh.wire.codec import decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag

_extra = itemgetter(4)
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
        self.gate = Gate(limits.order_hold_s)
        self.ordered: dict[Origin, list[int]] = {}
        """Seqs of ordered topics that came since somebody took them, by origin."""
        self._region = region
        self._last = 0
        """The newest record of this module's."""
        self._let_out_as: deque[tuple[int, Waiting]] = deque()
        """What left the gate and its new record, until that is synced."""

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
        lsn = self._last = self._store.append(outward, head, body)
        if copied:
            self._copies.added(lsn, outward, head, body, header, now)
        remaining_ms = deadline_ms or header.remaining_ms
        expires_at = now + (remaining_ms / 1e3 if remaining_ms else self._limits.spool_age_s)
        ends_as = Drop.EXPIRED if remaining_ms else Drop.SPOOL_AGE
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
        # A copy is taken only when what it repeats is on the disk.
        lsn = self._last if len(seen) < len(events) else 0
        try:
            if kept:
                lsn = max(lsn, self._hand_over(header, kept, body, window, now))
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
        early: list[tuple[Event, Waiting]] = []
        if window is not None and not header.flags & Flag.GROUP_ONLY and any(map(_extra, events)):
            early = self._early(header, events, window, now)
            seqs = self.ordered.setdefault(Origin(header.region, header.node, header.epoch, CUSTODY), [])
            seqs += [event.seq for event in events if event.extra is not None]
        lsn = self._hold_back(header, early)
        if early:
            late = {event.seq for event, _ in early}
            events = [event for event in events if event.seq not in late]
        try:
            if events:
                lsn = max(lsn, self._store_here(header, events, body, now))
        except StoreRefusedError:
            for _, waiting in early:
                self.gate.take(waiting.id)
                self._store.settle(waiting.lsn, waiting.part)
            raise
        if len(self.gate):
            for event in events:
                self._let_out_after((header.region, header.node, header.epoch, event.seq), now)
        return lsn

    def _early(
        self, header: BatchHeader, events: list[Event], window: Window, now: float
    ) -> list[tuple[Event, Waiting]]:
        """Events that have to wait for one that is not here, or for one of these that has to."""
        early: list[tuple[Event, Waiting]] = []
        held: set[int] = set()
        for event in events:
            said = before(event, self._region) if event.extra is not None else None
            if said is None:
                continue
            id = (header.region, header.node, header.epoch, event.seq)
            if said.seq not in held and not self.gate.lacks(id, said, window):
                continue
            until = self.gate.until(said, self._listeners.wanted_since(event.topic, now), now)
            if until:
                if event.deadline_ms and header.remaining_ms:
                    until = min(until, now + left_ms(header, event) / 1e3)
                early.append((event, Waiting(0, id, said.seq, until, now, len(event.data))))
                held.add(event.seq)
        return early

    def _hold_back(self, header: BatchHeader, early: list[tuple[Event, Waiting]]) -> int:
        """Store events that have to wait. Returns the last record. Raises: StoreRefusedError, nothing happened."""
        lsn = 0
        alone = replace(header, count=1) if early else header
        for at, (event, waiting) in enumerate(early):
            try:
                lsn = self._put(alone, encode_body([event]), (waiting.part,), waiting.since)
            except StoreRefusedError:
                for _, stored in early[:at]:
                    self.gate.take(stored.id)
                    self._store.settle(stored.lsn, stored.part)
                raise
            early[at] = event, waiting._replace(lsn=lsn)
            self.gate.hold(early[at][1])
        return lsn

    def _let_out_after(self, id: EventId, now: float) -> None:
        """An event was delivered: those that waited for it follow, in order."""
        while (waiting := self.gate.next_after(id)) is not None:
            self._let_out(waiting, now)
            id = waiting.id

    def _let_out(self, waiting: Waiting, now: float) -> None:
        """Deliver an event that was held back, as a record of its own: records are in the order of delivery, after a restart too."""
        try:
            packed, body = self._store.read(waiting.lsn)
            header = aged(decode_head(packed).header, (now - waiting.since) * 1e3)
            (event,) = decode_body(body, 1)
        except (JournalDamaged, LookupError, ValueError):
            self._counters.drop(Drop.JOURNAL_DAMAGED, 1)
            self._store.settle(waiting.lsn, waiting.part)
            return
        if waiting.again:
            header = replace(header, flags=header.flags | Flag.REDELIVERED)
        if event.deadline_ms and header.remaining_ms and expired(header, event):
            record = self._letters.put(header, event, "here", Drop.EXPIRED, 0, 0.0)
        else:
            wanted = self._listeners.sort(header, [event])
            try:
                record = self._append(header, [event], body, wanted, now)
            except StoreRefusedError:
                self.gate.hold(waiting._replace(until=now + AGAIN_S))
                return
            self._listeners.add(record, header, [event], wanted, now)
        self._let_out_as.append((record, waiting))
        self.settle_let_out()

    def settle_let_out(self) -> None:
        """What left the gate and is on the disk as a record of its own needs its first one no more."""
        synced = self._store.synced
        while self._let_out_as and self._let_out_as[0][0] <= synced:
            waiting = self._let_out_as.popleft()[1]
            self._store.settle(waiting.lsn, waiting.part)

    def take_up(
        self, lsn: int, header: BatchHeader, event: Event, before: int, since: float, now: float
    ) -> None:
        """An earlier process held this event back. `release_ready` follows when all records were looked at."""
        id = (header.region, header.node, header.epoch, event.seq)
        until = now + self._limits.order_hold_s
        if event.deadline_ms and header.remaining_ms:
            until = min(until, since + left_ms(header, event) / 1e3)
        self.gate.hold(Waiting(lsn, id, before, until, since, len(event.data), again=True))

    def was_let_out(self, header: BatchHeader, events: Sequence[Event]) -> None:
        """An earlier process had delivered these: what it had held back of them is settled."""
        if not len(self.gate) or header.flags & Flag.GROUP_ONLY:
            return
        for event in events:
            waiting = self.gate.take((header.region, header.node, header.epoch, event.seq))
            if waiting is not None:
                self._store.settle(waiting.lsn, waiting.part)

    def release(self, now: float) -> None:
        """Deliver events of ordered topics that have waited for long enough."""
        for waiting in self.gate.overdue(now):
            region, node, epoch, _ = waiting.id
            window = self.dedupe.window(Origin(region, node, epoch, CUSTODY), now)
            self._counters.order_gaps += not window.knows(waiting.before)
            self._let_out(waiting, now)
            self._let_out_after(waiting.id, now)

    def release_ready(self, now: float) -> None:
        """After a restart: deliver what was held back though what it waited for had been delivered."""
        for waiting in self.gate.waiting():
            region, node, epoch, _ = waiting.id
            before = region, node, epoch, waiting.before
            window = self.dedupe.window(Origin(region, node, epoch, CUSTODY), now)
            if window.knows(waiting.before) and not self.gate.holds(before):
                self._let_out_after(before, now)

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
        copied = header.flags & Flag.COPIES
        head = encode_head(Head(header, epoch=self._copies.epoch if copied else 0))
        lsn = self._last = self._store.append(parts, head, body)
        if copied:
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
