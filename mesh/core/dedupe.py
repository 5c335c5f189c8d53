"""Which events were delivered here before: a sliding window of seqs for each origin.

Decides fresh, duplicate, or below the window. Only the node that delivers to sessions asks; every other hop passes events
on. Two windows of one origin are separate when their `variant` differs: a queue group that was assigned again may bring
an event to a node that already delivered it to plain subscriptions.
Invariant: `fresh` says FRESH at most once for one (origin, variant, seq) inside the window.
Bounds: `limits.dedupe_window` seqs and one byte for eight of them an origin; `limits.dedupe_origins` origins, the one idle
longest is forgotten first; origins idle for `limits.dedupe_age_s` are forgotten.
Source: design page "Routing", Forwarding (Dedupe); the sliding window of RFC 4303 section 3.4.3.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from mesh.model.limits import Limits


class Seen(IntEnum):
    FRESH = 0
    DUPLICATE = 1
    BELOW_WINDOW = 2


class Origin(NamedTuple):
    """Whose seqs a window holds. variant: "" for plain delivery, else the re-assigned group."""

    region: str
    node: str
    epoch: int
    variant: str = ""


class Window:
    """One origin's bitmap: a ring of `size` bits behind the highest seq seen."""

    __slots__ = ("bits", "highest", "marks", "size", "used_at")

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.bits = bytearray(size // 8)
        self.highest = -1
        self.marks = 0
        """Counts the times somebody took it to mark something."""
        self.used_at = now

    def see(self, seq: int) -> Seen:
        """Mark `seq`. Cost: O(1), plus one byte cleared for every eight seqs skipped, at most the window."""
        highest = self.highest
        size = self.size
        if seq == highest + 1:
            # Whatever its bit holds is a window old: the common case of a stream costs no clearing.
            self.highest = seq
            at = seq % size
            self.bits[at >> 3] |= 1 << (at & 7)
            return Seen.FRESH
        if seq > highest:
            if highest >= 0 and seq - highest < size:
                self._clear(highest + 1, seq)
            elif highest >= 0:
                self.bits = bytearray(size // 8)
            self.highest = seq
        elif seq <= highest - size:
            return Seen.BELOW_WINDOW
        at = seq % size
        bit = 1 << (at & 7)
        at >>= 3
        if self.bits[at] & bit:
            return Seen.DUPLICATE
        self.bits[at] |= bit
        return Seen.FRESH

    def knows(self, seq: int) -> bool:
        """Whether `seq` was seen, or is so old that nobody can say."""
        if seq > self.highest:
            return False
        if seq <= self.highest - self.size:
            return True
        at = seq % self.size
        return bool(self.bits[at >> 3] & (1 << (at & 7)))

    def forget(self, seq: int) -> None:
        """Take back that `seq` was seen: it could not be kept after all, and will come again."""
        if seq > self.highest - self.size:
            at = seq % self.size
            self.bits[at >> 3] &= ~(1 << (at & 7)) & 0xFF

    def see_run(self, first: int, last: int) -> bool:
        """Mark first..last at once if all of them are newer than anything seen. False: nothing was done, ask one by one.

        Cost: O(run / 8), far less than asking for each.
        """
        if first <= self.highest or last - first >= self.size:
            return False
        if self.highest >= 0 and last - self.highest < self.size:
            self._clear(self.highest + 1, first)
        else:
            self.bits = bytearray(self.size // 8)
        self.highest = last
        size = self.size
        while first <= last:
            at = first % size
            if at & 7 == 0 and last - first >= 7:
                run = min((last - first + 1) // 8, (size - at) // 8)
                self.bits[at >> 3 : (at >> 3) + run] = b"\xff" * run
                first += run * 8
            else:
                self.bits[at >> 3] |= 1 << (at & 7)
                first += 1
        return True

    def _clear(self, start: int, stop: int) -> None:
        """Forget seqs start..stop inclusive (fewer than `size` of them): their bits belong to seqs a window ago."""
        size = self.size
        while start <= stop:
            at = start % size
            if at & 7 == 0 and stop - start >= 7:
                run = min((stop - start + 1) // 8, (size - at) // 8)
                self.bits[at >> 3 : (at >> 3) + run] = bytes(run)
                start += run * 8
            else:
                self.bits[at >> 3] &= ~(1 << (at & 7)) & 0xFF
                start += 1


class Dedupe:
    """The windows of every origin. Cost: O(1) an event; `expire` O(origins)."""

    def __init__(self, limits: Limits) -> None:
        assert limits.dedupe_window % 8 == 0
        self._limits = limits
        self._windows: dict[Origin, Window] = {}
        self.marked = False
        """Some window was taken since somebody cleared this."""

    def windows(self) -> dict[Origin, Window]:
        """All of them. A live view: read it, do not keep it."""
        return self._windows

    def window(self, origin: Origin, now: float) -> Window:
        """The window of an origin, made if new. One look-up serves a whole batch."""
        window = self._windows.get(origin)
        if window is None:
            if len(self._windows) >= self._limits.dedupe_origins:
                del self._windows[min(self._windows, key=lambda key: self._windows[key].used_at)]
            window = self._windows[origin] = Window(self._limits.dedupe_window, now)
        window.used_at = now
        window.marks += 1
        self.marked = True
        return window

    def expire(self, now: float) -> None:
        """Forget origins that were idle for the dedupe age."""
        limit = now - self._limits.dedupe_age_s
        for origin in [key for key, window in self._windows.items() if window.used_at < limit]:
            del self._windows[origin]

    def __len__(self) -> int:
        return len(self._windows)
