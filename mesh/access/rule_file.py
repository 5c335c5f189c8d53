"""The access file: one rule a line, as a person can review it.

    # comment: a line that begins with '#'
    [LABEL:] allow|deny WHO RIGHTS FILTER
    [LABEL:] scope WHO SCOPES
    [LABEL:] limit WHO NAME=VALUE ...

Decides what a line means and what is wrong with one. Never decides what anybody may do: `mesh.access.rights` reads the rules in
order. Reads no file: it is given the text.
Invariant: every rule knows its file and line; a file with one bad line gives no rules at all.
Source: docs/access.md; design page "What a person sees" (errors say where).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, NamedTuple

from mesh.access.principal import PLACEHOLDER, Scope, Who
from mesh.model.errors import MeshError
from mesh.model.quantity import parse_size
from mesh.model.topic import TopicError, check_filter

MOST_BYTES: Final = 1 << 20
MOST_RULES: Final = 10_000
PROBLEMS_TOLD: Final = 20
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}:\Z")
_WORDS: Final = ("allow", "deny", "scope", "limit")


class Right(StrEnum):
    """What may be allowed on topics."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    GROUP = "group"
    """To take part of the work of a queue group."""
    REQUEST = "request"
    """To ask, and to get the answer."""


class Place(NamedTuple):
    """Where a rule stands. file: as configured."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def short(self) -> str:
        """For clients, who need not know this machine's folders."""
        name = self.file.rpartition("/")[2]
        return f"{name}:{self.line}" if self.line else name


@dataclass(frozen=True, slots=True)
class Rule:
    """One allow or deny. filter: perhaps with placeholders. name: its label, or ""."""

    allow: bool
    who: Who
    rights: frozenset[Right]
    filter: str
    place: Place
    name: str
    text: str

    def __str__(self) -> str:
        return f'rule "{self.name or self.text}" ({self.place})'


class ScopeRule(NamedTuple):
    """What some may do at the admin port."""

    who: Who
    scopes: frozenset[Scope]
    place: Place


class LimitRule(NamedTuple):
    """What some may use. Each number None where the line does not name it."""

    who: Who
    place: Place
    events: float | None
    bytes: float | None
    connections: int | None
    subscriptions: int | None


@dataclass(frozen=True, slots=True)
class RuleFile:
    """All rules of a file, in order."""

    file: str
    rules: tuple[Rule, ...] = ()
    scopes: tuple[ScopeRule, ...] = ()
    limits: tuple[LimitRule, ...] = ()

    @property
    def default(self) -> Place:
        """The place of what no rule says."""
        return Place(self.file, 0)


def read_rules(text: str, file: str) -> RuleFile:
    """Read an access file. Cost: 10 us a line. Raises: MeshError MESH-C051 with the place of the first bad line, and how many more."""
    if len(text) > MOST_BYTES:
        raise MeshError("MESH-C051", file, f"more than {MOST_BYTES} bytes")
    rules: list[Rule] = []
    scopes: list[ScopeRule] = []
    limits: list[LimitRule] = []
    labels: dict[str, int] = {}
    problems: list[tuple[Place, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        place = Place(file, number)
        try:
            label = words.pop(0)[:-1] if _LABEL.match(words[0]) else ""
            if label and labels.setdefault(label, number) != number:
                raise ValueError(f"the label {label!r} is taken by line {labels[label]}")
            found = _read(words, place, label)
        except ValueError as error:
            problems.append((place, str(error)))
            continue
        match found:
            case Rule():
                rules.append(found)
            case ScopeRule():
                scopes.append(found)
            case LimitRule():
                limits.append(found)
        if len(rules) + len(scopes) + len(limits) > MOST_RULES:
            raise MeshError("MESH-C051", str(place), f"more than {MOST_RULES} rules")
    if problems:
        more = "; ".join(f"line {place.line}: {what}" for place, what in problems[1:PROBLEMS_TOLD])
        raise MeshError("MESH-C051", str(problems[0][0]), problems[0][1] + (f"; {more}" if more else ""))
    return RuleFile(file, tuple(rules), tuple(scopes), tuple(limits))


def _read(words: Sequence[str], place: Place, label: str) -> Rule | ScopeRule | LimitRule:
    if not words or words[0] not in _WORDS:
        near = get_close_matches(words[0], _WORDS, n=1) if words else []
        hint = f"did you mean {near[0]}?" if near else f"a rule begins with one of {', '.join(_WORDS)}"
        raise ValueError(f"{words[0] if words else label!r} is no rule; {hint}")
    word, rest = words[0], words[1:]
    if word == "limit":
        return _limit(rest, place)
    if word == "scope":
        if len(rest) != 2:
            raise ValueError("write: scope WHO SCOPES")
        return ScopeRule(Who.parse(rest[0]), frozenset(map(Scope, _choices(rest[1], tuple(Scope)))), place)
    if len(rest) != 3:
        raise ValueError(f"write: {word} WHO RIGHTS FILTER")
    who, rights, filter = rest
    return Rule(
        allow=word == "allow",
        who=Who.parse(who),
        rights=frozenset(map(Right, _choices(rights, tuple(Right)))),
        filter=_filter(filter),
        place=place,
        name=label,
        text=" ".join(words),
    )


def _choices(text: str, known: Sequence[str]) -> Sequence[str]:
    if text == "*":
        return known
    chosen = text.split(",")
    for one in chosen:
        if one not in known:
            near = get_close_matches(one, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}, or *"
            raise ValueError(f"{one!r} is not known here; {hint}")
    return chosen


def _filter(text: str) -> str:
    plain = PLACEHOLDER.sub("x", text)
    if "{" in plain or "}" in plain:
        raise ValueError(f"{text!r}: write a placeholder as {{name}} or {{CLAIM}}")
    try:
        check_filter(plain)
    except TopicError as error:
        raise ValueError(str(error)) from None
    return text


def _limit(words: Sequence[str], place: Place) -> LimitRule:
    if len(words) < 2:
        raise ValueError(
            "write: limit WHO events=100/s bytes=1MiB/s connections=10 subscriptions=100 (at least one)"
        )
    found: dict[str, float] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if name not in ("events", "bytes", "connections", "subscriptions") or not equals or name in found:
            raise ValueError(
                f"{word!r}: name events=, bytes=, connections= and subscriptions=, each at most once"
            )
        try:
            number = (
                parse_size(value.removesuffix("/s")) if name == "bytes" else float(value.removesuffix("/s"))
            )
        except ValueError:
            number = 0.0
        if name in ("connections", "subscriptions") and number != int(number):
            number = 0.0
        if not 0 < number < 1e12:
            raise ValueError(f"{word!r}: a number above 0 is needed")
        found[name] = number
    connections, subscriptions = found.get("connections"), found.get("subscriptions")
    return LimitRule(
        Who.parse(words[0]),
        place,
        found.get("events"),
        found.get("bytes"),
        None if connections is None else int(connections),
        None if subscriptions is None else int(subscriptions),
    )
