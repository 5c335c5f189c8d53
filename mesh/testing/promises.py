"""What at-least-once delivery promises, held against what a world saw: accepted is delivered, to everybody, and nothing is left over.

Decides whether P4 (each accepted event reached everybody who had asked before, or a dead letter says why not), P5 (at most one
delivery that does not say that it may repeat), P6 (queue groups), P8 (nothing is left in stores, lanes and queues), P11 (one copy a
link, but for what says that it is sent again) and the order of keys hold. Never changes a world.
Who asked is remembered when an event was taken in: whoever had subscribed when the world was last steady, and never gave it up, is
to get it. Plain sessions end with their process, and with their node's being taken for dead by its region.
Source: design page "Routing", Delivery and Properties every simulation checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from mesh.core.custody.mirror import split
from mesh.core.custody.record import MIRRORED
from mesh.core.effects import Notify
from mesh.model.ids import NodeKey
from mesh.model.topic import matches
from mesh.testing.monitor import Violation
from mesh.testing.oracle import Oracle
from mesh.testing.sim_client import Delivered
from mesh.testing.world import MeshId, SimNode, World
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

Receiver: TypeAlias = tuple[NodeKey, str]
"""A durable client by its name, or a session of one process as SESSION#PROCESS."""
NAMED: Final = 5
"""Of events that share a fate so many are named."""


class Asks(NamedTuple):
    """A subscription that counts."""

    who: Receiver
    sid: int
    filter: str
    group: str


class Owed(NamedTuple):
    """Who is to get an event that `origin` took in: each of `receivers`, and one member of each group. calm: in
    times without faults. at: when that was."""

    topic: str
    origin: NodeKey
    receivers: tuple[Asks, ...]
    groups: tuple[Asks, ...]
    calm: bool
    at: float


def receiver(node: SimNode, session: int, client: str) -> Receiver:
    """The name of whoever got something: a session ends with its process, a durable client does not."""
    if client:
        return node.world.joined[client], client
    return node.key, f"{session}#{node.generation}"


