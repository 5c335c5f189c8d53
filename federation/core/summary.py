"""The summary: what a region asks the others for, in as few filters as lose nothing, or in at most a budget of them.

Decides which filters of the region's nodes are exported: those that no other one covers, and above the budget prefixes
(`PREFIX/#`, tagged merged) in place of many. Never sends, never sees a queue group (groups are exported as they are) and
never exports `$mesh/...`.
Invariant (P10): what the export matches is a superset of what the filters match, and the same while nothing is merged; no
exported filter is covered by another one. The export is a function of the set of filters: neither order nor history shows.
Source: design page "Routing", section Interest.

Covering. Every filter that is covered hangs below one that covers it; those that hang nowhere are the export. Adding a
filter looks for one exported filter that covers it, else puts below it those it covers. Removing one puts what hung
directly below it under its own coverer, or, if it was exported, looks again for each of them.

Merging. Above the budget the export starts as the one prefix that all filters share and is opened step by step: always
the prefix with the fewest literal levels, because it matches most that nobody asked for; among those the one that opens
into the fewest entries, then the first by name. A prefix whose opening would pass the budget stays merged, and narrower
ones are tried after it. Each prefix is as long as it can be, and one that holds a single filter is that filter.
Filters on `$`-topics are never merged: no export matches a `$`-topic nobody asked for. If they alone pass the budget,
they are exported nevertheless.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from mesh.core.trie import FilterTrie, Node
from mesh.model.topic import canonical, is_reserved

MERGE_BUDGET: Final = 4_096
"""Filters a region exports before its summary merges (`[federation] export_merge_budget`)."""


class Changes(NamedTuple):
    """Difference of two exports. entries: filter -> merged, new or with another tag. gone: no longer exported. Sorted."""

    entries: dict[str, bool]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SummaryStatistics:
    """filters: distinct ones of the region. covering: those no other one covers. exported: entries, merged: of those."""

    filters: int
    covering: int
    exported: int
    merged: int


class Summary:
    """The exported filters of a region.

    Args:
        budget: entries above which filters are merged.
    Cost: add and remove 5 to 30 us; the removal of an exported filter 4 us for each filter that hung directly below it;
    above the budget (`merging`), taking changes up to 30 ms with the default budget, whatever the number of filters.
    """

    __slots__ = (
        "_below",
        "_budget",
        "_counts",
        "_coverer",
        "_export",
        "_roots",
        "_shown",
        "_shown_plain",
        "_touched",
        "_trie",
    )

    def __init__(self, budget: int = MERGE_BUDGET) -> None:
        if budget < 1:
            raise ValueError(f"a budget of {budget} filters: use at least 1")
        self._budget = budget
        self._counts: dict[str, int] = {}
        self._coverer: dict[str, str] = {}  # covered filter -> the one it hangs below
        self._below: dict[str, dict[str, None]] = {}  # ... and back; ordered, so that a seed replays a run
        self._roots: dict[str, bool] = {}  # filters that hang nowhere; the value is their tag, always exact
        self._trie: FilterTrie[str] = FilterTrie(flat=False)  # the same filters, by path
        self._export: dict[str, bool] | None = None  # the merged export; None: to be worked out
        self._shown: dict[str, bool] = {}  # what take_changes told so far
        self._shown_plain = True  # that was below the budget: only what was touched can differ
        self._touched: dict[str, None] = {}  # filters that began or ceased to hang nowhere since

    def add(self, filter: str) -> None:
        """One more node wants `filter` (well formed). `$mesh/...` is ignored."""
        if is_reserved(filter):
            return
        filter = canonical(filter)
        count = self._counts.get(filter, 0)
        self._counts[filter] = count + 1
        if count:
            return
        wide = next(self._trie.covering(filter), None)
        if wide is not None:
            self._hang(filter, wide)
            return
        for narrow in list(self._trie.covered_by(filter)):
            self._leave_roots(narrow)
            self._hang(narrow, filter)
        self._join_roots(filter)

    def remove(self, filter: str) -> None:
        """One node less wants `filter`. `$mesh/...` is ignored. Raises: ValueError if none wanted it; state unaffected."""
        if is_reserved(filter):
            return
        filter = canonical(filter)
        count = self._counts.get(filter, 0)
        if not count:
            raise ValueError(f"filter {filter!r} is not in the summary. Remove what was added")
        if count > 1:
            self._counts[filter] = count - 1
            return
        del self._counts[filter]
        orphans = self._below.pop(filter, {})
        wide = self._coverer.pop(filter, None)
        if wide is not None:
            siblings = self._below[wide]
            del siblings[filter]
            for orphan in orphans:
                self._coverer[orphan] = wide
            siblings.update(orphans)
            if not siblings:
                del self._below[wide]
            return
        self._leave_roots(filter)
        # Wider ones first: each finds its coverer among those before it, so none has to look for what it covers itself.
        for orphan in sorted(orphans, key=_width):
            del self._coverer[orphan]
            wide = next(self._trie.covering(orphan), None)
            if wide is not None:
                self._hang(orphan, wide)
            else:
                self._join_roots(orphan)

    def _hang(self, narrow: str, wide: str) -> None:
        self._coverer[narrow] = wide
        below = self._below.get(wide)
        if below is None:
            below = self._below[wide] = {}
        below[narrow] = None

    def _join_roots(self, filter: str) -> None:
        self._roots[filter] = False
        self._trie.put(filter, filter)
        self._touched[filter] = None
        self._export = None

    def _leave_roots(self, filter: str) -> None:
        del self._roots[filter]
        self._trie.pop(filter)
        self._touched[filter] = None
        self._export = None

    def entries(self) -> Mapping[str, bool]:
        """The export: filter -> merged. A view that is true until the next change. Cost: none; see the class above the
        budget."""
        return MappingProxyType(self._entries())

    def _entries(self) -> dict[str, bool]:
        if not self.merging:
            return self._roots
        if self._export is None:
            self._export = _merge(self._trie, self._budget)
        return self._export

    def take_changes(self) -> Changes:
        """What changed in the export since this was last called (the first time: all of it).

        Cost: the filters touched meanwhile; above the budget, before or now, that of the whole export.
        """
        entries, shown = self._entries(), self._shown
        plain = entries is self._roots
        if plain and self._shown_plain:
            new = {
                filter: False for filter in sorted(self._touched) if filter in entries and filter not in shown
            }
            gone = sorted(filter for filter in self._touched if filter in shown and filter not in entries)
        else:
            new = dict(sorted(entries.items() - shown.items()))
            gone = sorted(shown.keys() - entries.keys())
        self._shown_plain = plain
        self._touched.clear()
        shown.update(new)
        for filter in gone:
            del shown[filter]
        return Changes(new, tuple(gone))

    @property
    def merging(self) -> bool:
        """Whether the budget is passed, so that taking changes costs the whole export: then take them less often."""
        return len(self._roots) > self._budget

    def statistics(self) -> SummaryStatistics:
        """A frozen count. Cost: the export."""
        entries = self._entries()
        return SummaryStatistics(
            filters=len(self._counts),
            covering=len(self._roots),
            exported=len(entries),
            merged=sum(entries.values()),
        )


def _width(filter: str) -> tuple[int, bool, int]:
    """Sorts a filter before all those it covers: it has no more literal levels, and if as many, it ends in `#` and they
    do not, or in a `#` further left."""
    levels = filter.split("/")
    wild = levels.count("+") + levels.count("#")
    return len(levels) - wild, levels[-1] != "#", len(levels)


_Closed: TypeAlias = tuple[int, int, str, Node[str]]
"""A prefix not opened yet, in the order of opening: literal levels, entries it opens into, its text with a slash at the
end, its node."""


def _merge(trie: FilterTrie[str], budget: int) -> dict[str, bool]:
    """The export of a trie of filters of which none covers another, above the budget. Cost: 3 us an entry."""
    export: dict[str, bool] = dict.fromkeys(trie.dollar.leaves(), False)
    closed: list[_Closed] = []
    merged: list[str] = []
    _place(trie.top, "", 0, closed, export)
    while closed:
        literals, width, path, node = heappop(closed)
        # Each entry of a node becomes one of the export: an exact filter or a closed prefix.
        if len(export) + len(merged) + len(closed) + width > budget:
            merged.append(canonical(path + "#"))  # `+/#` is `#`, and has to be seen as such below
            continue
        for leaf in (node.leaf, node.tail):
            if leaf is not None:
                export[leaf] = False
        for level, below in node.children():
            _place(below, f"{path}{level}/", literals + (level != "+"), closed, export)
    _drop_covered(export, set(merged))
    return export


def _place(node: Node[str], path: str, literals: int, closed: list[_Closed], export: dict[str, bool]) -> None:
    """Put one subtree into the export as one entry: as itself if it is a single filter, else closed at the longest
    prefix that all its filters share."""
    width = node.width()
    while width == 1:
        only = node.tail if node.leaf is None else node.leaf
        if only is not None:
            export[only] = False
            return
        level, node = next(node.children())
        path = f"{path}{level}/"
        literals += level != "+"
        width = node.width()
    if width:
        heappush(closed, (literals, width, path, node))


def _drop_covered(export: dict[str, bool], merged: Set[str]) -> None:
    """Add the merged prefixes to the export and take out what one of them covers outside its own subtree, which only a
    prefix with a `+` in it can."""
    across = [prefix for prefix in merged if prefix == "#" or "+" in prefix]
    if across:
        wide: FilterTrie[str] = FilterTrie(flat=False)
        for prefix in across:
            wide.put(prefix, prefix)
        for filter in [filter for filter in export if any(wide.covering(filter))]:
            del export[filter]
        merged = {prefix for prefix in merged if all(other == prefix for other in wide.covering(prefix))}
    export.update(dict.fromkeys(merged, True))
