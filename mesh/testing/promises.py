"""What at-least-once delivery promises, held against what a world saw: accepted is delivered, to everybody, and nothing is left over.

Decides whether P4 (each accepted event reached everybody who had asked before, or a dead letter says why not), P5 (at most one
delivery that does not say that it may repeat), P6 (queue groups), P8 (nothing is left in stores, lanes and queues), P11 (one copy a
link, but for what says that it is sent again) and the order of keys hold. Never changes a world.
Who asked is remembered when an event was accepted: whoever subscribed before and never gave it up is to get it.
Source: design page "Routing", Delivery and Properties every simulation checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from mesh.model.ids import NodeKey
from mesh.model.topic import matches
from mesh.testing.monitor import Violation
from mesh.testing.sim_node import Delivered
from mesh.testing.world import MeshId, SimNode, World
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

Receiver: TypeAlias = tuple[NodeKey, str]
"""A durable client by its name, or a session of one process as SESSION#PROCESS."""
NAMED: Final = 5
"""Of events that share a fate so many are named."""


class Owed(NamedTuple):
    """Who is to get an event. receivers: each of them; process: of sessions, 0 for durable clients. groups: one member of each."""

    receivers: tuple[Receiver, ...]
    groups: tuple[tuple[str, str], ...]


def receiver(node: SimNode, session: int, client: str) -> Receiver:
    """The name of whoever got something: a session ends with its process, a durable client does not."""
    return node.key, client or f"{session}#{node.generation}"


@dataclass(slots=True)
class Promises:
    """Attach one to a world before its nodes start. since: subscriptions that stand at `begin` and later are what counts.

    faultless: no process ended, nothing was cut: every group's event came exactly once, and nothing was sent twice.
    """

    world: World
    faultless: bool = False
    violations: list[Violation] = field(default_factory=list)
    copies: int = 0
    repeated: int = 0
    _got: dict[MeshId, set[Receiver]] = field(default_factory=dict)
    _unflagged: set[tuple[Receiver, MeshId, tuple[int, ...]]] = field(default_factory=set)
    _group_got: dict[MeshId, Counter[tuple[str, str]]] = field(default_factory=dict)
    _last: dict[tuple[Receiver, str, str, int, str], int] = field(default_factory=dict)
    _owed: dict[MeshId, tuple[str, Owed]] = field(default_factory=dict)
    _checked: int = 0
    _taken: int = 0
    _sent: set[tuple[MeshId, NodeKey, NodeKey, Leg, tuple[str, ...]]] = field(default_factory=set)
    reorders: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world.on_settled.append(self._settled)
        self.world.on_batch.append(self._carried)

    def note(self, prop: str, detail: str) -> None:
        self.violations.append(Violation(prop, self.world.now, detail))

    # -- as it happens ---------------------------------------------------------------------------------------------

    def _settled(self, node: SimNode) -> None:
        world = self.world
        for taken in world.taken[self._taken :]:
            self._owed[taken.mesh_id] = taken.topic, self._who(taken.topic)
        self._taken = len(world.taken)
        for one in world.delivered[self._checked :]:
            self._delivered(one)
        self._checked = len(world.delivered)

    def _who(self, topic: str) -> Owed:
        """Everybody who asks for a topic at this moment."""
        receivers: list[Receiver] = []
        groups: dict[tuple[str, str], None] = {}
        for node in self.world.nodes.values():
            for (session, _), (filter, group) in node.subscriptions.items():
                if not matches(filter, topic):
                    continue
                if group:
                    groups[group, filter] = None
                elif node.up:
                    receivers.append(receiver(node, session, ""))
            for client in node.durable.values():
                for filter, group in client.subscriptions.values():
                    if not matches(filter, topic):
                        continue
                    if group:
                        groups[group, filter] = None
                    else:
                        receivers.append((node.key, client.name))
        return Owed(tuple(dict.fromkeys(receivers)), tuple(groups))

    def _delivered(self, one: Delivered) -> None:
        node = self.world.nodes[one.node]
        who = receiver(node, one.session, one.client)
        held = self._group_of(node, one)
        repeat = who in self._got.setdefault(one.mesh_id, set())
        if held is None:
            self._got[one.mesh_id].add(who)
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
                self.reorders.append(f"{one.mesh_id} came to {who} after {self._last[lane]}")
            self._last[lane] = max(seq, self._last.get(lane, -1))

    @staticmethod
    def _group_of(node: SimNode, one: Delivered) -> tuple[str, str] | None:
        """(group, filter) that a delivery is for."""
        if len(one.delivery.sids) != 1:
            return None
        [sid] = one.delivery.sids
        if one.client:
            filter, group = node.durable[one.client].subscriptions.get(sid, ("", ""))
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

    def check(self, *, excused: frozenset[NodeKey] = frozenset()) -> list[Violation]:
        """Hold everything that was accepted against what was delivered. The world must be quiet. excused: nodes that never came back.

        Returns: all violations since the start."""
        letters = dead_letters(self.world)
        lost: dict[str, list[MeshId]] = {}
        for node in self.world.nodes.values():
            for _, mesh_id in node.accepted:
                for who in self._missing(mesh_id, excused):
                    if mesh_id not in letters:
                        lost.setdefault(who, []).append(mesh_id)
        for who, ids in lost.items():
            self.note("P4", f"{len(ids)} accepted events never came to {who}: {ids[:NAMED]}")
        if self.faultless:
            for mesh_id, served in self._group_got.items():
                for group, count in served.items():
                    if count != 1:
                        self.note("P6", f"{mesh_id} came {count} times to group {group}")
            for detail in self.reorders:
                self.note("order", detail)
        for detail in left_over(self.world):
            self.note("P8", detail)
        return self.violations

    def _missing(self, mesh_id: MeshId, excused: frozenset[NodeKey]) -> Iterator[str]:
        topic, owed = self._owed[mesh_id]
        got = self._got.get(mesh_id, set())
        for who in owed.receivers:
            if who not in got and who[0] not in excused and self._still_there(who, topic):
                yield f"{who[1]} of {who[0]}"
        served = self._group_got.get(mesh_id, Counter())
        for group in owed.groups:
            if not served[group] and self._members(group):
                yield f"group {group[0]} of {group[1]}"

    def _still_there(self, who: Receiver, topic: str) -> bool:
        """Whether it asks for the topic still: a session whose process ended does not."""
        node = self.world.nodes[who[0]]
        name, _, process = who[1].partition("#")
        if not process:
            client = node.durable.get(name)
            return client is not None and any(
                matches(filter, topic) for filter, group in client.subscriptions.values() if not group
            )
        if int(process) != node.generation or not node.up:
            return False
        return any(
            session == int(name) and not group and matches(filter, topic)
            for (session, _), (filter, group) in node.subscriptions.items()
        )

    def _members(self, group: tuple[str, str]) -> bool:
        held = (group[1], group[0])
        return any(
            held in node.subscriptions.values()
            or any(held in client.subscriptions.values() for client in node.durable.values())
            for node in self.world.live_nodes()
        )


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


