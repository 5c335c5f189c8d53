"""What each other region wants: the union of what its live bridges export, kept in the destination index.

Decides which bridges' tables count (those that a route leads to; all of them while none does, so that interest is kept
for a region that was cut off) and keeps `InterestIndex` equal to their union. Never talks to anybody.
Invariant: for each region, index entries of its bit = union of f and g entries over the counted bridges.
Bounds: the tables themselves are bounded (`limits.remote_filters`); this adds one count a filter and region.
Source: design page "Routing", Interest.
"""

from __future__ import annotations

from collections.abc import Collection

from mesh.core.interest import Destinations, InterestIndex
from mesh.core.plan import REGION
from mesh.model.ids import check_name

FILTER_KEY = "f"
GROUP_KEY = "g"
KEPT_FILTER_KEY = "F"
"""Beside a filter's key in a node's REGION table: a durable client holds it, so that it counts while the node is away."""
KEPT_GROUP_KEY = "G"
"""The same of a queue group; the value counts its durable members."""
CLIENT_KEY = "d"
"""A durable client of the node; the value is the address of the node's events port."""
TAKEN_KEY = "t"
"""A node whose durable clients are kept here by now (decision 0019); without a value of its own."""
TOLD_KEY = "n"
"""In a WORLD table, beside the bridge's own region: what another region wants, as far as the rules of a boundary let events go there."""
MEMBERS_MAX = 1 << 32
"""Members of a queue group that anybody may tell of: sums over a region stay numbers that a frame can carry."""


def group_key(group: str, filter: str) -> str:
    """Table key of a queue group."""
    return f"{GROUP_KEY}{group}/{filter}"


def split_group_key(key: str) -> tuple[str, str]:
    """(group, filter) of a table key made by `group_key`."""
    group, _, filter = key[1:].partition("/")
    return group, filter


def told_key(region: str, key: str) -> str:
    """Table key of another region's entry."""
    return f"{TOLD_KEY}{region}/{key}"


def split_told_key(key: str) -> tuple[str, str]:
    """(region, its entry's key) of a table key made by `told_key`. Raises: BadName, a ValueError."""
    region, _, inner = key[1:].partition("/")
    return check_name(region, "region"), inner


class Reach:
    """Union over bridges, per region. Cost: O(1) a changed entry; a bridge that comes or goes costs its entries."""

    def __init__(self, destinations: Destinations, interest: InterestIndex) -> None:
        self._destinations = destinations
        self._interest = interest
        self._tables: dict[str, dict[str, dict[str, int]]] = {}  # region -> bridge -> key -> value
        self._live: dict[str, frozenset[str]] = {}  # region -> bridges with a route
        self._counts: dict[str, dict[str, dict[str, int]]] = {}  # region -> key -> {bridge: value}
        self.kept: set[str] = set()
        """Regions whose interest is kept although no route leads there."""

    def regions(self) -> Collection[str]:
        """Regions that ever told what they want and were not forgotten."""
        return self._tables.keys()

    def tellers(self, region: str) -> Collection[str]:
        """Who told what a region wants: its bridges by name, boundaries elsewhere as the owners of their tables."""
        return self._tables.get(region, {}).keys()

    def beyond(self, region: str) -> bool:
        """Whether nobody of a region itself is heard here: what it wants was told by boundaries on the way."""
        tellers = self._tables.get(region, {})
        return bool(tellers) and all("/" in teller for teller in tellers)

    def entries(self, region: str) -> dict[str, int]:
        """What a region wants: key -> value, over the bridges that count. Cost: O(entries)."""
        return {
            key: max(holders.values(), default=0) for key, holders in self._counts.get(region, {}).items()
        }

    @property
    def filters(self) -> int:
        """Filters and groups held for other regions. Cost: O(regions)."""
        return sum(map(len, self._counts.values()))

    def bridges(self, region: str) -> Collection[str]:
        """Bridges of a region whose tables are known."""
        return self._tables.get(region, {}).keys()

    def keys(self, region: str, bridge: str) -> set[str]:
        """Keys of what one bridge told. Cost: O(entries)."""
        return set(self._tables.get(region, {}).get(bridge, ()))

    def told(self, region: str, bridge: str) -> None:
        """A bridge told its table, be it empty: a bridge whose region wants nothing counts like any other."""
        if bridge not in self._tables.get(region, {}):
            before = self._counted(region)
            self._tables.setdefault(region, {})[bridge] = {}
            self._recount(region, before)

    def set_entry(self, region: str, bridge: str, key: str, value: int | None) -> None:
        """A bridge's table changed. value None: entry gone."""
        before = self._counted(region)
        table = self._tables.setdefault(region, {}).setdefault(bridge, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
        if bridge in before and bridge in self._counted(region):
            self._count(region, bridge, key, value)
        else:
            self._recount(region, before)

    def forget(self, region: str, bridge: str) -> None:
        """A bridge's table is gone for good."""
        before = self._counted(region)
        self._uncount(region, bridge)
        tables = self._tables.get(region, {})
        tables.pop(bridge, None)
        if not tables:
            self._tables.pop(region, None)
            self._live.pop(region, None)
            self._counts.pop(region, None)
            self.kept.discard(region)
            self._destinations.release(REGION + region)
        else:
            self._recount(region, before - {bridge})

    def set_live(self, region: str, bridges: frozenset[str]) -> None:
        """Routes now lead to these bridges of the region (none: cut off, everything known is kept)."""
        before = self._counted(region)
        if bridges:
            self._live[region] = bridges
        else:
            self._live.pop(region, None)
        self._recount(region, before)

    def _recount(self, region: str, before: frozenset[str]) -> None:
        """The set of bridges that count may have changed: take in and out what that changes."""
        if region in self._tables:
            (self.kept.discard if self._live.get(region) else self.kept.add)(region)
        after = self._counted(region)
        for bridge in after - before:
            for key, value in self._tables[region][bridge].items():
                self._count(region, bridge, key, value)
        for bridge in before - after:
            self._uncount(region, bridge)

    def _counted(self, region: str) -> frozenset[str]:
        """Bridges whose tables count: the live ones that sent a table, or all known ones when there is none."""
        known = frozenset(self._tables.get(region, ()))
        return (self._live.get(region, frozenset()) & known) or known

    def _uncount(self, region: str, bridge: str) -> None:
        for key in list(self._tables.get(region, {}).get(bridge, ())):
            self._count(region, bridge, key, None)

    def _count(self, region: str, bridge: str, key: str, value: int | None) -> None:
        counts = self._counts.setdefault(region, {})
        holders = counts.get(key, {})
        bit = self._destinations.bit(REGION + region)
        if value is None:
            if holders.pop(bridge, None) is None:
                return  # nothing of it was held, and nothing is remembered of it
        else:
            counts[key] = holders
            holders[bridge] = value
        if key[0] == FILTER_KEY:
            if not holders:
                self._interest.remove(key[1:], bit)
            elif value is not None and len(holders) == 1:
                self._interest.add(key[1:], bit)
        else:
            group, filter = split_group_key(key)
            self._interest.set_group(group, filter, bit, max(holders.values(), default=0))
        if not holders:
            del counts[key]