@dataclass(slots=True)
class Promises:
    """Attach one to a world before its nodes start, and tell it when everybody knows who asks for what (`begin`).

    faultless: nothing went wrong lately: events come exactly once, in order, and over each link once.
    """

    world: World
    faultless: bool = False
    violations: list[Violation] = field(default_factory=list)
    copies: int = 0
    repeated: int = 0
    events: int = 0
    reorders: int = 0
    deliveries: int = 0
    _steady: list[Asks] = field(default_factory=list)
    _dead: set[NodeKey] = field(default_factory=set)
    """Nodes that their region took for dead."""
    _got: dict[MeshId, set[Receiver]] = field(default_factory=dict)
    _unflagged: set[tuple[Receiver, MeshId, tuple[int, ...]]] = field(default_factory=set)
    _group_got: dict[MeshId, Counter[tuple[str, str]]] = field(default_factory=dict)
    _last: dict[tuple[Receiver, str, str, int, str], int] = field(default_factory=dict)
    _owed: dict[MeshId, Owed] = field(default_factory=dict)
    _sent: set[tuple[MeshId, NodeKey, NodeKey, Leg, tuple[str, ...]]] = field(default_factory=set)
    _checked: int = 0
    _taken: int = 0
    _accepted: dict[NodeKey, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world.on_settled.append(self._settled)
        self.world.on_batch.append(self._carried)
        self.world.on_notice.append(self._noticed)

    def begin(self) -> None:
        """Everybody knows by now who asks for what: these are the subscriptions that count, of processes that run."""
        self._dead.clear()
        self._steady = []
        for node in self.world.nodes.values():
            for (session, sid), (filter, group) in node.subscriptions.items():
                if node.up:
                    self._steady.append(Asks(receiver(node, session, ""), sid, filter, group))
            for client in node.durable.values():
                for sid, (filter, group) in client.subscriptions.items():
                    self._steady.append(Asks((node.key, client.name), sid, filter, group))

    def _noticed(self, node: SimNode, notify: Notify) -> None:
        if notify.what in ("member_dead", "member_left"):
            self._dead.add(NodeKey(node.key.region, notify.about))

    def note(self, prop: str, detail: str) -> None:
        self.violations.append(Violation(prop, self.world.now, detail))

    # -- as it happens ---------------------------------------------------------------------------------------------

    def _settled(self, node: SimNode) -> None:
        world = self.world
        while self._taken < len(world.taken):
            taken = world.taken[self._taken]
            self._taken += 1
            if taken.kept:
                asks = [one for one in self._steady if matches(one.filter, taken.topic)]
                plain = tuple(one for one in asks if not one.group)
                groups = tuple(one for one in asks if one.group)
                owed = Owed(taken.topic, taken.node, plain, groups, self.faultless, taken.at)
                self._owed[taken.mesh_id] = owed
        while self._checked < len(world.delivered):
            self._delivered(world.delivered[self._checked])
            self._checked += 1

    def _delivered(self, one: Delivered) -> None:
        owed = self._owed.get(one.mesh_id)
        if owed is None:
            return
        self.deliveries += 1
        node = self.world.nodes[one.node]
        who = receiver(node, one.session, one.client)
        held = self._group_of(node, one)
        got = self._got.setdefault(one.mesh_id, set())
        repeat = who in got
        if held is None:
            got.add(who)
            if repeat and owed.calm and not node.habit.repeats:
                self.note("exact", f"{one.mesh_id} came again to {who[1]} of {who[0]}")
        else:
            self._group_got.setdefault(one.mesh_id, Counter())[held] += 1
        if not one.delivery.redelivered:
            key = (who, one.mesh_id, one.delivery.sids)
            if key in self._unflagged:
                self.note("P5", f"{one.mesh_id} twice to {who} of {one.node}, not flagged")
            self._unflagged.add(key)
        if one.event.key and not repeat and held is None:
            region, name, epoch, seq = one.mesh_id
            lane = (who, region, name, epoch, one.event.key)
            if seq < self._last.get(lane, -1):
                self.reorders += 1
                if owed.calm and not node.habit.repeats:
                    self.note("order", f"{one.mesh_id} came to {who[1]} of {who[0]} after {self._last[lane]}")
            self._last[lane] = max(seq, self._last.get(lane, -1))
            if self.world.rules.of(one.event.topic).ordered and (one.client or owed.at > node.began_at):
                self._ordered(one, who)

    def _ordered(self, one: Delivered, who: Receiver) -> None:
        """Of an ordered topic every first delivery comes in the order of its origin and key, whatever goes wrong: of all
        that was published since a durable client, or a session, subscribed."""
        region, name, epoch, seq = one.mesh_id
        chain = (who, region, name, epoch, f"{one.event.topic}\n{one.event.key}")
        last = self._last.get(chain, -1)
        if seq < last:
            self.note(
                "ordered", f"{one.mesh_id} of {one.event.topic} came to {who[1]} of {who[0]} after {last}"
            )
        self._last[chain] = max(seq, last)

    @staticmethod
    def _group_of(node: SimNode, one: Delivered) -> tuple[str, str] | None:
        """(group, filter) that a delivery is for."""
        if len(one.delivery.sids) != 1:
            return None
        [sid] = one.delivery.sids
        if one.client:
            joined = node.world.nodes[node.world.joined[one.client]]
            filter, group = joined.durable[one.client].subscriptions.get(sid, ("", ""))
        else:
            filter, group = node.asked.get((one.session, sid), ("", ""))
        return (group, filter) if group else None

    def _carried(self, sender: SimNode, to: SimNode, header: BatchHeader, body: bytes) -> None:
        if not header.flags & Flag.CUSTODY:
            return
        self.copies += 1
        if header.flags & Flag.REDELIVERED:
            self.repeated += 1
            return
        regions = header.regions if header.leg is not Leg.LOCAL else ()
        groups = tuple(f"{group}/{filter}" for group, filter, _ in header.groups)
        for event in decode_body(body, header.count):
            mesh_id = (header.region, header.node, header.epoch, event.seq)
            for name in regions or ("",):
                key = (mesh_id, sender.key, to.key, header.leg, (name, *groups))
                if key in self._sent and self.faultless:
                    self.note("P11", f"{mesh_id} for {name or 'its sessions'} twice {sender.key}->{to.key}")
                self._sent.add(key)

    # -- at the end ------------------------------------------------------------------------------------------------

    def check(
        self, when: str, oracle: Oracle | None = None, excused: frozenset[str] = frozenset(), prop: str = "P4"
    ) -> list[Violation]:
        """Hold everything that was accepted since the last check against what was delivered. The world must be quiet.

        oracle: which regions can be reached; without one all can. Returns: all violations since the start."""
        letters = dead_letters(self.world)
        lost: dict[str, list[MeshId]] = {}
        for node in self.world.nodes.values():
            for _, mesh_id in node.accepted[self._accepted.get(node.key, 0) :]:
                self.events += 1
                for who in self._missing(mesh_id, oracle):
                    if mesh_id not in letters:
                        lost.setdefault(who, []).append(mesh_id)
            self._accepted[node.key] = len(node.accepted)
        for who, ids in lost.items():
            self.note(prop, f"{when}: {len(ids)} accepted events never came to {who}: {ids[:NAMED]}")
        self._check_groups()
        self._group_got.clear()
        for detail in left_over(self.world, excused):
            self.note("P8", f"{when}: {detail}")
        return self.violations

    def forgive(self) -> None:
        """Some disk is gone for good: what was accepted until now need not arrive."""
        for node in self.world.nodes.values():
            self._accepted[node.key] = len(node.accepted)

    def _check_groups(self) -> None:
        for mesh_id, served in self._group_got.items():
            if not self._owed[mesh_id].calm:
                continue
            for group, count in served.items():
                calm = not any(
                    node.habit.repeats
                    for node in self.world.nodes.values()
                    if group[::-1] in node.asked.values() or node.durable
                )
                if count != 1 and calm:
                    self.note("P6", f"{mesh_id} came {count} times to group {group}")

    def _missing(self, mesh_id: MeshId, oracle: Oracle | None) -> Iterator[str]:
        owed = self._owed[mesh_id]
        got = self._got.get(mesh_id, set())
        reached = None if oracle is None else oracle.reachable(owed.origin.region)
        for asks in owed.receivers:
            who = asks.who
            if who not in got and (reached is None or who[0].region in reached) and self._still_there(asks):
                yield f"{who[1]} of {who[0]}"
        served = self._group_got.get(mesh_id, Counter())
        for name in dict.fromkeys((asks.group, asks.filter) for asks in owed.groups):
            members = [asks for asks in owed.groups if (asks.group, asks.filter) == name]
            if not served[name] and any(
                self._still_there(asks) and (reached is None or asks.who[0].region in reached)
                for asks in members
            ):
                yield f"group {name[0]} of {name[1]}"

    def _still_there(self, asks: Asks) -> bool:
        """Whether it asks for the topic still: a session whose process ended, or was taken for dead, does not."""
        node = self.world.nodes[asks.who[0]]
        name, _, process = asks.who[1].partition("#")
        held = (asks.filter, asks.group)
        if not process:
            client = node.durable.get(name)
            return node.up and client is not None and client.subscriptions.get(asks.sid) == held
        if int(process) != node.generation or not node.up or node.key in self._dead:
            return False
        return node.subscriptions.get((int(name), asks.sid)) == held

    def cut_off(self, oracle: Oracle) -> frozenset[str]:
        """Parts of regions that some region never reaches, whatever heals: link roles do not let it."""
        regions = {key.region for key in self.world.nodes}
        live = {node.key.region for node in self.world.live_nodes()}
        return frozenset(f"r/{far}" for near in live for far in regions - oracle.reachable(near))


def dead_letters(world: World) -> dict[MeshId, str]:
    """Events of which a dead letter is kept somewhere, and its reason."""
    found: dict[MeshId, str] = {}
    for node in world.live_nodes():
        letters = node.machine.custody.letters
        for number in letters.numbers():
            letter = letters.get(number)
            if letter is not None:
                region, name, epoch, seq = letter.mesh_id.split("/")
                found[region, name, int(epoch), int(seq)] = letter.reason
    return found


def _owed_part(part: str) -> str:
    """The part as its owner calls it, also where its mirror keeps it."""
    return split(part)[2] if part.startswith(MIRRORED) else part


def left_over(world: World, excused: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is still held by nodes of a quiet world in which everything was delivered. excused: parts that may wait."""
    for node in world.live_nodes():
        custody = node.machine.custody
        entries = [
            (entry.lsn, entry.parts)
            for entry in node.store.outstanding()
            if not excused or any(_owed_part(part) not in excused for part in entry.parts)
        ]
        if len(entries) != len(custody.letters):
            yield f"{node.key} keeps {len(node.store)} records, {len(custody.letters)} dead letters: {entries[:NAMED]}"
        held = [lsn for lsn, one in custody.departure.held.items() if not excused.issuperset(one.open)]
        if held:
            yield f"{node.key} holds {sorted(held)[:NAMED]}"
        for part, lane in custody.departure.lanes.items():
            if lane.under_way or lane.bytes or lane.events or (lane.waiting and part not in excused):
                yield f"{node.key}: lane {part} has {lane.under_way} under way, {len(lane.waiting)} waiting"
        for session in node.machine.sessions.values():
            if session.custody:
                yield f"{node.key}: link to {session.peer_key} owes {len(session.custody)}"
        if custody.arrival._unsaid:
            yield f"{node.key} has not acknowledged what came over links {sorted(custody.arrival._unsaid)}"
        if waiting := custody.spools.waiting():
            yield f"{node.key}: spools count {waiting}"
        told = custody.consumers.statistics()
        if told.out or told.waiting or told.waiting_bytes:
            yield f"{node.key}: {told.out} events out at clients, {told.waiting} wait ({told.waiting_bytes} bytes)"
        copied = [one for one in custody.copies.store.copied.values() if not excused.issuperset(one.parts)]
        if copied or custody.copies.store.awaited:
            yield f"{node.key}: {len(copied)} records are to have a second copy"
        for owner, records in custody.pairs.mirror.kept.items():
            kept = [one for one in records.values() if not excused.issuperset(one.parts)]
            if kept:
                yield f"{node.key} keeps {len(kept)} records for {owner}"
        if node.store.settled_twice:
            yield f"{node.key} settled twice: {node.store.settled_twice[:NAMED]}"
