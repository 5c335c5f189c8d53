"""Receipts: where a subscription's interest is installed, as proof and not as a guess.

Decides when a subscription counts as installed at every node of the region and in every region of the mesh.
The proof travels as state: a node that waits puts a counter into its own table (`w`); the bridges of its region answer by
naming the table version that their summary covers (`c`); every node elsewhere tells its bridges which summaries it holds
(Held), and those bridges write down what all live members of their region hold (`h`). Nothing of it exists while nobody waits.
Invariant: `installed` names a region only if every member that its bridge believes alive held a summary covering the
subscription and had a way to the subscriber's region.
Source: design page "Routing", Interest (Receipts).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

import msgspec

from federation.core.advert import COVERS_KEY, WAITING_KEY
from mesh.core.effects import Effect, Send
from mesh.core.tables import Change, TableSet
from mesh.model.ids import Version
from mesh.model.reasons import NotDelivered
from mesh.wire.frames import Held

BRIDGE_KEY: Final = "b"
"""In a WORLD table: its owner is a bridge, even while its region wants nothing."""
HOLDS_KEY: Final = "h"
COVERS_KEPT: Final = 1_000
"""Steps of coverage remembered while somebody waits."""
_encode = msgspec.msgpack.encode
_covers = msgspec.msgpack.Decoder(dict[str, tuple[int, int]])
_holds = msgspec.msgpack.Decoder(tuple[int, int])


def _position(value: bytes) -> Version:
    """An attested position; garbage attests nothing."""
    try:
        return Version(*_holds.decode(value))
    except msgspec.DecodeError:
        return Version(0, 0)


class Status(NamedTuple):
    """How far a subscription is installed. missing: (region or node, why)."""

    installed: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]


class Receipts:
    """The receipt protocol of one node, in all three roles: waiting, holding, and attesting as a bridge.

    Args:
        region_tables, world: the two table sets of the node. reachable: whether there is a way to a region now.
    Cost: O(changed entries); attesting costs O(members) a change of what they hold.
    """

    def __init__(
        self,
        region: str,
        node: str,
        region_tables: TableSet,
        world: TableSet,
        reachable: Callable[[str], bool],
    ) -> None:
        self.region = region
        self.node = node
        self._tables = region_tables
        self._world = world
        self._reachable = reachable
        self.beyond: Callable[[str], bool] = lambda region: False
        """Whether a region is known only through boundaries with rules."""
        self._waits = 0
        self._count = 0
        self._acked: dict[str, Version] = {}  # member -> how much of my table it holds
        self._covered: dict[
            str, list[tuple[Version, Version]]
        ] = {}  # own region's bridge -> (of my table, at its version)
        self._held: dict[str, dict[str, Version]] = {}  # as a bridge: member -> world owner -> position
        self._asking: set[str] = set()  # owners of other regions in which somebody waits
        self._written: set[str] = set()  # owners for which this bridge wrote a receipt
        self._untold: set[str] = set()  # asking owners to whose region there is no way yet
        self._due = False
        self.effects: list[Effect] = []
        self.changed = False

    # -- waiting -------------------------------------------------------------------------------------------------

    def start(self, now: float) -> Version:
        """Begin to wait: returns the version of the own table that has to be installed. Pair with `stop`."""
        self._waits += 1
        self._count += 1
        self._tables.put(WAITING_KEY, _encode(self._count), now)
        position = self._tables.position(self.node)
        assert position is not None
        return position

    def stop(self, now: float) -> None:
        """One wait less; the last one removes the counter."""
        self._waits -= 1
        if self._waits == 0:
            self._tables.delete(WAITING_KEY, now)
            self._covered.clear()

    def in_region(self, wanted: Version, members: Iterable[str]) -> Status:
        """Which live members hold the own table up to `wanted`."""
        installed: list[str] = []
        missing: list[tuple[str, str]] = []
        for member in sorted(members):
            if member == self.node or self._acked.get(member, Version(0, 0)) >= wanted:
                installed.append(member)
            else:
                missing.append((member, NotDelivered.INTEREST_LAGGING.value))
        return Status(tuple(installed), tuple(missing))

    def in_mesh(self, wanted: Version, regions: Iterable[str], reachable: Collection[str]) -> Status:
        """Which of these regions hold a summary of this region that covers the own table up to `wanted`."""
        needed = {
            bridge: at
            for bridge, history in self._covered.items()
            if (at := next((at for covered, at in history if covered >= wanted), None)) is not None
        }
        installed: list[str] = []
        missing: list[tuple[str, str]] = []
        for region in sorted(regions):
            if self._attested(region, needed):
                installed.append(region)
            elif region not in reachable:
                missing.append((region, NotDelivered.NO_ROUTE.value))
            elif self.beyond(region):
                # Beyond a boundary with rules, over which no receipts pass.
                missing.append((region, NotDelivered.POLICY_DENY.value))
            else:
                missing.append((region, NotDelivered.INTEREST_LAGGING.value))
        return Status(tuple(installed), tuple(missing))

    def _attested(self, region: str, needed: dict[str, Version]) -> bool:
        for owner in self._world.owners():
            if owner.partition("/")[0] != region:
                continue
            for bridge, at in needed.items():
                value = self._world.get(owner, HOLDS_KEY + bridge)
                if value is None:
                    continue
                held = _position(value)
                # A newer process of that bridge began its summary anew: holding it proves nothing of the old one.
                if held.epoch == at.epoch and held.n >= at.n:
                    return True
        return False

    # -- what the tables tell ------------------------------------------------------------------------------------

    def region_changes(self, owner: str, changes: Iterable[Change], now: float) -> None:
        """A member's table moved on: if it waits, acknowledge to it."""
        if self._tables.get(owner, WAITING_KEY) is not None and owner != self.node:
            position = self._tables.position(owner)
            assert position is not None
            self.effects.append(Send(owner, Held(((owner, position.epoch, position.n),))))

    def world_changes(
        self, owner: str, changes: Iterable[Change], bridges: Iterable[str], now: float
    ) -> None:
        """A summary moved on. Tell the own bridges what is held now, if its region waits; note what covers the own table."""
        own_region = owner.partition("/")[0] == self.region
        for change in changes:
            if change.key[0] == HOLDS_KEY:
                self.changed = True
            elif change.key == BRIDGE_KEY and own_region and owner != f"{self.region}/{self.node}":
                self.resend(owner.partition("/")[2])
            elif change.key == COVERS_KEY and own_region:
                self.note_cover(owner)
            elif change.key == COVERS_KEY:
                (self._asking.discard if change.value is None else self._asking.add)(owner)
                self._untold &= self._asking
                self._due = True
        history = self._covered.get(owner)
        if history and history[-1][1].epoch != (self._world.position(owner) or Version(0, 0)).epoch:
            self.note_cover(
                owner
            )  # the new process may cover the same as the old one: no change of the entry
        if owner in self._asking:
            self._tell(owner, bridges)

    def _tell(self, owner: str, bridges: Iterable[str]) -> None:
        """Say that a summary is held here, and of use: without a way to its region, an event for it would not leave."""
        position = self._world.position(owner)
        if position is None:
            return
        if not self._reachable(owner.partition("/")[0]):
            self._untold.add(owner)
            return
        self._untold.discard(owner)
        for bridge in bridges:
            if bridge == self.node:
                self._hold(self.node, owner, position)
            else:
                self.effects.append(Send(bridge, Held(((owner, position.epoch, position.n),))))

    def routes_changed(self, bridges: Collection[str]) -> None:
        """A way may have appeared to a region whose summary came before it, or one that somebody waits for was lost."""
        self.changed = True
        for owner in sorted(self._untold):
            self._tell(owner, bridges)

    def note_cover(self, owner: str) -> None:
        """A bridge of the own region (perhaps this node) says how much of the own table its summary covers."""
        value = self._world.get(owner, COVERS_KEY)
        position = self._world.position(owner)
        if value is None or position is None or not self._waits:
            return
        try:
            mine = _covers.decode(value).get(self.node)
        except msgspec.DecodeError:
            return
        history = self._covered.setdefault(owner, [])
        if history and history[-1][1].epoch != position.epoch:
            history.clear()  # a new process of that bridge began its summary anew
        if mine is not None and (not history or history[-1][0] < Version(*mine)):
            if len(history) >= COVERS_KEPT:
                del history[0]  # what it covered, the next one covers too: a later proof, never a wrong one
            history.append((Version(*mine), position))
            self.changed = True

    def resend(self, bridge: str) -> None:
        """The link to a bridge of the region is new: tell it everything it may be missing."""
        positions = []
        for owner in sorted(self._asking - self._untold):
            position = self._world.position(owner)
            if position is not None:
                positions.append((owner, position.epoch, position.n))
        if positions:
            self.effects.append(Send(bridge, Held(tuple(positions))))

    # -- attesting -----------------------------------------------------------------------------------------------

    def held(self, member: str, frame: Held, now: float) -> None:
        """A member acknowledged positions: of this node's own table, or of summaries (this node is a bridge)."""
        for owner, epoch, n in frame.positions:
            if owner == self.node:
                if Version(epoch, n) > self._acked.get(member, Version(0, 0)):
                    self._acked[member] = Version(epoch, n)
                    self.changed = True
            elif "/" in owner and self._world.position(owner) is not None:
                self._hold(member, owner, Version(epoch, n))

    def _hold(self, member: str, owner: str, position: Version) -> None:
        known = self._held.setdefault(member, {})
        if position > known.get(owner, Version(0, 0)):
            known[owner] = position
            self._due = True

    def member_gone(self, member: str) -> None:
        """A member died or left: it no longer counts."""
        self._held.pop(member, None)
        self._acked.pop(member, None)
        self.changed = True
        self._due = True

    def attest(self, members: Collection[str], now: float) -> None:
        """As a bridge: write down for each summary somebody waits for what all of `members` (live, this one included) hold.

        Does nothing unless something changed since the last call. Cost: O(asking owners * members).
        """
        if not self._due:
            return
        self._due = False
        for owner in self._written - self._asking:
            self._world.delete(HOLDS_KEY + owner, now)
        self._written &= self._asking
        nothing = Version(0, 0)
        for owner in self._asking:
            held = [self._held.get(member, {}).get(owner, nothing) for member in members]
            floor = min(held, default=nothing)
            if floor > nothing and floor.epoch == max(held).epoch:
                self._written.add(owner)
                self._world.put(HOLDS_KEY + owner, _encode(list(floor)), now)

    def members_changed(self) -> None:
        """The set of live members grew or shrank: what all of them hold may differ."""
        self._due = True
