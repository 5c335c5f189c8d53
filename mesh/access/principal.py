"""Whoever a client has shown to be: a name, how it was shown, roles and claims; and the selectors by which rules name it.

Decides which principals a selector means, and what a placeholder of a filter stands for. Never decides what anybody may do.
Invariant: a placeholder is filled with text that is one topic level or a part of one, never with more: a claim cannot widen a rule.
Source: RFC 7519 section 4 (claims); docs/access.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

PLACEHOLDER: Final = re.compile(r"\{([A-Za-z][A-Za-z0-9_.-]{0,63})\}")
_LEVEL: Final = re.compile(r"[^/+#\x00-\x1f\x7f]{1,128}\Z")
NAME_CHARS: Final = 256
"""A longer name of a principal is not one."""


class Kind(StrEnum):
    """How a client showed who it is."""

    TOKEN = "token"
    JWT = "jwt"
    CERTIFICATE = "certificate"


class Scope(StrEnum):
    """What may be done at the admin port. `admin` includes the others."""

    READ = "read"
    PUBLISH = "publish"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """claims: name -> values, as pairs, so that a principal can be a key. until_s: wall clock after which the proof is no
    longer good, None for never; not part of who it is."""

    name: str
    kind: Kind
    roles: frozenset[str] = frozenset()
    claims: tuple[tuple[str, tuple[str, ...]], ...] = ()
    until_s: float | None = field(default=None, compare=False)

    def values(self, claim: str) -> tuple[str, ...]:
        """A claim's values; `name` is one."""
        if claim == "name":
            return (self.name,)
        return next((values for name, values in self.claims if name == claim), ())

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}"


class Who(NamedTuple):
    """A selector. what: "*", "name", a Kind value, "role" or "claim"."""

    what: str
    name: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> Who:
        """`*`, `NAME`, `token:NAME`, `jwt:NAME`, `certificate:NAME`, `role:ROLE` or `claim:CLAIM=VALUE`. Raises: ValueError."""
        if text == "*":
            return cls("*")
        what, colon, rest = text.partition(":")
        if colon and what == "claim":
            claim, equals, value = rest.partition("=")
            if not (claim and equals and value):
                raise ValueError(f"{text!r} is not claim:CLAIM=VALUE")
            return cls("claim", claim, value)
        if colon and what in ("role", *Kind):
            if not rest:
                raise ValueError(f"{text!r} names nobody behind the colon")
            return cls(what, rest)
        if any(character in text for character in "/#{}="):
            raise ValueError(f"{text!r} is no name, role:ROLE, claim:CLAIM=VALUE or *")
        return cls("name", text)

    def means(self, principal: Principal) -> bool:
        """Whether the selector means this principal."""
        match self.what:
            case "*":
                return True
            case "name":
                return principal.name == self.name
            case "role":
                return self.name in principal.roles
            case "claim":
                return self.value in principal.values(self.name)
            case kind:
                return principal.kind.value == kind and principal.name == self.name


def filled(template: str, principal: Principal) -> str | None:
    """A filter with its placeholders filled; None where the principal has no such claim, more than one value of it, or one
    that is no part of a topic level. Cost: 1 us."""
    if "{" not in template:
        return template
    parts: list[str] = []
    at = 0
    for found in PLACEHOLDER.finditer(template):
        values = principal.values(found[1])
        if len(values) != 1 or not _LEVEL.match(values[0]):
            return None
        if found.start() == 0 and values[0].startswith("$"):
            return None  # a name must not lead into the mesh's own topics
        parts += [template[at : found.start()], values[0]]
        at = found.end()
    return "".join((*parts, template[at:]))


def widened(template: str) -> str:
    """The filter of everything that the template can become: levels with placeholders match any level."""
    return "/".join("+" if PLACEHOLDER.search(level) else level for level in template.split("/"))
