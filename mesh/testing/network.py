"""The network of a simulated world: streams between nodes that are late, stall, break, or are cut one way.

Decides when a frame arrives, never what it says. A connection is a stream: while it lives nothing on it is lost or
reordered, and loss costs time, as TCP's retransmission does. `Chaos` adds what streams never do to control frames, so
that the machines prove that they do not depend on it.
Invariant: Data frames of one connection arrive in the order in which they were sent, or the connection ends.
Source: RFC 6298 (retransmission time-out); distances from `mesh.model.geo`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mesh.core.opening import Terms
from mesh.model.geo import one_way_ms
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire import frames as wire
from mesh.wire.codec import FrameReader, encode, encode_data
from mesh.wire.frames import Data

if TYPE_CHECKING:
    from mesh.testing.sim_node import SimNode

WALL_S: Final = 1_700_000_000
"""Wall clock at virtual time 0."""
RTO_S: Final = 0.2
"""What a lost segment costs at least (RFC 6298 section 2.4 allows 1 s; common stacks use 0.2 s)."""
HELD_FRAMES: Final = 10_000
"""What a stalled stream holds before the connection ends: nothing is lost from the middle of a stream."""
SEGMENT_BYTES: Final = 64
"""What a frame costs a line beside its own bytes: headers of TCP and IP, and a batch's header."""
SESSION_FRAMES: Final = (
    *(wire.Open, wire.CloseLink, wire.Hello, wire.Heard, wire.Ack, wire.CustodyAck),
    *(wire.Copy, wire.CopyAck, wire.CopiesHeld, wire.CopiesOwed, wire.CopiedClient),
    Data,
)
"""Frames of the stream's own session, and those that rely on its order: chaos leaves them alone, but for repeating an acknowledgement."""


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

    @property
    def lossless(self) -> bool:
        """Whether control frames arrive once each and in order, as on a stream."""
        return not (self.drop or self.duplicate or self.reorder)


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
    drains: bool = False
    """Dead, and yet what was under way arrives, before the end itself does."""

    def end(self, node: SimNode) -> tuple[int, SimNode, int, Wire]:
        """(own link, other node, its link, wire towards it)."""
        if node is self.a:
            return self.link_a, self.b, self.link_b, self.to_b
        return self.link_b, self.a, self.link_a, self.to_a


class Network:
    """Connections between nodes, by virtual time.

    Args: at: schedules an action. dice: of every chance here.
    """

    def __init__(self, dice: random.Random, limits: Limits, *, through_codec: bool) -> None:
        self.dice = dice
        self.limits = limits
        self.now = 0.0
        self.chaos = Chaos()
        self.nodes: dict[NodeKey, SimNode] = {}
        self.blocked: set[tuple[NodeKey, NodeKey]] = set()
        """One-way cuts: from, to."""
        self.narrow: dict[tuple[NodeKey, NodeKey], float] = {}
        """Bytes a second from one node to another, where that is less than the network's."""
        self._through_codec = through_codec

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        raise NotImplementedError

    def latency_s(self, a: SimNode, b: SimNode) -> float:
        """One way, without jitter."""
        return one_way_ms(a.place, b.place) / 1e3

    # -- connecting ----------------------------------------------------------------------------------------------

    def dial(self, node: SimNode, key: NodeKey, terms: Terms) -> None:
        """A TCP connect: takes a round trip, and the other end must be up and reachable both ways."""
        other = self.nodes.get(key)
        if other is None:
            return
        latency = self.latency_s(node, other)
        generation = node.generation

        def connected() -> None:
            if not (node.up and other.up) or generation != node.generation:
                return
            if (node.key, key) in self.blocked or (key, node.key) in self.blocked:
                return
            self._connect(node, other, terms, latency)

        self.at(self.now + 2 * latency, connected)

    def _connect(self, a: SimNode, b: SimNode, terms: Terms, latency: float) -> None:
        def wall_ms(node: SimNode) -> int:
            return int((WALL_S + self.now + node.skew_s) * 1e3)

        link_a = a.machine.link_connected(dialled=True, terms=terms, wall_ms=wall_ms(a), now=a.now)
        link_b = b.machine.link_connected(dialled=False, terms=Terms(), wall_ms=wall_ms(b), now=b.now)
        connection = Connection(a, b, link_a, link_b, Wire(latency), Wire(latency))
        a.connections[link_a] = connection
        b.connections[link_b] = connection
        a.after()
        b.after()

    # -- frames --------------------------------------------------------------------------------------------------

    def transmit(self, sender: SimNode, connection: Connection, frame: wire.Frame) -> None:
        """Put a frame on its way."""
        if connection.dead:
            return
        _, _, _, way = connection.end(sender)
        chaos = self.chaos
        if chaos.duplicate and isinstance(frame, wire.CustodyAck) and self.dice.random() < chaos.duplicate:
            self._send(sender, connection, way, frame, ordered=True)
        if not chaos.lossless and not isinstance(frame, SESSION_FRAMES):
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
            way.held.append(frame)
            if len(way.held) > HELD_FRAMES:
                self.sever(connection, told=True)
            return
        chaos = self.chaos
        size = SEGMENT_BYTES + (len(frame.body) if isinstance(frame, Data) else len(encode(frame)))
        line = self.narrow.get((sender.key, connection.end(sender)[1].key), chaos.bandwidth_bytes_s)
        way.free_at = max(way.free_at, self.now) + size / min(line, chaos.bandwidth_bytes_s)
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
        arrives = connection.drains and receiver.connections.get(link) is connection
        if connection.dead and not arrives and not isinstance(frame, wire.CloseLink):
            return
        if self._through_codec:
            data = encode_data(frame.header, frame.body) if isinstance(frame, Data) else encode(frame)
            [frame] = FrameReader(self.limits.frame_bytes).feed(data)
        if receiver.slow_s or receiver.busy_until > self.now:
            # A slow node reads in order, too: what came while it was slow is read before what comes after.
            receiver.busy_until = max(receiver.busy_until, self.now + receiver.slow_s)
            read = frame
            self.at(receiver.busy_until, lambda: receiver.received(link, [read]))
        else:
            receiver.received(link, [frame])

    # -- ends and cuts -------------------------------------------------------------------------------------------

    def sever(self, connection: Connection, *, told: bool, drains: bool = False) -> None:
        """End a connection. told: both ends that live notice (FIN or RST) after the latency; otherwise nobody does.
        drains: what is under way arrives all the same."""
        if connection.dead:
            return
        connection.dead = True
        connection.drains = drains
        if not told:
            return
        for node, link in ((connection.a, connection.link_a), (connection.b, connection.link_b)):
            generation = node.generation

            def lost(node: SimNode = node, link: int = link, generation: int = generation) -> None:
                if node.up and generation == node.generation and node.connections.pop(link, None) is not None:
                    node.machine.link_lost(link, Close.LINK_LOST, "the connection ended", node.now)
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
