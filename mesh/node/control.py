"""The control plane of one node: membership, tables, routes, summaries and receipts, tied together.

Decides only who hears of what: a change in one machine becomes a call of another, a table's news become frames for the
links that need them. Each algorithm is in its own machine.
Invariant: the interest index holds exactly the entries of live members' tables, what members that are away keep for durable
clients, and what `Reach` counts for other regions.
Source: design page "Routing".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated

import msgspec

from federation.core.advert import WAITING_KEY, Advertiser
from federation.core.frontier import Frontier, read_entry
from federation.core.policy.boundary import Boundary
from federation.core.policy.roles import link_role
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction
from federation.core.reach import (
    CLIENT_KEY,
    FILTER_KEY,
    GROUP_KEY,
    KEPT_FILTER_KEY,
    KEPT_GROUP_KEY,
    MEMBERS_MAX,
    TAKEN_KEY,
    TOLD_KEY,
    Reach,
    group_key,
    split_group_key,
    split_told_key,
    told_key,
)
from federation.core.receipts import BRIDGE_KEY, HOLDS_KEY, Receipts
from federation.core.routes import RouteMachine
from mesh.core.custody.succession import Heir
from mesh.core.deltas import OF_LINK
from mesh.core.effects import Effect, Notify, Send
from mesh.core.interest import Destinations, InterestIndex
from mesh.core.membership import Membership
from mesh.core.plan import NODE, Links
from mesh.core.session import LinkSession
from mesh.core.tables import Change, Outcome, TableSet
from mesh.model.dice import Dice
from mesh.model.ids import NodeKey, Version
from mesh.model.reasons import Close
from mesh.model.topic import check_filter, check_group
from mesh.node.settings import NodeSettings
from mesh.node.table_exchange import TableExchange
from mesh.wire import frames as wire
from mesh.wire.frames import Delta, Digest, Held, Pull, Scope

ROUTE_KEY = "r"
HOUSEKEEPING_S = 60.0
IN_REGION_COST = 1
KEPT_S = 86_400.0
"""Interest of a bridge that nobody reaches is kept so long."""

_encode = msgspec.msgpack.encode
_route = msgspec.msgpack.Decoder(tuple[int, int, int, tuple[str, ...], str])
_text = msgspec.msgpack.Decoder(Annotated[str, msgspec.Meta(max_length=300)])
_count = msgspec.msgpack.Decoder(Annotated[int, msgspec.Meta(ge=0, le=MEMBERS_MAX)])


def check_interest_key(key: str) -> None:
    """Whether a peer's table entry names a filter and a group that the grammar allows. Raises TopicError (a ValueError)."""
    if key[0] == FILTER_KEY:
        check_filter(key[1:])
    elif key[0] == GROUP_KEY:
        group, filter = split_group_key(key)
        check_group(group)
        check_filter(filter)


