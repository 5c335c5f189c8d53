"""Small worlds that live again and again, each time with a crash at another moment of the custody protocol.

Decides where processes die: a scenario is lived once to count the moments (before and after each append, settle, commit, send,
acknowledgement, delivery), then once for each of them. Every promise of `mesh.testing.promises` is checked each time.
Invariant: the same scenario, seed and deaths give the same life.
Source: design page "Routing", Delivery; T. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014 (crash states).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.core.custody.store import StoreRefusedError
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.topic_rules import Level, TopicRule, TopicRules
from mesh.testing.monitor import Violation
from mesh.testing.promises import Promises, left_over
from mesh.testing.sim_client import Habit
from mesh.testing.sim_node import ProcessDied
from mesh.testing.world import SimNode, World

SETTLE_S: Final = 6.0
"""Links, members and interest are all known after so long in worlds this small."""
LIFE_S: Final = 60.0
"""And everything is delivered so long after the last event was published."""
LEARNS_S: Final = 20.0
"""A node that lost its disk forgot that there is a mesh: its publishers come back when it has heard of everybody again."""
QUIET_S: Final = 2.0
"""It stays so for a while: what was lost on the way would come again in this time, or is looked at and is missing."""


class Death(NamedTuple):
    """A process that ends. moment: of those of its node, counted from 1. told: the others see FIN or RST. torn: how much a commit under
    way leaves. down_s: until it starts again."""

    node: NodeKey
    moment: int
    told: bool = True
    torn: float = 0.5
    down_s: float = 0.7
    wiped: bool = False
    """Its disk is gone, too."""


@dataclass(slots=True)
class Stage:
    """A scenario's world. published: calls that a node took in."""

    world: World
    nodes: dict[str, SimNode]
    begins: float = 0.0
    published: int = 0
    calls: int = 0
    """Those to come."""

    def publish(self, at: float, name: str, *topics: str, key: str = "k", again: int = 60) -> None:
        """A client of a node publishes at least once; where the node is down or refuses, it tries again."""
        world, node = self.world, self.nodes[name]
        self.calls += 1

        def call() -> None:
            self.calls -= 1
            if node.serves and world.now > node.began_at + LEARNS_S:
                try:
                    node.publish_kept(*topics, key=key)
                except StoreRefusedError:
                    pass
                else:
                    self.published += 1
                    return
            if again:
                self.publish(world.now - self.begins + 0.5, name, *topics, key=key, again=again - 1)

        world.at(self.begins + at, call)


Scenario = Callable[[Stage], None]
"""Subscribes and publishes on a stage that has settled."""


@dataclass(frozen=True, slots=True)
class Play:
    """A scenario and where it plays: regions joined by `edges`, `nodes` of each, of which the first `bridges` are linked."""

    name: str
    edges: tuple[tuple[str, str], ...]
    nodes: int
    scenario: Scenario
    bridges: int = 2
    rules: tuple[TopicRule, ...] = ()


def stage(play: Play, seed: int) -> Stage:
    """Regions joined by bridges between all their nodes of the same number, started and settled."""
    world = World(seed, limits=Limits(custody_timeout_s=4.0), rules=TopicRules(play.rules))
    nodes: dict[str, SimNode] = {}
    regions = sorted({region for edge in play.edges for region in edge})
    for at, region in enumerate(regions):
        listed = [b for a, b in play.edges if a == region]
        for number in range(1, play.nodes + 1):
            name = f"{region}-{number}"
            nodes[name] = world.node(region, name, (0.0, 3.0 * at), listed)
            for other in range(1, number):
                world.seed_link(nodes[name], nodes[f"{region}-{other}"])
    for a, b in play.edges:
        for number in range(1, min(play.nodes, play.bridges) + 1):
            world.seed_link(nodes[f"{a}-{number}"], nodes[f"{b}-{number}"])
    return Stage(world, nodes)


@dataclass(slots=True)
class Life:
    """What one life came to. moments: of each node, in order."""

    moments: dict[NodeKey, list[str]]
    violations: list[Violation]
    accepted: int
    died: int
    reorders: int
    short: int
    """Events accepted with one copy where a rule wants two: what the loss of a disk may take."""


