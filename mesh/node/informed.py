"""Whether this node knows again what its region and the others want: it forgot when it stopped, and they were not told.

Decides from when on it takes events at least once: an event accepted while it knows of nobody would be delivered to nobody. What it
has to hear is kept in the journal: the regions and members it knew last time.
Never decides anything for at-most-once.
Invariant: once informed, always informed, until the process ends.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesh.core.custody.store import Store, StoreRefusedError
from mesh.node.control import ControlPlane
from mesh.node.remembered import RememberedInterest, RememberedMembers
from mesh.wire.frames import MemberState

NOTE: Final = "known"
INFORM_S: Final = 5.0
"""A region that has not spoken by then may be gone for good: the node goes on with what it remembers of it."""
MEMBERS_S: Final = 15.0
"""The same of members, of whose interest only what durable clients want is remembered: longer than they take to find out that a link to the process before is
dead, when nobody told them (SWIM's suspicion, and a dial)."""
FIRST_INFORM_S: Final = 1.0
"""A node that never ran before, and has neighbours to ask, waits so long for what they say."""
_REMEMBER_S: Final = 1.0

_decode: Final = msgspec.msgpack.Decoder(tuple[list[str], list[str]]).decode


class Informed:
    """Args: alone: there is nobody to ask: no member and no other region is configured. Cost: O(regions and members) a change."""

    def __init__(self, store: Store, control: ControlPlane, now: float, *, alone: bool) -> None:
        self._store = store
        self._control = control
        self._interest = RememberedInterest(store, control, now)
        self._kept = RememberedMembers(store, control, now)
        note = store.notes.get(NOTE)
        self._regions: set[str] = set()
        self._members: set[str] = set()
        if note is not None:
            try:
                regions, members = _decode(note)
                self._regions, self._members = set(regions), set(members)
            except msgspec.DecodeError:
                note = None
        known = bool(self._regions or self._members)
        self._until = now if alone and not known else now + (INFORM_S if known else FIRST_INFORM_S)
        self._members_until = now + MEMBERS_S
        self._noted = (frozenset(self._regions), frozenset(self._members))
        self._remember_at = now
        self._done = False

    def __call__(self, now: float) -> bool:
        """Whether it is. Cost: 0.1 us once it is, O(owners) before."""
        if self._done:
            return True
        if now < self._until:
            if not self._regions and not self._members:
                return False
            world = {owner.partition("/")[0] for owner in self._control.world.owners()}
            if self._regions - world:
                return False
        if not self.hears_members(now):
            return False
        self._done = True
        return True

    def hears_members(self, now: float) -> bool:
        """Whether every member known last time has said what it wants, or is known to be gone."""
        return self._done or now >= self._members_until or all(map(self._hears, self._members))

    def _hears(self, node: str) -> bool:
        control = self._control
        view = control.membership.members().get(node)
        if view is not None and view.state in (MemberState.DEAD, MemberState.LEFT):
            return True
        return node in control.live_members() and control.tables.position(node) is not None

    def remember(self, now: float) -> float:
        """Note who is known and what they want, for the next start: at most once a second, and only once informed. Called after every
        change. Returns: when to call it again; never, if nothing is left to note."""
        if now < self._remember_at:
            return self._remember_at
        if not self(now):
            return now + _REMEMBER_S
        self._remember_at = now + _REMEMBER_S
        try:
            self._note(now)
        except StoreRefusedError:
            return self._remember_at  # no room for notes now
        return float("inf")

    def _note(self, now: float) -> None:
        self._interest.note(now)
        self._kept.note(now)
        control = self._control
        regions = frozenset(owner.partition("/")[0] for owner in control.world.owners()) - {control.region}
        members = frozenset(control.live_members()) - {control.node}
        if (regions, members) != self._noted:
            self._store.note(NOTE, msgspec.msgpack.encode((sorted(regions), sorted(members))))
            self._noted = (regions, members)
