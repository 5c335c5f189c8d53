"""The rules of one direction of one link, and what they say: of an event, of a filter, of a region.

Decides by the first rule that matches; without one by the link: closed where one end is a DMZ, open elsewhere. Never changes an
event (`rewriting` does) and never keeps one.
Invariant (P7): an event that `decide` lets cross as topic t is matched, before the crossing, by `before(filter)` for every filter
that matches t after it: interest that is narrowed never hides what may cross. And `before` names nothing that one rule denies whole.
Source: design page "Routing", Interest (with policies) and Boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from federation.core.policy.filters import below, intersection, moved
from federation.core.policy.rewriting import CannotCross, in_clear
from federation.core.policy.rules import Decision, Direction, Rule
from mesh.model.event import Event
from mesh.model.reasons import PolicyReason
from mesh.model.topic import TopicError, check_filter, covers, is_reserved, matches, overlaps

KNOWN: Final = 16_384
"""Topics and filters whose rules are remembered; past it all are forgotten and found again."""


_UNKNOWN: Final = Decision(False, PolicyReason.UNREADABLE)


FILTERS_KNOWN: Final = 65_536
"""The same of filters: they are all asked again after each change, so that more than one peer's are kept."""


class Hits(NamedTuple):
    """What one rule did on one link since the node started, or since the file was read: events."""

    rule: Rule
    allowed: int
    denied: int


def target(rule: Rule) -> str:
    """The filter of a rule's topics as they are after the crossing."""
    if rule.rename is None:
        return rule.topic
    return moved(rule.topic, rule.rename.old, rule.rename.new)


def source(rule: Rule, after: str) -> str:
    """A filter inside `target(rule)`, as it is before the crossing."""
    if rule.rename is None:
        return after
    assert below(after, rule.rename.new)
    return moved(after, rule.rename.new, rule.rename.old)


def may_share_link(one: Rule, other: Rule) -> bool:
    """Whether there can be a link that both speak of."""
    peers = {one.peer, other.peer}
    if len(peers) == 1 or "*" in peers:
        return True
    return one.peer.startswith("role:") != other.peer.startswith("role:")


def clash(rules: Sequence[Rule], one: Rule, other: Rule) -> bool:
    """Whether two rules of a file may make one topic of two. What earlier rules deny whole never gets there."""
    if not (one.allow and other.allow) or one.direction is not other.direction or one.rename == other.rename:
        return False
    if not may_share_link(one, other):
        return False
    common = intersection(target(one), target(other))
    if common is None:
        return False
    return not any(_denied_before(rules, rule, source(rule, common)) for rule in (one, other))


def _denied_before(rules: Sequence[Rule], rule: Rule, before: str) -> bool:
    for earlier in rules:
        if earlier is rule:
            return False
        if (
            not earlier.allow
            and earlier.by_topic_alone
            and earlier.direction is rule.direction
            and earlier.peer in ("*", rule.peer)
            and covers(earlier.topic, before)
        ):
            return True
    return False


