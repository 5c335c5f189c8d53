"""A mesh in virtual time: the real machines of many nodes, a network that misbehaves as it is told, one seed.

Decides when bytes arrive and when deadlines strike; every decision of the mesh itself is taken by the same `NodeMachine`
that runs in production. No trio, no wall clock: a run is a function of its seed and of what is done to the world.
Invariant: two runs with the same seed and the same calls are equal to the last delivery.

The network: a link is a stream (nothing is lost or reordered on it while it lives; loss costs time, as TCP's retransmission
does), with latency by great-circle distance, jitter, bandwidth and one-way cuts. `Chaos` adds what streams never do to
control frames between nodes, so that the state machines prove that they do not depend on it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from mesh.core.effects import CloseLink, Notify, Send
from mesh.core.inboxes import Ended
from mesh.core.session import Terms
from mesh.model.event import Delivery, Event, NewEvent
from mesh.model.geo import one_way_ms
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.node.machine import NodeMachine
from mesh.node.settings import NodeSettings
from mesh.wire import frames as wire
from mesh.wire.codec import FrameReader, encode, encode_data
from mesh.wire.frames import BatchHeader, Data

WALL_S = 1_700_000_000
"""Wall clock at virtual time 0."""
DIAL_S = (0.2, 2.0)
RTO_S = 0.2
"""What a lost segment costs at least (RFC 6298 section 2.4 allows 1 s; common stacks use 0.2 s)."""
SESSION_FRAMES = (wire.Open, wire.CloseLink, wire.Hello, wire.Heard, wire.Ack, Data)
"""Frames of the stream's own session: chaos leaves them alone."""


@dataclass(slots=True)
class Chaos:
    """Faults of the whole network. loss: probability that a segment is late by a retransmission. jitter: fraction of the
    latency. drop, duplicate, reorder: probabilities for control frames that streams would never lose."""

    loss: float = 0.0
    jitter: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    bandwidth_bytes_s: float = 125e6


class Delivered(NamedTuple):
    """One delivery to a client: when, where, to whom, and what."""

    at: float
    node: NodeKey
    session: int
    mesh_id: tuple[str, str, int, int]
    delivery: Delivery


@dataclass(slots=True)
class Wire:
    """One direction of a connection. free_at: when the line has sent what it was given. last_at: order of arrivals."""

    latency_s: float
    free_at: float = 0.0
    last_at: float = 0.0
    cut: bool = False
    held: list[wire.Frame] = field(default_factory=list)


@dataclass(slots=True)
class Connection:
    """A link between two nodes: numbers at both ends, a wire each way."""

    a: SimNode
    b: SimNode
    link_a: int
    link_b: int
    to_b: Wire
    to_a: Wire
    dead: bool = False

    def end(self, node: SimNode) -> tuple[int, SimNode, int, Wire]:
        """(own link, other node, its link, wire towards it)."""
        if node is self.a:
            return self.link_a, self.b, self.link_b, self.to_b
        return self.link_b, self.a, self.link_a, self.to_a


