"""What the journal owes the event log: records whose events have no position yet, and those whose events are not written yet.

Decides in which order and how much at a time the log takes in what it is owed, and when a record is settled. Never writes the log.
Invariant: every share that came in is in `waiting`, or entered and not written, or settled.
Bounds: what waits counts as a durable client's queue does (durable_events, durable_bytes); over it the oldest go, and are counted.
Source: docs/decisions/0015-event-log.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from mesh.core.custody.log_shares import LogShare
from mesh.core.custody.records import Unreadable
from mesh.model.event import Event
from mesh.model.ids import MeshId
from mesh.model.reasons import Drop

if TYPE_CHECKING:
    from mesh.node.runner import Node

RUN_EVENTS: Final = 4_096
"""What is taken in at once: the engine is asked once which of these it has."""
RUN_BYTES: Final = 4 << 20


class Opened(NamedTuple):
    """A share whose record was read again. events: none where the journal lost it."""

    share: LogShare
    events: Sequence[Event]

    def mesh_ids(self) -> list[MeshId]:
        return [MeshId(*self.share.origin, event.seq) for event in self.events]


class LogDebts:
    """Cost: O(1) a record."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: deque[LogShare] = deque()
        self._entered: deque[tuple[int, int]] = deque()
        """(position behind its last event, record) of what has positions and is not written yet."""
        self._bytes = 0
        self._moved = trio.Event()
        self.events = 0
        """That wait without a position."""

    @property
    def waiting(self) -> bool:
        """Whether something has no position yet."""
        return bool(self._waiting)

    @property
    def unwritten(self) -> bool:
        """Whether something has its position and is not written yet."""
        return bool(self._entered)

    def add(self, share: LogShare) -> list[LogShare]:
        """One more waits, without its events: the journal has them. Returns those that have to go for it: settled, not logged."""
        self._waiting.append(share._replace(events=()))
        self.events += share.total
        self._bytes += share.size_bytes
        limits = self._node.settings.limits
        gone: list[LogShare] = []
        while self.events > limits.durable_events or self._bytes > limits.durable_bytes:
            gone.append(self._next())
            self.settle(gone[-1].lsn)
        return gone

    def _next(self) -> LogShare:
        share = self._waiting.popleft()
        self.events -= share.total
        self._bytes -= share.size_bytes
        return share

    def open_run(self) -> list[Opened]:
        """The oldest that wait, at least one where there is any, read again."""
        run: list[Opened] = []
        events = size = 0
        machine = self._node.machine
        for share in self._waiting:
            events, size = events + share.total, size + share.size_bytes
            if run and (events > RUN_EVENTS or size > RUN_BYTES):
                break
            try:
                run.append(Opened(share, machine.custody.log.open(share.lsn).events))
            except Unreadable:
                machine.counters.drop(Drop.JOURNAL_DAMAGED, share.total)
                run.append(Opened(share, ()))
        return run

    def take(
        self, run: Sequence[Opened], enter: Callable[[LogShare, Sequence[Event]], None], known: set[MeshId]
    ) -> None:
        """Let the shares of a run enter, each event once. known: what the log has already. Shares that went meanwhile are left out."""
        for expected, events in run:
            if not self._waiting or self._waiting[0].lsn != expected.lsn:
                continue
            share = self._next()
            fresh = [event for event in events if MeshId(*share.origin, event.seq) not in known]
            known.update(MeshId(*share.origin, event.seq) for event in fresh)
            enter(share, fresh)
        self._moved.set()
        self._moved = trio.Event()

    async def moved(self) -> None:
        """Wait until some of what waited has its position."""
        await self._moved.wait()

    def entered(self, position: int, lsn: int) -> None:
        """The events of a record have their positions, all before this one."""
        self._entered.append((position, lsn))

    def written(self, position: int) -> None:
        """Everything before a position is written for good: what ends there is settled."""
        while self._entered and self._entered[0][0] <= position:
            self.settle(self._entered.popleft()[1])

    def settle(self, lsn: int) -> None:
        """The log needs nothing more of a record."""
        self._node.machine.custody.log.done(lsn)
        self._node.flush_soon()  # receipts may wait for it
