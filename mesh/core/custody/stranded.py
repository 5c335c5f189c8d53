"""Shares of queue groups whose members were all out of reach: kept for one place, and given to another that is reached first.

Nobody can say at ingress which region comes back, or whether link roles ever let a route to it be: a share bound to one place alone
could wait for its deadline beside members that are there.
Decides when such a share is assigned again. Never decides to whom.
Invariant: a share is owed to one place at a time.
Bound: one entry a record that waits so, about 200 bytes.
Source: design page "Routing", Forwarding (queue groups).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from mesh.core.custody.departure import Departure
from mesh.core.custody.store import StoreRefusedError
from mesh.core.plan import Planner
from mesh.model.event import Event
from mesh.wire.frames import BatchHeader, Flag, Leg


class Share(NamedTuple):
    """What a record waits with. part: the place it was kept for."""

    part: str
    group: str
    filter: str


class Stranded:
    """Args: again: (header, event, group, filter, now) finds another place, not this node. here: gives a batch to who listens here.
    decoded: the events of a batch. Cost: O(shares) a look."""

    def __init__(
        self,
        *,
        departure: Departure,
        planner: Planner,
        again: Callable[[BatchHeader, Event, str, str, float], int],
        here: Callable[[BatchHeader, list[Event], bytes, float], int],
        decoded: Callable[[BatchHeader, bytes], list[Event]],
    ) -> None:
        self._departure = departure
        self._planner = planner
        self._again = again
        self._here = here
        self._decoded = decoded
        self._shares: dict[int, Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    def add(self, lsn: int, part: str, header: BatchHeader) -> None:
        """A record that waits for one place, if it is a share of one group alone."""
        if header.flags & Flag.GROUP_ONLY and len(header.groups) == 1:
            group, filter, _ = header.groups[0]
            self._shares[lsn] = Share(part, group, filter)

    def look(self, now: float) -> bool:
        """Routes, links or members changed: what still waits without a way goes where a member is in reach. True: the store refused some
        of it; look again soon."""
        refused = False
        departure, planner = self._departure, self._planner
        for lsn, share in list(self._shares.items()):
            lane = departure.lanes.get(share.part)
            if lsn not in departure.held or lane is None:
                del self._shares[lsn]
            elif not lane.has_way and (
                planner.near_members(share.group, share.filter)
                or planner.far_members(share.group, share.filter)
            ):
                departure.take_back(lsn, share.part, self._given, now)
                refused = refused or lsn in departure.held
        return refused

    def _given(self, header: BatchHeader, body: bytes, now: float) -> bool:
        """A refusal of the store leaves what is left for the next look: what was given already comes again, and says so."""
        group, filter, _ = header.groups[0]
        planner = self._planner
        events = self._decoded(header, body)
        try:
            if planner.subscriptions.member_count(group, filter):
                own = (group, filter, planner.region)
                local = replace(header, leg=Leg.LOCAL, regions=(planner.region,), groups=(own,))
                self._here(local, events, body, now)
            else:
                for event in events:
                    self._again(header, event, group, filter, now)
        except StoreRefusedError:
            return False
        return True