def left_over(world: World) -> Iterator[str]:
    """What is still held by nodes of a quiet world in which everything was delivered."""
    for node in world.live_nodes():
        custody = node.machine.custody
        if len(node.store) != len(custody.letters):
            entries = [(entry.lsn, entry.parts) for entry in node.store.outstanding()]
            yield f"{node.key} keeps {len(node.store)} records, {len(custody.letters)} dead letters: {entries[:NAMED]}"
        if custody.departure.held:
            yield f"{node.key} holds {sorted(custody.departure.held)[:NAMED]}"
        for part, lane in custody.departure.lanes.items():
            if lane.under_way or lane.bytes or lane.events or lane.waiting:
                yield f"{node.key}: lane {part} has {lane.under_way} under way, {len(lane.waiting)} waiting"
        for session in node.machine.sessions.values():
            if session.owed or session.entrusted:
                yield f"{node.key}: link to {session.peer_key} owes {len(session.owed) + len(session.entrusted)}"
        if custody.arrival._unsaid:
            yield f"{node.key} has not acknowledged what came over links {sorted(custody.arrival._unsaid)}"
        if waiting := custody.spools.waiting():
            yield f"{node.key}: spools count {waiting}"
        told = custody.consumers.statistics()
        if told.out or told.waiting or told.waiting_bytes:
            yield f"{node.key}: {told.out} events out at clients, {told.waiting} wait ({told.waiting_bytes} bytes)"
        if node.store.settled_twice:
            yield f"{node.key} settled twice: {node.store.settled_twice[:NAMED]}"
