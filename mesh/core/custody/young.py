"""Which plain subscriptions of this node are young: what was published before they were made is not for them.

Decides how old the oldest subscription to a topic is. Never looks at events.
Invariant: a subscription that is not known here is older than `age_s`, or was made by an earlier process.
Bounds: what was made within `age_s`, about 200 bytes each.
Source: design page "Routing", Delivery (order).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import inf

from mesh.core.subscriptions import Entry


class YoungSubscriptions:
    """Args: age_s: older ones are not remembered. Cost: O(1) a subscription; O(subscriptions to the topic) to ask."""

    def __init__(self, age_s: float) -> None:
        self._age_s = age_s
        self._made: OrderedDict[tuple[int, int], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    def add(self, session: int, sid: int, now: float) -> None:
        """A subscription was made."""
        self._forget(now)
        self._made.pop((session, sid), None)
        self._made[session, sid] = now

    def oldest(self, entries: Iterable[Entry], now: float) -> float:
        """When the oldest of some subscriptions was made: -inf when it is not young, inf when there are none."""
        self._forget(now)
        return min(
            (self._made.get((session, sid), -inf) for session, sids in entries for sid in sids), default=inf
        )

    def _forget(self, now: float) -> None:
        made = self._made
        while made and next(iter(made.values())) < now - self._age_s:
            made.popitem(last=False)