def live(play: Play, deaths: Sequence[Death] = (), seed: int = 1) -> Life:
    """Live a play with these deaths. Cost: about 50 ms for three nodes."""
    told = stage(play, seed)
    world = told.world
    promises = Promises(world, faultless=not deaths)
    for node in told.nodes.values():
        node.habit = Habit(slowest_s=0.01)
        node.start()
    world.run(SETTLE_S / 2)
    told.begins = world.now + SETTLE_S / 2 + 0.01  # after the first moment that counts
    play.scenario(told)
    world.run(SETTLE_S / 2)
    promises.begin()
    moments: dict[NodeKey, list[str]] = {key: [] for key in world.nodes}
    due = {(death.node, death.moment): death for death in deaths}
    died = 0

    def step(node: SimNode, what: str) -> None:
        nonlocal died
        seen = moments[node.key]
        seen.append(what)
        death = due.get((node.key, len(seen)))
        if death is not None:
            died += 1
            node.store.torn = death.torn
            world.at(world.now + death.down_s, lambda: None if node.up else node.start())
            raise ProcessDied(node, told=death.told, wiped=death.wiped)

    world.on_step = step
    ends = world.now + LIFE_S
    quiet_since = world.now
    while world.now < ends and world.now - quiet_since < QUIET_S:
        world.run(0.5)
        if not _quiet(told):
            quiet_since = world.now
    world.on_step = None
    accepted = sum(len(node.accepted) for node in told.nodes.values())
    short = world.short + sum(
        sum(node.machine.counters.copies_short.values()) for node in told.nodes.values() if node.up
    )
    return Life(moments, promises.check("at the end"), accepted, died, promises.reorders, short)


def _quiet(told: Stage) -> bool:
    """Whether every call was made, every node is up, and nothing is owed to anybody."""
    return not told.calls and all(node.up for node in told.nodes.values()) and not any(left_over(told.world))


def every_death(play: Play, seed: int = 1, *, downs: Sequence[float] = (0.7,)) -> Iterator[Death]:
    """Each moment of a life without deaths, for each node, told or not, with commits under way torn in each way."""
    for key, moments in live(play, seed=seed).moments.items():
        for moment, what in enumerate(moments, 1):
            torns = (0.0, 0.5, 1.0) if what in ("during commit", "before commit ends") else (0.0,)
            for down_s in downs:
                for torn in torns:
                    for told in (True, False):
                        yield Death(key, moment, told, torn, down_s)


def pairs(play: Play, dice: random.Random, count: int, seed: int = 1) -> Iterator[tuple[Death, Death]]:
    """Two deaths each, drawn: the second one may strike while the first one's node recovers."""
    moments = live(play, seed=seed).moments
    keys = [key for key in moments if moments[key]]
    for _ in range(count):
        drawn = []
        for _ in range(2):
            key = dice.choice(keys)
            moment = dice.randint(1, int(1.3 * len(moments[key])))
            down_s = dice.choice((0.05, 0.7, 5.0))
            drawn.append(Death(key, moment, dice.random() < 0.5, dice.choice((0.0, 0.5, 1.0)), down_s))
        yield drawn[0], drawn[1]


# -- plays -----------------------------------------------------------------------------------------------------------------


def _two_regions(on: Stage) -> None:
    """Everybody who can listen listens at the far end: a plain session, one that acknowledges, a durable client, a group."""
    b = on.nodes["b-1"]
    b.subscribe(1, 1, "orders/#")
    b.acknowledging(2)
    b.subscribe(2, 1, "orders/+")
    b.join("ledger", ("orders/#", ""))
    b.subscribe(3, 1, "orders/#", "workers")
    b.join("worker", ("orders/#", "workers"))
    for at in range(3):
        on.publish(0.02 * at, "a-1", "orders/x", "orders/y")
    on.publish(0.03, "b-1", "orders/z")


def _line(on: Stage) -> None:
    """Three regions in a line, two nodes each: entry bridges that spread, exits through siblings, groups across nodes."""
    on.nodes["c-1"].subscribe(1, 1, "orders/#")
    on.nodes["c-2"].join("ledger", ("orders/#", ""))
    on.nodes["b-2"].acknowledging(2)
    on.nodes["b-2"].subscribe(2, 1, "orders/x")
    on.nodes["c-1"].subscribe(3, 1, "orders/#", "workers")
    on.nodes["c-2"].subscribe(3, 1, "orders/#", "workers")
    on.nodes["a-2"].join("audit", ("orders/y", ""))
    for at in range(2):
        on.publish(0.03 * at, "a-1", "orders/x", "orders/y")
        on.publish(0.03 * at + 0.01, "a-2", "orders/x", key="k2")


