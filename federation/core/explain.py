"""Why an event of a topic goes where it goes from one node, and why not elsewhere: the forwarder's decisions, without an event.

Decides nothing of its own: it asks the planner that the forwarder asks (plan, region_plan, partition, own_partition) and
`mesh.core.groups`, and puts the answers beside each other. Never sends, queues, counts or numbers anything.
Invariant: for the same tables, a step's local sessions, copies and reasons are those the forwarder would produce.
Source: design page "Routing", Explain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple
from zlib import crc32

from mesh.core.groups import Assigned, assign, member_node
from mesh.core.plan import FLOWS, Links, Part, Plan, Planner
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, NotDelivered
from mesh.wire.frames import Flag, Leg

Groups = tuple[tuple[str, str, str], ...]
"""(group, filter, region) as a batch carries them."""


class Copy(NamedTuple):
    """One copy that leaves on `link`: what its header would say."""

    link: int
    leg: Leg
    regions: tuple[str, ...]
    groups: Groups
    path: tuple[str, ...]
    flags: int = 0


class Missed(NamedTuple):
    """A region (or a node of the own one) that does not get the event. reason: a value of Drop or NotDelivered."""

    region: str
    node: str
    reason: str
    detail: str


class Step(NamedTuple):
    """What one node does with an event.

    sessions: (session, sids) that get it here as plain subscribers. groups: (group, filter) of which one member here
    gets it. copies: what leaves. missed: who does not get it, and why.
    """

    sessions: tuple[tuple[int, tuple[int, ...]], ...]
    groups: tuple[tuple[str, str], ...]
    copies: tuple[Copy, ...]
    missed: tuple[Missed, ...]


class Explainer:
    """Args:
        planner, links: the node's own, shared with its forwarder. known: regions whose interest or route is known.
        congested: whether the link to a member has batches waiting for credit.
    Cost: that of a plan, O(known regions).
    """

    def __init__(
        self,
        region: str,
        node: str,
        *,
        planner: Planner,
        limits: Limits,
        known: Callable[[], Collection[str]],
        congested: Callable[[str], bool],
    ) -> None:
        self.region = region
        self.node = node
        self._planner = planner
        self._limits = limits
        self._known = known
        self._congested = congested

    # -- published here ------------------------------------------------------------------------------------------

    def published(self, topic: str, mesh_id: str, key: str = "") -> Step:
        """An event of `topic` handed in here. mesh_id decides who serves its queue groups, `key` its flow."""
        plan = self._planner.plan(topic)
        missed = [Missed(u.region, u.node, u.reason.value, u.detail) for u in plan.unreached]
        far: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.regions}
        near: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.nodes}
        here: list[tuple[str, str]] = []
        for one in self._assigned(mesh_id, plan, missed):
            if one.region != self.region:
                far.setdefault(one.region, []).append((one.group, one.filter, one.region))
            elif one.node != self.node:
                near.setdefault(one.node, []).append((one.group, one.filter, one.region))
            else:
                here.append((one.group, one.filter))
        copies = [self._local(name, tuple(groups), ()) for name, groups in near.items()]
        flow = crc32(key.encode()) % FLOWS if key and plan.split else 0
        parts, lost = self._planner.partition(far, f"{self.region}/{self.node}", flow, ())
        carried = tuple(group for groups in far.values() for group in groups)
        copies += self._leaving(parts, carried, (), self._limits.hop_limit, 0, missed)
        missed += [Missed(region, "", Drop.NO_ROUTE.value, "") for region in lost]
        wanted = {*far, *(u.region for u in plan.unreached), self.region}
        missed += [
            Missed(region, "", NotDelivered.NO_INTEREST.value, "")
            for region in sorted(set(self._known()) - wanted)
        ]
        return Step(plan.local, tuple(here), tuple(copies), tuple(missed))

    def _assigned(self, mesh_id: str, plan: Plan, missed: list[Missed]) -> list[Assigned]:
        """Who serves each queue group; regions with members that were not chosen are told so."""
        chosen = []
        planner = self._planner
        for group, filter in plan.groups:
            near = {name: self._credit(name) for name in planner.near_members(group, filter)}
            far = planner.far_members(group, filter)
            one = assign(mesh_id, group, filter, self.region, near, far)
            if one is None:
                missed.append(Missed(self.region, "", Drop.NO_MEMBERS.value, f"{group}/{filter}"))
                continue
            chosen.append(one)
            taken = f"{group}/{filter} -> {one.region}"
            missed += [
                Missed(other.region, "", NotDelivered.GROUP_ASSIGNED.value, taken)
                for other in far
                if other.region != one.region and other.region not in plan.regions
            ]
        return chosen

    def _credit(self, node: str) -> bool:
        return node == self.node or not self._congested(node)

    # -- arriving ------------------------------------------------------------------------------------------------

    def entered(
        self, topic: str, mesh_id: str, copy: Copy, hops_left: int, origin: str, flow: int = 0
    ) -> Step:
        """A BRIDGE copy of another region's event arrives here. origin: REGION/NODE that took the event in."""
        if self.region in copy.path:
            return Step((), (), (), tuple(Missed(r, "", Drop.LOOP.value, "") for r in copy.regions))
        missed: list[Missed] = []
        rest = [region for region in copy.regions if region != self.region]
        parts, lost = self._planner.partition(rest, origin, flow, copy.path)
        copies = self._leaving(parts, copy.groups, copy.path, hops_left, copy.flags, missed)
        missed += [Missed(region, "", Drop.NO_ROUTE.value, "") for region in lost]
        if self.region not in copy.regions:
            return Step((), (), tuple(copies), tuple(missed))
        plan = self._planner.region_plan(topic)
        missed += [Missed(u.region, u.node, Drop.LINK_DOWN.value, u.detail) for u in plan.unreached]
        nodes: dict[str, list[tuple[str, str, str]]] = {name: [] for name in plan.targets}
        for group in copy.groups:
            if group[2] != self.region:
                continue
            name = member_node(mesh_id, group[0], self._planner.near_members(group[0], group[1]))
            if name is None:
                missed.append(Missed(self.region, "", Drop.NO_MEMBERS.value, f"{group[0]}/{group[1]}"))
            else:
                nodes.setdefault(name, []).append(group)
        mine = nodes.pop(self.node, None)
        if mine is None and not nodes:
            missed.append(Missed(self.region, "", Drop.INTEREST_GONE.value, ""))
        copies += [self._local(name, tuple(groups), copy.path) for name, groups in nodes.items()]
        groups_here = tuple((group, filter) for group, filter, _ in mine or ())
        return Step(plan.local if mine is not None else (), groups_here, tuple(copies), tuple(missed))

    def transited(self, copy: Copy, hops_left: int) -> Step:
        """A TRANSIT copy arrives from a sibling: over the own bridge links, else on to another sibling once."""
        redirect = not copy.flags & Flag.REDIRECTED
        own, sibling, lost = self._planner.own_partition(copy.regions, copy.path, redirect=redirect)
        missed: list[Missed] = []
        copies = self._leaving(own, copy.groups, copy.path, hops_left, copy.flags, missed)
        again = copy.flags | Flag.REDIRECTED
        copies += self._leaving(sibling, copy.groups, copy.path, hops_left, again, missed)
        missed += [Missed(region, "", Drop.NO_ROUTE.value, "") for region in lost]
        return Step((), (), tuple(copies), tuple(missed))

    def delivered(self, topic: str, copy: Copy) -> Step:
        """A LOCAL copy arrives: sessions of this node, and a member of each group that was assigned here."""
        plan = self._planner.region_plan(topic)
        missed = []
        if not plan.local and not copy.groups:
            missed.append(Missed(self.region, self.node, Drop.INTEREST_GONE.value, ""))
        groups = []
        for group, filter, _ in copy.groups:
            if self._planner.subscriptions.member_count(group, filter):
                groups.append((group, filter))
            else:
                missed.append(Missed(self.region, self.node, Drop.NO_MEMBERS.value, f"{group}/{filter}"))
        return Step(plan.local, tuple(groups), (), tuple(missed))

    # -- copies --------------------------------------------------------------------------------------------------

    def _local(self, node: str, groups: Groups, path: tuple[str, ...]) -> Copy:
        return Copy(self._links.peers[node], Leg.LOCAL, (self.region,), groups, path)

    @property
    def _links(self) -> Links:
        return self._planner.links

    def _leaving(
        self,
        parts: Iterable[Part],
        groups: Groups,
        path: tuple[str, ...],
        hops_left: int,
        flags: int,
        missed: list[Missed],
    ) -> list[Copy]:
        copies = []
        for part in parts:
            carried = tuple(group for group in groups if group[2] in part.regions)
            if part.leg is not Leg.BRIDGE:
                copies.append(Copy(part.link, part.leg, part.regions, carried, path, flags))
            elif hops_left <= 0:
                missed += [Missed(region, "", Drop.HOP_LIMIT.value, "") for region in part.regions]
            else:
                on = (*path, self.region)
                copies.append(Copy(part.link, part.leg, part.regions, carried, on, flags & ~Flag.REDIRECTED))
        return copies
