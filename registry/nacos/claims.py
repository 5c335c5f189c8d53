"""Which node has which name in a region, of all instances that claim one.

Decides who has a name (the greatest epoch, instance and change), which instances are ignored and why, and when an entry that
is not to be seen any more has ended. After a new connection a server may not have heard of everybody yet (it was restarted, or
is another one): entries known from before are kept for their lease, as if their owners were on their way back.
Never does I/O. Invariant: the timeline holds exactly what is claimed or kept.
Source: `registry.base`; Nacos, `ServiceInfo`.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from mesh.model.ids import NodeKey
from registry.base import IGNORED_KEPT, Ignored, shown
from registry.nacos.instance import Claim, read, service_name
from registry.nacos.requests import ServiceInfo
from registry.timeline import Timeline

ENTRIES: Final = 10_000
"""Instances of one service that are looked at."""
BACKWARDS_MS: Final = 10_000
"""An answer older than the last one by less than this was overtaken; by more: the server's clock was set."""


class _Known(NamedTuple):
    claim: Claim
    generation: int


class RegionClaims:
    """One region. Times are monotonic seconds of the caller."""

    def __init__(self, region: str, timeline: Timeline) -> None:
        self.region = region
        self._timeline = timeline
        self._known: dict[NodeKey, _Known] = {}
        self._seen: dict[NodeKey, Claim] = {}
        self._told = (0, 0)
        self.subscribed = False
        self.looked_s = float("-inf")
        self.ignored: Counter[str] = Counter()
        self.strange: list[Ignored] = []

    def seen(self, key: NodeKey) -> Claim | None:
        """Who has a name, as the server said last."""
        return self._seen.get(key)

    def __len__(self) -> int:
        return len(self._seen)

    def apply(self, info: ServiceInfo, generation: int, connected_s: float, now: float) -> None:
        """Take in what a server says of the service. Cost: O(instances)."""
        self.looked_s = now
        last_generation, last_ms = self._told
        if generation == last_generation and 0 < last_ms - info.last_ref_time < BACKWARDS_MS:
            return
        self._told = (generation, info.last_ref_time)
        self._read(info)
        for key, claim in self._seen.items():
            self._known[key] = _Known(claim, generation)
            self._timeline.put(claim.entry)
        for key in self._known.keys() - self._seen.keys():
            claim, seen_generation = self._known[key]
            if seen_generation == generation:
                self._end(key, "ended")
            elif now >= connected_s + claim.lease_s:
                self._end(key, "expired")

    def forget(self, key: NodeKey) -> None:
        """Its owner, this process, took an entry out."""
        self._seen.pop(key, None)
        if key in self._known:
            self._end(key, "unregistered")

    def _end(self, key: NodeKey, reason: str) -> None:
        del self._known[key]
        self._timeline.end(key, reason)

    def _read(self, info: ServiceInfo) -> None:
        hosts = info.hosts or []
        self._seen, self.ignored, self.strange = {}, Counter(), []
        if len(hosts) > ENTRIES:
            self.ignored["too_many"] = len(hosts) - ENTRIES
        for raw in hosts[:ENTRIES]:
            claim = read(raw, self.region)
            if isinstance(claim, str):
                self.ignored[claim] += 1
                if len(self.strange) < IGNORED_KEPT:
                    self.strange.append(Ignored(service_name(self.region), claim, shown(bytes(raw))))
                continue
            other = self._seen.get(claim.entry.key)
            if other is None or claim.rank > other.rank:
                self._seen[claim.entry.key] = claim
