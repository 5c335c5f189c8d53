"""What goes wrong in a simulated world, when, and how it ends: plans of faults, drawn by a seed or written by a test.

Decides nothing about consequences: it cuts, crashes, slows and garbles. A fault names its target by an index into the
topology, so that a plan is plain data that a shrinking test can make smaller.
Invariant: after `Ailments.heal` nothing is cut, slow or garbled; nodes that a fault took down are up, but those marked gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from mesh.model.ids import NodeKey
from mesh.model.reasons import Refuse
from mesh.testing.network import Chaos, Connection
from mesh.testing.sim_node import FSYNC_S
from mesh.testing.topology import Topology
from mesh.testing.world import SimNode, World
from mesh.wire.frames import BatchHeader, Flag


class Fault(StrEnum):
    """Kinds of faults."""

    CUT = "cut"
    """Nothing passes between two linked nodes; streams stall."""
    CUT_ONE_WAY = "cut_one_way"
    RESET = "reset"
    """The connections of a pair end with a RST."""
    CRASH = "crash"
    """kill -9 of a node: FIN or RST for the others. It returns with a new epoch."""
    POWER_LOSS = "power_loss"
    """A node is gone and nobody is told. It returns with a new epoch."""
    LEAVE = "leave"
    """SIGTERM: a node says so, empties its queues and goes. It returns with a new epoch."""
    GONE = "gone"
    """A crash from which the node does not return."""
    ISOLATE = "isolate"
    """A region loses all its links to others."""
    SLOW = "slow"
    """A node looks at everything late."""
    SKEW = "skew"
    """A node restarts with a wall clock that is wrong by up to an hour."""
    NARROW = "narrow"
    """Little bandwidth between two linked nodes."""
    WEATHER = "weather"
    """Segments are lost and late everywhere, and bandwidth is small."""
    GARBLE = "garble"
    """Control frames are dropped, repeated and reordered everywhere."""
    REPEAT = "repeat"
    """Some batches arrive a second time."""
    DISK_FULL = "disk_full"
    """A node's journal takes nothing in, and its commits fail."""
    DISK_SLOW = "disk_slow"
    """A node's commits take up to seconds."""
    REGION_DOWN = "region_down"
    """The power of a whole region goes, and comes back at each node at another moment."""
    ROLLING = "rolling"
    """A region's nodes are restarted one after the other, each when the one before is back: an upgrade."""


DISK_FAULTS: Final = (Fault.DISK_FULL, Fault.DISK_SLOW, Fault.REGION_DOWN, Fault.ROLLING)
"""Those that were made for what is kept: a seed's other faults are drawn without them."""
STREAM_FAULTS: Final = tuple(fault for fault in Fault if fault not in (Fault.GARBLE, *DISK_FAULTS))


class Trouble(NamedTuple):
    """One fault. at, lasts: seconds. target: index into the linked pairs, nodes or regions. amount: 0 to 1, how bad."""

    fault: Fault
    at: float
    lasts: float
    target: int
    amount: float


def target_of(trouble: Trouble, topology: Topology) -> str:
    """Whom a fault hits, for people."""
    match trouble.fault:
        case Fault.CUT | Fault.CUT_ONE_WAY | Fault.RESET | Fault.NARROW:
            pairs = topology.pairs()
            if not pairs:
                return "nothing"
            a, b = pairs[trouble.target % len(pairs)]
            if trouble.fault is Fault.CUT_ONE_WAY:
                return f"{a} -> {b}" if trouble.amount < 0.5 else f"{b} -> {a}"
            return f"{a} - {b}"
        case Fault.ISOLATE | Fault.REGION_DOWN | Fault.ROLLING:
            return list(topology.places)[trouble.target % len(topology.places)]
        case Fault.WEATHER | Fault.GARBLE | Fault.REPEAT:
            return "everywhere"
        case _:
            return str(topology.nodes[trouble.target % len(topology.nodes)])


def draw_plan(
    dice: random.Random, count: int, span_s: float, kinds: Sequence[Fault] = tuple(Fault)
) -> list[Trouble]:
    """A random plan: `count` faults that begin within `span_s`. Cost: O(count)."""
    plan = []
    for _ in range(count):
        fault = dice.choice(kinds)
        if fault is Fault.GONE and dice.random() < 0.7:
            fault = Fault.CRASH if Fault.CRASH in kinds else Fault.RESET
        at = dice.uniform(0.0, span_s)
        lasts = dice.choice((dice.uniform(0.05, 1.0), dice.uniform(1.0, 6.0), dice.uniform(6.0, 20.0)))
        plan.append(Trouble(fault, round(at, 3), round(lasts, 3), dice.randrange(1_000), dice.random()))
    return sorted(plan, key=lambda trouble: trouble.at)


