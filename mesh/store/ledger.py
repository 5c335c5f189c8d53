"""What the segments hold: which records are open and where, the current notes, and how much of each segment is still needed.

Decides when a record is freed (its last part is settled) and which bytes are dead. Never touches a file. Recovery and the
running journal keep the same ledger by the same methods, in the order of the log.
Invariant: a segment's live_bytes is the size of the open records placed in it, plus that of the notes whose current value is
there; total_bytes and live_bytes are the sums over `segments`, which are in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mesh.store.record import RECORD_BYTES
from mesh.store.segment import Segment, Stored

FEW_PARTS: Final = 8
"""Up to so many parts, a settle makes a new tuple; beyond, a dict, so that settling n parts costs n steps."""


class Ledger:
    """The open records and notes of a journal."""

    def __init__(self) -> None:
        self.records: dict[int, Stored] = {}
        self.segments: list[Segment] = []
        self.notes: dict[str, bytes] = {}
        self.notes_bytes = 0
        self.places: dict[str, Segment] = {}
        """Which segment has the current value of a note; a note that is only in memory has none."""
        self.next_lsn = 1
        self.total_bytes = 0
        self.live_bytes = 0

    def add_segment(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.total_bytes += segment.size

    def remove_segment(self, segment: Segment) -> None:
        self.segments.remove(segment)
        self.total_bytes -= segment.size
        self.live_bytes -= segment.live_bytes
        segment.live_bytes = 0

    def resize(self, segment: Segment, size: int) -> None:
        self.total_bytes += size - segment.size
        segment.size = size

    def place(self, stored: Stored, segment: Segment) -> None:
        """Count a record to the segment it stands in, offset and lengths set; no longer to another one."""
        self.unplace(stored)
        stored.segment = segment
        size = stored.size
        segment.lsns.append(stored.lsn)
        segment.live_bytes += size
        self.live_bytes += size

    def unplace(self, stored: Stored) -> None:
        """The bytes of a record in its segment are dead."""
        if stored.segment is not None:
            size = stored.size
            stored.segment.live_bytes -= size
            self.live_bytes -= size
            stored.segment = None

    def recover(self, stored: Stored, segment: Segment) -> None:
        """A record found in the log: it replaces an earlier copy of itself, with the parts it names."""
        earlier = self.records.get(stored.lsn)
        if earlier is not None:
            self.unplace(earlier)
        self.records[stored.lsn] = stored
        self.place(stored, segment)
        if stored.lsn >= self.next_lsn:
            self.next_lsn = stored.lsn + 1

    def free(self, lsn: int) -> None:
        """The record is done; one that is unknown is fine."""
        stored = self.records.pop(lsn, None)
        if stored is not None:
            self.unplace(stored)
            stored.parts = ()

    def settle(self, lsn: int, part: str) -> bool | None:
        """Settle one part. Returns: True if it was the last one, False if others are open, None if it was not open."""
        stored = self.records.get(lsn)
        if stored is None or part not in stored.parts:
            return None
        parts = stored.parts
        if len(parts) == 1:
            self.free(lsn)
            return True
        if isinstance(parts, dict):
            del parts[part]
        elif len(parts) > FEW_PARTS:
            many = dict.fromkeys(parts)
            del many[part]
            stored.parts = many
        else:
            stored.parts = tuple(each for each in parts if each != part)
        return False

    def settle_all(self, part: str, lsns: Iterable[int]) -> None:
        """Apply a settle of the log. part: "" for the whole record."""
        if part:
            for lsn in lsns:
                self.settle(lsn, part)
        else:
            for lsn in lsns:
                self.free(lsn)

    # -- notes ----------------------------------------------------------------------------------------------------

    def set_note(self, key: str, value: bytes | None) -> None:
        """The value in memory; where it stands on the disk is not known any more."""
        self._unplace_note(key)
        earlier = self.notes.pop(key, None)
        if earlier is not None:
            self.notes_bytes -= len(key) + len(earlier)
        if value is not None:
            self.notes[key] = value
            self.notes_bytes += len(key) + len(value)

    def place_note(self, key: str, value: bytes | None, segment: Segment, offset: int) -> None:
        """A note was written at an offset of a segment; it counts if it is the current value."""
        segment.notes[key] = (offset, value is None)
        current = self.notes.get(key)
        if value is None or current is not value:
            return
        self._unplace_note(key)
        size = note_size(key, value)
        self.places[key] = segment
        segment.live_bytes += size
        segment.note_bytes += size
        self.live_bytes += size

    def _unplace_note(self, key: str) -> None:
        segment = self.places.pop(key, None)
        if segment is not None:
            size = note_size(key, self.notes[key])
            segment.live_bytes -= size
            segment.note_bytes -= size
            self.live_bytes -= size


def note_size(key: str, value: bytes) -> int:
    """Bytes of a note in a segment."""
    return RECORD_BYTES + len(key.encode()) + len(value)