class ControlPlane:
    """Args:
        links: open links, shared with the planner and kept up to date by the composed machine before it calls here.
    Frames for members name the node; frames for bridges name the link. Cost: O(changed entries) and O(links) a push.
    """

    def __init__(
        self,
        settings: NodeSettings,
        dice: Dice,
        *,
        links: Links,
        destinations: Destinations,
        interest: InterestIndex,
        boundary: Boundary,
        now: float,
    ) -> None:
        self.settings = settings
        self.boundary = boundary
        self.region = settings.region
        self.node = settings.node
        self.links = links
        self.destinations = destinations
        self.interest = interest
        self._dice = dice
        key = str(NodeKey(settings.region, settings.node))
        self.world_owner = key
        self.membership = Membership(
            settings.node,
            settings.epoch,
            (settings.address,) if settings.address else (),
            settings.membership,
            dice,
            now,
            software=settings.software,
            bridge=bool(settings.bridges),
        )
        self.tables = TableSet(Scope.REGION, settings.node, settings.epoch, settings.limits, now)
        self.world = TableSet(Scope.WORLD, key, settings.epoch, settings.limits, now)
        self.routes = RouteMachine(
            settings.region,
            settings.node,
            settings.epoch,
            settings.routes,
            settings.limits,
            dice,
            now,
            policy=boundary,
        )
        self.reach = Reach(destinations, interest)
        self.frontier = Frontier(
            settings.region,
            self.world,
            key,
            settings.epoch,
            self.reach,
            settings.limits,
            self.routes.live_bridges,
        )
        self.frontier.recalled = self._recalled
        self.advertiser = Advertiser(self.world, settings.merge_budget)
        self.receipts = Receipts(
            settings.region, settings.node, self.tables, self.world, lambda region: region in self.routes.fib
        )
        self.receipts.beyond = self.reach.beyond
        self.is_bridge = False
        """Whether this node exports its region's summary."""
        self._bridged = False
        self.hears_members: Callable[[float], bool] = lambda now: True
        """Whether it knows what its region wants: before that it does not become a bridge, and what an earlier process told counts."""
        self.changed = False
        """Plans may be out of date: interest, routes or members changed."""
        self.effects: list[Effect] = []
        self._live: set[str] = {settings.node}
        self._ended: set[str] = set()
        """Bridges whose earlier process has ended, and that have exported nothing since."""
        self._gone: list[str] = []
        self._rivals: set[str] = set()
        self._heirs: dict[str, dict[str, float]] = {}
        """Node whose durable clients are elsewhere -> members that took them over, and when this node heard of it."""
        self.exchange = TableExchange(
            self.tables, self.world, links, self.effects, settings.limits, dice, now
        )
        self._housekeeping_at = now + HOUSEKEEPING_S
        self._fib_seen = -1
        self._live_seen = -1
        self._epochs: dict[str, int] = {}  # member -> the process whose routes are known
        self._quiet: dict[str, float] = {}  # bridges nobody reaches -> since when

    # -- local subscriptions -------------------------------------------------------------------------------------

    def interest_changed(self, group: str, filter: str, members: int, now: float) -> None:
        """A filter's first subscription came or its last one went (members 1 or 0), or a group's bucket changed."""
        key = group_key(group, filter) if group else FILTER_KEY + filter
        value = _encode(members) if members else None
        if value is None:
            self.tables.delete(key, now)
        else:
            self.tables.put(key, value, now)
        self._entry(self.node, key, value, now)

    def kept_changed(self, group: str, filter: str, members: int, now: float) -> None:
        """Interest of this node that outlives its process came or went (see `Consumers.take_news`)."""
        key = KEPT_GROUP_KEY + group_key(group, filter)[1:] if group else KEPT_FILTER_KEY + filter
        if members:
            self.tables.put(key, _encode(members), now)
        else:
            self.tables.delete(key, now)

    def client_changed(self, name: str, here: bool, now: float) -> None:
        """A durable client is kept at this node from now on, or no longer."""
        if here:
            self.tables.put(CLIENT_KEY + name, _encode(self.settings.events_address), now)
        else:
            self.tables.delete(CLIENT_KEY + name, now)

    def homes(self, client: str) -> list[tuple[str, str]]:
        """(node, events address) of the other members of the region that keep this client, live ones first, then by name."""
        found: list[tuple[bool, str, str]] = []
        for owner in self.tables.owners():
            value = None if owner == self.node else self.tables.get(owner, CLIENT_KEY + client)
            if value is None:
                continue
            try:
                found.append((owner not in self._live, owner, _text.decode(value)))
            except msgspec.DecodeError:
                continue  # an entry nobody can read names no home
        return [(owner, address) for _, owner, address in sorted(found)]

    def home(self, client: str) -> str | None:
        """The first live member, this one apart, that keeps a client."""
        return next((node for node, _ in self.homes(client) if node in self._live), None)

    def keeps(self, node: str, client: str) -> bool:
        """Whether a member's table names a client as its own."""
        return self.tables.get(node, CLIENT_KEY + client) is not None

    def taken_changed(self, former: str, here: bool, now: float) -> None:
        """The durable clients of another node are kept here from now on, or it knows by now."""
        value = _encode(0) if here else None
        if value is None:
            self.tables.delete(TAKEN_KEY + former, now)
        else:
            self.tables.put(TAKEN_KEY + former, value, now)
        self._entry(self.node, TAKEN_KEY + former, value, now)

    def heir(self, former: str) -> Heir | None:
        """The live member that took over a node's durable clients; of several the first by name."""
        heirs = self._heirs.get(former)
        if not heirs:
            return None
        live = [node for node in heirs if node in self._live and node != former]
        return Heir(min(live), heirs[min(live)]) if live else None

    def _heir_entry(self, node: str, former: str, there: bool, now: float) -> None:
        heirs = self._heirs.setdefault(former, {})
        if there:
            heirs.setdefault(node, now)
        else:
            heirs.pop(node, None)
        if not heirs:
            del self._heirs[former]
        self.changed = True

    def _kept_entry(self, node: str, key: str, value: bytes | None, now: float) -> None:
        """An entry of the table of a member that is away: what its durable clients want still counts, nothing else."""
        if key[0] == KEPT_FILTER_KEY:
            self._entry(node, FILTER_KEY + key[1:], value, now)
        elif key[0] == KEPT_GROUP_KEY:
            self._entry(node, GROUP_KEY + key[1:], value, now)

    def recall(self, node: str, entries: Mapping[str, bytes], now: float) -> None:
        """What durable clients of a member wanted when this node last ran: it counts until the member's table is here."""
        for key, value in entries.items():
            self._kept_entry(node, key, value, now)

    def recalled(self, node: str, keys: Iterable[str], now: float) -> None:
        """Pair of `recall`: the member's table is here, or nothing is expected of it any more. Only what the table says counts now."""
        for key in keys:
            kind = FILTER_KEY if key[0] == KEPT_FILTER_KEY else GROUP_KEY
            counts = self.tables.get(node, kind + key[1:]) is not None and node in self._live
            if not counts and self.tables.get(node, key) is None:
                self._entry(node, kind + key[1:], None, now)

    def kept_entries(self, node: str) -> dict[str, bytes]:
        """What durable clients of a member want, as its table says. Cost: O(its entries)."""
        return {
            key: value
            for key, value in self.tables.items(node)
            if key[0] in (KEPT_FILTER_KEY, KEPT_GROUP_KEY)
        }

    def _gone_entry(self, node: str, key: str, now: float) -> None:
        """An entry of a member that just went away: out of use, unless durable clients keep it."""
        kept = None
        if key[0] == FILTER_KEY:
            kept = self.tables.get(node, KEPT_FILTER_KEY + key[1:])
        elif key[0] == GROUP_KEY:
            kept = self.tables.get(node, KEPT_GROUP_KEY + key[1:])
        if kept is None or key[0] == GROUP_KEY:
            self._entry(node, key, kept, now)

    def _entry(self, node: str, key: str, value: bytes | None, now: float) -> None:
        """An entry of a live member's REGION table (or the own one) came, changed or went."""
        kind = key[0]
        try:
            if value is not None and node != self.node:
                check_interest_key(key)
            if kind == FILTER_KEY:
                self._filter_entry(node, key[1:], value is not None)
                self._advertise(node, key, value, now)
            elif kind == GROUP_KEY:
                group, filter = split_group_key(key)
                members = 0 if value is None else _count.decode(value)
                self.interest.set_group(group, filter, self.destinations.bit(NODE + node), members)
                self._advertise(node, key, value, now)
                self.changed = True
            elif kind == ROUTE_KEY and node != self.node and (value is None or self._is_current(node)):
                region, _, bridge = key[1:].partition("/")
                self.routes.sibling_entry(
                    node, region, bridge, None if value is None else _route.decode(value), now
                )
            elif kind == CLIENT_KEY and node != self.node and value is not None:
                self._rivals.add(key[1:])
                self.changed = True
            elif kind == TAKEN_KEY:
                self._heir_entry(node, key[1:], value is not None, now)
            elif key == WAITING_KEY and self.is_bridge:
                self.advertiser.waiting(node, None if value is None else self.tables.position(node), now)
        except (msgspec.DecodeError, ValueError) as error:
            # One bad entry of one member: say so once, keep the rest of its table.
            self.effects.append(Notify("bad_entry", f"{node} {key[:80]}", Close.MALFORMED, str(error)))

    def _advertise(self, node: str, key: str, value: bytes | None, now: float) -> None:
        if self.is_bridge:
            self.advertiser.entry(node, key, value, now)

    def _filter_entry(self, node: str, filter: str, present: bool) -> None:
        if node != self.node:
            bit = self.destinations.bit(NODE + node)
            (self.interest.add if present else self.interest.remove)(filter, bit)
        self.changed = True

    def start_wait(self, now: float) -> Version:
        """Somebody here waits for a receipt: the version of the own table that has to be installed."""
        version = self.receipts.start(now)
        self._entry(self.node, WAITING_KEY, b"", now)
        return version

    def stop_wait(self, now: float) -> None:
        """Pair of start_wait."""
        self.receipts.stop(now)
        if self.tables.get(self.node, WAITING_KEY) is None:
            self._entry(self.node, WAITING_KEY, None, now)

    # -- members -------------------------------------------------------------------------------------------------

    def live_members(self) -> set[str]:
        """Members believed alive or suspect, this node included."""
        return self._live

    def _member_changed(self, notify: Notify, now: float) -> None:
        node = notify.about
        if notify.what in ("member_alive", "member_suspect"):
            if node != self.node:
                self._new_process(node, self.membership.members()[node].epoch, now)
            if node not in self._live:
                self._live.add(node)
                self.receipts.members_changed()
                for key, value in list(self.tables.items(node)):
                    self._entry(node, key, value, now)
        elif notify.what in ("member_dead", "member_left") and node in self._live and node != self.node:
            self._live.discard(node)
            self._gone.append(node)
            for key, _ in list(self.tables.items(node)):
                self._gone_entry(node, key, now)
            self.routes.sibling_gone(node, now)
            self.receipts.member_gone(node)
        self.changed = True

    def take_rivals(self) -> set[str]:
        """Durable clients that other members named as their own since the last call."""
        rivals, self._rivals = self._rivals, set()
        return rivals

    def take_gone(self) -> list[str]:
        """Members that died or left since the last call."""
        gone, self._gone = self._gone, []
        return gone

    def peer_opened(self, session: LinkSession, now: float) -> None:
        """A link to a member opened: greet it with membership, then routes and interest (in its table), then summaries."""
        peer = session.peer
        assert peer is not None
        self._new_process(peer.node, peer.epoch, now)
        self.tables.welcome(peer.node)
        self.membership.linked(peer.node, peer.epoch, now)
        self._take_membership(now)
        self.routes.sibling_link(peer.node, True, IN_REGION_COST, now)
        self.effects.append(Send(session.link, self.tables.digest(full=True)))
        self.effects.append(Send(session.link, self.world.digest(full=True)))
        self.receipts.resend(peer.node)
        self.changed = True

    def _new_process(self, node: str, epoch: int, now: float) -> None:
        """A member started again: the new process knows nothing of what the old one announced, so neither may we."""
        known = self._epochs.get(node)
        if known is not None and epoch <= known:
            return
        self._epochs[node] = epoch
        if known is None:
            return
        self.receipts.member_gone(node)
        self.routes.sibling_gone(node, now)
        if node in self.links.peers:
            self.routes.sibling_link(node, True, IN_REGION_COST, now)
        if node in self._live:
            self._enter_routes(node, now)

    def _is_current(self, node: str) -> bool:
        """Whether the table held of a member is of the process that runs, as far as known. Its routes count only then."""
        position = self.tables.position(node)
        return position is not None and position.epoch == self._epochs.get(node, position.epoch)

    def _enter_routes(self, node: str, now: float) -> None:
        for key, value in self.tables.items(node):
            if key[0] == ROUTE_KEY:
                self._entry(node, key, value, now)

    def peer_closed(self, node: str, link: int, now: float, *, said_why: bool) -> None:
        """The link to a member is gone: its next hops leave use at once, whatever the member state says.

        said_why: one end closed it on purpose, which makes nobody a suspect.
        """
        self.exchange.link_closed(link)
        self.membership.unlinked(node, now, said_why=said_why)
        self.routes.sibling_link(node, False, IN_REGION_COST, now)
        self.changed = True

    # -- bridges -------------------------------------------------------------------------------------------------

    def bridge_opened(self, session: LinkSession, now: float) -> None:
        """A link to another region opened and its round trip is known: routes first, then interest digests."""
        peer = session.peer
        assert peer is not None
        assert session.rtt_ms is not None
        self._bridged = True
        cost = session.terms.cost
        role = link_role(session.terms.role, peer.role)
        self.routes.neighbour_up(session.link, peer.region, peer.node, role, cost, session.rtt_ms, now)
        if self.boundary.has_rules(role):
            side = self.frontier.link_opened(
                session.link, session.peer_key, *self._books(peer.region, role), now
            )
            self.exchange.sides[session.link] = side.table
            session.passage = self.boundary.gate(side, peer.region, role)
        tables = self.exchange.set_of(Scope.WORLD, session.link)
        self.effects.append(Send(session.link, tables.digest(full=True)))
        self.changed = True

    def _books(self, region: str, role: str) -> tuple[Rulebook, Rulebook]:
        """The rules of both directions of a link."""
        book = self.boundary.book
        return book(Direction.EXPORT, region, role), book(Direction.IMPORT, region, role)

    def rules_changed(self, sessions: Iterable[LinkSession], now: float) -> None:
        """The boundary's rules are others: judge routes, interest and links by them. What waits in links is the caller's."""
        roles = {session.peer_key: self._role_of(session) for session in sessions}
        self.frontier.rules_changed(
            lambda peer, side: self._books(peer.region, roles.get(peer, side.export.role))
        )
        for session in sessions:
            side = self.frontier.of_link.get(session.link)
            if side is not None:
                session.passage = self.boundary.gate(side, side.peer.region, roles[side.peer])
        self.routes.policy_changed(now)
        self.changed = True

    def _role_of(self, session: LinkSession) -> str:
        assert session.peer is not None
        return link_role(session.terms.role, session.peer.role).value

    def _recalled(self) -> Iterator[tuple[str, dict[str, int]]]:
        """What regions wanted before this process started, as far as nobody has said it again."""
        if self.boundary.configured:
            for region in self.reach.regions():
                if "" in self.reach.tellers(region):
                    yield region, self.reach.entries(region)

    def _become_bridge(self, now: float) -> None:
        """A link to another region opened: from here on this node exports the region's summary.

        Whole from its first version on: whoever held the table of the process before must not think for a moment that nobody here wants
        anything, or events that are accepted in that moment are lost.
        """
        self.is_bridge = True
        for node in self.tables.owners():
            for key, value in list(self.tables.items(node)):
                if node not in self._live:
                    self._kept_entry(node, key, value, now)
                elif key[0] in (FILTER_KEY, GROUP_KEY):
                    self.advertiser.entry(node, key, value, now)
                elif key == WAITING_KEY:
                    self.advertiser.waiting(node, self.tables.position(node), now)
        self.advertiser.handle_deadline(now)
        self.frontier.settle(now, at_once=True)
        self.world.put(BRIDGE_KEY, _encode(1), now)

    def bridge_closed(self, link: int, now: float) -> None:
        self.frontier.link_closed(link, now)
        self.routes.neighbour_down(link, now)
        self.exchange.link_closed(link)
        self.changed = True

    def bridges_of_region(self) -> list[str]:
        """Nodes of this region that export its summary."""
        return list(self._bridges_of_region())

    def _bridges_of_region(self) -> Iterator[str]:
        # Looked up when it is needed: with thousands of owners it costs more than all else of a delta.
        prefix = f"{self.region}/"
        for owner in self.world.owners():
            if owner.startswith(prefix):
                yield owner[len(prefix) :]

    # -- frames --------------------------------------------------------------------------------------------------

    def receive(self, session: LinkSession, frame: wire.Frame, now: float) -> None:
        """A control frame of an open link that is not the session's own."""
        peer = session.peer_key
        inside = peer.region == self.region
        if inside:
            self.membership.heard(peer.node, now)
        match frame:
            case Delta():
                self._receive_delta(session, frame, inside, now)
            case Digest() | Pull():
                self.exchange.asked(session, frame, inside, now)
            case Held() if inside:
                self.receipts.held(peer.node, frame, now)
            case (
                wire.Probe()
                | wire.ProbeAck()
                | wire.ProbeRequest()
                | wire.ProbeNack()
                | wire.Gossip()
                | wire.Members()
            ) if inside:
                self.membership.receive(peer.node, frame, now)
            case wire.SeqnoRequest() if inside:
                self.routes.receive_sibling(peer.node, frame, now)
            case (
                wire.Routes()
                | wire.RoutesAck()
                | wire.RoutesDigest()
                | wire.RoutesPull()
                | wire.SeqnoRequest()
            ) if not inside:
                self.routes.receive(session.link, frame, now)
            case _:
                where = "inside a region" if inside else "between regions"
                session.refuse(Close.UNEXPECTED_FRAME, f"{type(frame).__name__} on a link {where}")

    def _receive_delta(self, session: LinkSession, delta: Delta, inside: bool, now: float) -> None:
        if delta.scope is Scope.REGION and not inside:
            session.refuse(Close.UNEXPECTED_FRAME, "a table of the region from outside")
            return
        side = self.frontier.of_link.get(session.link) if delta.scope is Scope.WORLD else None
        tables = self.exchange.set_of(delta.scope, session.link)
        before = tables.position(delta.owner)
        applied = tables.receive(delta, now)
        if applied.pull is not None:
            self.effects.append(Send(session.link, applied.pull))
        if applied.outcome is Outcome.REFUSED and self.exchange.may_report(session.link, now):
            self.effects.append(Notify("table_refused", delta.owner[:130], applied.reason or ""))
        if not applied.advanced or side is not None:
            return  # what a side tells counts as its rules let it: `settle`
        if delta.scope is Scope.REGION:
            self._new_process(delta.owner, delta.epoch, now)
            if delta.owner in self._live:
                for change in applied.changes:
                    self._entry(change.owner, change.key, change.value, now)
                if before is not None and before.epoch < delta.epoch:
                    # The earlier process's routes were not relied on any more; what this one says alike is no change.
                    self._enter_routes(delta.owner, now)
            else:
                for change in applied.changes:
                    self._kept_entry(change.owner, change.key, change.value, now)
            self.receipts.region_changes(delta.owner, applied.changes, now)
        else:
            self._world_changed(delta.owner, applied.changes, now)
            for frame in applied.chain:
                self.exchange.pass_on(session, frame, inside)

    def _world_changed(self, owner: str, changes: Iterable[Change], now: float) -> None:
        region, _, bridge = owner.partition("/")
        position = self.world.position(owner)
        if position is not None and not position.n:
            # Its earlier process has ended, and this one exports nothing yet. What the earlier one told counts until it does, or
            # until no route leads to it any more: a neighbour may not have noticed that the earlier one is gone.
            self._ended.add(owner)
            self.receipts.world_changes(owner, changes, self._bridges_of_region(), now)
            return
        if owner in self._ended:
            self._ended.discard(owner)
            changes = [*changes, *self._stale(owner)]
        self._told_changed(owner, changes)
        if region != self.region:
            if region not in self.reach.regions():
                self.reach.set_live(region, self.routes.live_bridges(region))
            self.reach.told(region, bridge)
            self.changed = True
            for change in changes:
                if change.key[0] in (FILTER_KEY, GROUP_KEY):
                    try:
                        value = None if change.value is None else _count.decode(change.value)
                        if value is not None:
                            check_interest_key(change.key)
                    except (msgspec.DecodeError, ValueError) as error:
                        self.effects.append(
                            Notify("bad_entry", f"{owner} {change.key[:80]}", Close.MALFORMED, str(error))
                        )
                        continue
                    self.reach.set_entry(region, bridge, change.key, value)
                    self.changed = True
        self.receipts.world_changes(owner, changes, self._bridges_of_region(), now)

    def _stale(self, owner: str) -> list[Change]:
        """What an earlier process of a bridge told and this one does not."""
        region, _, bridge = owner.partition("/")
        told = self.reach.keys(region, bridge)
        for other in self.reach.regions():
            told |= {told_key(other, key) for key in self.reach.keys(other, owner)}
        position = self.world.position(owner)
        epoch = 0 if position is None else position.epoch
        items = {key for key, _ in self.world.items(owner)}
        return [Change(owner, epoch, key, None) for key in sorted(told - items)]

    def _told_changed(self, owner: str, changes: Iterable[Change]) -> None:
        """What a boundary tells of regions beyond it."""
        gone: set[str] = set()
        for change in changes:
            if change.key[0] != TOLD_KEY:
                continue
            try:
                region, key = split_told_key(change.key)
            except ValueError:
                continue
            value = None
            if change.value is not None:
                wanted = read_entry("", change.key, change.value)
                if wanted is None or (self.region in wanted.via and not owner.startswith(f"{self.region}/")):
                    continue  # unreadable, or the echo of what this region told
                value = wanted.value
            if region == self.region:
                continue
            if region not in self.reach.regions():
                self.reach.set_live(region, self.routes.live_bridges(region))
            self.reach.set_entry(region, owner, key, value)
            if value is None:
                gone.add(region)
            self.changed = True
        if gone:
            prefixes = tuple(f"{TOLD_KEY}{region}/" for region in gone)
            left = {
                key.partition("/")[0][1:] for key, _ in self.world.items(owner) if key.startswith(prefixes)
            }
            for region in gone - left:
                self.reach.forget(region, owner)

    # -- time ----------------------------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Bring the machines in step after a burst of frames or calls: routes into tables, news onto links."""
        self._take_membership(now)
        self._take_routes(now)
        if not self.is_bridge:
            self.world.ends_earlier = self.hears_members(now)
            if self._bridged and self.world.ends_earlier:
                self._become_bridge(now)
        if self.is_bridge:
            if self.frontier.settle(now):
                self.changed = True
            self.receipts.note_cover(self.world_owner)
            self.receipts.attest(self._live, now)
        self.effects.extend(self.receipts.effects)
        self.receipts.effects.clear()
        self.exchange.push_news(now)

    def _take_membership(self, now: float) -> None:
        for effect in self.membership.drain():
            self.effects.append(effect)
            if isinstance(effect, Notify) and effect.what.startswith("member_"):
                self._member_changed(effect, now)

    def _take_routes(self, now: float) -> None:
        for region, bridge, value in self.routes.take_published():
            key = f"{ROUTE_KEY}{region}/{bridge}"
            if value is None:
                self.tables.delete(key, now)
            else:
                self.tables.put(key, _encode(value), now)
        self.effects.extend(self.routes.drain())
        if self.routes.fib_generation != self._fib_seen:
            self._fib_seen = self.routes.fib_generation
            self.changed = True
            self.receipts.routes_changed(self.bridges_of_region())
        if self.routes.live_generation != self._live_seen:
            self._live_seen = self.routes.live_generation
            self.changed = True
            for region in list(self.reach.regions()):
                self.reach.set_live(region, self.routes.live_bridges(region))

    def next_deadline(self) -> float:
        due = [self.exchange.next_deadline(), self._housekeeping_at]
        for at in (
            self.membership.next_deadline(),
            self.routes.next_deadline(),
            self.advertiser.next_deadline() if self.is_bridge else None,
            self.frontier.next_deadline() if self.is_bridge else None,
        ):
            if at is not None:
                due.append(at)
        return min(due)

    def handle_deadline(self, now: float) -> None:
        """Let every machine do what is due."""
        self.membership.handle_deadline(now)
        self.routes.handle_deadline(now)
        if self.is_bridge:
            self.advertiser.handle_deadline(now)
        self.exchange.handle_deadline(now)
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self.tables.expire(now)
            self.world.expire(now)
            self.frontier.expire(KEPT_S, now)
            self._forget_the_long_gone(now)
        self.settle(now)

    def _forget_the_long_gone(self, now: float) -> None:
        """Tables of members that membership has forgotten, and of bridges that nobody reached for KEPT_S."""
        members = self.membership.members()
        for owner in self.tables.owners():
            if owner in members or owner == self.node:
                self._quiet.pop(owner, None)
                continue
            waits = now - self._quiet.setdefault(owner, now) <= KEPT_S and self.kept_entries(owner)
            if not waits:  # nobody there comes back for what is kept
                self._quiet.pop(owner, None)
                for change in self.tables.forget(owner, now):
                    self._kept_entry(owner, change.key, None, now)
                self._epochs.pop(owner, None)
                # Its bit goes to another name: without that every name a region ever had would make all masks longer.
                self.interest.drop_bit(self.destinations.find(NODE + owner))
                self.destinations.release(NODE + owner)
                self.changed = True
        for owner in self.world.owners():
            region, _, bridge = owner.partition("/")
            of_link = bridge.partition(OF_LINK)[0]
            near = (
                of_link in self._live
                if region == self.region
                else of_link in self.routes.live_bridges(region)
            )
            if near or owner == self.world_owner:
                self._quiet.pop(owner, None)
            elif now - self._quiet.setdefault(owner, now) > KEPT_S:
                del self._quiet[owner]
                self._told_changed(owner, self.world.forget(owner, now))
                self._ended.discard(owner)
                if region != self.region:
                    self.reach.forget(region, bridge)
                self.changed = True

    def leave(self, now: float) -> None:
        """Withdraw routes and tell the region; links are closed by the caller once they are empty."""
        self.routes.retract_all(now)
        self.membership.leave(now)
        self.settle(now)

    def own_position(self) -> Version:
        """Where the own REGION table stands."""
        return self.tables.position(self.node) or Version(self.settings.epoch, 0)

    def attested_regions(self) -> set[str]:
        """Regions that wrote receipts: for views."""
        return {
            owner.partition("/")[0]
            for owner in self.world.owners()
            if any(key[0] == HOLDS_KEY for key, _ in self.world.items(owner))
        }
