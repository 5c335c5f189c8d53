"""What `[[topic]]` says of the topics that a filter matches: so far, for how long a node's event log keeps their events.

Decides which rule a topic follows. Never keeps anything itself.
Invariant: a topic follows the first rule, in the order of the configuration, whose filter matches it, and no other.
Source: design page "What a person sees", section Configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mesh.model.topic import covers, matches

REMEMBERED: Final = 8_192  # topics whose rule is remembered


@dataclass(frozen=True, slots=True)
class TopicRule:
    """One [[topic]]. retain_s: how long events are kept for replays; 0: not at all."""

    filter: str
    retain_s: float = 0.0


class TopicRules:
    """All rules of a node. Cost: 0.1 us for a topic seen lately, 1 us a rule for a new one."""

    def __init__(self, rules: Iterable[TopicRule]) -> None:
        self.rules = tuple(rules)
        self._known: dict[str, TopicRule | None] = {}

    @property
    def retained(self) -> tuple[TopicRule, ...]:
        """The rules with `retain`."""
        return tuple(rule for rule in self.rules if rule.retain_s)

    def of(self, topic: str) -> TopicRule | None:
        """The rule a topic follows; None where no filter matches it."""
        try:
            return self._known[topic]
        except KeyError:
            pass
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        found = self._known[topic] = next((rule for rule in self.rules if matches(rule.filter, topic)), None)
        return found

    def retains(self, filter: str) -> bool:
        """Whether one rule with `retain` covers the filter. What an earlier rule takes out of it is not kept all the same."""
        return any(covers(rule.filter, filter) for rule in self.retained)
