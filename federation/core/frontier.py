"""Interest at links with rules: what the other side may be told, and what of its word counts here.

On such a link no table of the mesh crosses as it is. Each end holds the other's tables apart (`Side.table`), and both tell only what the
rules let events come for: this node's word for the link is a table of its own, `REGION/BRIDGE>PEER`, which only that link carries; and
what it takes over from the link it writes into its own WORLD table, region by region (`TOLD_KEY`), because a table has one writer.
Decides what those two say. Never sends, and never decides about an event.
Invariants (P7): a filter is told across only as far as `Rulebook.before` says; what this node told is taken over from nobody
(`via` names the regions that passed it on, each once), so that interest that went is not kept alive by its own echo.
Bounds: TOLD_MAX entries a side and `limits.regions` regions, whatever a peer tells; what finds no room in a table is counted in
`refused`. An entry crosses at most PATH_MAX boundaries.
Source: design page "Routing", Interest (with policies) and Boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Final, NamedTuple

import msgspec

from federation.core.policy.passages import GroupName, GroupNames
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction
from federation.core.reach import (
    FILTER_KEY,
    GROUP_KEY,
    MEMBERS_MAX,
    TOLD_KEY,
    Reach,
    group_key,
    split_group_key,
    split_told_key,
    told_key,
)
from federation.core.receipts import BRIDGE_KEY
from mesh.core.deltas import OF_LINK
from mesh.core.tables import TableSet
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.topic import check_filter, check_group
from mesh.wire.frames import Scope

COALESCE_S: Final = 0.02
ENTRY_S: Final = 50e-6
"""What each entry adds to the pause between two of them, so that working out takes a tenth of the time at most."""
TOLD_MAX: Final = 20_000
"""Entries that one peer may tell across a link with rules; more are refused by its table (`owner_entries`, `total_entries`)."""
PATH_MAX: Final = 32
_encode = msgspec.msgpack.encode
_count = msgspec.msgpack.Decoder(Annotated[int, msgspec.Meta(ge=0, le=MEMBERS_MAX)])
_told = msgspec.msgpack.Decoder(
    tuple[
        Annotated[int, msgspec.Meta(ge=0, le=MEMBERS_MAX)],
        Annotated[tuple[str, ...], msgspec.Meta(max_length=PATH_MAX)],
    ]
)


class Wanted(NamedTuple):
    """One entry of one region's interest. value: as in its table. via: regions that passed it on at a boundary, first one first."""

    region: str
    key: str
    value: int
    via: tuple[str, ...]


class WithheldInterest(NamedTuple):
    """An entry that does not cross a link, or crosses as something else. direction: of the events that are meant. told: what crosses
    in its place. why: the rule, for a person."""

    direction: Direction
    region: str
    key: str
    peer: str
    told: tuple[str, ...]
    why: str


class Side:
    """One peer across links with rules. table: what it told, and what it is told. links: open ones to it."""

    def __init__(
        self,
        peer: NodeKey,
        export: Rulebook,
        import_: Rulebook,
        owner: str,
        epoch: int,
        limits: Limits,
        now: float,
    ) -> None:
        self.peer = peer
        self.export = export
        self.import_ = import_
        self.export_names = GroupNames()
        self.import_names = GroupNames()
        bounded = replace(limits, remote_filters=min(limits.remote_filters, TOLD_MAX))
        self.table = TableSet(Scope.WORLD, f"{owner}{OF_LINK}{peer}", epoch, bounded, now)
        self.table.put(BRIDGE_KEY, _encode(1), now)
        self.links: set[int] = set()
        self.quiet_since: float | None = None
        self.withheld: list[WithheldInterest] = []
        self._seen_root = -1

    @property
    def moved(self) -> bool:
        """Whether what it told changed since the last call."""
        root = self.table.root()
        moved, self._seen_root = root != self._seen_root, root
        return moved