def _groups(on: Stage) -> None:
    """One group with members in two regions; the far ones are asked when the near ones are gone."""
    on.nodes["b-1"].subscribe(1, 1, "jobs/+", "workers")
    on.nodes["b-2"].join("worker", ("jobs/+", "workers"))
    on.nodes["c-1"].subscribe(1, 1, "jobs/+", "workers")
    on.nodes["c-2"].acknowledging(4)
    on.nodes["c-2"].subscribe(4, 1, "jobs/+", "workers")
    for at in range(3):
        on.publish(0.03 * at, "a-1", "jobs/1", "jobs/2", "jobs/3")


def _chain(on: Stage) -> None:
    """Three nodes in a row: each hop of custody alone."""
    on.nodes["c-1"].join("ledger", ("orders/#", ""))
    on.nodes["c-1"].subscribe(1, 1, "orders/#")
    on.nodes["b-1"].join("audit", ("orders/y", ""))
    for at in range(3):
        on.publish(0.02 * at, "a-1", "orders/x", "orders/y")


def _behind(on: Stage) -> None:
    """Everybody publishes and listens behind the one bridge of each region."""
    b = on.nodes["b-2"]
    b.subscribe(1, 1, "orders/#")
    b.acknowledging(2)
    b.subscribe(2, 1, "orders/+")
    b.join("ledger", ("orders/#", ""))
    b.subscribe(3, 1, "orders/#", "workers")
    for at in range(20):
        on.publish(0.3 * at, "a-2", "orders/x", "orders/y")


def _ordered(on: Stage) -> None:
    """Two ways from origin to readers; whichever node dies, the events of a key come in order, to durable clients and to sessions."""
    on.nodes["c-1"].join("ledger", ("orders/#", ""))
    on.nodes["c-1"].subscribe(1, 1, "orders/#")
    on.nodes["c-2"].join("audit", ("orders/x", ""))
    for at in range(30):
        on.publish(0.1 * at, "a-1", "orders/x", "orders/y", key=f"k{at % 2}")


def _copies(on: Stage) -> None:
    """Two nodes in each region, each the other's mirror; everybody who can listens, on both sides."""
    b = on.nodes["b-1"]
    b.join("ledger", ("orders/#", ""))
    b.acknowledging(2)
    b.subscribe(2, 1, "orders/+")
    on.nodes["b-2"].join("audit", ("orders/y", ""))
    on.nodes["b-2"].join("worker", ("orders/#", "workers"))
    b.subscribe(3, 1, "orders/#", "workers")
    on.nodes["a-2"].join("near", ("orders/x", ""))
    for at in range(2):
        on.publish(0.03 * at, "a-1", "orders/x", "orders/y")
        on.publish(0.03 * at + 0.01, "b-1", "orders/x", key="k2")
        on.publish(0.03 * at + 0.02, "a-2", "orders/y", key="k3")


PLAYS: Final = {
    play.name: play
    for play in (
        Play("two-regions", (("a", "b"),), 1, _two_regions),
        Play("chain", (("a", "b"), ("b", "c")), 1, _chain),
        Play("line", (("a", "b"), ("b", "c")), 2, _line),
        Play("behind", (("a", "b"),), 2, _behind, bridges=1),
        Play("groups", (("a", "b"), ("b", "c")), 2, _groups),
        Play(
            "ordered",
            (("a", "b"), ("b", "c")),
            2,
            _ordered,
            rules=(TopicRule("orders/#", Level.AT_LEAST_ONCE, ordered=True),),
        ),
        Play(
            "copies", (("a", "b"),), 2, _copies, rules=(TopicRule("orders/#", Level.AT_LEAST_ONCE, copies=2),)
        ),
    )
}


def lives(play: Play, deaths: Sequence[Sequence[Death]], seed: int = 1) -> tuple[Counter[str], list[str]]:
    """Live a play with each of these. Returns (lives by what was violated; the violations, each with its deaths)."""
    found: Counter[str] = Counter()
    told: list[str] = []
    for some in deaths:
        life = live(play, some, seed)
        found.update({violation.prop for violation in life.violations})
        for violation in life.violations:
            told.append(f"{play.name} {[tuple(death) for death in some]}: {violation}")
    return found, told
