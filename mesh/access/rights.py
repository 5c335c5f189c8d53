"""What one principal may do, worked out once from the access file, with what was decided remembered.

Decides by the first rule that means the principal, names the right and matches the topic; where none does, it is denied. Of a
subscription it decides which part of its filter is allowed. Never reads a file and never counts.
Invariants: `may` is exact, topic by topic, whatever `part` said before; every topic that `part` leaves out is denied by `may`.
Cost: a remembered decision 0.1 us; another one 1 us a rule that means the principal.
Source: docs/access.md; docs/decisions/0022-access.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from federation.core.policy.filters import intersection
from mesh.access.principal import Principal, Scope, filled, widened
from mesh.access.rule_file import Place, Right, Rule, RuleFile
from mesh.model.topic import TopicError, canonical, check_filter, covers, matches

REMEMBERED: Final = 8_192
"""Topics whose decisions are remembered of one principal and right; more: all are forgotten, and learned again."""
PARTS: Final = 256
"""Filters whose allowed parts are remembered of one principal."""
PIECES: Final = 64
"""Filters that one subscription may be cut into; more are refused."""


class Cause(NamedTuple):
    """Why something is not allowed. rule: None where no rule says anything."""

    rule: Rule | None
    default: Place

    def __str__(self) -> str:
        return str(self.rule) if self.rule is not None else f"no rule of {self.default} allows it"

    @property
    def told(self) -> str:
        """For clients: the rule's name and place, without this machine's folders."""
        if self.rule is None:
            return f"no rule of {self.default.short} allows it"
        return f'rule "{self.rule.name or self.rule.text}" ({self.rule.place.short})'

    def item(self) -> dict[str, object]:
        """As a problem object carries it."""
        if self.rule is None:
            return {"name": "default", "file": self.default.short, "line": None, "text": "deny * * #"}
        place = self.rule.place
        file = place.file.rpartition("/")[2]
        return {"name": self.rule.name, "file": file, "line": place.line, "text": self.rule.text}


class Part(NamedTuple):
    """What is allowed of a filter. filters: disjoint or not, together all that may be allowed; empty: nothing. whole: every
    topic of the filter is allowed. cause: of what is not allowed."""

    filters: tuple[str, ...]
    whole: bool
    cause: Cause


class Allowance(NamedTuple):
    """What a principal may use; None: no bound of its own."""

    events_per_s: float | None = None
    bytes_per_s: float | None = None
    connections: int | None = None
    subscriptions: int | None = None


class Rights:
    """Args: file: the rules. principal: whose."""

    def __init__(self, file: RuleFile, principal: Principal) -> None:
        self.principal = principal
        self._default = file.default
        self._rules: dict[Right, list[tuple[str, Rule]]] = {right: [] for right in Right}
        for rule in file.rules:
            if not rule.who.means(principal):
                continue
            filter = filled(rule.filter, principal)
            if filter is not None:
                try:
                    check_filter(filter)
                except TopicError:
                    filter = None
            if filter is None:
                if rule.allow:
                    continue  # it is not for whoever lacks the claim
                filter = widened(rule.filter)
            for right in rule.rights:
                self._rules[right].append((filter, rule))
        self._parts: dict[tuple[Right, str], Part] = {}
        self._known: dict[Right, dict[str, bool]] = {right: {} for right in Right}
        scopes: frozenset[Scope] = frozenset()
        for scope in file.scopes:
            if scope.who.means(principal):
                scopes |= scope.scopes
        self.scopes = frozenset(Scope) if Scope.ADMIN in scopes else scopes
        self.allowance = _allowance(file, principal)

    def may(self, right: Right, topic: str) -> bool:
        """Whether the right is given on a topic."""
        known = self._known[right]
        found = known.get(topic)
        if found is None:
            if len(known) >= REMEMBERED:
                known.clear()
            rule = self._first(right, topic)
            found = known[topic] = rule is not None and rule.allow
        return found

    def known(self, right: Right) -> dict[str, bool]:
        """What was decided lately, by topic: to be read only."""
        return self._known[right]

    def cause(self, right: Right, topic: str) -> Cause:
        """Why a topic is denied."""
        return Cause(self._first(right, topic), self._default)

    def _first(self, right: Right, topic: str) -> Rule | None:
        return next((rule for filter, rule in self._rules[right] if matches(filter, topic)), None)

    def part(self, right: Right, wanted: str) -> Part:
        """What of a filter may be subscribed to. Cost: 3 us a rule; remembered, for many sessions ask for the same."""
        found = self._parts.get((right, wanted))
        if found is None:
            if len(self._parts) >= PARTS:
                self._parts.clear()
            found = self._parts[right, wanted] = self._part(right, wanted)
        return found

    def _part(self, right: Right, wanted: str) -> Part:
        wanted = canonical(wanted)
        pieces: list[str] = []
        denied: list[str] = []
        first: Rule | None = None
        whole = False
        for filter, rule in self._rules[right]:
            common = intersection(filter, wanted)
            if common is None:
                continue
            if not rule.allow:
                first = first or rule
                denied.append(filter)
                if common == wanted:
                    break  # nothing of it is left
                continue
            if any(covers(deny, common) for deny in denied):
                continue
            pieces.append(common)
            if common == wanted:
                whole = not denied
                break
        return Part(widest(pieces), whole, Cause(first, self._default))


def _allowance(file: RuleFile, principal: Principal) -> Allowance:
    """Each number from the first line that means the principal and names it."""
    found: dict[str, float] = {}
    for line in file.limits:
        if line.who.means(principal):
            for name in ("events", "bytes", "connections", "subscriptions"):
                value = getattr(line, name)
                if value is not None:
                    found.setdefault(name, value)
    connections, subscriptions = found.get("connections"), found.get("subscriptions")
    return Allowance(
        found.get("events"),
        found.get("bytes"),
        None if connections is None else int(connections),
        None if subscriptions is None else int(subscriptions),
    )


def widest(filters: Iterable[str]) -> tuple[str, ...]:
    """The filters, each once, that no other one covers; in their order. Cost: O(n^2)."""
    each = tuple(dict.fromkeys(map(canonical, filters)))
    return tuple(one for one in each if not any(other != one and covers(other, one) for other in each))