class Rulebook:
    """Args: rules: of any direction and peer; those for this one are chosen. region, role: of the link's other end. open: what no
    rule matches may cross.

    Cost: 0.2 us where a rule decides by the topic alone and the topic was asked lately; else about 1 us a condition.
    """

    def __init__(
        self, rules: Sequence[Rule], direction: Direction, region: str, role: str, *, open: bool
    ) -> None:
        self.direction = direction
        self.region = region
        self.role = role
        self.open = open
        self.rules = tuple(
            rule for rule in rules if rule.direction is direction and rule.is_for(region, role)
        )
        self.scoped = any(rule.destination is not None for rule in self.rules)
        """Whether the destination matters."""
        self._renames = tuple(rule for rule in self.rules if rule.allow and rule.rename is not None)
        self._counts = {id(rule): [0, 0] for rule in self.rules}
        self._default_counts = [0, 0]
        self._buckets: dict[int, tuple[float, float]] = {}
        self._candidates: dict[str, tuple[Rule, ...]] = {}
        self._whole: dict[str, Decision | None] = {}
        self._before: dict[tuple[str, str], tuple[str, ...]] = {}

    @property
    def passes_all(self) -> bool:
        """Whether nothing is decided here: no rule speaks of this link, and it is open."""
        return self.open and not self.rules

    # -- events --------------------------------------------------------------------------------------------------

    def decide(self, event: Event, origin: str, destination: str, now: float) -> Decision:
        """What becomes of one event, published in `origin`, for `destination`. A rule's rate is used up by asking."""
        topic = event.topic
        if is_reserved(topic):
            return Decision(False, PolicyReason.RESERVED_TOPIC)
        candidates = self._candidates.get(topic)
        if candidates is None:
            if len(self._candidates) >= KNOWN:
                self._candidates.clear()
            candidates = tuple(rule for rule in self.rules if matches(rule.topic, topic))
            self._candidates[topic] = candidates
        attributes: dict[str, str] | None = None
        for rule in candidates:
            if rule.origin is not None and not rule.origin.matches(origin):
                continue
            if rule.destination is not None and not rule.destination.matches(destination):
                continue
            if rule.looks_inside and attributes is None:
                try:
                    attributes, _ = in_clear(event)
                except CannotCross as error:
                    return Decision(False, error.reason, rule)
            if not _fits(rule, event, attributes) or not self._within_rate(rule, now):
                continue
            return Decision(rule.allow, PolicyReason.RULE, rule)
        return self._default(topic)

    def whole(self, topic: str) -> Decision | None:
        """What becomes of every event of a topic, whatever else it is; None where that matters. Cost: 0.1 us for a topic asked lately."""
        found = self._whole.get(topic, _UNKNOWN)
        if found is _UNKNOWN:
            if len(self._whole) >= KNOWN:
                self._whole.clear()
            found = None
            if not is_reserved(topic):
                first = next((rule for rule in self.rules if matches(rule.topic, topic)), None)
                if first is None:
                    found = self._default(topic)
                elif first.by_topic_alone:
                    found = Decision(first.allow, PolicyReason.RULE, first)
            self._whole[topic] = found
        return found

    def _default(self, topic: str) -> Decision:
        if not self.open:
            return Decision(False, PolicyReason.DEFAULT_DENY)
        for rule in self._renames:
            if matches(target(rule), topic):
                return Decision(False, PolicyReason.NAME_TAKEN, rule)
        return Decision(True, PolicyReason.DEFAULT_ALLOW)

    def _within_rate(self, rule: Rule, now: float) -> bool:
        rate = rule.rate_per_s
        if rate is None:
            return True
        most = max(1.0, rate)
        left, at = self._buckets.get(id(rule), (most, now))
        left = min(most, left + (now - at) * rate)
        self._buckets[id(rule)] = (left - 1.0 if left >= 1.0 else left, now)
        return left >= 1.0

    def count(self, decision: Decision, events: int = 1) -> None:
        """Note what became of events."""
        rule = decision.rule
        counts = self._default_counts if rule is None else self._counts[id(rule)]
        counts[0 if decision.allowed else 1] += events

    def hits(self) -> list[Hits]:
        """What each rule did, in their order."""
        return [Hits(rule, *self._counts[id(rule)]) for rule in self.rules]

    @property
    def by_default(self) -> tuple[int, int]:
        """(allowed, denied) where no rule matched."""
        return self._default_counts[0], self._default_counts[1]

    # -- interest ------------------------------------------------------------------------------------------------

    def before(self, filter: str, destination: str) -> tuple[str, ...]:
        """The filters, as topics are before the crossing, of what may cross and be matched by `filter` after it.

        destination: the region that wants it. Exact but for conditions on the event itself, and for topics that several rules deny
        together. Cost: O(rules), remembered.
        """
        found = self._before.get((filter, destination))
        if found is None:
            if len(self._before) >= FILTERS_KNOWN:
                self._before.clear()
            found = self._before[filter, destination] = tuple(self._find_before(filter, destination))
        return found

    def _find_before(self, filter: str, destination: str) -> list[str]:
        if is_reserved(filter):
            return []
        found: list[str] = []
        decided: list[str] = []
        for rule in self.rules:
            if rule.destination is not None and not rule.destination.matches(destination):
                continue
            if rule.allow:
                common = intersection(filter, target(rule))
                if common is not None:
                    _add(found, source(rule, common), decided)
            if rule.by_place_alone and rule.origin is None:
                decided.append(rule.topic)
        if self.open:
            _add(found, filter, [*decided, *(target(rule) for rule in self._renames)])
        return found

    def why_not(self, filter: str, destination: str) -> str:
        """Why a filter is told as something else, or not at all, for a person: the first rule that had a say."""
        for rule in self.rules:
            if rule.destination is not None and not rule.destination.matches(destination):
                continue
            if overlaps(filter, target(rule)) and (
                rule.rename is not None or not rule.allow or filter != rule.topic
            ):
                return f'rule "{rule.text}" ({rule.where})'
        return "no rule allows it"

    # -- regions -------------------------------------------------------------------------------------------------

    def lets_in(self, *, origin: str | None = None, destination: str | None = None) -> Decision:
        """Whether anything at all may cross that was published in a region, or that is for one. None: any region."""
        for rule in self.rules:
            if origin is not None and rule.origin is not None and not rule.origin.matches(origin):
                continue
            if (
                destination is not None
                and rule.destination is not None
                and not rule.destination.matches(destination)
            ):
                continue
            if rule.allow:
                return Decision(True, PolicyReason.RULE, rule)
            unscoped = (rule.origin is None or origin is not None) and (
                rule.destination is None or destination is not None
            )
            if rule.by_place_alone and unscoped and rule.topic == "#":
                return Decision(False, PolicyReason.RULE, rule)
        return self._default("")


def _add(found: list[str], before: str, decided: Sequence[str]) -> None:
    """One more filter, unless earlier rules decide all of its topics, or it is there already."""
    if any(covers(filter, before) for filter in decided) or any(covers(filter, before) for filter in found):
        return
    try:
        check_filter(before)
    except TopicError:
        return  # longer than any filter may be: no topic fits it either
    found[:] = [filter for filter in found if not covers(before, filter)]
    found.append(before)


def _fits(rule: Rule, event: Event, attributes: dict[str, str] | None) -> bool:
    """The conditions on the event itself."""
    size = len(event.data)
    if rule.larger_than is not None and size <= rule.larger_than:
        return False
    if rule.at_most is not None and size > rule.at_most:
        return False
    if attributes is None:
        return True
    if rule.type is not None and not rule.type.matches(attributes.get("type", "")):
        return False
    if rule.source is not None and not rule.source.matches(attributes.get("source", "")):
        return False
    return all(
        label.name in attributes and label.value.matches(attributes[label.name]) for label in rule.labels
    )
