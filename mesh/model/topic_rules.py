"""What `[[topic]]` tables say of topics: the level, order, lifetime and room of their events.

Decides which rule a topic follows: the first whose filter matches. Never decides what follows from it.
Source: design page "What a person sees", section Configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mesh.model.topic import covers, matches

KNOWN: Final = 16_384
"""Topics whose rule is remembered; beyond it all are forgotten and found again."""


class Level(StrEnum):
    """How hard the mesh tries."""

    AT_MOST_ONCE = "at-most-once"
    AT_LEAST_ONCE = "at-least-once"


class SpoolPolicy(StrEnum):
    """What happens when more waits under a rule than `spool` allows."""

    BLOCK = "block"
    """The publisher is told 503."""
    DROP_OLDEST = "drop-oldest"
    DEAD_LETTER = "dead-letter"
    """The oldest becomes a dead letter."""


@dataclass(frozen=True, slots=True)
class TopicRule:
    """One `[[topic]]` table. deadline_s 0: none. spool_bytes 0: no bound of its own. retain_s 0: not retained."""

    filter: str
    level: Level = Level.AT_MOST_ONCE
    ordered: bool = False
    deadline_s: float = 0.0
    copies: int = 1
    spool_bytes: int = 0
    spool_policy: SpoolPolicy = SpoolPolicy.BLOCK
    retain_s: float = 0.0


DEFAULT: Final = TopicRule("")
"""Of a topic that no rule names."""


class TopicRules:
    """All rules, in their order. Cost: one look-up for a topic asked lately."""

    def __init__(self, rules: Sequence[TopicRule] = ()) -> None:
        self.rules = tuple(rules)
        self._known: dict[str, TopicRule] = {}

    @property
    def retained(self) -> tuple[TopicRule, ...]:
        """The rules with `retain`."""
        return tuple(rule for rule in self.rules if rule.retain_s)

    def retains(self, filter: str) -> bool:
        """Whether one rule with `retain` covers the filter. What an earlier rule takes out of it is not kept all the same."""
        return any(covers(rule.filter, filter) for rule in self.retained)

    def __bool__(self) -> bool:
        return bool(self.rules)

    @property
    def remembered(self) -> int:
        """Topics whose rule is known without looking for it: at most KNOWN."""
        return len(self._known)

    def of(self, topic: str) -> TopicRule:
        """The rule a topic follows."""
        rule = self._known.get(topic)
        if rule is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            found = (each for each in self.rules if matches(each.filter, topic))
            rule = self._known[topic] = next(found, DEFAULT)
        return rule

    def named(self, filter: str) -> TopicRule:
        """The rule of this filter; the default when there is none any more."""
        return next((rule for rule in self.rules if rule.filter == filter), DEFAULT)
