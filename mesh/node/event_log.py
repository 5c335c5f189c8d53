"""The event log of one node: what `[[topic]] retain` says is kept, group by group, and what replays read.

The log is a session of its node that subscribes to the filters of the rules with `retain`: it gets what every session gets, each
event once, in the order in which it is handed to sessions, and its interest is told to the mesh like any client's. It gives
each event its position at that moment, so that a replay can tell what it has and has not.
Decides when events are written (when the group before is written, at most every LINGER_S), what is trimmed, and what happens
while the engine fails: events wait in memory up to [limits] log_pending_bytes, then newer ones are not kept, which is counted and noted
as a gap; a damaged log is set aside and a new one begun. The node and its sessions go on in every case.
What came at least once has a part of the log's own in the journal (`mesh.core.custody.log_shares`), settled when the engine has
synced it: what does not fit into memory, or was owed by an earlier process, waits there and is taken in, once, when there is room.
Invariants: every retained event that this node handed to its sessions is in the log, owed to it by the journal, or inside a gap
that the log tells of. What came at least once is in the log once, and in the order of its records.
Source: docs/decisions/0015-event-log.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from mesh.core.custody.log_shares import LogShare
from mesh.core.replay import Chunk, Gap, Replay, Tail, wall_text
from mesh.model.event import Delivery, Event, Logged
from mesh.model.ids import MeshId
from mesh.model.reasons import Close, Drop, LogGap
from mesh.model.topic_rules import TopicRules
from mesh.node.log_debts import LogDebts
from mesh.store.eventlog import EventLogEngine, LogFailed, LogStatistics

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("event_log")

LINGER_S: Final = 0.02
"""So long events wait for others to be written with: what a crash of the process loses of the log, at most, with the group that
is being written."""
GROUP_EVENTS: Final = 4_096
GROUP_BYTES: Final = 4 << 20
TRIM_S: Final = 2.0
TRIM_EVENTS: Final = 2_000
"""Removed in one step: appends take turns with trims."""
RETRY_S: Final = 1.0
_LONGEST_MS: Final = 1 << 53

OpenEngine = Callable[[bool], EventLogEngine]
"""Opens the engine, in a worker thread; True: set the damaged one aside first. Raises: LogFailed."""


class EventLog:
    """Args: rules: what is kept. open_engine: see OpenEngine. wall_s: wall clock.

    Cost: 1 us an event on the loop's thread; one hop to a worker thread a group.
    """

    def __init__(
        self, node: Node, rules: TopicRules, open_engine: OpenEngine, wall_s: Callable[[], float] = time.time
    ) -> None:
        self.rules = rules
        self.failure: LogFailed | None = None
        """Why the log cannot be written now."""
        self.failed_since_ms = 0
        self.replays: set[Replay] = set()
        """Under way: they are told of new gaps."""
        self._node = node
        self._open_engine = open_engine
        self._wall_s = wall_s
        self._engine: EventLogEngine | None = None
        self._tail: Tail | None = None
        self._retain_ms: dict[str, int] = {}
        self._last_ms = 0
        self._gap: Gap | None = None  # open: events are not kept now
        self._unnoted: list[Gap] = []
        self.debts = LogDebts(node)
        """Of what came at least once."""
        self._attached = False
        self._work = trio.Event()
        self._writing = trio.Lock()
        self._reading = trio.Lock()
        self._closed = False
        self._statistics: LogStatistics | None = None
        self._damaged = False  # the file has to be set aside

    # -- life ------------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Subscribe: before the node's first link, so that nobody hears of this process without hearing what its log wants.
        Idempotent."""
        if self._attached:
            return
        self._attached = True
        clients = self._node.clients
        session = clients.open_own(self, protocol="log", name="event log")
        self._node.machine.keep_log(session)
        for sid, filter in enumerate(dict.fromkeys(rule.filter for rule in self.rules.retained), start=1):
            clients.add_subscription(session, sid, filter)
        clients.after_call()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep events until cancelled; started when the log was opened, or could not be and is tried again."""
        self.attach()
        await self._open(aside=False)
        task_status.started()
        while self._engine is None:
            await trio.sleep(RETRY_S)
            await self._open(aside=self._damaged)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_writing, name="event log writer")
            nursery.start_soon(self._keep_trimming, name="event log trim")

    async def stop(self) -> None:
        """Write what waits, and close the engine. The node's sessions get nothing any more."""
        async with self._writing:
            self._closed = True
            engine, tail = self._engine, self._tail
            if engine is None or tail is None:
                return
            try:
                # What is owed stays in the journal: the next process takes it in.
                while (tail.pending or self._unnoted) and self.failure is None:
                    await self._write(engine, tail)
                if self.failure is None:
                    await trio.to_thread.run_sync(engine.note_closed, self.now_ms())
            except LogFailed as failed:
                log.warning("event log not closed in order", reason=failed.reason, detail=failed.detail)
            async with self._reading:
                self._engine = None
                await trio.to_thread.run_sync(engine.close)

    async def _open(self, *, aside: bool) -> None:
        try:
            engine = await trio.to_thread.run_sync(self._open_engine, aside)
        except LogFailed as failed:
            self._failed(failed)
            if not aside and self._damaged:
                await self._open(aside=True)
            return
        self._adopt(engine)

    def _adopt(self, engine: EventLogEngine) -> None:
        """An engine that was opened: note since when events are missing."""
        now_ms = self.now_ms()
        damaged, since_ms = self._damaged, engine.closed_ms
        first_time = self._tail is None
        if self._tail is None:
            self._tail = Tail(engine.next, self._node.settings.limits.log_pending_bytes)
        self._engine, self.failure, self._damaged = engine, None, False
        self._last_ms = max(self._last_ms, since_ms or 0)
        if damaged:
            self._note(Gap(self._tail.stored, since_ms or 0, now_ms, None, LogGap.DAMAGED))
        elif first_time and since_ms is not None:
            self._note(Gap(engine.next, since_ms, max(since_ms, now_ms), None, LogGap.STOPPED))
        log.info("event log open", events=engine.next - 1, gaps=len(engine.gaps), damaged=damaged)
        self._work.set()

    def _failed(self, failed: LogFailed) -> None:
        self._damaged = self._damaged or failed.reason is LogGap.DAMAGED
        if self.failure is None or self.failure.reason is not failed.reason:
            self.failed_since_ms = self.now_ms()
            log.error("event log fails", reason=failed.reason.value, detail=failed.detail)
        self.failure = failed

    def now_ms(self) -> int:
        """Wall clock, in milliseconds; never before what was said last, whatever the clock does."""
        self._last_ms = max(self._last_ms, int(self._wall_s() * 1e3))
        return self._last_ms

    # -- what comes (a Sink) ---------------------------------------------------------------------------------------

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Sink: number what is retained, and let it be written soon. What came at least once comes by `keep`."""
        tail = self._tail
        if self._closed or tail is None:
            return  # what comes before the log is open is in the gap that it begins with
        now_ms = self.now_ms()
        retain_ms = self._retain_ms
        dropped = 0
        for delivery in deliveries:
            origin, path = delivery.origin, delivery.path
            for event in delivery.events:
                kept_ms = retain_ms.get(event.topic)
                if kept_ms is None:
                    kept_ms = self._kept_ms(event.topic)
                if not kept_ms:
                    continue
                if (tail.full or self._gap is not None) and not self._has_room(tail):
                    dropped += 1
                    continue
                if event.deadline_ms or event.extra is not None:
                    event = _timeless(event)
                tail.add(Logged(tail.next, now_ms, now_ms + kept_ms, origin, path, event))
        if dropped:
            self._drop(tail, dropped, now_ms)
        self._work.set()

    def keep(self, shares: Sequence[LogShare]) -> None:
        """What came at least once, in the call in which the sessions get it: numbered now, or owed."""
        tail = self._tail
        for share in shares:
            if not (share.repeats or self.debts.waiting or self._closed or tail is None or tail.full):
                self._enter(share, share.events)
                continue
            for gone in self.debts.add(share):
                if tail is None:
                    self._node.machine.counters.drop(Drop.NOT_LOGGED, gone.total)
                else:
                    self._drop(tail, gone.total, self.now_ms())
        self._work.set()

    def _enter(self, share: LogShare, events: Sequence[Event]) -> None:
        """Give events of a record their positions; the record is settled when they are written."""
        tail = self._tail
        assert tail is not None, "the log is open"
        now_ms = self.now_ms()
        first = tail.next
        for event in events:
            kept_ms = self._retain_ms.get(event.topic)
            if kept_ms is None:
                kept_ms = self._kept_ms(event.topic)
            if kept_ms:
                expires_ms = now_ms + kept_ms
                tail.add(Logged(tail.next, now_ms, expires_ms, share.origin, share.path, _timeless(event)))
        if tail.next > first:
            self.debts.entered(tail.next, share.lsn)
        else:
            self.debts.settle(share.lsn)

    def _kept_ms(self, topic: str) -> int:
        if len(self._retain_ms) >= 8_192:
            self._retain_ms.clear()
        rule = self.rules.of(topic)
        kept_ms = self._retain_ms[topic] = 0 if rule is None else int(rule.retain_s * 1e3)
        return kept_ms

    def _has_room(self, tail: Tail) -> bool:
        """Whether events are kept (again): behind a gap from when half of what waited is written."""
        if tail.full:
            return False
        gap = self._gap
        if gap is not None:
            if tail.pending_bytes > self._node.settings.limits.log_pending_bytes // 2:
                return False
            self._gap = None
            self._unnoted.append(gap._replace(until_ms=self.now_ms()))
            log.warning("event log keeps events again", missing=gap.events, reason=gap.reason.value)
        return True

    def _drop(self, tail: Tail, events: int, now_ms: int) -> None:
        self._node.machine.counters.drop(Drop.NOT_LOGGED, events)
        gap = self._gap
        if gap is None:
            reason = self.failure.reason if self.failure is not None else LogGap.OVERRUN
            gap = Gap(tail.next, now_ms, now_ms, 0, reason)
            self._tell(gap._replace(events=None))
            log.error("event log has a gap", reason=reason.value, position=gap.position)
        self._gap = gap._replace(events=(gap.events or 0) + events, until_ms=now_ms)

    def close(self, reason: Close, detail: str) -> None:
        """Sink: nothing; the log stays until the node has stopped."""

    async def room(self) -> None:
        """Sink: there is always room."""
        await trio.lowlevel.checkpoint()

    def _note(self, gap: Gap) -> None:
        self._unnoted.append(gap)
        self._tell(gap)

    def _tell(self, gap: Gap) -> None:
        for replay in self.replays:
            replay.note(gap)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def _keep_writing(self) -> None:
        while True:
            await self._work.wait()
            await trio.sleep(LINGER_S)
            self._work = trio.Event()
            while await self._write_some():
                pass

    async def _write_some(self) -> bool:
        """Write a group; after a failure also without one, to see whether it passed. Returns: whether to go on."""
        if self._engine is None or self._damaged:
            await self._replace()
        async with self._writing:
            engine, tail = self._engine, self._tail
            if self._closed or tail is None:
                return False
            if not tail.pending and not self._unnoted and not self.debts.waiting and self.failure is None:
                return False
            if engine is not None:
                if not tail.full and self.failure is None:
                    await self._catch_up(engine)
                await self._write(engine, tail)
        if self.failure is not None:
            await trio.sleep(RETRY_S)
        return True

    async def _write(self, engine: EventLogEngine, tail: Tail) -> None:
        entries, gaps = tail.unstored(GROUP_EVENTS, GROUP_BYTES), tuple(self._unnoted)
        # What is settled after this must outlive the machine's end, as the journal's record of it would.
        append = partial(engine.append, synced=self.debts.unwritten)
        try:
            await trio.to_thread.run_sync(append, entries, gaps)
        except LogFailed as failed:
            self._failed(failed)
            return
        if self.failure is not None:
            log.info("event log writes again", reason=self.failure.reason.value)
            self.failure = None
        del self._unnoted[: len(gaps)]
        if entries:
            tail.store(entries[-1].position + 1)
            self.debts.written(tail.stored)

    async def _catch_up(self, engine: EventLogEngine) -> None:
        """Take in some of what is owed, but for what the log has already: what came at least once before must be written by now, so
        that the engine knows."""
        if not self.debts.waiting or self.debts.unwritten:
            return
        run = self.debts.open_run()
        mesh_ids = [id for opened in run for id in opened.mesh_ids()]
        try:
            async with self._reading:
                known = await trio.to_thread.run_sync(engine.known, mesh_ids)
        except LogFailed as failed:
            self._failed(failed)
            return
        self.debts.take(run, self._enter, known)

    async def _replace(self) -> None:
        """Open the log anew; a damaged one is set aside."""
        async with self._writing, self._reading:
            engine, self._engine = self._engine, None
            if engine is not None:
                await trio.to_thread.run_sync(engine.close)
            if not self._closed:
                await self._open(aside=self._damaged)

    async def _keep_trimming(self) -> None:
        limit = self._node.settings.limits.log_bytes
        while True:
            await self.statistics()
            await trio.sleep(TRIM_S)
            removed = TRIM_EVENTS
            while removed >= TRIM_EVENTS:
                async with self._writing:
                    engine = self._engine
                    if engine is None or self._closed:
                        break
                    try:
                        removed = await trio.to_thread.run_sync(
                            engine.trim, self.now_ms(), limit, TRIM_EVENTS
                        )
                    except LogFailed as failed:
                        self._failed(failed)
                        self._work.set()
                        break
            if self.failure is not None:
                self._work.set()

    # -- for replays -----------------------------------------------------------------------------------------------

    @property
    def tail(self) -> Tail | None:
        """None until the log was opened for the first time."""
        return self._tail

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """All that are known, also those that are not noted yet, and the one that is open."""
        noted = self._engine.gaps if self._engine is not None else ()
        # While one is being noted it is in both.
        known = dict.fromkeys((*noted, *self._unnoted))
        return (*known, *((self._gap,) if self._gap is not None else ()))

    async def find(self, mesh_id: MeshId) -> int | None:
        """The position of an event that is kept. Raises: LogFailed."""
        tail = self._tail
        for entry in tail.after(tail.first, tail.next - tail.first) if tail is not None else ():
            if entry.event.seq == mesh_id.seq and entry.origin == mesh_id[:3]:
                return entry.position
        async with self._reading:
            return await trio.to_thread.run_sync(self._open_one().find, mesh_id, self.now_ms())

    async def find_time(self, received_ms: int) -> int:
        """The position of the first event received then or later. Raises: LogFailed."""
        async with self._reading:
            found = await trio.to_thread.run_sync(
                self._open_one().find_time, max(-_LONGEST_MS, min(received_ms, _LONGEST_MS))
            )
        tail = self._tail
        assert tail is not None
        if found >= tail.first:
            newer = tail.after(found, tail.next - found)
            found += sum(1 for entry in newer if entry.received_ms < received_ms)
        return found

    async def read(self, filters: Sequence[str], begin: int, end: int) -> Chunk:
        """A chunk of what is stored. Raises: LogFailed; with DAMAGED the log is replaced soon."""
        async with self._reading:
            try:
                return await trio.to_thread.run_sync(
                    self._open_one().read, filters, begin, end, self.now_ms()
                )
            except LogFailed as failed:
                if failed.reason is LogGap.DAMAGED:
                    self._failed(failed)
                    self._work.set()
                raise

    async def statistics(self) -> LogStatistics | None:
        """What is kept now; None while it cannot be read."""
        async with self._writing:
            if self._engine is not None:
                try:
                    self._statistics = await trio.to_thread.run_sync(self._engine.statistics)
                except LogFailed as failed:
                    self._failed(failed)
            return self._statistics if self._engine is not None else None

    def item(self) -> dict[str, object]:
        """The log as operators see it (`mesh.node.inspect`). Cost: its gaps."""
        kept, tail = self._statistics, self._tail
        gaps = [
            {
                "reason": gap.reason.value,
                "since": wall_text(gap.since_ms) if gap.since_ms else None,
                "until": None if gap is self._gap else wall_text(gap.until_ms),
                "events": gap.events,
            }
            for gap in self.gaps
        ]
        last = gaps[-1] if gaps else None
        oldest, newest = (kept.oldest, kept.newest) if kept is not None else (None, None)
        return {
            "filters": [rule.filter for rule in self.rules.retained],
            "events": kept.events if kept is not None else None,
            "bytes": kept.bytes if kept is not None else None,
            "oldest": str(oldest.mesh_id) if oldest is not None else None,
            "oldest_at": wall_text(oldest.received_ms) if oldest is not None else None,
            "newest": str(newest.mesh_id) if newest is not None else None,
            "newest_at": wall_text(newest.received_ms) if newest is not None else None,
            "waiting": tail.pending + self.debts.events if tail is not None else None,
            "replays": len(self.replays),
            "state": "ok" if self.failure is None else self.failure.reason.value,
            "gap": f"{last['reason']} {last['since'] or 'ever'} to {last['until'] or 'now'}"
            if last is not None
            else "",
            "gaps": gaps,
        }

    def _open_one(self) -> EventLogEngine:
        if self._engine is None:
            raise self.failure or LogFailed(LogGap.IO_ERROR, "the log is not open")
        return self._engine


def _timeless(event: Event) -> Event:
    """An event without what is of the moment: its deadline and where replies go."""
    return Event(event.seq, event.topic, event.key, 0, None, event.attributes, event.data)