class Frontier:
    """Args: region, owner, epoch: of this node and its WORLD table. live: bridges of a region to which a route leads.

    recalled: tells what is remembered from before the start, (region, entries): it counts until a side speaks of the region. Cost: nothing without rules; else O(entries of all other regions) a change, at most every COALESCE_S.
    """

    def __init__(
        self,
        region: str,
        world: TableSet,
        owner: str,
        epoch: int,
        reach: Reach,
        limits: Limits,
        live: Callable[[str], frozenset[str]],
    ) -> None:
        self._region = region
        self._world = world
        self._owner = owner
        self._epoch = epoch
        self._reach = reach
        self._limits = limits
        self._live = live
        self.sides: dict[NodeKey, Side] = {}
        self.of_link: dict[int, Side] = {}
        self.recalled: Callable[[], Iterable[tuple[str, dict[str, int]]]] = tuple
        self._mine: dict[str, bytes] = {}  # told key -> value in the own table
        self._counted: dict[str, Wanted] = {}  # told key -> entry in Reach
        self._world_root = -1
        self._due = False
        self._done_at = float("-inf")
        self._entries = 0
        self.refused = 0
        """Entries for which there was no room, here or in what a peer is told, each time that they were worked out."""

    # -- links ---------------------------------------------------------------------------------------------------

    def link_opened(self, link: int, peer: NodeKey, export: Rulebook, import_: Rulebook, now: float) -> Side:
        """A link with rules opened. What its peer told before still counts."""
        side = self.sides.get(peer)
        if side is None:
            side = Side(peer, export, import_, self._owner, self._epoch, self._limits, now)
            self.sides[peer] = side
        side.export, side.import_ = export, import_
        side.links.add(link)
        side.quiet_since = None
        self.of_link[link] = side
        self._due = True
        return side

    def link_closed(self, link: int, now: float) -> None:
        """Its peer's word is kept, as that of any region that is cut off."""
        side = self.of_link.pop(link, None)
        if side is not None:
            side.links.discard(link)
            if not side.links:
                side.quiet_since = now

    def rules_changed(self, books: Callable[[NodeKey, Side], tuple[Rulebook, Rulebook]]) -> None:
        """Other rules hold from now on."""
        for peer, side in self.sides.items():
            side.export, side.import_ = books(peer, side)
        self._due = True

    def expire(self, kept_s: float, now: float) -> None:
        """Forget peers that nobody reached for so long."""
        for peer, side in list(self.sides.items()):
            side.table.expire(now)
            if side.quiet_since is not None and now - side.quiet_since > kept_s:
                del self.sides[peer]
                self._due = True

    # -- working it out ------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `settle` has something to do that waited."""
        return self._done_at + self._pace_s if self._due else None

    @property
    def _pace_s(self) -> float:
        return COALESCE_S + self._entries * ENTRY_S

    def settle(self, now: float, *, at_once: bool = False) -> bool:
        """Bring both words in step with the tables, if one of them moved. Returns: what counts here changed."""
        if not self.sides and not self._mine and not self._counted and not at_once:
            return False
        moved = [side for side in self.sides.values() if side.moved]
        if moved or self._world.root() != self._world_root:
            self._due = True
        if not self._due or (not at_once and now < self._done_at + self._pace_s):
            return False
        self._due = False
        self._done_at = now
        self._entries = 0
        changed = self._take_over(now)
        for side in self.sides.values():
            self._tell(side, now)
        self._world_root = self._world.root()
        for side in self.sides.values():
            _ = side.moved
        return changed

    # -- what counts here ----------------------------------------------------------------------------------------

    def _take_over(self, now: float) -> bool:
        counted: dict[str, Wanted] = {}
        for side in self.sides.values():
            side.withheld = []
            names: dict[GroupName, str] = {}
            derived = self._taken_from(side, side.export, names, side.withheld)
            side.export_names.replace(names)
            for wanted in derived.values():
                if len(counted) < self._limits.remote_filters // 2:
                    _add(counted, wanted)
                else:
                    self.refused += 1
        changed = self._count(counted)
        desired = {key: _encode((one.value, one.via)) for key, one in counted.items()}
        heard = {one.region for one in counted.values()}
        for region, entries in self.recalled():
            if region not in heard:
                for key, value in entries.items():
                    desired.setdefault(told_key(region, key), _encode((value, (self._region,))))
        for key, packed in desired.items():
            if self._mine.get(key) != packed:
                self._put(self._world, key, packed, now)
        for key in self._mine.keys() - desired.keys():
            self._world.delete(key, now)
        self._mine = desired
        return changed

    def _taken_from(
        self, side: Side, book: Rulebook, names: dict[GroupName, str], withheld: list[WithheldInterest]
    ) -> dict[str, Wanted]:
        """What counts here of a peer's word, by these rules. names, withheld: are filled."""
        derived: dict[str, Wanted] = {}
        regions: set[str] = set()
        for wanted in self._said_by(side):
            self._entries += 1
            is_new = wanted.region not in regions
            if (is_new and len(regions) >= self._limits.regions) or len(derived) >= TOLD_MAX:
                self.refused += 1
                continue
            regions.add(wanted.region)
            far = side.peer.region
            # A peer without rules passes tables on as they are: that they came through its region is known here all the same.
            via = wanted.via if far in (wanted.region, *wanted.via) else (*wanted.via, far)
            for before in _narrowed(book, side.peer, wanted, names, withheld):
                _add(derived, wanted._replace(key=before, via=(*via, self._region)))
        return derived

    def _count(self, counted: dict[str, Wanted]) -> bool:
        """Keep the index of destinations equal to what counts."""
        changed = False
        for key, wanted in counted.items():
            before = self._counted.get(key)
            if before is None or before.value != wanted.value:
                if wanted.region not in self._reach.regions():
                    self._reach.set_live(wanted.region, self._live(wanted.region))
                self._reach.set_entry(wanted.region, self._owner, wanted.key, wanted.value)
                changed = True
        gone = [self._counted[key] for key in self._counted.keys() - counted.keys()]
        for wanted in gone:
            self._reach.set_entry(wanted.region, self._owner, wanted.key, None)
        left = {wanted.region for wanted in counted.values()}
        for region in {wanted.region for wanted in gone} - left:
            self._reach.forget(region, self._owner)
        self._counted = counted
        return changed or bool(gone)

    def _said_by(self, side: Side) -> Iterator[Wanted]:
        """What a peer tells of regions, but for what this region itself said before."""
        for owner in side.table.owners():
            if owner != side.table.owner:
                for wanted in entries_of(owner, side.table.items(owner)):
                    if wanted.region != self._region and self._region not in wanted.via:
                        yield wanted

    # -- what is told --------------------------------------------------------------------------------------------

    def _tell(self, side: Side, now: float) -> None:
        names: dict[GroupName, str] = {}
        desired: dict[str, bytes] = {BRIDGE_KEY: _encode(1)}
        for key, one in self._told_to(side, side.import_, names, side.withheld).items():
            if one.region == self._region:
                desired[one.key] = _encode(one.value)
            else:
                desired[key] = _encode((one.value, one.via))
        side.import_names.replace(names)
        current = dict(side.table.items(side.table.owner or ""))
        for key, value in desired.items():
            if current.get(key) != value:
                self._put(side.table, key, value, now)
        for key in current.keys() - desired.keys():
            side.table.delete(key, now)

    def _told_to(
        self, side: Side, book: Rulebook, names: dict[GroupName, str], withheld: list[WithheldInterest]
    ) -> dict[str, Wanted]:
        """What a peer is told, by these rules. names, withheld: are filled."""
        told: dict[str, Wanted] = {}
        for wanted in self._known():
            self._entries += 1
            if wanted.region == side.peer.region or side.peer.region in wanted.via:
                continue
            for before in _narrowed(book, side.peer, wanted, names, withheld):
                via = wanted.via if self._region in wanted.via else (*wanted.via, self._region)
                _add(told, wanted._replace(key=before, via=via))
        return told

    def with_rules(self, side: Side, export: Rulebook, import_: Rulebook) -> tuple[set[str], set[str]]:
        """(what would count here of a peer's word, what it would be told) by other rules, as REGION/KEY. Changes nothing."""
        taken = self._taken_from(side, export, {}, [])
        told = self._told_to(side, import_, {}, [])
        return {key[1:] for key in taken}, {key[1:] for key in told}

    def _put(self, table: TableSet, key: str, value: bytes, now: float) -> None:
        """A table may be full, or a key too long with its region's name: then it is told less than it might be, never more."""
        try:
            table.put(key, value, now)
        except ValueError:
            self.refused += 1

    def _known(self) -> Iterator[Wanted]:
        """What this node knows of every region's interest: its own region's summary, and what others told."""
        for owner in self._world.owners():
            if owner.partition("/")[0] == self._region and owner != self._owner:
                # A sibling's summary of the region says what the own one says; what it took over at its boundaries counts.
                yield from (one for one in entries_of(owner, self._world.items(owner)) if one.via)
            else:
                yield from entries_of(owner, self._world.items(owner))


