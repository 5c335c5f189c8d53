"""Topics and filters: which ones are well formed, and which filter matches, covers or overlaps which.

Decides by text alone, level by level. Never stores a filter and never counts anything: the tries of `mesh.core` do that,
and `matches` here is the plain definition they are tested against.
Invariant: `covers(wide, narrow)` holds exactly when no well-formed topic is matched by `narrow` and not by `wide`;
`overlaps(a, b)` exactly when some topic is matched by both (both for topics of any depth, without the bounds of `Limits`).
Source: MQTT 5.0 sections 4.7 (topic names and filters), 4.8.2 (shared subscriptions) and 1.5.4 (strings).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from mesh.model.ids import NAME_MAX
from mesh.model.limits import Limits

SHARE: Final = "$share"
RESERVED: Final = "$mesh"
"""First level of the topics on which the mesh itself publishes. Clients may subscribe to them, never publish there, and
filters below it are never exported to another region."""

_DEFAULTS: Final = Limits()
_CHECKED_TOPICS: Final = 8_192  # topics remembered as well formed; at most 512 bytes each by default


class TopicError(ValueError):
    """A topic, filter or group name that the grammar does not allow. The text says what to do. State unaffected."""


def check_topic(topic: str, limits: Limits = _DEFAULTS, *, from_client: bool = False) -> str:
    """Return `topic` if an event may be published on it.

    Args:
        topic: the text as the publisher gave it.
        limits: `topic_levels` and `topic_bytes` (UTF-8) apply.
        from_client: also refuse the topics reserved for the mesh itself (`$mesh`, `$mesh/...`).
    Cost: about 0.3 us for a topic seen lately, 2 us for a new one.
    Raises: TopicError, state unaffected.
    """
    try:
        _check_topic(topic, limits.topic_levels, limits.topic_bytes)
    except TypeError:  # not even hashable
        raise _not_text(topic, "topic") from None
    if from_client and topic[0] == "$" and is_reserved(topic):
        raise TopicError(
            f"topic {topic!r}: {RESERVED}/... is published by the mesh itself. Use another first level"
        )
    return topic


@lru_cache(maxsize=_CHECKED_TOPICS)
def _check_topic(topic: str, levels: int, size_bytes: int) -> None:
    if not isinstance(topic, str):
        raise _not_text(topic, "topic")
    _check_text(topic, "topic", levels, size_bytes)
    if "+" in topic or "#" in topic:
        raise TopicError(f"topic {topic!r}: '+' and '#' are for filters. Name one topic to publish on")
    if topic == SHARE or topic.startswith(SHARE + "/"):
        # No filter can match such a topic: `$share/...` always reads as a group subscription.
        raise TopicError(
            f"topic {topic!r}: {SHARE} is for subscribing as a group. Publish on the topic itself"
        )


def check_filter(filter: str, limits: Limits = _DEFAULTS) -> str:
    """Return `filter` if it is a well-formed plain filter (what follows the group in `$share/GROUP/FILTER`).

    Args:
        limits: `filter_levels` and `filter_bytes` (UTF-8) apply.
    Cost: about 2 us.
    Raises: TopicError, state unaffected.
    """
    if not isinstance(filter, str):
        raise _not_text(filter, "filter")
    _check_text(filter, "filter", limits.filter_levels, limits.filter_bytes)
    if has_wildcard(filter):
        levels = filter.split("/")
        for position, level in enumerate(levels, start=1):
            if level == "#" and position != len(levels):
                raise TopicError(f"filter {filter!r}: '#' takes all that follows. Make it the last level")
            if len(level) > 1 and has_wildcard(level):
                raise TopicError(
                    f"filter {filter!r}: level {level!r} mixes text and a wildcard. Use '+' or '#' alone"
                )
    if filter == SHARE or filter.startswith(SHARE + "/"):
        raise TopicError(f"filter {filter!r}: write {SHARE}/GROUP/FILTER once, with a group and a filter")
    return filter


def check_group(group: str) -> str:
    """Return `group` if it may name a queue group: 1 to 64 printable characters without '/', '+' and '#'.

    Raises: TopicError, state unaffected. Source: MQTT 5.0 section 4.8.2 (ShareName); the length is this mesh's.
    """
    if not isinstance(group, str) or not 0 < len(group) <= NAME_MAX or not group.isprintable():
        raise TopicError(f"group {group!r}: use 1 to {NAME_MAX} printable characters")
    if "/" in group or has_wildcard(group):
        raise TopicError(
            f"group {group!r}: '/', '+' and '#' are not allowed. Use letters, digits, '-' or '.'"
        )
    return group


def parse_share(filter: str, limits: Limits = _DEFAULTS) -> tuple[str, str]:
    """Split what a client subscribes to into (group, filter), both checked; group is "" for a plain filter.

    Raises: TopicError, state unaffected.
    """
    if not isinstance(filter, str) or not filter.startswith(SHARE + "/"):
        return "", check_filter(filter, limits)
    group, slash, rest = filter[len(SHARE) + 1 :].partition("/")
    if not slash or not rest:
        raise TopicError(
            f"filter {filter!r}: a filter is missing after the group. Write {SHARE}/GROUP/FILTER"
        )
    return check_group(group), check_filter(rest, limits)


def _not_text(value: object, what: str) -> TopicError:
    return TopicError(f"{what} {value!r}: give text, levels separated by '/'")


def _check_text(text: str, what: str, levels: int, size_bytes: int) -> None:
    if not text:
        raise TopicError(f"{what} is empty: give at least one character")
    if "\0" in text:
        raise TopicError(f"{what} {text!r}: contains the NUL character. Remove it")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise TopicError(f"{what} {text!r}: contains half a surrogate pair. Send well-formed UTF-8") from None
    if size > size_bytes:
        raise TopicError(f"{what} {text[:40]!r}...: {size} bytes of UTF-8. Use at most {size_bytes}")
    if text.count("/") >= levels:
        raise TopicError(f"{what} {text[:80]!r}: {text.count('/') + 1} levels. Use at most {levels}")


def has_wildcard(filter: str) -> bool:
    """Whether a well-formed filter can match more than one topic."""
    return "+" in filter or "#" in filter


def is_reserved(name: str) -> bool:
    """Whether a topic or filter lies in the part that belongs to the mesh itself: `$mesh` and everything below."""
    return name == RESERVED or name.startswith(RESERVED + "/")


def canonical(filter: str) -> str:
    """One spelling for filters that match the same topics. The only such pair is `+/#` and `#`: every topic has a first
    level, and `+/#` matches its parent `+` too."""
    return "#" if filter == "+/#" else filter


def matches(filter: str, topic: str) -> bool:
    """Whether `topic` is matched by `filter` (both well formed). Cost: 1 us; the tries answer for many filters at once."""
    wanted, levels = filter.split("/"), topic.split("/")
    if levels[0].startswith("$") and wanted[0] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    for position, level in enumerate(wanted):
        if level == "#":
            return True  # also where the topic ended one level above: a/# matches a
        if position == len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that `narrow` matches is matched by `wide` (both well formed, not shared). Cost: 1 us."""
    outer, inner = canonical(wide).split("/"), canonical(narrow).split("/")
    if outer[0] in ("+", "#") and inner[0].startswith("$"):
        return False
    for position, level in enumerate(outer):
        if level == "#":
            return True
        if position == len(inner) or inner[position] == "#" or level not in ("+", inner[position]):
            return False
    return len(outer) == len(inner)


def overlaps(a: str, b: str) -> bool:
    """Whether some topic is matched by both filters (well formed, not shared). Symmetrical. Cost: 1 us."""
    first, second = a.split("/"), b.split("/")
    if first[0] in ("+", "#") and second[0].startswith("$"):
        return False
    if second[0] in ("+", "#") and first[0].startswith("$"):
        return False
    for one, other in zip(first, second, strict=False):
        if one == "#" or other == "#":
            return True
        if one != other and one != "+" and other != "+":
            return False
    if len(first) == len(second):
        return True
    longer, length = (first, len(second)) if len(first) > len(second) else (second, len(first))
    return len(longer) == length + 1 and longer[-1] == "#"


def literal_prefix(filter: str) -> tuple[str, ...]:
    """The levels before the first wildcard. A tuple, because one empty level and no level are different."""
    levels = filter.split("/")
    for position, level in enumerate(levels):
        if level in ("+", "#"):
            return tuple(levels[:position])
    return tuple(levels)
