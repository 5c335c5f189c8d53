"""What keeps the events of a node's event log: the interface that every engine implements, in SQLite or elsewhere.

Decides what an engine promises; `tests/contract/test_eventlog.py` holds each one against it. Who calls an engine
(`mesh.node.event_log`) gives every event its position and decides what is kept, for how long, and what happens when it fails.

Every engine keeps this:

- Order is that of positions, whatever else an engine numbers its events by. `append` gets them ascending and above everything
  that is there; some may be left out.
- An `append` that returned is kept through the end of the process, however it ends; one that raised left nothing behind.
- `read` returns what is there in order, never one twice, and leaves nothing out that matches and has not expired.
- Expired events are not read any more, whether `trim` has removed them or not, and `find` does not know them.
- The bytes of an event (topic, key, path, attributes, data) come back as they were.
- All calls block, and are made from worker threads: one of `append`, `trim`, `note_closed` and `close` at a time, and one
  of `read`, `find`, `known` and `find_time` at a time beside it.

Source: docs/decisions/0015-event-log.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mesh.core.replay import Chunk, Gap
from mesh.model.event import Logged
from mesh.model.ids import MeshId
from mesh.model.reasons import LogGap


class LogFailed(Exception):
    """An engine could not do what it was asked to; the log is as it was. reason: what a gap that comes of it is told as.

    With reason DAMAGED the engine is of no use any more: close it, set it aside and open a new one.
    """

    def __init__(self, reason: LogGap, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Kept(NamedTuple):
    """One end of a log."""

    mesh_id: MeshId
    received_ms: int


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """events, bytes: what is kept, expired events that are not trimmed yet included; bytes as the engine stores them.
    first, next: the position of the oldest event (next: none), and the lowest that was never used. oldest, newest: the ends."""

    events: int
    bytes: int
    first: int
    next: int
    oldest: Kept | None
    newest: Kept | None


class EventLogEngine(Protocol):
    """Keeps events by position."""

    def append(self, entries: Sequence[Logged], gaps: Sequence[Gap] = (), *, synced: bool = False) -> None:
        """Keep these, and note these gaps, all or nothing. synced: when it returns they outlive the machine's end, too, with
        everything appended before. Raises: LogFailed."""

    def read(self, filters: Sequence[str], begin: int, end: int, now_ms: int) -> Chunk:
        """Events from position `begin` on and before `end` that match a filter and have not expired at now_ms: the first
        CHUNK_EVENTS or so of CHUNK_BYTES. Bounded in time, too: a chunk may be empty, and reading goes on at its `next`, which
        grows. Raises: LogFailed."""

    def find(self, mesh_id: MeshId, now_ms: int) -> int | None:
        """The position of an event that is kept and has not expired at now_ms. Raises: LogFailed."""

    def known(self, mesh_ids: Sequence[MeshId]) -> set[MeshId]:
        """Those of these events that are kept, expired ones that are not trimmed yet included. Raises: LogFailed."""

    def find_time(self, received_ms: int) -> int:
        """The position of the first event received at that time or later; `next` where there is none. Raises: LogFailed."""

    def trim(self, now_ms: int, most_bytes: int, most_events: int) -> int:
        """Remove up to most_events: those that have expired at now_ms, and the oldest while there are more than most_bytes.

        Returns: how many went; fewer than most_events: that is all for now. Gaps before the oldest event go too.
        Raises: LogFailed.
        """

    def note_closed(self, now_ms: int) -> None:
        """Everything that came until now was appended: where a gap begins that the node's stop makes. Raises: LogFailed."""

    @property
    def closed_ms(self) -> int | None:
        """Until when events are known to be complete: the last `note_closed` or event. None: there never was one."""

    @property
    def next(self) -> int:
        """The lowest position that was never used."""

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps noted, oldest first; of more than GAPS the oldest were put together."""

    def statistics(self) -> LogStatistics:
        """Cost: some reads. Raises: LogFailed."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


GAPS = 1_000
"""Gaps that a log remembers."""


def bounded_gaps(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    """At most GAPS of them: the oldest ones become one, of unknown size, that ends where the last of them ends."""
    if len(gaps) <= GAPS:
        return tuple(gaps)
    merged, rest = gaps[: len(gaps) - GAPS + 1], gaps[len(gaps) - GAPS + 1 :]
    last = merged[-1]
    return (Gap(last.position, merged[0].since_ms, last.until_ms, None, last.reason), *rest)
