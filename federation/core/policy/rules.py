"""The values of a policy: rules as they were written, what they look at, and what they decided.

Decides nothing. Every rule knows its file, line and text, and every decision names its rule, so that no explanation has to be
worked out a second time.
Source: design page "Routing", Boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate
from re import Pattern, compile
from typing import NamedTuple

from mesh.model.reasons import PolicyReason


class Direction(StrEnum):
    """Which way events go, seen from the node that has the rule."""

    EXPORT = "export"
    IMPORT = "import"


class Glob:
    """Text with `*` for any run of characters and `?` for one. Compares by its text."""

    __slots__ = ("_pattern", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        # Brackets are plain text: a source or type may have them.
        escaped = text.replace("[", "[[]")
        self._pattern: Pattern[str] = compile(translate(escaped))

    def matches(self, value: str) -> bool:
        """Whether the whole value fits."""
        return self._pattern.match(value) is not None

    @property
    def is_open(self) -> bool:
        return self.text.strip("*") == "" and bool(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Glob) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Glob({self.text!r})"


class Field(NamedTuple):
    """Something to take out of an event. of: "attribute" (name) or "data" (JSON path). mask: put MASKED in its place instead."""

    of: str
    what: str
    mask: bool


class Rename(NamedTuple):
    """A prefix of whole levels, before and after the crossing."""

    old: str
    new: str


class Label(NamedTuple):
    """An attribute that must be there, and what its value must look like."""

    name: str
    value: Glob


@dataclass(frozen=True, slots=True)
class Rule:
    """One line.

    peer: a region's name, "role:ROLE" or "*". topic: the filter of the topics it is for, as they are before the crossing.
    origin: region that published. destination: region it is for. larger_than, at_most: bytes of data, None for any.
    rate_per_s: it matches no more events a second than this, None for any. fields: taken out of what it lets cross.
    encrypt: id of the key, "" for none.
    """

    file: str
    line: int
    text: str
    direction: Direction
    peer: str
    allow: bool
    topic: str = "#"
    type: Glob | None = None
    source: Glob | None = None
    origin: Glob | None = None
    destination: Glob | None = None
    larger_than: int | None = None
    at_most: int | None = None
    rate_per_s: float | None = None
    labels: tuple[Label, ...] = ()
    rename: Rename | None = None
    fields: tuple[Field, ...] = ()
    encrypt: str = ""
    decrypt: bool = False

    @property
    def where(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.line}"

    @property
    def by_topic_alone(self) -> bool:
        """Whether nothing but the topic decides if it matches."""
        return self.by_place_alone and self.origin is None and self.destination is None

    @property
    def by_place_alone(self) -> bool:
        """Whether nothing of the event itself but its topic decides if it matches."""
        return (
            self.type is None
            and self.source is None
            and self.larger_than is None
            and self.at_most is None
            and self.rate_per_s is None
            and not self.labels
        )

    @property
    def looks_inside(self) -> bool:
        """Whether the CloudEvent has to be read for it."""
        return self.type is not None or self.source is not None or bool(self.labels)

    @property
    def changes(self) -> bool:
        """Whether what it lets cross is not what came."""
        return self.rename is not None or bool(self.fields) or bool(self.encrypt) or self.decrypt

    def is_for(self, region: str, role: str) -> bool:
        """Whether it speaks of a link to this region, of this role."""
        return self.peer in ("*", region, f"role:{role}")


class Decision(NamedTuple):
    """What a policy says of one event on one link. rule None: no rule matched, or none could."""

    allowed: bool
    reason: PolicyReason
    rule: Rule | None = None

    @property
    def where(self) -> str:
        """FILE:LINE of the rule, "" without one."""
        return "" if self.rule is None else self.rule.where

    @property
    def text(self) -> str:
        """The rule as it was written, or why there is none, for a person."""
        if self.rule is not None:
            return f'rule "{self.rule.text}" ({self.rule.where})'
        return self.reason.value.replace("_", "-")


class Denial(NamedTuple):
    """One event that did not cross, for who keeps an audit. peer: REGION/NODE at the other end. at_s: monotonic seconds."""

    at_s: float
    direction: Direction
    peer: str
    mesh_id: str
    topic: str
    regions: tuple[str, ...]
    reason: PolicyReason
    rule: str
    where: str