class SimNode:
    """One node: a machine that lives, crashes and returns, with its dialler and its clients."""

    def __init__(
        self, world: World, key: NodeKey, place: tuple[float, float], bridges: dict[str, Terms]
    ) -> None:
        self.world = world
        self.key = key
        self.place = place
        self.bridges = bridges
        self.epoch = 0
        self.skew_s = 0.0
        self.slow_s = 0.0
        """Every burst waits so long before this node looks at it."""
        self.up = False
        self.connections: dict[int, Connection] = {}
        self.targets: list[tuple[NodeKey, Terms]] = []
        """Nodes this one dials, and how: its seeds and its bridges."""
        self.ended: list[Ended] = []
        self.notices: list[tuple[float, Notify]] = []
        self.subscriptions: dict[tuple[int, int], tuple[str, str]] = {}
        """What clients asked for: (session, sid) -> (filter, group). Asked again after a restart."""
        self._dialling: dict[NodeKey, float] = {}
        self._armed = float("inf")
        self._generation = 0
        self.machine: NodeMachine

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start again as a new process."""
        world = self.world
        assert not self.up
        self.epoch = max(self.epoch + 1, int(WALL_S + world.now + self.skew_s))
        settings = NodeSettings(
            region=self.key.region,
            node=self.key.node,
            instance=f"{self.key}#{self.epoch}",
            epoch=self.epoch,
            software="simulated",
            address=str(self.key),
            bridges=self.bridges,
            limits=world.limits,
        )
        self.machine = NodeMachine(settings, random.Random(world.dice.getrandbits(64)), world.now)
        self.up = True
        self._generation += 1
        self._armed = float("inf")
        self._dialling.clear()
        for (session, sid), (filter, group) in self.subscriptions.items():
            self.machine.subscribe(session, sid, filter, group, world.now)
        self.after()
        self._dial(self._generation)

    def crash(self) -> None:
        """kill -9: connections break for the others at once (FIN or RST)."""
        self.up = False
        for connection in list(self.connections.values()):
            self.world.sever(connection, told=True)

    def leave(self) -> None:
        """SIGTERM."""
        self.machine.leave(self.world.now)
        self.after()

    # -- clients -------------------------------------------------------------------------------------------------

    def subscribe(self, session: int, sid: int, filter: str, group: str = "") -> None:
        self.subscriptions[session, sid] = (filter, group)
        if self.up:
            self.machine.subscribe(session, sid, filter, group, self.world.now)
            self.after()

    def unsubscribe(self, session: int, sid: int) -> None:
        del self.subscriptions[session, sid]
        if self.up:
            self.machine.unsubscribe(session, sid, self.world.now)
            self.after()

    def publish(
        self, *topics: str, key: str = "", data: bytes = b"x", ttl_ms: int = 0
    ) -> list[tuple[str, str, int, int]]:
        """Publish one event per topic in one burst; returns their mesh_ids."""
        events = [NewEvent(topic, key, ttl_ms, (), data) for topic in topics]
        published = self.machine.publish(events, self.world.now)
        self.machine.flush(self.world.now)
        self.after()
        return [(self.key.region, self.key.node, self.epoch, one.seq) for one in published]

    def request(self, topic: str, timeout_s: float) -> str:
        """Send a request; its end appears in `ended`."""
        inbox = self.machine.request(NewEvent(topic, "", 0, (), b"?"), timeout_s, self.world.now)
        self.machine.flush(self.world.now)
        self.after()
        return inbox

    # -- the driver's part ---------------------------------------------------------------------------------------

    def after(self) -> None:
        """Carry out what the machine decided."""
        world, machine = self.world, self.machine
        for effect in machine.drain():
            if isinstance(effect, Send):
                connection = self.connections.get(int(effect.to))
                if connection is not None:
                    world.transmit(self, connection, effect.frame)
            elif isinstance(effect, CloseLink):
                connection = self.connections.get(int(effect.to))
                if connection is not None:
                    world.transmit(self, connection, wire.CloseLink(effect.reason.value, effect.detail))
                    world.sever(connection, told=True)
            else:
                if len(self.notices) < 10_000:
                    self.notices.append((world.now, effect))
                world.noticed(self, effect)
        for link in machine.take_ready():
            connection = self.connections.get(link)
            while connection is not None and (item := machine.pull(link, world.now)) is not None:
                world.carried(self, connection, item.header, item.body)
                world.transmit(self, connection, Data(item.header, item.body))
        for session, deliveries in machine.take_deliveries().items():
            for delivery in deliveries:
                mesh_id = (*delivery.origin, delivery.event.seq)
                world.delivered.append(Delivered(world.now, self.key, session, mesh_id, delivery))
        self.ended += machine.take_ended()
        machine.take_questions()
        deadline = machine.next_deadline()
        if deadline < self._armed:
            self._armed = deadline
            generation = self._generation
            world.at(max(deadline, world.now), lambda: self._strike(generation, deadline))

    def _strike(self, generation: int, deadline: float) -> None:
        if not self.up or generation != self._generation or deadline != self._armed:
            return
        self._armed = float("inf")
        self.machine.handle_deadline(self.world.now)
        self.after()

    def received(self, link: int, frames: list[wire.Frame]) -> None:
        """A burst arrived."""
        if self.up and link in self.connections:
            self.machine.receive(link, frames, self.world.now)
            self.after()
            # Acknowledged batches may have given credit for what waits.
            self.machine.forwarder.ready.add(link)
            self.after()

    def _dial(self, generation: int) -> None:
        """Look who should be linked and is not; look again soon."""
        if not self.up or generation != self._generation:
            return
        world, machine = self.world, self.machine
        if not machine.draining:
            linked = {session.peer_key for session in machine.sessions.values() if session.is_open}
            wanted = list(self.targets)
            own = self.key.region
            for want in machine.control.membership.wanted_links(world.now):
                wanted.append((NodeKey(own, want.node), Terms(expect_region=own)))
            for key, terms in wanted:
                if key != self.key and key not in linked and self._dialling.get(key, 0.0) <= world.now:
                    self._dialling[key] = world.now + world.dice.uniform(0.5, 1.0)
                    world.dial(self, key, terms)
        world.at(world.now + world.dice.uniform(*DIAL_S) / 2, lambda: self._dial(generation))


class World:
    """All nodes, the network between them, and time.

    Args:
        seed: of every chance in the run. limits: of every node. through_codec: encode and decode every frame.
    """

    def __init__(self, seed: int, *, limits: Limits | None = None, through_codec: bool = False) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.now = 0.0
        self.limits = limits or Limits()
        self.chaos = Chaos()
        self.nodes: dict[NodeKey, SimNode] = {}
        self.delivered: list[Delivered] = []
        self.blocked: set[tuple[NodeKey, NodeKey]] = set()
        """One-way cuts: from, to."""
        self.on_notice: list[Callable[[SimNode, Notify], None]] = []
        self.on_batch: list[Callable[[SimNode, SimNode, BatchHeader, bytes], None]] = []
        self.steps = 0
        self._through_codec = through_codec
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()

    # -- building ------------------------------------------------------------------------------------------------

    def node(
        self, region: str, name: str, place: tuple[float, float] = (0.0, 0.0), bridges: Iterable[str] = ()
    ) -> SimNode:
        """Add a node (not started). bridges: regions it has a `[[bridge]]` for."""
        key = NodeKey(region, name)
        assert key not in self.nodes
        node = SimNode(self, key, place, {to: Terms(expect_region=to) for to in bridges})
        self.nodes[key] = node
        return node

    def seed_link(self, a: SimNode, b: SimNode, terms: Terms | None = None) -> None:
        """`a` dials `b`, always."""
        a.targets.append((b.key, terms or Terms(expect_region=b.key.region)))

    # -- time ----------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        heapq.heappush(self._heap, (when, next(self._count), action))

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            when, _, action = heapq.heappop(self._heap)
            assert when >= self.now - 1e-9
            self.now = max(self.now, when)
            self.steps += 1
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> float | None:
        """Run until a condition holds; returns how long it took, None when it never did within the limit."""
        begun = self.now
        while not condition():
            if self.now - begun >= limit_s:
                return None
            self.run(step_s)
        return self.now - begun

    # -- network -------------------------------------------------------------------------------------------------

    def latency_s(self, a: SimNode, b: SimNode) -> float:
        """One way, without jitter."""
        return one_way_ms(a.place, b.place) / 1e3

    def dial(self, node: SimNode, key: NodeKey, terms: Terms) -> None:
        """A TCP connect: takes a round trip, and the other end must be up and reachable both ways."""
        other = self.nodes.get(key)
        if other is None:
            return
        latency = self.latency_s(node, other)
        generation = node._generation

        def connected() -> None:
            if not (node.up and other.up) or generation != node._generation:
                return
            if (node.key, key) in self.blocked or (key, node.key) in self.blocked:
                return
            self._connect(node, other, terms, latency)

        self.at(self.now + 2 * latency, connected)

    def _connect(self, a: SimNode, b: SimNode, terms: Terms, latency: float) -> None:
        def wall_ms(node: SimNode) -> int:
            return int((WALL_S + self.now + node.skew_s) * 1e3)

        link_a = a.machine.link_connected(dialled=True, terms=terms, wall_ms=wall_ms(a), now=self.now)
        link_b = b.machine.link_connected(dialled=False, terms=Terms(), wall_ms=wall_ms(b), now=self.now)
        connection = Connection(a, b, link_a, link_b, Wire(latency), Wire(latency))
        a.connections[link_a] = connection
        b.connections[link_b] = connection
        a.after()
        b.after()

    def transmit(self, sender: SimNode, connection: Connection, frame: wire.Frame) -> None:
        """Put a frame on its way."""
        if connection.dead:
            return
        _, other, _, way = connection.end(sender)
        chaos = self.chaos
        if not isinstance(frame, SESSION_FRAMES):
            if chaos.drop and self.dice.random() < chaos.drop:
                return
            if chaos.duplicate and self.dice.random() < chaos.duplicate:
                self._send(sender, connection, way, frame, ordered=True)
            if chaos.reorder and self.dice.random() < chaos.reorder:
                self._send(sender, connection, way, frame, ordered=False)
                return
        self._send(sender, connection, way, frame, ordered=True)

    def _send(
        self, sender: SimNode, connection: Connection, way: Wire, frame: wire.Frame, *, ordered: bool
    ) -> None:
        if way.cut or (sender.key, connection.end(sender)[1].key) in self.blocked:
            if len(way.held) < 10_000:
                way.held.append(frame)
            return
        chaos = self.chaos
        size = 64 + (len(frame.body) if isinstance(frame, Data) else 0)
        way.free_at = max(way.free_at, self.now) + size / chaos.bandwidth_bytes_s
        delay = way.latency_s * (1.0 + (self.dice.random() * chaos.jitter if chaos.jitter else 0.0))
        if chaos.loss and self.dice.random() < chaos.loss:
            delay += RTO_S + 2 * way.latency_s
        arrival = way.free_at + delay
        if ordered:
            arrival = max(arrival, way.last_at)
            way.last_at = arrival
        else:
            arrival += self.dice.uniform(0.0, 0.3)
        self.at(arrival, lambda: self._arrive(sender, connection, frame))

    def _arrive(self, sender: SimNode, connection: Connection, frame: wire.Frame) -> None:
        _, receiver, link, _ = connection.end(sender)
        if connection.dead and not isinstance(frame, wire.CloseLink):
            return
        if self._through_codec:
            data = encode_data(frame.header, frame.body) if isinstance(frame, Data) else encode(frame)
            [frame] = FrameReader(self.limits.frame_bytes).feed(data)
        if receiver.slow_s:
            self.at(self.now + receiver.slow_s, lambda: receiver.received(link, [frame]))
        else:
            receiver.received(link, [frame])

    def sever(self, connection: Connection, *, told: bool) -> None:
        """End a connection. told: both ends that live notice (FIN or RST) after the latency; otherwise nobody does."""
        if connection.dead:
            return
        connection.dead = True
        if not told:
            return
        for node, link in ((connection.a, connection.link_a), (connection.b, connection.link_b)):
            generation = node._generation

            def lost(node: SimNode = node, link: int = link, generation: int = generation) -> None:
                if (
                    node.up
                    and generation == node._generation
                    and node.connections.pop(link, None) is not None
                ):
                    node.machine.link_lost(link, Close.LINK_LOST, "the connection ended", self.now)
                    node.after()

            self.at(self.now + connection.to_a.latency_s, lost)

    def cut(self, a: NodeKey, b: NodeKey, *, both: bool = True) -> None:
        """Nothing passes from a to b any more (and back): what is sent is held, as by a stalled stream."""
        self.blocked.add((a, b))
        if both:
            self.blocked.add((b, a))

    def heal(self, a: NodeKey | None = None, b: NodeKey | None = None) -> None:
        """End the cuts between two nodes, or all of them; streams that still live deliver what they held."""
        if a is None or b is None:
            self.blocked.clear()
        else:
            self.blocked -= {(a, b), (b, a)}
        seen: set[int] = set()
        for node in self.nodes.values():
            for connection in list(node.connections.values()):
                if id(connection) in seen or connection.dead:
                    continue
                seen.add(id(connection))
                for end in (connection.a, connection.b):
                    _, other, _, way = connection.end(end)
                    if (end.key, other.key) not in self.blocked and not way.cut and way.held:
                        held, way.held = way.held, []
                        for frame in held:
                            self._send(end, connection, way, frame, ordered=True)

    # -- watching ------------------------------------------------------------------------------------------------

    def noticed(self, node: SimNode, notify: Notify) -> None:
        """A machine noticed something."""
        for watcher in self.on_notice:
            watcher(node, notify)

    def carried(self, sender: SimNode, connection: Connection, header: BatchHeader, body: bytes) -> None:
        """A batch leaves a node."""
        for watcher in self.on_batch:
            watcher(sender, connection.end(sender)[1], header, body)

    def drops(self) -> dict[str, int]:
        """Drops of all running nodes by reason."""
        total: dict[str, int] = {}
        for node in self.nodes.values():
            if node.up:
                for reason, events in node.machine.counters.drops.items():
                    total[reason.value] = total.get(reason.value, 0) + events
        return total


def events_of(delivered: Iterable[Delivered]) -> list[Event]:
    """The events of deliveries, in order of delivery."""
    return [one.delivery.event for one in delivered]
