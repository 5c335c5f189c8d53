"""What did not cross, for who has to show it: one value for each event, in a queue that somebody drains.

Decides which are kept when nobody drains it: the newest. Never writes anything.
Bound: `limits.denials`; the oldest go first and are counted in `lost`.
Source: design page "Routing", Boundary.
"""

from __future__ import annotations

from collections import deque

from federation.core.policy.rules import Denial


class Audit:
    """Cost: O(1)."""

    __slots__ = ("_denials", "lost", "total")

    def __init__(self, most: int) -> None:
        self._denials: deque[Denial] = deque(maxlen=most)
        self.total = 0
        """Denials since the node started."""
        self.lost = 0
        """Of those, how many were never taken: the queue was full."""

    def __len__(self) -> int:
        return len(self._denials)

    def add(self, denial: Denial) -> None:
        """One more."""
        if len(self._denials) == self._denials.maxlen:
            self.lost += 1
        self._denials.append(denial)
        self.total += 1

    def take(self) -> list[Denial]:
        """Those since the last call, oldest first."""
        taken = list(self._denials)
        self._denials.clear()
        return taken

    def newest(self, most: int) -> list[Denial]:
        """The last ones that nobody took yet, newest last. They stay."""
        return list(self._denials)[-most:]
