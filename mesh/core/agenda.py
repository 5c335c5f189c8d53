"""The deadlines of one machine in order of time, behind the one `next_deadline` it shows.

Decides which is due first; equal times come in the order they were set. Never decides whether a deadline still means
something: its owner looks when it comes, so nothing is ever searched or cancelled here.
Invariant: `pop` gives times in order and never one that lies after `now`.
Cost: O(log n) to set or take one, O(1) to ask for the next.
Source: design page "Architecture", Sans-IO machines (one deadline a machine).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")


class Entry(NamedTuple, Generic[K]):
    """One deadline. at: monotonic seconds. n: order of setting. kind: what for. key: which one of that kind."""

    at: float
    n: int
    kind: K
    key: object


class Agenda(Generic[K]):
    """A heap of deadlines of kinds K."""

    __slots__ = ("_heap", "_n")

    def __init__(self) -> None:
        self._heap: list[Entry[K]] = []
        self._n = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, at: float, kind: K, key: object = None) -> None:
        """Set a deadline at monotonic time `at` (s)."""
        self._n += 1
        heappush(self._heap, Entry(at, self._n, kind, key))

    def next(self) -> float | None:
        """Time of the earliest one, None when nothing is set."""
        return self._heap[0].at if self._heap else None

    def pop(self, now: float) -> Entry[K] | None:
        """Take the earliest one if it is due at `now`, else None."""
        if self._heap and self._heap[0].at <= now:
            return heappop(self._heap)
        return None
