"""A mesh in virtual time: the real machines of many nodes, a network that misbehaves as it is told, one seed.

Decides when bytes arrive and when deadlines strike; every decision of the mesh itself is taken by the same `NodeMachine`
that runs in production. No trio, no wall clock: a run is a function of its seed and of what is done to the world.
Invariant: two runs with the same seed and the same calls are equal to the last delivery.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from itertools import count

from mesh.core.effects import Notify
from mesh.core.opening import Terms
from mesh.model.event import Event
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.model.topic_rules import TopicRules
from mesh.testing.network import Chaos, Connection, Network
from mesh.testing.sim_client import Delivered, MeshId
from mesh.testing.sim_node import ProcessDied, SimNode, Taken
from mesh.wire.frames import BatchHeader

__all__ = ["Chaos", "Connection", "Delivered", "MeshId", "SimNode", "Taken", "World", "events_of"]


class World(Network):
    """All nodes, the network between them, and time.

    Args:
        seed: of every chance in the run. limits: of every node. through_codec: encode and decode every frame.
        rules: of topics, at every node.
        merge_budget: filters a region exports before its summary merges; None: as nodes have it by default.
    """

    def __init__(
        self,
        seed: int,
        *,
        limits: Limits | None = None,
        through_codec: bool = False,
        merge_budget: int | None = None,
        rules: TopicRules | None = None,
    ) -> None:
        super().__init__(random.Random(seed), limits or Limits(), through_codec=through_codec)
        self.seed = seed
        self.merge_budget = merge_budget
        self.rules = rules or TopicRules()
        self.moves = any(rule.copies > 1 for rule in self.rules.rules)
        """Whether durable clients look for their home at other nodes when theirs is gone."""
        self.joined: dict[str, NodeKey] = {}
        """Durable client -> the node it joined at."""
        self.delivered: list[Delivered] = []
        self.taken: list[Taken] = []
        self.buried: dict[Drop, int] = {}
        """Drops that were counted by processes which are gone, and what died with them."""
        self.short = 0
        """Events that processes which are gone had accepted with one copy where a rule wants two."""
        self.on_notice: list[Callable[[SimNode, Notify], None]] = []
        self.on_batch: list[Callable[[SimNode, SimNode, BatchHeader, bytes], None]] = []
        self.on_settled: list[Callable[[SimNode], None]] = []
        self.on_step: Callable[[SimNode, str], None] | None = None
        """Told of each moment of the custody protocol; may end the process there (`ProcessDied`)."""
        self.steps = 0
        self.batched_at = 0.0
        """When a batch was last sent."""
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
            try:
                action()
            except ProcessDied as died:
                died.node.crash(told=died.told, wiped=died.wiped)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_s: float, step_s: float = 0.05) -> float | None:
        """Run until a condition holds; returns how long it took, None when it never did within the limit."""
        begun = self.now
        while not condition():
            if self.now - begun >= limit_s:
                return None
            self.run(step_s)
        return self.now - begun

    # -- watching ------------------------------------------------------------------------------------------------

    def noticed(self, node: SimNode, notify: Notify) -> None:
        """A machine noticed something."""
        for watcher in self.on_notice:
            watcher(node, notify)

    def carried(self, sender: SimNode, connection: Connection, header: BatchHeader, body: bytes) -> None:
        """A batch leaves a node."""
        self.batched_at = self.now
        for watcher in self.on_batch:
            watcher(sender, connection.end(sender)[1], header, body)

    def settled(self, node: SimNode) -> None:
        """A node carried out everything it decided."""
        for watcher in self.on_settled:
            watcher(node)

    def live_nodes(self) -> list[SimNode]:
        """Running nodes, in the order in which they were added."""
        return [node for node in self.nodes.values() if node.up]

    def drops(self, *, buried: bool = False) -> dict[str, int]:
        """Drops of all running nodes by reason. buried: and of processes that are gone."""
        total: dict[str, int] = {}
        counted = [node.machine.counters.drops for node in self.nodes.values() if node.up]
        for drops in (*counted, self.buried) if buried else counted:
            for reason, events in drops.items():
                total[reason.value] = total.get(reason.value, 0) + events
        return total


def events_of(delivered: Iterable[Delivered]) -> list[Event]:
    """The events of deliveries, in order of delivery."""
    return [one.event for one in delivered]
