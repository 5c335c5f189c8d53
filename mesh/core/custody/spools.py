"""How much waits under each `[[topic]]` rule that bounds it, and what goes when there is more.

Decides whether a rule has room for a call's events, and which records go to make some. Never decides which rule a topic follows.
Invariant: what waits under a rule with a bound is at most the bound and one record.
Source: design page "Routing", Delivery (spools are bounded by bytes and age, `block | drop-oldest | dead-letter`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.model.topic_rules import SpoolPolicy, TopicRule


@dataclass(slots=True)
class _Spool:
    bytes: int = 0
    records: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Oldest first; what has ended is out of it."""


class Spools:
    """Args: end_oldest: (record, as a dead letter, now) ends one. Cost: O(1) a record."""

    def __init__(self, end_record: Callable[[int, bool, float], None]) -> None:
        self._end_record = end_record
        self._spools: dict[str, _Spool] = {}

    def add(self, rule: TopicRule, lsn: int, size: int) -> None:
        """A record of this rule waits."""
        spool = self._spools.setdefault(rule.filter, _Spool())
        spool.bytes += size
        spool.records[lsn] = None

    def freed(self, filter: str, lsn: int, size: int) -> None:
        """A record of the rule of this filter ended."""
        spool = self._spools.get(filter)
        if spool is not None:
            spool.records.pop(lsn, None)
            spool.bytes = max(0, spool.bytes - size)

    def make_room(self, rule: TopicRule, size: int, now: float) -> bool:
        """Whether the rule allows so much more, after its policy did what it says."""
        spool = self._spools.get(rule.filter)
        if not rule.spool_bytes or spool is None or spool.bytes + size <= rule.spool_bytes:
            return True
        if rule.spool_policy is SpoolPolicy.BLOCK:
            return False
        while spool.records and spool.bytes + size > rule.spool_bytes:
            lsn, _ = spool.records.popitem(last=False)
            self._end_record(lsn, rule.spool_policy is SpoolPolicy.DEAD_LETTER, now)
        return True

    def waiting(self) -> dict[str, int]:
        """Bytes by filter of the rule."""
        return {filter: spool.bytes for filter, spool in self._spools.items() if spool.bytes}
