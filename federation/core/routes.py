"""Routes between regions: the machine of one node that learns, chooses, announces and compiles them.

Decides what becomes of every frame, table entry and deadline, and in which order its parts act on it: `feasible` the
condition, `source` one source's routes and feasibility distance, `selection` the order of routes and the FIB line, `rib`
the tables, `policy` link roles, `announcement` what a neighbour is told, `publication` what the region is told,
`border` what leaves over the bridge links and when, `exchange` numbered frames and pace, `neighbour` a link and its cost,
`siblings` the region, `admission` what bars a route, `seqno` and `inquiry` seqnos and requests for them.
Never forwards an event, never looks at topics.

Invariants:
- No forwarding cycle for one source in any snapshot of the mesh. Every next hop compiled, whether primary, equal or
  alternate, advertised a distance that is feasible here, and the feasibility distance falls in the same step in which
  anything is announced to a neighbour or published in the region. That covers siblings: if A uses B, then
  published(B) < kept(A) <= published(A), so B cannot use A, with however old a copy of the table.
- A lost link's routes are out of the FIB when `neighbour_down` returns.
- Metrics grow by at least 1 with each hop, so across sources of one region a loop ends with the updates under way.

Source: design page "Routing", Routes; RFC 8966.
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.core.admission import Admission
from federation.core.announcement import Announcements, withheld
from federation.core.border import Border
from federation.core.feasible import Distance
from federation.core.inquiry import Inquiry
from federation.core.neighbour import Neighbour, flaw, well_formed_like
from federation.core.policy.roles import OpenPolicy, Role, RoutePolicy
from federation.core.publication import Publication, Published, published_value
from federation.core.rib import Rib
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteStatistics, RouteView, Withheld
from federation.core.selection import FibEntry, Hop, Key, NextHop
from federation.core.source import Shape, Source
from mesh.core.effects import CloseLink, Effect, Send
from mesh.model.dice import Dice
from mesh.model.limits import Limits
from mesh.model.reasons import Close, NotDelivered, RouteReason
from mesh.wire.frames import Control, Routes, RoutesAck, RoutesDigest, RoutesPull, RouteUpdate, SeqnoRequest

__all__ = ["FibEntry", "NextHop", "RouteMachine", "RouteSettings", "RouteStatistics", "RouteView", "Withheld"]


class RouteMachine:
    """The routes of one node.

    Args:
        region, node, epoch: this node; it is an origin while it has a neighbour.
        policy: rules beyond link roles; None: open. now: monotonic seconds.
    Effects: Send to a link (int) or, for a seqno request, to a sibling (str); CloseLink; Notify route_selected,
        route_changed and route_lost (about: the region).
    """

    def __init__(
        self,
        region: str,
        node: str,
        epoch: int,
        settings: RouteSettings,
        limits: Limits,
        dice: Dice,
        now: float,
        *,
        policy: RoutePolicy | None = None,
    ) -> None:
        self.region = region
        self.node = node
        self.epoch = epoch
        self._settings = settings
        self._limits = limits
        self._rib = Rib(settings)
        self._publication = Publication(settings)
        rules: RoutePolicy = policy or OpenPolicy()
        self._admission = Admission(region, epoch, self._rib, rules, settings, limits, now)
        self._announcements = Announcements((region, node), epoch, self._rib.sources, rules, limits)
        self._effects: list[Effect] = []
        self._border = Border(self._announcements, self._announced, self._effects, settings, dice)
        self._inquiry = Inquiry(self._rib, self._border, self._announcements, settings, dice, now)
        self._silent_since: float | None = None
        self._touched: dict[Key, None] = {}
        self._refused: dict[str, int] = {}
        self._received = 0

    # -- results -------------------------------------------------------------------------------------------------

    @property
    def fib(self) -> Mapping[str, FibEntry]:
        """Region -> its line: a live view, always up to date."""
        return self._rib.fib

    @property
    def fib_generation(self) -> int:
        """Grows whenever a line of the FIB changes."""
        return self._rib.generation

    @property
    def live_generation(self) -> int:
        """Grows whenever `live_bridges` of some region changes."""
        return self._rib.live_generation

    def live_bridges(self, region: str) -> frozenset[str]:
        """Bridges of a region to which some neighbour still announces a way: their summaries count. Cost: O(1)."""
        return self._rib.live_bridges(region)

    def exits(self, region: str) -> tuple[str, ...]:
        """Siblings that publish a way of their own to a region that has no line in the FIB. See `Rib.exits`."""
        return self._rib.exits(region)

    def rib(self, now: float) -> list[RouteView]:
        """Every known route with the verdict of the comparison that chose. Cost: O(routes), sorted by preference."""
        return self._rib.views(now)

    def withheld(self) -> list[Withheld]:
        """Selected routes (and the own origin) that a neighbour is not told, with the reason its export gave."""
        return [row for neighbour in self._border.neighbours.values() for row in withheld(neighbour)]

    def absence(self, region: str) -> NotDelivered:
        """Why a region is not in the FIB: INFEASIBLE_ONLY or NO_ROUTE."""
        return self._rib.absence(region)

    def export_root(self, link: int) -> int:
        """Hash of what is announced on a link, as its digest carries it. Raises KeyError: no such link."""
        return self._border.root(link)

    def take_published(self) -> list[tuple[str, str, Published | None]]:
        """Drain changes for this node's table: (region, bridge, value to put, or None to delete). In order."""
        return self._publication.take()

    def drain(self) -> list[Effect]:
        """Take the effects collected since the last call, in order."""
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def statistics(self) -> RouteStatistics:
        return RouteStatistics(
            neighbours=len(self._border.neighbours),
            sources=len(self._rib.sources),
            routes=sum(len(source.candidates) for source in self._rib.sources.values()),
            regions=len(self._rib.fib),
            seqno=self._announcements.seqno,
            updates_received=self._received,
            updates_sent=self._border.updates,
            frames_resent=self._border.resent,
            tables_sent=self._border.tables,
            requests_sent=self._inquiry.sent,
            requests_passed=self._inquiry.passed,
            refused=dict(self._refused),
        )

    # -- neighbours over bridge links ----------------------------------------------------------------------------

    def neighbour_up(
        self, link: int, region: str, node: str, role: str, cost: int, rtt_ms: float, now: float
    ) -> None:
        """A bridge link to `region`/`node` is open: announce the whole table.

        Args: role: a `policy.Role` value, see `policy.link_role`. cost: of money, from the configuration, >= 0.
        rtt_ms: negative when not measured yet. Raises ValueError: the link is up already, leads to the own region, or the
        role is none; state unaffected.
        """
        if link in self._border.neighbours or region == self.region:
            raise ValueError(f"link {link} to {region}/{node} is up already or leads to the own region")
        neighbour = Neighbour(link, region, node, Role(role), cost, rtt_ms, self._settings, self._limits, now)
        self._silent_since = None
        self._border.up(neighbour, self._rib.sources, now)
        self._settle(now)

    def neighbour_down(self, link: int, now: float) -> None:
        """The link is gone: its routes leave use before this returns. A link that is not up is ignored."""
        neighbour = self._border.neighbours.pop(link, None)
        if neighbour is None:
            return
        if not self._border.neighbours:
            self._silent_since = now
        for key in neighbour.inbound.held:
            self._forget(key, link)
        self._settle(now)

    def neighbour_rtt(self, link: int, rtt_ms: float, now: float) -> None:
        """A measured round trip (ms). Smoothed; the metric follows in steps and at most every `rtt_announce_s`."""
        neighbour = self._border.neighbours.get(link)
        if neighbour is not None and neighbour.round_trip.sample(rtt_ms, now):
            for key, (_, update) in neighbour.inbound.held.items():
                self._take_in(neighbour, key, update, now)
            self._settle(now)

    def policy_changed(self, now: float) -> None:
        """The policy says something else from now on: judge what is held and what was told again. Cost: O(routes * neighbours)."""
        for neighbour in list(self._border.neighbours.values()):
            for key, (_, update) in neighbour.inbound.held.items():
                self._take_in(neighbour, key, update, now)
        self._settle(now)
        keys = (self._announcements.origin, *self._rib.sources)
        self._border.withdraw(keys, now)
        for key in keys:
            self._border.mark(key, now)
        self._border.flush(now)
        self._settle(now)

    def retract_all(self, now: float) -> None:
        """Withdraw the own origin and everything announced and published, for good. The FIB stays for what is under way."""
        self._announcements.closed = True
        self._publication.close()
        self._border.withdraw((self._announcements.origin, *self._rib.sources), now)

    # -- frames --------------------------------------------------------------------------------------------------

    def receive(self, link: int, frame: Control, now: float) -> None:
        """Take in a frame of a neighbour. Nonsense and excess close the link; surplus is refused and counted."""
        neighbour = self._border.neighbours.get(link)
        if neighbour is None:
            self._refuse("unknown_link")
            return
        match frame:
            case Routes():
                self._on_routes(neighbour, frame, now)
            case RoutesAck():
                if neighbour.outbound.acknowledged(frame.n):
                    self._border.flush(now)
                else:
                    self._charge(neighbour, 1, now)
            case RoutesDigest():
                if self._charge(neighbour, 1, now) and neighbour.differs(frame.root, now):
                    self._effects.append(Send(link, RoutesPull()))
            case RoutesPull():
                if self._charge(neighbour, 1, now) and neighbour.full_at is None:
                    neighbour.full_at = max(now, neighbour.last_full + self._settings.full_min_s)
            case SeqnoRequest():
                if self._charge(neighbour, 1, now):
                    self._refuse("seqno_request", not self._inquiry.answer(link, frame, now))
            case _:
                self._close(neighbour, Close.UNEXPECTED_FRAME, type(frame).__name__, now)
        self._settle(now)

    def _on_routes(self, neighbour: Neighbour, frame: Routes, now: float) -> None:
        held = neighbour.inbound.held
        for told in frame.updates:
            known = held.get((told.region, told.bridge))
            fault = "" if known and well_formed_like(known[1], told) else flaw(told, neighbour.region)
            if fault:
                self._close(neighbour, Close.MALFORMED, fault, now)
                return
        intake = neighbour.inbound.accept(frame)
        if intake.close is not None:
            self._close(neighbour, intake.close, intake.detail, now)
            return
        if not self._charge(neighbour, intake.price, now):
            return
        self._effects.append(Send(neighbour.link, RoutesAck(frame.n)))
        self._received += len(frame.updates)
        self._refuse(RouteReason.TOO_MANY_REGIONS, intake.refused)
        for key, update in intake.changes:
            if update is None:
                self._forget(key, neighbour.link)
            else:
                self._take_in(neighbour, key, update, now)

    def _take_in(self, neighbour: Neighbour, key: Key, update: RouteUpdate, now: float) -> None:
        if self._admission.from_neighbour(neighbour, key, update, now):
            self._touched[key] = None
        else:
            self._refuse(RouteReason.TOO_MANY_REGIONS)

    def _forget(self, key: Key, hop: Hop) -> None:
        if self._rib.forget(key, hop):
            self._touched[key] = None

    # -- the region's table --------------------------------------------------------------------------------------

    def sibling_entry(
        self, node: str, region: str, bridge: str, value: tuple[object, ...] | list[object] | None, now: float
    ) -> None:
        """A sibling bridge published (or with None withdrew) its best external route to the source (region, bridge)."""
        if node == self.node or region == self.region:
            return
        key = (region, bridge)
        told = None if value is None else published_value(value)
        if told is not None and self._admission.siblings.tell(node, key, told):
            self._take_in_sibling(node, key, now)
        else:
            self._refuse("sibling_entry", value is not None)
            if self._admission.siblings.withdraw(node, key):
                self._forget(key, node)
        self._settle(now)

    def sibling_link(self, node: str, up: bool, cost: int, now: float) -> None:
        """The link to another node of the region came, went, or changed its cost (>= 1). Its routes follow at once."""
        for key in self._admission.siblings.link(node, up, cost):
            self._take_in_sibling(node, key, now)
        self._settle(now)

    def sibling_gone(self, node: str, now: float) -> None:
        """The node left, died, or started again with a new epoch: everything it told is void.

        Must be called before anything of a new epoch of that node is passed in: a process that started again has no
        memory of what it advertised, so nothing of its earlier life may be relied on.
        """
        for key in self._admission.siblings.gone(node):
            self._forget(key, node)
        self._settle(now)

    def receive_sibling(self, node: str, frame: SeqnoRequest, now: float) -> None:
        """A sibling that uses a route of this bridge asks for a newer seqno."""
        self._refuse("seqno_request", not self._inquiry.answer(node, frame, now))
        self._settle(now)

    def _take_in_sibling(self, node: str, key: Key, now: float) -> None:
        if self._admission.from_sibling(node, key, now):
            self._touched[key] = None
        else:
            self._refuse(RouteReason.TOO_MANY_REGIONS)

    # -- time ----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is wanted next (s). Cost: O(neighbours + wants)."""
        keep_s = self._settings.source_keep_s
        times = [
            self._inquiry.next_deadline(),
            self._publication.next_deadline(),
            self._rib.next_deadline(),
            None if self._silent_since is None else self._silent_since + keep_s,
            self._border.next_deadline(),
        ]
        return min((at for at in times if at is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        """Do what is due: announce, publish, ask again, renew the own seqno, compare digests, forget."""
        self._inquiry.renew(now)
        self._border.tend(self._rib.sources, now)
        again = [*self._inquiry.repeat(now), *self._publication.outdated(now), *self._rib.expire(now)]
        if self._silent_since is not None and self._silent_since + self._settings.source_keep_s <= now:
            # Long enough without a neighbour: nobody relies on anything this node advertised.
            self._silent_since = None
            again += self._rib.renew(list(self._rib.sources))
        self._touched.update(dict.fromkeys(again))
        self._settle(now)
        self._border.flush(now)
        self._settle(now)
        for source, (epoch, seqno, metric, _, _) in self._publication.publish(now):
            self._lower(source, Distance(epoch, seqno, metric))
        self._settle(now)

    # -- choosing ------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Evaluate what was touched, withdraw what was lost, recompile the regions concerned."""
        regions: dict[str, None] = {}
        withdrawn: list[Key] = []
        while self._touched:
            key, _ = self._touched.popitem()
            source = self._rib.sources.get(key)
            if source is None:
                self._inquiry.forget(key)
                continue
            before = source.shape
            if source.evaluate():
                regions[key[0]] = None
            after = source.shape
            if after != before:
                self._mark(source, before, now)
                if before is not None and (after is None or not after.same_way(before)):
                    withdrawn.append(key)
            self._publication.consider(source, now)
            self._rib.note(source, now)
            if self._inquiry.consider(source, now):
                self._touched[key] = None
        if withdrawn:
            self._border.withdraw(withdrawn, now)
        for region in regions:
            notice = self._rib.compile(region)
            if notice is not None:
                self._effects.append(notice)

    def _mark(self, source: Source, before: Shape | None, now: float) -> None:
        """The selected route changed: let every neighbour be told soon."""
        wait_s = self._settings.coalesce_s
        awaited = self._inquiry.awaited(source)
        if source.shape is not None and source.shape.refreshes(before) and not awaited:
            wait_s = self._settings.refresh_coalesce_s
        self._border.mark(source.key, now + wait_s)

    def _announced(self, update: RouteUpdate) -> None:
        source = self._rib.sources.get((update.region, update.bridge))
        if source is not None:
            self._lower(source, Distance(update.epoch, update.seqno, update.metric))

    def _lower(self, source: Source, distance: Distance) -> None:
        """Something was announced or published: lower the feasibility distance, and judge the source's routes again."""
        if source.advertised(distance):
            self._touched[source.key] = None

    # -- refusing ------------------------------------------------------------------------------------------------

    def _refuse(self, reason: str, n: int = 1) -> None:
        if n:
            self._refused[str(reason)] = self._refused.get(str(reason), 0) + n

    def _charge(self, neighbour: Neighbour, price: int, now: float) -> bool:
        """Count a neighbour's traffic. Returns: False when the link was closed for excess."""
        if neighbour.inbound.charge(price, now):
            return True
        self._close(neighbour, Close.LIMIT, "updates_per_s", now)
        return False

    def _close(self, neighbour: Neighbour, reason: Close, detail: str, now: float) -> None:
        self._refuse(reason.value)
        self._effects.append(CloseLink(neighbour.link, reason, detail))
        self.neighbour_down(neighbour.link, now)
