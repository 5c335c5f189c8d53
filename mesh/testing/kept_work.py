"""The share of a trial's work that is at least once: who listens for it, what is published, and when it must all have arrived.

Decides clients, topics and calls, each with dice of its own, so that the rest of a trial is as it would be without. What must hold is
`mesh.testing.promises`'s. Durable clients listen below KEPT alone: events at most once never come there.
Source: design page "Routing", Delivery.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from mesh.core.custody.store import StoreRefusedError
from mesh.model.ids import NodeKey
from mesh.testing.oracle import Oracle
from mesh.testing.promises import Promises, left_over
from mesh.testing.sim_client import Habit
from mesh.testing.topology import Topology
from mesh.testing.world import SimNode, World

KEPT: Final = "kept"
SHARE: Final = 0.4
"""Of the calls in bad times."""
DRAIN_S: Final = 60.0
"""After healing everything that was accepted is delivered within this virtual time."""
PEACEFUL: Final = 6
HABITS: Final = (Habit(), Habit(0.5), Habit(0.1, refuses=0.05), Habit(0.2, refuses=0.02, forgets=0.02))


class KeptWork:
    """Args: topic: draws one of the trial's. Results: `promises`, and how many calls were refused."""

    def __init__(
        self, seed: int, world: World, topology: Topology, topic: Callable[[random.Random], str]
    ) -> None:
        self.dice = random.Random(f"kept {seed}")
        self.world = world
        self.topology = topology
        self.promises = Promises(world)
        self.refused = 0
        self._topic = topic

    def begin(self) -> None:
        """Clients that acknowledge, at nodes that are about to start."""
        for key in self.topology.nodes:
            node = self.world.nodes[key]
            node.habit = self.dice.choice(HABITS)
            if self.dice.random() < 0.4 and self._may_be_home(key):
                node.join(f"client-{key.region}-{key.node}", (f"{KEPT}/{self._filter()}", ""))
            if self.dice.random() < 0.2 and self._may_be_home(key):
                node.join(f"worker-{key.region}-{key.node}", (f"{KEPT}/#", "workers"))
            if self.dice.random() < 0.4:
                node.acknowledging(9)
                node.subscribe(9, 9_001, f"{KEPT}/{self._filter()}")
                if self.dice.random() < 0.5:
                    node.subscribe(9, 9_002, f"{KEPT}/#", "workers")

    def _may_be_home(self, key: NodeKey) -> bool:
        """Interest of a dead member is not kept yet: a durable client's home has its region for itself."""
        return len(self.topology.of(key.region)) == 1

    def _filter(self) -> str:
        return self.dice.choice(("#", "+", "orders/#", "eu/+"))

    def publish(self, node: SimNode) -> None:
        """One call; a node that refuses has its publisher told so."""
        dice = self.dice
        topics = []
        for _ in range(dice.choice((1, 1, 2, 8))):
            topic = self._topic(dice)
            topics.append(f"{KEPT}/{topic}" if dice.random() < 0.7 else topic)
        key = dice.choice(("", "k1", "k2"))
        ttl_ms = dice.choice((0, 0, 0, 0, 4_000))
        try:
            node.publish_kept(*topics, key=key, ttl_ms=ttl_ms, data=b"x" * dice.choice((1, 300)))
        except StoreRefusedError:
            self.refused += 1

    def steady(self) -> None:
        """Everybody knows by now who asks for what: this counts from here on."""
        self.promises.begin()

    def peace(self) -> None:
        """Events in peace reach everybody exactly once, in order, over each link once."""
        self.steady()
        self.promises.faultless = True
        before, found = self._routes(), len(self.promises.violations)
        accepted = sum(len(node.accepted) for node in self.world.nodes.values())
        calls = 0
        for _ in range(PEACEFUL):
            node = self.dice.choice(self.world.live_nodes())
            key = self.dice.choice(("k1", "k2"))
            calls += len(node.publish_kept(f"{KEPT}/{self._topic(self.dice)}", key=key))
        self.quiet("in peace")
        accepted = sum(len(node.accepted) for node in self.world.nodes.values()) - accepted
        if accepted != calls:
            self.promises.note("P4", f"{calls} events were published in peace, {accepted} accepted")
        self.promises.faultless = False
        if self._routes() != before:
            # A route followed a new measurement: order holds on a stable path, and what was refused on the old one goes again.
            calm = [one for one in self.promises.violations[found:] if one.prop not in ("order", "P11")]
            self.promises.violations[found:] = calm

    def _routes(self) -> list[int]:
        return [node.machine.control.routes.fib_generation for node in self.world.live_nodes()]

    def quiet(self, when: str, *, rolling: bool = False) -> None:
        """Run until nothing is owed to anybody, and hold everything that was accepted against what was delivered. rolling: P12."""
        oracle = Oracle(self.world)
        excused = self.promises.cut_off(oracle)
        self.world.run_until(lambda: not any(left_over(self.world, excused)), DRAIN_S, 0.5)
        self.world.run(1.5)
        self.promises.check(when, oracle, excused, prop="P12" if rolling else "P4")
