"""Which destinations want a topic: the filters of the region's nodes and of the other regions, as bitmasks.

Decides the set of destinations (one bit each) and the queue groups that match a topic. Never decides who of them gets an
event, knows no routes, no sessions and no names; takes filters as already checked (`mesh.model.topic`).
Invariant: a `Match` equals a scan of all filters held, for as long as its generation is the index's; a bit that was
dropped is in no mask and no group.
Source: design page "Routing", section Interest (lookup); "Wire and speed" for the targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, NamedTuple

from mesh.core.trie import FilterTrie, TopicCache

CACHE_WEIGHT: Final = 65_536  # remembered topics, each counted as 1 and its groups
_NAME_SETS: Final = 4_096  # remembered translations of masks into names


class Destinations:
    """Names of destinations and their bits. The lowest free bit is given out first, so masks stay short."""

    __slots__ = ("_bits", "_free", "_names", "_sets")

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._free: list[int] = []
        self._sets: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._bits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __contains__(self, name: object) -> bool:
        return name in self._bits

    def bit(self, name: str) -> int:
        """The mask `1 << n` of this name, allocated when it is new. Cost: 0.1 us known, 0.5 us new."""
        bit = self._bits.get(name)
        if bit is None:
            bit = heappop(self._free) if self._free else 1 << len(self._bits)
            self._bits[name] = bit
            self._names[bit] = name
        return bit

    def find(self, name: str) -> int:
        """The mask of this name, 0 if it has none."""
        return self._bits.get(name, 0)

    def release(self, name: str) -> None:
        """Give the bit back for another name. `InterestIndex.drop_bit` comes first, else the next owner of the bit
        inherits filters. Unknown name: nothing happens."""
        bit = self._bits.pop(name, None)
        if bit is not None:
            del self._names[bit]
            heappush(self._free, bit)
            self._sets.clear()

    def names(self, mask: int) -> tuple[str, ...]:
        """The names in a mask, sorted. Cost: 0.1 us for a mask seen lately, else 0.3 us a name.

        Raises: KeyError for a bit nobody has: the mask is older than a release. State unaffected.
        """
        known = self._sets.get(mask)
        if known is not None:
            return known
        names, rest = [], mask
        while rest:
            bit = rest & -rest
            names.append(self._names[bit])
            rest ^= bit
        names.sort()
        if len(self._sets) >= _NAME_SETS:
            self._sets.clear()
        found = self._sets[mask] = tuple(names)
        return found


class Match(NamedTuple):
    """Who wants a topic.

    generation: of the index when this was found; equal to the index's own: still true.
    mask: destinations with a plain filter that matches. groups: (group, filter) that match, sorted.
    """

    generation: int
    mask: int
    groups: tuple[tuple[str, str], ...]


_new_match = tuple.__new__  # past the argument handling of a NamedTuple: a tenth of an uncached match


@dataclass(frozen=True, slots=True)
class InterestStatistics:
    """filters: distinct plain filters. entries: (filter, destination) pairs. groups: distinct (group, filter).
    generation: changes so far. searches: matches that were not answered from the cache. cached: topics remembered."""

    filters: int
    entries: int
    groups: int
    generation: int
    searches: int
    cached: int


class InterestIndex:
    """Filters of all destinations, and the topics lately asked for.

    Cost: add and remove 2 to 4 us; about 220 bytes a filter, its text included.
    """

    __slots__ = (
        "_cache",
        "_filters_of",
        "_group_trie",
        "_groups",
        "_groups_of",
        "_plain",
        "_searches",
        "generation",
    )

    def __init__(self, *, cache_weight: int = CACHE_WEIGHT) -> None:
        self.generation = 0
        """Grows with every change; a `Match` of an older generation may be wrong."""
        self._plain: FilterTrie[int] = FilterTrie()
        self._filters_of: dict[int, set[str]] = {}
        self._group_trie: FilterTrie[tuple[tuple[str, str], ...]] = FilterTrie()
        self._groups: dict[tuple[str, str], dict[int, int]] = {}
        self._groups_of: dict[int, set[tuple[str, str]]] = {}
        self._cache: TopicCache[Match] = TopicCache(cache_weight)
        self._searches = 0

    def add(self, filter: str, bit: int) -> None:
        """The destination wants what `filter` matches. Known already: nothing happens."""
        mask = self._plain.get(filter)
        if mask is None:
            self._plain.put(
                filter, bit
            )  # the destination's own int: a filter of one destination costs no number
        elif mask & bit:
            return
        else:
            self._plain.put(filter, mask | bit)
        held = self._filters_of.get(bit)
        if held is None:
            held = self._filters_of[bit] = set()
        held.add(filter)
        self.generation += 1

    def remove(self, filter: str, bit: int) -> None:
        """The destination no longer wants it. Not held: nothing happens."""
        held = self._filters_of.get(bit)
        if held is None or filter not in held:
            return
        held.discard(filter)
        if not held:
            del self._filters_of[bit]
        self._clear(filter, bit)
        self.generation += 1

    def _clear(self, filter: str, bit: int) -> None:
        mask = self._plain.get(filter)
        assert mask is not None, "a filter held by a destination is in the trie"
        assert mask & bit, "the mask of a filter has the bits of all that hold it"
        if mask == bit:
            self._plain.pop(filter)
        else:
            self._plain.put(filter, mask ^ bit)

    def set_group(self, group: str, filter: str, bit: int, members: int) -> None:
        """The destination has this many members (as it tells it, bucketed) of a queue group; 0 or less: none any more."""
        members = max(members, 0)
        key = (group, filter)
        counts = self._groups.get(key)
        if (counts.get(bit, 0) if counts is not None else 0) == members:
            return
        self.generation += 1
        if not members:
            assert counts is not None, "a group without members has no entry"
            self._leave_group(key, counts, bit)
            held = self._groups_of[bit]
            held.discard(key)
            if not held:
                del self._groups_of[bit]
            return
        if counts is None:
            counts = self._groups[key] = {}
            others = self._group_trie.get(filter) or ()
            self._group_trie.put(filter, (*others, key))
        counts[bit] = members
        self._groups_of.setdefault(bit, set()).add(key)

    def _leave_group(self, key: tuple[str, str], counts: dict[int, int], bit: int) -> None:
        del counts[bit]
        if counts:
            return
        del self._groups[key]
        others = tuple(other for other in self._group_trie.get(key[1]) or () if other != key)
        if others:
            self._group_trie.put(key[1], others)
        else:
            self._group_trie.pop(key[1])

    def group_members(self, group: str, filter: str) -> Mapping[int, int]:
        """bit -> members of a group's destinations, empty for an unknown group. A live view: read it, do not keep it."""
        return self._groups.get((group, filter), {})

    def drop_bit(self, bit: int) -> None:
        """Forget everything of a destination. Cost: that of its own filters and groups, whatever others hold."""
        filters = self._filters_of.pop(bit, None)
        groups = self._groups_of.pop(bit, None)
        if filters is None and groups is None:
            return
        for filter in filters or ():
            self._clear(filter, bit)
        for key in groups or ():
            self._leave_group(key, self._groups[key], bit)
        self.generation += 1

    def match(self, topic: str) -> Match:
        """Who wants `topic` (well formed). Cost: 0.15 us when nothing changed since it was last asked, else one search
        of the trie (4 to 5 us for a million filters)."""
        generation = self.generation
        known = self._cache.get(topic)
        if known is not None and known[0] == generation:
            return known
        self._searches += 1
        mask = 0
        for leaf in self._plain.match(topic):
            mask |= leaf
        groups: tuple[tuple[str, str], ...] = ()
        if self._groups:
            leaves = self._group_trie.match(topic)
            if leaves:
                groups = tuple(sorted(key for keys in leaves for key in keys))
        found = _new_match(Match, (generation, mask, groups))
        self._cache.keep(topic, found, 1 + len(groups))
        return found

    def holders(self, filter: str) -> int:
        """The mask of the destinations that hold exactly this plain filter."""
        return self._plain.get(filter) or 0

    def filters_of(self, bit: int) -> frozenset[str]:
        """A copy of the plain filters of a destination. Cost: their number."""
        return frozenset(self._filters_of.get(bit, ()))

    def statistics(self) -> InterestStatistics:
        """A frozen count. Cost: the number of destinations."""
        return InterestStatistics(
            filters=len(self._plain),
            entries=sum(map(len, self._filters_of.values())),
            groups=len(self._groups),
            generation=self.generation,
            searches=self._searches,
            cached=len(self._cache),
        )