def _narrowed(
    book: Rulebook,
    peer: NodeKey,
    wanted: Wanted,
    names: dict[GroupName, str],
    withheld: list[WithheldInterest],
) -> list[str]:
    """The keys of one entry on the side where the events come from. A queue group keeps its name, so that it crosses only where one filter
    can stand for its own."""
    kind = wanted.key[0]
    group, filter = ("", wanted.key[1:]) if kind == FILTER_KEY else split_group_key(wanted.key)
    before = book.before(filter, wanted.region)
    if kind == GROUP_KEY:
        before = before if len(before) == 1 else ()
        for narrow in before:
            names[wanted.region, group, narrow] = filter
        keys = [group_key(group, narrow) for narrow in before]
    else:
        keys = [FILTER_KEY + narrow for narrow in before]
    if keys != [wanted.key]:
        why = book.why_not(filter, wanted.region)
        withheld.append(
            WithheldInterest(book.direction, wanted.region, wanted.key, str(peer), tuple(keys), why)
        )
    return keys


def entries_of(owner: str, items: Iterable[tuple[str, bytes]]) -> Iterator[Wanted]:
    """The interest in an owner's WORLD table, its own region's and what it tells of others. What cannot be read is passed over."""
    region = owner.partition("/")[0]
    for key, value in items:
        wanted = read_entry(region, key, value)
        if wanted is not None:
            yield wanted


def read_entry(region: str, key: str, value: bytes) -> Wanted | None:
    """One entry of a WORLD table of `region`; None where it is none of interest, or cannot be read."""
    try:
        if key[0] in (FILTER_KEY, GROUP_KEY):
            found = Wanted(region, key, _count.decode(value), ())
        elif key[0] == TOLD_KEY:
            of, inner = split_told_key(key)
            found = Wanted(of, inner, *_told.decode(value))
        else:
            return None
        if found.key[0] == FILTER_KEY:
            check_filter(found.key[1:])
        elif found.key[0] == GROUP_KEY:
            group, filter = split_group_key(found.key)
            check_group(group)
            check_filter(filter)
        else:
            return None
    except (msgspec.DecodeError, ValueError, IndexError):
        return None
    return found


def _add(entries: dict[str, Wanted], wanted: Wanted) -> None:
    """The union: the larger value, by the shortest way."""
    key = told_key(wanted.region, wanted.key)
    known = entries.get(key)
    if known is None:
        entries[key] = wanted
    else:
        via = min(known.via, wanted.via, key=lambda way: (len(way), way))
        entries[key] = wanted._replace(value=max(known.value, wanted.value), via=via)
