"""A policy file: one rule a line, as a person writes and reviews it.

    key ID file PATH
    export to PEER allow|deny [CONDITION...] [CHANGE...]
    import from PEER allow|deny [CONDITION...] [CHANGE...]

Decides what is a rule and whether the rules of a file can hold together: renames must be injective, and every key that is used
must be there. Never opens a file: whoever has its text hands it in.
Invariant: a `RuleFile` that exists can be applied; everything else was a `RuleError` that names the file and the line.
Source: design page "Routing", Boundary.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from federation.core.policy.documents import check_path
from federation.core.policy.rulebook import clash
from federation.core.policy.rules import Direction, Field, Glob, Label, Rename, Rule
from mesh.model.ids import BadName, check_name
from mesh.model.quantity import parse_size
from mesh.model.topic import TopicError, check_filter, has_wildcard, is_reserved

LINES_MAX: Final = 10_000
LINE_MAX: Final = 4_096
ROLES: Final = ("transit", "peer", "stub", "uplink", "dmz")
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]{1,64}\Z")
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(s|m|h)\Z")
_PER_S: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0}
_NEVER_STRIPPED: Final = frozenset({"specversion", "id", "source", "type"})
_NEVER_MASKED: Final = frozenset({"specversion", "id", "time", "datacontenttype", "dataschema"})


class RuleError(ValueError):
    """A line that is no rule. The text names file and line, and says what to write."""

    def __init__(self, file: str, line: int, what: str) -> None:
        super().__init__(f"{file}:{line}: {what}")
        self.file = file
        self.line = line
        self.what = what


@dataclass(frozen=True, slots=True)
class KeyLine:
    """Where a key is. path: as written; relative to the policy file."""

    line: int
    path: str


@dataclass(frozen=True, slots=True)
class RuleFile:
    """What a file says. rules: in their order, which decides. keys: by id."""

    name: str
    rules: tuple[Rule, ...] = ()
    keys: Mapping[str, KeyLine] = field(default_factory=dict)


class _Words:
    """The words of one line, taken one after the other."""

    def __init__(self, file: str, line: int, words: list[str]) -> None:
        self.file = file
        self.line = line
        self._words = words
        self._at = 0

    def fail(self, what: str) -> RuleError:
        return RuleError(self.file, self.line, what)

    @property
    def left(self) -> bool:
        return self._at < len(self._words)

    def next(self, what: str) -> str:
        """Raises: RuleError when the line ends where `what` must stand."""
        if not self.left:
            raise self.fail(f"the line ends where {what} must stand")
        self._at += 1
        return self._words[self._at - 1]

    def expect(self, *words: str) -> str:
        """One of these words."""
        shown = " or ".join(words)
        word = self.next(shown)
        if word not in words:
            raise self.fail(f"{word!r} where {shown} must stand")
        return word


def parse(text: str, name: str) -> RuleFile:
    """The rules of a file. name: as errors and decisions show it.

    Cost: about 30 us a line. Raises: RuleError, the first line that is none.
    """
    rules: list[Rule] = []
    keys: dict[str, KeyLine] = {}
    lines = text.split("\n")
    if len(lines) > LINES_MAX:
        raise RuleError(name, LINES_MAX + 1, f"more than {LINES_MAX} lines")
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        words = _Words(name, number, _split(name, number, line))
        first = words.expect("export", "import", "key")
        if first == "key":
            _key(words, keys)
        else:
            rules.append(_rule(words, Direction(first), line))
    for rule in rules:
        if rule.encrypt and rule.encrypt not in keys:
            raise RuleError(
                name, rule.line, f"no line says where key {rule.encrypt} is: key {rule.encrypt} file PATH"
            )
    check_renames(rules)
    return RuleFile(name, tuple(rules), keys)


def _split(name: str, number: int, line: str) -> list[str]:
    if len(line) > LINE_MAX:
        raise RuleError(name, number, f"longer than {LINE_MAX} characters")
    if "\0" in line:
        raise RuleError(name, number, "contains the NUL character")
    try:
        return shlex.split(line, comments=False)
    except ValueError as error:
        raise RuleError(
            name, number, f"{str(error).lower()}: put quotes around a value with blanks, and close them"
        ) from None


def _key(words: _Words, keys: dict[str, KeyLine]) -> None:
    id = words.next("the key's id")
    if _KEY_ID.match(id) is None:
        raise words.fail(f"key id {id!r}: use 1 to 64 letters, digits, '.', '_' or '-'")
    if id in keys:
        raise words.fail(f"key {id} has a line already: line {keys[id].line}")
    words.expect("file")
    keys[id] = KeyLine(words.line, words.next("the key's file"))
    if words.left:
        raise words.fail(f"{words.next('')!r} after the key's file: nothing more belongs here")


def _rule(words: _Words, direction: Direction, text: str) -> Rule:
    words.expect("to" if direction is Direction.EXPORT else "from")
    peer = _peer(words)
    allow = words.expect("allow", "deny") == "allow"
    found: dict[str, Any] = {}
    while words.left:
        word = words.next("a condition or change")
        read = _PARTS.get(word)
        if read is None:
            raise words.fail(f"{word!r} is neither a condition nor a change: there are {', '.join(_PARTS)}")
        if word in _CHANGES and not allow:
            raise words.fail(f"{word} in a rule that denies: nothing of it crosses")
        for name, value in read(words):
            if name in ("labels", "fields"):
                found[name] = (*found.get(name, ()), value)
            elif name in found:
                raise words.fail(f"{word} is there twice")
            else:
                found[name] = value
    rule = Rule(words.file, words.line, text, direction, peer, allow, **found)
    _consistent(words, rule)
    return rule


def _consistent(words: _Words, rule: Rule) -> None:
    if rule.encrypt and rule.decrypt:
        raise words.fail("it encrypts and decrypts: use two rules, on two sides")
    if rule.rename is not None and not _starts_with(rule.topic, rule.rename.old):
        raise words.fail(
            f"rename {rule.rename.old}: the rule's topic filter {rule.topic} also matches other topics. "
            f"Use topic {rule.rename.old}/#"
        )


def _starts_with(filter: str, prefix: str) -> bool:
    return filter == prefix or filter.startswith(prefix + "/")


def _peer(words: _Words) -> str:
    peer = words.next('a region, "role:ROLE" or "*"')
    if peer == "*":
        return peer
    if peer.startswith("role:"):
        if peer[5:] not in ROLES:
            raise words.fail(f"{peer!r}: roles are {', '.join(ROLES)}")
        return peer
    try:
        return check_name(peer, "region")
    except BadName as error:
        raise words.fail(str(error)) from None


def _filter(words: _Words) -> Iterator[tuple[str, Any]]:
    try:
        filter = check_filter(words.next("a topic filter"))
    except TopicError as error:
        raise words.fail(str(error)) from None
    if is_reserved(filter):
        raise words.fail(f"filter {filter!r}: the mesh's own topics never cross a boundary with rules")
    yield "topic", filter


def _glob(name: str) -> Callable[[_Words], Iterator[tuple[str, Any]]]:
    def read(words: _Words) -> Iterator[tuple[str, Any]]:
        yield name, Glob(words.next(f"text for {name}, with * for anything"))

    return read


def _size(words: _Words) -> Iterator[tuple[str, Any]]:
    sign = words.expect("<=", ">")
    text = words.next("a size")
    try:
        yield ("at_most" if sign == "<=" else "larger_than"), parse_size(text)
    except ValueError as error:
        raise words.fail(f'{error}: write "64KiB"') from None


def _rate(words: _Words) -> Iterator[tuple[str, Any]]:
    text = words.next("a rate")
    found = _RATE.match(text)
    if found is None or not 0 < float(found[1]) <= 1e9:
        raise words.fail(f'{text!r} is no rate: write "100/s", "30/m" or "5/h"')
    yield "rate_per_s", float(found[1]) / _PER_S[found[2]]


def _label(words: _Words) -> Iterator[tuple[str, Any]]:
    text = words.next("NAME=VALUE")
    name, equals, value = text.partition("=")
    if not equals or _ATTRIBUTE.match(name) is None:
        raise words.fail(f"{text!r} is not NAME=VALUE with the name of an attribute")
    yield "labels", Label(name, Glob(value))


def _rename(words: _Words) -> Iterator[tuple[str, Any]]:
    old = _prefix(words)
    words.expect("->")
    new = _prefix(words)
    yield "rename", Rename(old, new)


def _prefix(words: _Words) -> str:
    text = words.next("a prefix of a topic")
    try:
        prefix = check_filter(text.removesuffix("/"))
    except TopicError as error:
        raise words.fail(str(error)) from None
    if has_wildcard(prefix) or prefix.startswith("$"):
        raise words.fail(f"prefix {text!r}: whole levels without wildcards, and not of a $-topic")
    return prefix


def _field(mask: bool) -> Callable[[_Words], Iterator[tuple[str, Any]]]:
    def read(words: _Words) -> Iterator[tuple[str, Any]]:
        of = words.expect("attribute", "data")
        what = words.next("the attribute's name" if of == "attribute" else "a JSON path")
        if of == "data":
            problem = check_path(what)
            if problem:
                raise words.fail(problem)
        else:
            kept = _NEVER_MASKED if mask else _NEVER_STRIPPED
            if _ATTRIBUTE.match(what) is None or what in kept or what in ("data", "topic"):
                done = "masked" if mask else "stripped"
                raise words.fail(
                    f"attribute {what!r} cannot be {done}: without it there is no valid CloudEvent, or it is none"
                )
        yield "fields", Field(of, what, mask)

    return read


def _encrypt(words: _Words) -> Iterator[tuple[str, Any]]:
    yield "encrypt", words.next("the key's id")


def _decrypt(words: _Words) -> Iterator[tuple[str, Any]]:
    yield "decrypt", True


_CHANGES: Final = {
    "rename": _rename,
    "strip": _field(mask=False),
    "mask": _field(mask=True),
    "encrypt": _encrypt,
    "decrypt": _decrypt,
}
_PARTS: Final[Mapping[str, Callable[[_Words], Iterator[tuple[str, Any]]]]] = {
    "topic": _filter,
    "type": _glob("type"),
    "source": _glob("source"),
    "origin": _glob("origin"),
    "destination": _glob("destination"),
    "size": _size,
    "rate": _rate,
    "label": _label,
    **_CHANGES,
}


def check_renames(rules: list[Rule]) -> None:
    """Whether no two topics become one on any link, in either direction. Raises: RuleError at the later of two rules that clash.

    Cost: O(rules^2) of those that allow and where one of the two renames.
    """
    for at, rule in enumerate(rules):
        for earlier in rules[:at]:
            if clash(rules, earlier, rule):
                raise RuleError(
                    rule.file,
                    rule.line,
                    f"topics of this rule and of line {earlier.line} can become the same topic: "
                    "rename to a prefix of its own, or deny one of them before",
                )
