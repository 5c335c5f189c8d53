"""What one client saw last in etcd: how many entries, and what was passed over, by reason.

Decides nothing; it is what `statistics` tells. Invariant: a key is counted once, by what it was when it was last seen.
Bound: as many keys as `reading` reads, and what watches show until the next list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from registry.base import IGNORED_KEPT, Ignored, shown
from registry.etcd.layout import BEYOND_LIMIT, Span

KEYS: Final = 60_000

ENTRY: Final = ""
_NO_VALUES: Final[Mapping[bytes, bytes]] = {}


class Sight:
    """Keys of nodes and regions with ENTRY or the reason why they are none."""

    def __init__(self) -> None:
        self._seen: dict[bytes, str] = {}
        self._counts: Counter[str] = Counter()
        self._left: dict[Span, int] = {}
        self._strange: dict[bytes, Ignored] = {}

    def saw(self, key: bytes, reason: str, value: bytes = b"") -> None:
        """A key is there, as an entry or for a reason not."""
        self.gone(key)
        if len(self._seen) < KEYS:
            self._seen[key] = reason
            self._counts[reason] += 1
            if reason and len(self._strange) < IGNORED_KEPT:
                self._strange[key] = Ignored(shown(key), reason, shown(value))

    def gone(self, key: bytes) -> None:
        self._strange.pop(key, None)
        reason = self._seen.pop(key, None)
        if reason is not None:
            self._counts[reason] -= 1

    def listed(
        self, span: Span, found: dict[bytes, str], left: int, values: Mapping[bytes, bytes] = _NO_VALUES
    ) -> None:
        """All of a span was read, but for `left` keys. values: of those that were taken. Cost: O(keys)."""
        for key in [key for key in self._seen if span.first <= key < span.end and key not in found]:
            self.gone(key)
        for key, reason in found.items():
            if self._seen.get(key) != reason:
                self.saw(key, reason, values.get(key, b""))
        for other in [other for other in self._left if span.first <= other.first and other.end <= span.end]:
            del self._left[other]
        if left:
            self._left[span] = left

    def strange(self) -> list[Ignored]:
        """The first of what was passed over, for a person."""
        return list(self._strange.values())

    @property
    def entries(self) -> int:
        return self._counts[ENTRY]

    @property
    def ignored(self) -> dict[str, int]:
        found = {reason: count for reason, count in sorted(self._counts.items()) if reason and count}
        left = sum(self._left.values())
        return {**found, BEYOND_LIMIT: left} if left else found
