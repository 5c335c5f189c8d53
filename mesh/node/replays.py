"""Subscriptions that begin in the event log: where they begin, and the task that carries one to live.

Decides what `from` means and when a client gets the next events: as its queue drains. What is next, `mesh.core.replay` decides.
Invariant: a subscription of a replay is known to the machine exactly from the call on in which the replay took the log's last
event; until then its sid is reserved.
Source: docs/decisions/0015-event-log.md; RFC 3339 section 5.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

import trio

from mesh.core.replay import Do, Item, Replay, Step, wall_text
from mesh.model.event import Delivery, Event, Logged, Told, queue_bytes
from mesh.model.ids import MeshId, SessionId
from mesh.model.quantity import parse_duration
from mesh.node.event_log import EventLog
from mesh.node.service import RefusedError
from mesh.store.eventlog import LogFailed

if TYPE_CHECKING:
    from mesh.node.clients import Clients

CATCH_UP_S: Final = 5.0
"""A log that has just started takes in what it was owed before it is asked for an event, unless that takes longer."""
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z")
_DURATION: Final = re.compile(r"[\d. ]+(ms|s|m|h|d)")
_FORMS: Final = "write a duration (10m), a time (2026-01-01T00:00:00Z) or a mesh_id (REGION/NODE/EPOCH/SEQ)"


def read_start(since: str, now_ms: int) -> int | MeshId:
    """Where `from` begins: a wall clock time in milliseconds, or the event to go on after. Raises: RefusedError MESH-E011."""
    since = since[:400]
    try:
        if since.count("/") == 3:
            return MeshId.parse(since)
        if _TIME.match(since):
            seconds, dot, rest = since.upper().replace("Z", "+00:00").partition(".")
            if dot:  # nanoseconds: Python reads six digits
                digits = re.match(r"\d+", rest)
                assert digits is not None
                seconds += f".{digits[0][:6]:0<6}{rest[digits.end() :]}"
            return int(datetime.fromisoformat(seconds).timestamp() * 1e3)
        return now_ms - int(parse_duration(since) * 1e3)
    except (ValueError, OverflowError) as error:
        raise RefusedError("MESH-E011", f"from: {error}; {_FORMS}") from None


class ReplayRun:
    """One replay of one session (see `mesh.node.service.Replaying`). wanted: (sid, filter)."""

    def __init__(
        self,
        clients: Clients,
        log: EventLog,
        session: SessionId,
        wanted: tuple[tuple[int, str], ...],
        start: int | MeshId,
    ) -> None:
        self.session = session
        self.wanted = wanted
        self._clients = clients
        self._log = log
        self._start = start
        self._replay: Replay | None = None
        self._scope = trio.CancelScope()
        self._cancelled = False

    def cancel(self) -> None:
        """The client wants it no more, or is gone: its sids are free at once."""
        self._cancelled = True
        self._scope.cancel()
        self._end()

    def _end(self) -> None:
        if self._replay is not None:
            self._log.replays.discard(self._replay)
        self._clients.replay_ended(self)

    async def find(self) -> None:
        """See Replaying."""
        found = False
        try:
            begin, since_ms = await self._find()
            if self._cancelled:
                raise RefusedError("MESH-E020", "it was unsubscribed before it began", status=404)
            self._replay = Replay(self.wanted, begin, self._log.gaps, since_ms=since_ms)
            self._log.replays.add(self._replay)
            found = True
        except LogFailed as failed:
            raise RefusedError("MESH-E035", str(failed), status=503) from None
        finally:
            if not found:
                self._end()

    async def _find(self) -> tuple[int, int | None]:
        start = self._start
        with trio.move_on_after(CATCH_UP_S):
            while self._log.debts.waiting:
                await self._log.debts.moved()
        if isinstance(start, int):
            return await self._log.find_time(start), start
        found = await self._log.find(start)
        if found is None:
            statistics = await self._log.statistics()
            oldest = statistics.oldest if statistics is not None else None
            said = (
                f"the oldest one is {oldest.mesh_id} of {wall_text(oldest.received_ms)}"
                if oldest
                else "it is empty"
            )
            raise RefusedError(
                "MESH-E033", f"{start} is not in the log of {self._clients.key}; {said}", status=410
            )
        return found + 1, None

    async def run(self) -> None:
        """See Replaying. Cost: one hop to a worker thread for each 512 events that are not in memory."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._end()

    async def _run(self) -> None:
        replay, tail = self._replay, self._log.tail
        assert replay is not None, "find was called"
        assert tail is not None, "the log was open"
        while True:
            session = self._clients.sessions.get(self.session)
            if session is None:
                return
            await session.sink.room()
            step = replay.step(tail, behind=self._log.debts.waiting)
            if step.do is Do.READ:
                step = await self._read(replay, step)
            if self._cancelled:
                return
            if step.items:
                session.sink.deliver(deliveries_of(step.items, self.wanted[0][0]))
            if step.do is Do.GO_LIVE:
                self._go_live()
                return
            if not step.items and self._log.debts.waiting:
                await self._log.debts.moved()

    async def _read(self, replay: Replay, step: Step) -> Step:
        try:
            return replay.take(await self._log.read(replay.filters, step.begin, step.end))
        except LogFailed as failed:
            return replay.skip(step.end, failed.reason)

    def _go_live(self) -> None:
        """In the call in which the last event was handed over: nothing can come between."""
        self._end()
        try:
            for sid, filter in self.wanted:
                self._clients.add_subscription(self.session, sid, filter)
        finally:
            self._clients.after_call()


def deliveries_of(items: Iterable[Item], sid: int) -> list[Delivery]:
    """What a replay hands over, in order, events that came one way together. sid: of what it tells."""
    found: list[Delivery] = []
    events: list[Event] = []
    way: tuple[object, ...] = ()

    def close(first: Logged, sids: tuple[int, ...]) -> None:
        found.append(
            Delivery(tuple(events), sids, first.origin, first.path, False, queue_bytes(events), replayed=True)
        )
        events.clear()

    last: tuple[Logged, tuple[int, ...]] | None = None
    for item in items:
        if isinstance(item, Told):
            if last is not None and events:
                close(*last)
            found.append(Delivery((), (sid,), ("", "", 0), (), False, 0, replayed=True, told=item))
            continue
        entry, sids = item
        if events and last is not None and way != (entry.origin, entry.path, sids):
            close(*last)
        way, last = (entry.origin, entry.path, sids), item
        events.append(entry.event)
    if last is not None and events:
        close(*last)
    return found
