"""What did not cross, for who has to show it: one value for each event, the newest kept.

Decides which are kept: the newest, whether an audit took them or not. Never writes anything.
Bound: `limits.denials`; the oldest go first, and those that nobody took are counted in `lost`.
Source: design page "Routing", Boundary.
"""

from __future__ import annotations

from collections import deque

from federation.core.policy.rules import Denial


class Audit:
    """Cost: O(1)."""

    __slots__ = ("_denials", "_untaken", "lost", "total")

    def __init__(self, most: int) -> None:
        self._denials: deque[Denial] = deque(maxlen=most)
        self._untaken = 0
        self.total = 0
        """Denials since the node started."""
        self.lost = 0
        """Of those, how many are gone and were never taken."""

    def __len__(self) -> int:
        return len(self._denials)

    def add(self, denial: Denial) -> None:
        """One more."""
        if self._untaken == self._denials.maxlen:
            self.lost += 1
        else:
            self._untaken += 1
        self._denials.append(denial)
        self.total += 1

    def take(self) -> list[Denial]:
        """Those since the last call that are still kept, oldest first. They stay for `newest`."""
        taken = self.newest(self._untaken)
        self._untaken = 0
        return taken

    def newest(self, most: int) -> list[Denial]:
        """The last ones, newest last."""
        return list(self._denials)[-most:] if most else []
