"""Which segments are no longer needed, and which one is written again so that it can go.

Decides only; the journal's next commits do it. Always the oldest one: so a settle is never deleted before the record it settles,
nor the end of a note before its last value.
Invariant: cleaning ends. It begins only when dead bytes are at least an eighth of the log, or too many files are small, and
every round turns dead bytes into free ones. Source: docs/decisions/0014.
"""

from __future__ import annotations

from typing import Final

from mesh.store.backlog import Backlog
from mesh.store.commit import Copy, Item, size_of
from mesh.store.ledger import Ledger
from mesh.store.record import pack_parts
from mesh.store.segment import Segment

FEWEST: Final = 4
"""A log of fewer segments is not worth cleaning."""
NEAR_BOUND_SEGMENTS: Final = 4
"""So many segments below the bound, an eighth of dead bytes is enough to clean."""
DEAD_NEAR_BOUND: Final = 8
NOTES_SHARE: Final = 4
"""A segment held by notes alone goes if they are at most one part in so many of it."""


def deletable(ledger: Ledger, active: Segment | None) -> list[Segment]:
    """The oldest segments in which nothing is open and no note is current, oldest first."""
    found: list[Segment] = []
    for segment in ledger.segments:
        if segment is active or segment.live_bytes > 0:
            break
        found.append(segment)
    return found


def cleaning_source(
    ledger: Ledger, active: Segment | None, total_bytes: int, segment_bytes: int
) -> Segment | None:
    """The segment whose open records and notes are to be written again, if any. Args: the journal's bounds. Cost: O(1)."""
    segments = ledger.segments
    if not segments or segments[0] is active or segments[0].live_bytes <= 0:
        return None
    oldest = segments[0]
    if oldest.live_bytes == oldest.note_bytes and oldest.note_bytes * NOTES_SHARE <= oldest.size:
        return oldest
    total = ledger.total_bytes
    dead = total - ledger.live_bytes
    half_dead = dead * 2 > total and total > FEWEST * segment_bytes
    near_bound = total > total_bytes - NEAR_BOUND_SEGMENTS * segment_bytes
    small_files = len(segments) > 2 * (total_bytes // segment_bytes)
    return oldest if half_dead or small_files or (near_bound and dead * DEAD_NEAR_BOUND >= total) else None


class Cleaning:
    """Writes the oldest segment again, a piece with each commit."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._source: Segment | None = None
        self._at = 0

    def take(self, source: Segment, budget_bytes: int, backlog: Backlog) -> list[Item]:
        """Open records of `source`, at least one, while they fit; when none is left its current notes go to the backlog."""
        if source is not self._source:
            self._source, self._at = source, 0
        ledger, lsns = self._ledger, source.lsns
        copies: list[Item] = []
        while self._at < len(lsns):
            stored = ledger.records.get(lsns[self._at])
            if stored is not None and stored.segment is source:
                copy = Copy(stored, source, stored.offset, pack_parts(tuple(stored.parts)))
                budget_bytes -= size_of(copy)
                if budget_bytes < 0 and copies:
                    return copies
                copies.append(copy)
            self._at += 1
        for key in source.notes:
            if ledger.places.get(key) is source:
                backlog.renote(key, ledger.notes[key])
        return copies

    def again(self) -> None:
        """A commit failed: begin the segment anew."""
        self._source = None
