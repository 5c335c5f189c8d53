"""What other regions, and durable clients of members, wanted when this node last ran: kept in the journal until they say it again.

A node that starts while a region is away would publish past it: the region's interest was in memory only. So what each reachable
region wants is noted, and counts as kept interest after a start, until a bridge of the region is heard. The same of what durable
clients of the region's other members want, until such a member is heard: it may be away itself.
Decides what is noted and when it counts no more. Never decides where an event goes.
Invariant: of a region with a route only what its bridges say counts.
Bounds: MOST entries a region: one that wants more is noted as wanting everything, and matches exactly when its events arrive. What
is noted is at most NOTE_S old.
Source: design page "Routing", Interest (interest of a region that became unreachable is kept).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from federation.core.reach import FILTER_KEY, KEPT_FILTER_KEY
from mesh.core.custody.store import Store
from mesh.model.ids import Version
from mesh.node.control import KEPT_S, ControlPlane

NOTE: Final = "interest/"
MOST: Final = 512
BRIDGE: Final = ""
"""Stands for the bridges of which nobody knows yet: no bridge has this name."""
EVERYTHING: Final = {FILTER_KEY + "#": 0}

Position: TypeAlias = tuple[tuple[str, Version | None], ...]

MEMBERS_NOTE: Final = "kept"
EVERY: Final = msgspec.msgpack.encode(1)

_decode: Final = msgspec.msgpack.Decoder(dict[str, int]).decode
_decode_members: Final = msgspec.msgpack.Decoder(dict[str, dict[str, bytes]]).decode


class RememberedInterest:
    """Args: now: of the start. Cost: O(regions) a look, O(entries) for a region whose bridges said something new."""

    def __init__(self, store: Store, control: ControlPlane, now: float) -> None:
        self._store = store
        self._control = control
        self._until = now + KEPT_S
        self._recalled: set[str] = set()
        """Regions whose noted interest counts."""
        self._noted: dict[str, Position | None] = {}
        """Regions of which something is noted, and where their bridges' tables stood then."""
        for key in sorted(store.notes):
            if key.startswith(NOTE):
                self._recall(key[len(NOTE) :], store.notes[key])

    def _recall(self, region: str, noted: bytes) -> None:
        try:
            entries = _decode(noted)
        except msgspec.DecodeError:
            entries = EVERYTHING
        for key, value in entries.items():
            self._control.reach.set_entry(region, BRIDGE, key, value)
        self._recalled.add(region)
        self._noted[region] = None

    def note(self, now: float) -> None:
        """Note what reachable regions want by now, and forget what was noted of those that say it themselves.

        Raises: StoreRefusedError: the journal has no room for notes; it is tried again."""
        control = self._control
        reach = control.reach
        owners: dict[str, list[str]] = {}
        for region in reach.regions():
            tellers = [teller for teller in reach.tellers(region) if teller != BRIDGE]
            if tellers:
                owners[region] = [name if "/" in name else f"{region}/{name}" for name in tellers]
        for region in owners.keys() - reach.kept - {control.region}:
            if region in self._recalled:
                self._recalled.discard(region)
                reach.forget(region, BRIDGE)
                control.changed = True
            position = tuple((owner, control.world.position(owner)) for owner in sorted(owners[region]))
            if self._noted.get(region) != position:
                self._write(region, reach.entries(region))
                self._noted[region] = position
        for region in self._recalled if now > self._until else ():
            reach.forget(region, BRIDGE)
            control.changed = True
        if now > self._until:
            self._recalled.clear()
        for region in self._noted.keys() - set(reach.regions()) - self._recalled:
            del self._noted[region]
            self._store.note(NOTE + region, None)

    def _write(self, region: str, entries: dict[str, int]) -> None:
        """Note one region's interest, if that is news."""
        noted = msgspec.msgpack.encode(entries if len(entries) <= MOST else EVERYTHING, order="sorted")
        if self._store.notes.get(NOTE + region) != noted:
            self._store.note(NOTE + region, noted)


class RememberedMembers:
    """Args: now: of the start. Cost: O(members and their durable clients' filters) a look."""

    def __init__(self, store: Store, control: ControlPlane, now: float) -> None:
        self._store = store
        self._control = control
        self._until = now + KEPT_S
        self._recalled: dict[str, dict[str, bytes]] = {}
        """Members that are not heard yet, and what durable clients there wanted."""
        try:
            noted = _decode_members(store.notes.get(MEMBERS_NOTE, b"\x80"))
        except msgspec.DecodeError:
            noted = {}
        for node, entries in noted.items():
            if node != control.node:
                self._recalled[node] = entries
                control.recall(node, entries, now)

    def note(self, now: float) -> None:
        """Note what members' durable clients want by now, and forget what was noted of members that say it themselves.

        Raises: StoreRefusedError: the journal has no room for notes; it is tried again."""
        control = self._control
        for node in list(self._recalled):
            if control.tables.position(node) is not None or now > self._until:
                control.recalled(node, self._recalled.pop(node), now)
        found = dict(self._recalled)
        for node in control.tables.owners():
            if node != control.node and (entries := control.kept_entries(node)):
                found[node] = entries if len(entries) <= MOST else {KEPT_FILTER_KEY + "#": EVERY}
        noted = msgspec.msgpack.encode(found, order="sorted")
        if noted != self._store.notes.get(MEMBERS_NOTE, msgspec.msgpack.encode({})):
            self._store.note(MEMBERS_NOTE, noted if found else None)