@dataclass(slots=True)
class Ailments:
    """Carries a plan out in a world, from `start` until `heal`.

    repeated: mesh_ids of events that may have been carried twice because of REPEAT. crashed: some process ended.
    """

    world: World
    topology: Topology
    plan: Sequence[Trouble]
    gone: set[NodeKey] = field(default_factory=set)
    crashed: bool = False
    repeats: int = 0
    _cuts: dict[tuple[NodeKey, NodeKey], int] = field(default_factory=dict)
    _ended: bool = False
    _repeat: float = 0.0

    def start(self) -> None:
        """Schedule all faults of the plan, from now on."""
        now = self.world.now
        self.world.on_batch.append(self._carried)
        for trouble in self.plan:
            self.world.at(now + trouble.at, lambda trouble=trouble: self._strike(trouble))  # type: ignore[misc]

    def heal(self) -> None:
        """End every fault at once: cuts end, nodes return, the network is fine."""
        world = self.world
        self._ended = True
        self._repeat = 0.0
        world.on_batch.remove(self._carried)
        world.chaos = Chaos()
        for node in world.nodes.values():
            node.slow_s = 0.0
            node.store.fault = None
            node.fsync_s = FSYNC_S
            if node.up and not node.serves:
                node.crash()
            if not node.up and node.key not in self.gone:
                node.start()
        self._cuts.clear()
        world.narrow.clear()
        world.heal()

    # -- striking ------------------------------------------------------------------------------------------------

    def _strike(self, trouble: Trouble) -> None:
        if self._ended:
            return
        pairs = self.topology.pairs()
        pair = pairs[trouble.target % len(pairs)] if pairs else None
        node = self.world.nodes[self.topology.nodes[trouble.target % len(self.topology.nodes)]]
        match trouble.fault:
            case Fault.CUT | Fault.CUT_ONE_WAY if pair is not None:
                a, b = pair if trouble.amount < 0.5 else (pair[1], pair[0])
                self._cut({(a, b)} if trouble.fault is Fault.CUT_ONE_WAY else {(a, b), (b, a)}, trouble)
            case Fault.RESET if pair is not None:
                self._reset(*pair)
            case Fault.ISOLATE:
                region = self._region(trouble)
                out = {
                    way
                    for bridge in self.topology.bridges
                    if region in (bridge.a.region, bridge.b.region)
                    for way in ((bridge.a, bridge.b), (bridge.b, bridge.a))
                }
                self._cut(out, trouble)
            case Fault.CRASH | Fault.POWER_LOSS | Fault.GONE | Fault.SKEW:
                self._crash(node, trouble)
            case Fault.LEAVE:
                self._leave(node, trouble)
            case Fault.NARROW if pair is not None:
                ways = (pair, (pair[1], pair[0]))
                self.world.narrow.update(dict.fromkeys(ways, 3e3 + 100e3 * (1.0 - trouble.amount)))
                self._later(trouble, lambda: [self.world.narrow.pop(way, 0.0) for way in ways])
            case Fault.SLOW:
                node.slow_s = 0.02 + 1.5 * trouble.amount**3
                self._later(trouble, lambda: setattr(node, "slow_s", 0.0))
            case Fault.WEATHER:
                chaos = self.world.chaos
                chaos.loss, chaos.jitter = 0.1 * trouble.amount, trouble.amount
                chaos.bandwidth_bytes_s = 20e3 + 1e6 * (1.0 - trouble.amount)
                self._later(trouble, self._clear_weather)
            case Fault.GARBLE:
                chaos = self.world.chaos
                chaos.drop = chaos.duplicate = chaos.reorder = 0.15 * trouble.amount
                self._later(trouble, self._clear_garble)
            case Fault.DISK_FULL:
                node.store.fault = Refuse.NO_SPACE if trouble.amount < 0.5 else Refuse.IO_ERROR
                self._later(trouble, lambda: setattr(node.store, "fault", None))
            case Fault.DISK_SLOW:
                node.fsync_s = 0.03 + 2.0 * trouble.amount**3
                self._later(trouble, lambda: setattr(node, "fsync_s", FSYNC_S))
            case Fault.REGION_DOWN:
                self._region_down(trouble)
            case Fault.ROLLING:
                self._roll(self.topology.of(self._region(trouble)), trouble)
            case Fault.REPEAT:
                self._repeat = trouble.amount
                self._later(trouble, lambda: setattr(self, "_repeat", 0.0))

    def _later(self, trouble: Trouble, action: object) -> None:
        def end() -> None:
            if not self._ended:
                assert callable(action)
                action()

        self.world.at(self.world.now + trouble.lasts, end)

    def _clear_weather(self) -> None:
        chaos = self.world.chaos
        chaos.loss = chaos.jitter = 0.0
        chaos.bandwidth_bytes_s = Chaos().bandwidth_bytes_s

    def _clear_garble(self) -> None:
        chaos = self.world.chaos
        chaos.drop = chaos.duplicate = chaos.reorder = 0.0

    def _cut(self, ways: set[tuple[NodeKey, NodeKey]], trouble: Trouble) -> None:
        for way in sorted(ways):
            self._cuts[way] = self._cuts.get(way, 0) + 1
            self.world.cut(*way, both=False)
        self._later(trouble, lambda: self._mend(ways))

    def _mend(self, ways: set[tuple[NodeKey, NodeKey]]) -> None:
        for a, b in sorted(ways):
            self._cuts[a, b] -= 1
        self.world.heal()
        for way, cuts in self._cuts.items():
            if cuts:
                self.world.cut(*way, both=False)

    def _reset(self, a: NodeKey, b: NodeKey) -> None:
        for connection in list(self.world.nodes[a].connections.values()):
            if b in (connection.a.key, connection.b.key):
                self.world.sever(connection, told=True)

    def _crash(self, node: SimNode, trouble: Trouble) -> None:
        if not node.up:
            return
        alone = all(key.region != node.key.region for key in self.gone)
        if trouble.fault is Fault.GONE and alone and len(self.gone) < len(self.topology.places) - 2:
            # One of a region's nodes at most, so that those who start again still find each other by their seeds.
            self.gone.add(node.key)
        self.crashed = True
        node.crash(told=trouble.fault is not Fault.POWER_LOSS)
        if trouble.fault is Fault.SKEW:
            node.skew_s = 7_200.0 * (trouble.amount - 0.5)
        self._later(trouble, lambda: self._return(node))

    def _region(self, trouble: Trouble) -> str:
        return list(self.topology.places)[trouble.target % len(self.topology.places)]

    def _region_down(self, trouble: Trouble) -> None:
        """All at once; they come back one by one, the last after `lasts`."""
        members = [self.world.nodes[key] for key in self.topology.of(self._region(trouble))]
        for at, node in enumerate(members, 1):
            if node.up:
                self.crashed = True
                node.crash(told=False)
                self._later(trouble._replace(lasts=trouble.lasts * at / len(members)), self._returner(node))

    def _returner(self, node: SimNode) -> Callable[[], None]:
        return lambda: self._return(node)

    def _roll(self, keys: Sequence[NodeKey], trouble: Trouble) -> None:
        """SIGTERM, gone, back, then the next one."""
        if not keys:
            return
        node = self.world.nodes[keys[0]]
        if node.up and node.serves:
            self.crashed = True
            node.terminate()
        self._rolled(keys, trouble)

    def _rolled(self, keys: Sequence[NodeKey], trouble: Trouble) -> None:
        def look() -> None:
            if self._ended:
                return
            node = self.world.nodes[keys[0]]
            if node.up and not node.serves:
                self._rolled(keys, trouble)
                return
            self._return(node)
            self._later(trouble._replace(lasts=2.0), lambda: self._roll(keys[1:], trouble))

        self.world.at(self.world.now + 0.3, look)

    def _leave(self, node: SimNode, trouble: Trouble) -> None:
        if node.up and node.serves:
            self.crashed = True
            node.terminate()
            self._later(trouble, lambda: self._return_when_gone(node))

    def _return_when_gone(self, node: SimNode) -> None:
        """It may still be emptying its queues."""
        if self._ended or (node.up and node.serves):
            return
        if node.up:
            self.world.at(self.world.now + 0.5, lambda: self._return_when_gone(node))
        else:
            self._return(node)

    def _return(self, node: SimNode) -> None:
        if not node.up and node.key not in self.gone:
            node.start()

    # -- repeating -----------------------------------------------------------------------------------------------

    def _carried(self, sender: SimNode, receiver: SimNode, header: BatchHeader, body: bytes) -> None:
        """Sometimes hand a batch to the receiver's forwarder a second time, a little later."""
        if self._repeat == 0.0 or self.world.dice.random() > self._repeat:
            return
        world = self.world
        connection = next(
            (c for c in sender.connections.values() if receiver in (c.a, c.b) and not c.dead), None
        )
        if connection is None:
            return
        self.repeats += header.count
        link = connection.end(sender)[2]
        generation = receiver.generation
        at = world.now + world.dice.uniform(1.0, 3.0) * connection.to_a.latency_s + 0.001

        def again() -> None:
            if receiver.up and receiver.generation == generation:
                repeat(receiver, connection, link, header, body)

        world.at(at, again)


def repeat(receiver: SimNode, connection: Connection, link: int, header: BatchHeader, body: bytes) -> None:
    """Hand a batch to a node's forwarder as if the link had carried it once more."""
    session = receiver.machine.sessions.get(link)
    if session is not None and session.is_open and not connection.dead:
        if header.flags & Flag.CUSTODY:  # who keeps a batch and sends it again says so
            if header.batch > session.flow.batches_in:
                return  # the first one is still under way, and those before it: they are acknowledged together
            again = msgspec.structs.replace(header, flags=header.flags | Flag.REDELIVERED)
            receiver.machine.custody.receive(session, again, body, receiver.now)
            receiver.machine.custody.acknowledge(receiver.now)
        else:
            receiver.machine.forwarder.receive(session, header, body, receiver.now)
        receiver.after()
