"""One seeded world's life: it settles, works in peace, suffers, heals, and works in peace again; every property is checked.

Decides the workload and the order of things; the checks themselves are in `monitor` and `invariants`.
Invariant: the same seed, size and plan give the same outcome, to the last count.
Source: design page "Architecture", Tests (sim): break first, then heal.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from federation.core.advert import REMOVE_AFTER_S
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.topic import matches
from mesh.testing import invariants
from mesh.testing.faults import DISK_FAULTS, Ailments, Fault, Trouble, draw_plan
from mesh.testing.kept_work import SHARE, KeptWork
from mesh.testing.monitor import Monitor, Sightings, Violation
from mesh.testing.oracle import Oracle, topics_of
from mesh.testing.topology import Shape, Size, Topology, draw
from mesh.testing.walk import Walk, follow
from mesh.testing.world import MeshId, SimNode, World
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader, Leg

SETTLE_S: Final = 60.0
"""P1: after the last fault tables and interest are equal to the truth within this virtual time."""
GARBLED_SETTLE_S: Final = 120.0
"""The same after control frames were lost, which streams never do: the slowest comparison of roots is each 30 s."""
BAD_TIMES_S: Final = {Size.SMALL: 25.0, Size.MEDIUM: 25.0, Size.LARGE: 15.0}
TROUBLES: Final = {Size.SMALL: (1, 10), Size.MEDIUM: (4, 20), Size.LARGE: (10, 40)}
WORDS: Final = ("orders", "eu", "us", "temp", "x")
GROUPS: Final = ("workers", "audit")
PROBES: Final = {Size.SMALL: 40, Size.MEDIUM: 25, Size.LARGE: 8}
PEACEFUL: Final = 12
"""Events published in each round of peace."""
PEACE_ROUNDS: Final = 3
QUESTIONS: Final = 4
"""Requests in each time of peace."""
ANSWER_S: Final = 3.0
"""Longer than any round trip of a world without faults."""
CLOCK_DRIFT: Final = 500e-6
"""No two monotonic clocks count alike: by so much at most (what adjtimex may slew)."""
WALL_SKEW_S: Final = 1_800.0
"""Nor do wall clocks show the same: all nodes of all worlds are off by up to half an hour."""
ENDS: Final = frozenset(
    {Fault.CRASH, Fault.POWER_LOSS, Fault.GONE, Fault.SKEW, Fault.LEAVE, Fault.REGION_DOWN, Fault.ROLLING}
)
"""Faults in which processes end."""
QUIET_S: Final = 2.0
"""No batch for so long: everything that was published has ended."""


@dataclass(slots=True)
class Outcome:
    """What a trial found. settle_s: how long it took to settle from the start, and after healing. return_s: how long after
    healing until all links were back; converge_s: from then until settled. explained: events held against their explanation.
    kept: events accepted at least once; kept_refused: calls that were not; kept_copies, kept_repeats: batches of them that were sent, and
    again; kept_reorders: first deliveries after one of a later event of the same key.
    fingerprint: of every delivery, its time and its receiver: two runs are the same only if it is."""

    seed: int
    size: Size
    shape: Shape
    nodes: int
    regions: int
    steps: int = 0
    events: int = 0
    explained: int = 0
    seen: Sightings = field(default_factory=Sightings)
    drops: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    kept_refused: int = 0
    kept_deliveries: int = 0
    kept_copies: int = 0
    kept_repeats: int = 0
    kept_reorders: int = 0
    lost: int = 0
    counted: int = 0
    settle_s: list[float] = field(default_factory=list)
    return_s: float = 0.0
    converge_s: float = 0.0
    violations: list[Violation] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.violations)


class Trial:
    """Args:
    seed: of everything. topology, plan: drawn from the seed unless given. Cost: about a second for a small world.
    """

    def __init__(
        self,
        seed: int,
        size: Size = Size.SMALL,
        *,
        topology: Topology | None = None,
        plan: Sequence[Trouble] | None = None,
    ) -> None:
        # Each with its own chance: a plan made smaller by hand or by a shrinking test leaves the rest as it was.
        self.dice = random.Random(f"work {seed}")
        self.size = size
        self.topology = topology or draw(random.Random(f"topology {seed}"), size)
        if plan is None:
            plan = self.plan_of(seed, size)
        self.plan = plan
        tight, through_codec, merging = seed % 11 == 5, seed % 5 == 0, seed % 7 == 3
        self.specials = [
            name
            for name, holds in (
                ("little credit", tight),
                ("every frame encoded and decoded", through_codec),
                ("summaries merge", merging),
            )
            if holds
        ]
        self.world = World(
            seed,
            limits=Limits(credit_bytes=3_000, credit_events=30, data_queue_bytes=4_000) if tight else None,
            through_codec=through_codec,
            merge_budget=6 if merging else None,
        )
        self.monitor = Monitor(self.world)
        self.nodes = self.topology.build(self.world)
        self.kept = KeptWork(seed, self.world, self.topology, topic_of)
        clocks = random.Random(f"clocks {seed}")
        for node in self.nodes:
            node.clock_begun_s = clocks.uniform(0.0, 1e6)
            node.clock_rate = 1.0 + clocks.uniform(-CLOCK_DRIFT, CLOCK_DRIFT)
            node.skew_s = clocks.uniform(-WALL_SKEW_S, WALL_SKEW_S)
        self.ailments = Ailments(self.world, self.topology, plan)
        self.outcome = Outcome(
            seed,
            size,
            self.topology.shape,
            len(self.nodes),
            len(self.topology.places),
            seen=self.monitor.seen,
        )
        self.began_bad_times: float | None = None
        """Virtual time from which the plan counts."""
        self.garbled = any(trouble.fault is Fault.GARBLE for trouble in plan)
        self._next_sid = 0
        self._copies: dict[MeshId, list[tuple[NodeKey, NodeKey, Leg]]] = {}
        self._copying = False
        self.world.on_batch.append(self._carried)

    @staticmethod
    def plan_of(seed: int, size: Size) -> list[Trouble]:
        """The faults a seed stands for. Cost: O(faults)."""
        dice = random.Random(f"plan {seed}")
        kinds = tuple(f for f in Fault if f not in DISK_FAULTS and (f is not Fault.GARBLE or seed % 4 == 0))
        span_s = BAD_TIMES_S[size] * 0.8
        plan = draw_plan(dice, dice.randint(*TROUBLES[size]), span_s, kinds)
        plan += draw_plan(dice, dice.randint(0, 3), span_s, DISK_FAULTS)
        return sorted(plan, key=lambda trouble: trouble.at)

    def run(self) -> Outcome:
        """Live through it all. Violations are in the outcome; nothing is raised for them."""
        self._begin()
        if self._settle("start", SETTLE_S):
            self._peace()
            self._bad_times()
            self._heal()
            self._peace()
        self._end()
        return self.outcome

    # -- phases --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.kept.begin()
        for node in self.nodes:
            for session in range(1, 1 + self.dice.randint(0, 3)):
                for _ in range(self.dice.randint(1, 3)):
                    self._subscribe(node, session)
            self.world.at(self.dice.uniform(0.0, 1.0), node.start)
        self.world.run(1.5)

    def _subscribe(self, node: SimNode, session: int) -> None:
        self._next_sid += 1
        levels = [
            "+" if self.dice.random() < 0.2 else self.dice.choice(WORDS)
            for _ in range(self.dice.randint(1, 3))
        ]
        if self.dice.random() < 0.2:
            levels.append("#")
        group = self.dice.choice(GROUPS) if self.dice.random() < 0.25 else ""
        node.subscribe(session, self._next_sid, "/".join(levels), group)

    def _settle(self, when: str, limit_s: float) -> bool:
        """Run until P1 holds. Notes a violation when it does not within the limit."""
        oracle = Oracle(self.world)
        probes = self._probes()
        took = self.world.run_until(
            lambda: not invariants.unsettled(self.world, oracle, probes), limit_s, step_s=0.25
        )
        if took is None:
            problem = invariants.unsettled(self.world, oracle, probes)
            self.monitor.note("P1", f"{when}: not settled after {limit_s:g} s: {problem}")
            self.monitor.violations += invariants.dishonest_summaries(self.world, oracle, probes)
            return False
        self.outcome.settle_s.append(took)
        for region in self.monitor.still_looping():
            self.monitor.note("P2", f"{when}: first choices towards {region} still run in a circle")
        self.world.run(REMOVE_AFTER_S + 1.0)
        self.monitor.violations += invariants.dishonest_summaries(self.world, oracle, probes)
        return True

    def _probes(self) -> list[str]:
        filters = {f for node in self.nodes for f, _ in node.subscriptions.values()}
        topics = topics_of(sorted(filters), ("x", "none"))
        self.dice.shuffle(topics)
        return topics[: PROBES[self.size]]

    def _peace(self) -> None:
        """Publish a few events, and again when routes moved meanwhile: round trips are measured on, and a route may follow
        a new measurement at any time. What was explained before such a moment is not what happens after it."""
        for _ in range(PEACE_ROUNDS):
            if self._round_of_peace():
                break
        self._questions()
        self.kept.peace()

    def _questions(self) -> None:
        """Each request ends once: with a reply where somebody wants it, else with news that nobody is there, and soon
        either way. Link roles may let a request through and no reply back: such a request waits for its time-out."""
        world = self.world
        oracle = Oracle(world)
        waiting: list[tuple[SimNode, str, tuple[str, ...]]] = []
        for node in world.live_nodes():
            node.replies = True
            node.ended.clear()
        for _ in range(QUESTIONS):
            node, topic = self.dice.choice(world.live_nodes()), self._topic()
            wanted = oracle.receivers(topic, node.key)
            regions = {key.region for key, _ in wanted.clients}
            regions |= {key.region for members in wanted.groups.values() for (key, _), _ in members}
            expected: tuple[str, ...] = ("reply",) if regions else ("no_responders", "no_members")
            if all(node.key.region in oracle.reachable(region) for region in regions):
                waiting.append((node, node.request(topic, 4 * ANSWER_S), expected))
        world.run(ANSWER_S)
        self._quiet()
        for node in world.live_nodes():
            node.replies = False
        for node, inbox, expected in waiting:
            ends = [ended for ended in node.ended if ended.inbox == inbox]
            told = ["reply" if ended.event is not None else ended.problem for ended in ends]
            if len(told) != 1 or told[0] not in expected:
                self.monitor.note("request", f"{inbox} of {node.key} ended {told}, expected was {expected}")

    def _round_of_peace(self) -> bool:
        """Publish and hold what happens against the oracle, and against what was explained if no route moved. Returns:
        none did."""
        world = self.world
        before = self._routes_now()
        oracle = Oracle(world)
        begun, taken_before = len(world.delivered), len(world.taken)
        self.monitor.strict_copies = self._copying = True
        walks: dict[MeshId, Walk] = {}
        for _ in range(PEACEFUL):
            node = self.dice.choice(world.live_nodes())
            topic = self._topic()
            forwarder = node.machine.forwarder
            mesh_id = (node.key.region, node.key.node, node.epoch, forwarder.ingress.seq + 1)
            walks[mesh_id] = follow(world, node, topic, mesh_id)
            assert node.publish(topic) == [mesh_id]
        self._quiet()
        self.monitor.strict_copies = self._copying = False
        calm = self._routes_now() == before
        for taken in world.taken[taken_before:]:
            got = invariants.delivered_to(world, taken.mesh_id, begun)
            copies = self._copies.get(taken.mesh_id, [])
            found = self.monitor.violations
            found += invariants.inexact(world, oracle, taken, got)
            if calm:
                self.outcome.explained += 1
                found += invariants.unexplained(world, walks[taken.mesh_id], taken, got, copies)
        return calm

    def _routes_now(self) -> list[int]:
        return [node.machine.control.routes.fib_generation for node in self.world.live_nodes()]

    def _topic(self) -> str:
        return topic_of(self.dice)

    def _quiet(self) -> None:
        """Run until no batch was sent for a while. Notes P3 when that never happens."""
        if self.world.run_until(lambda: self.world.now - self.world.batched_at > QUIET_S, 30.0, 0.5) is None:
            self.monitor.note("P3", "batches are still under way after 30 s without anything published")
        waiting = invariants.waiting(self.world)
        if waiting:
            self.monitor.note("P3", f"{waiting} batches still wait in links")

    def _carried(self, sender: SimNode, receiver: SimNode, header: BatchHeader, body: bytes) -> None:
        if self._copying:
            for event in decode_body(body, header.count):
                mesh_id = (header.region, header.node, header.epoch, event.seq)
                self._copies.setdefault(mesh_id, []).append((sender.key, receiver.key, header.leg))

    def _bad_times(self) -> None:
        """Faults, while clients publish, subscribe and unsubscribe."""
        world, dice = self.world, self.dice
        self.ailments.start()
        self.kept.steady()
        self.began_bad_times = world.now
        end = world.now + BAD_TIMES_S[self.size]
        while world.now < end:
            world.run(dice.uniform(0.0, 0.4))
            serving = [node for node in world.live_nodes() if node.serves]
            if not serving:
                continue
            node = dice.choice(serving)
            what = dice.random()
            if what < 0.75:
                self._publish(node)
                if self.kept.dice.random() < SHARE:
                    self.kept.publish(node)
            elif what < 0.88:
                self._subscribe(node, dice.randint(1, 3))
            elif node.subscriptions:
                node.unsubscribe(*dice.choice(sorted(node.subscriptions)))

    def _publish(self, node: SimNode) -> None:
        dice = self.dice
        topics = [self._topic() for _ in range(dice.choice((1, 1, 1, 4, 20)))]
        key = dice.choice(("", "", "k1", "k2"))
        ttl_ms = dice.choice((0, 0, 0, 300, 5_000))
        node.publish(*topics, key=key, ttl_ms=ttl_ms, data=b"x" * dice.choice((1, 1, 200)))

    def _heal(self) -> None:
        world = self.world
        self.ailments.heal()
        healed = world.now
        returned = world.run_until(lambda: invariants.sessions_returned(world), SETTLE_S, 0.25)
        self.outcome.return_s = world.now - healed if returned is None else returned
        limit_s = GARBLED_SETTLE_S if self.garbled else SETTLE_S
        if self._settle("after healing", limit_s - (world.now - healed)):
            self.outcome.converge_s = self.outcome.settle_s[-1]
        self._quiet()
        if self.ailments.gone:
            self.kept.promises.forgive()
        else:
            self.kept.quiet("after healing", rolling=self._only_rolled())

    def _only_rolled(self) -> bool:
        """Whether processes ended in rolling restarts alone: P12 is P4 then."""
        ends = {fault for fault, *_ in self.plan if fault in ENDS}
        return ends == {Fault.ROLLING}

    def _end(self) -> None:
        """Count up: what was promised and not kept must have been counted somewhere."""
        world, outcome = self.world, self.outcome
        outcome.steps = world.steps
        outcome.events = len(world.taken)
        outcome.drops = world.drops(buried=True)
        outcome.lost = invariants.lost(world, [taken for taken in world.taken if not taken.kept])
        outcome.counted = invariants.counted(world)
        if outcome.lost > outcome.counted:
            self.monitor.note("loss", f"{outcome.lost} promises not kept, {outcome.counted} drops counted")
        promises = self.kept.promises
        outcome.kept, outcome.kept_refused = promises.events, self.kept.refused
        outcome.kept_deliveries, outcome.kept_reorders = promises.deliveries, promises.reorders
        outcome.kept_copies, outcome.kept_repeats = promises.copies, promises.repeated
        outcome.violations = self.monitor.violations + promises.violations
        told = sha256()
        for one in world.delivered:
            told.update(repr((one.at, one.node, one.session, one.mesh_id, one.delivery.sids)).encode())
        outcome.fingerprint = told.hexdigest()[:16]


def topic_of(dice: random.Random) -> str:
    """A topic of the words that all subscriptions are made of."""
    return "/".join(dice.choice(WORDS) for _ in range(dice.randint(1, 3)))


def interested(node: SimNode, topic: str) -> bool:
    """Whether a client of the node has a subscription, plain or in a group, that matches."""
    return any(matches(filter, topic) for filter, _ in node.subscriptions.values())
