"""An event log in memory: what a small test or a simulation keeps its events in. It ends with the process.

Invariant: as of `mesh.store.eventlog`, except that nothing outlives it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from mesh.core.replay import CHUNK_BYTES, CHUNK_EVENTS, Chunk, Gap
from mesh.model.event import Logged, queue_bytes
from mesh.model.ids import MeshId
from mesh.model.topic import matches
from mesh.store.eventlog import Kept, LogFailed, LogStatistics, bounded_gaps

_position = attrgetter("position")
_received = attrgetter("received_ms")


class MemoryLog:
    """An `EventLogEngine`. `failing`: what the next appends raise, for tests."""

    def __init__(self) -> None:
        self.failing: LogFailed | None = None
        self._entries: list[Logged] = []
        self._bytes = 0
        self._gaps: tuple[Gap, ...] = ()
        self._next = 1
        self._closed_ms: int | None = None

    def append(self, entries: Sequence[Logged], gaps: Sequence[Gap] = (), *, synced: bool = False) -> None:
        """See EventLogEngine."""
        if self.failing is not None:
            raise self.failing
        if entries:
            assert entries[0].position >= self._next, "positions grow"
            self._entries += entries
            self._bytes += sum(queue_bytes((entry.event,)) for entry in entries)
            self._next = entries[-1].position + 1
            self._closed_ms = entries[-1].received_ms
        self._gaps = bounded_gaps((*self._gaps, *gaps))

    def read(self, filters: Sequence[str], begin: int, end: int, now_ms: int) -> Chunk:
        """See EventLogEngine."""
        found: list[Logged] = []
        size = 0
        for entry in self._entries[bisect_left(self._entries, begin, key=_position) :]:
            if entry.position >= end:
                break
            if len(found) >= CHUNK_EVENTS or size >= CHUNK_BYTES:
                return Chunk(found, entry.position, self._first)
            if entry.expires_ms > now_ms and any(matches(one, entry.event.topic) for one in filters):
                found.append(entry)
                size += queue_bytes((entry.event,))
        return Chunk(found, max(begin, end), self._first)

    def find(self, mesh_id: MeshId, now_ms: int) -> int | None:
        """See EventLogEngine."""
        for entry in reversed(self._entries):
            if (*entry.origin, entry.event.seq) == tuple(mesh_id):
                return entry.position if entry.expires_ms > now_ms else None
        return None

    def known(self, mesh_ids: Sequence[MeshId]) -> set[MeshId]:
        """See EventLogEngine."""
        wanted = set(mesh_ids)
        return wanted & {MeshId(*entry.origin, entry.event.seq) for entry in self._entries}

    def find_time(self, received_ms: int) -> int:
        """See EventLogEngine."""
        at = bisect_left(self._entries, received_ms, key=_received)
        return self._entries[at].position if at < len(self._entries) else self._next

    def trim(self, now_ms: int, most_bytes: int, most_events: int) -> int:
        """See EventLogEngine."""
        before = len(self._entries)
        kept: list[Logged] = []
        for entry in self._entries:
            gone = before - len(self._entries)
            if gone < most_events and entry.expires_ms <= now_ms:
                self._bytes -= queue_bytes((entry.event,))
                most_events -= 1
            else:
                kept.append(entry)
        while kept and self._bytes > most_bytes and most_events > 0:
            self._bytes -= queue_bytes((kept.pop(0).event,))
            most_events -= 1
        self._entries = kept
        self._gaps = tuple(gap for gap in self._gaps if gap.position >= self._first)
        return before - len(kept)

    def note_closed(self, now_ms: int) -> None:
        """See EventLogEngine."""
        self._closed_ms = now_ms

    @property
    def closed_ms(self) -> int | None:
        return self._closed_ms

    @property
    def next(self) -> int:
        return self._next

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return self._gaps

    @property
    def _first(self) -> int:
        return self._entries[0].position if self._entries else self._next

    def statistics(self) -> LogStatistics:
        """See EventLogEngine."""
        ends = [
            Kept(MeshId(*entry.origin, entry.event.seq), entry.received_ms)
            for entry in (self._entries[:1] + self._entries[-1:])
        ]
        return LogStatistics(
            len(self._entries),
            self._bytes,
            self._first,
            self._next,
            ends[0] if ends else None,
            ends[-1] if ends else None,
        )

    def close(self) -> None:
        """See EventLogEngine."""
