"""P7 in random worlds: trees and rings of regions, each with rules of its own or none, some of which crash on the way.

Nothing that leaves over a link is denied by the sender's rules, nothing is delivered that the last boundary denies coming in, and nothing
is told of interest that the rules let no event come for. Renames are left out here, so that every event carries the topic it had.
By hand: MESH_BOUNDARY_SEEDS=1000 makes it so many worlds.
"""

from __future__ import annotations

import os
import random

import pytest

from federation.core.policy.rule_file import parse
from federation.core.policy.rulebook import Rulebook, target
from federation.core.policy.rules import Direction
from federation.core.reach import FILTER_KEY, GROUP_KEY, TOLD_KEY, split_group_key, split_told_key
from mesh.core.opening import Terms
from mesh.model.event import Event
from mesh.model.topic import overlaps
from mesh.testing.network import Connection
from mesh.testing.sim_node import SimNode
from mesh.testing.world import World
from mesh.wire import frames as wire
from mesh.wire.codec import decode_body
from mesh.wire.frames import BatchHeader, Data, Delta, Flag, Leg, Scope

EVENT = b'{"specversion":"1.0","id":"1","source":"urn:s","type":"t"}'
FILTERS = ("#", "a/#", "b/#", "+/a", "x/+", "b/x", "a/+", "+/+", "x/#")
TOPICS = [f"{one}/{other}" for one in "abx" for other in "abx"]
SEEDS = int(os.environ.get("MESH_BOUNDARY_SEEDS", "6"))


class Watched(World):
    """Checks every frame between regions as it is sent, and every delivery when it was made."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, through_codec=True)
        self.found: list[str] = []
        self.crossed = 0
        self.told = 0

    def book(self, node: SimNode, direction: Direction, peer: SimNode) -> Rulebook | None:
        """A node's rules for a link to another region, read anew; None where it has none."""
        role = "dmz" if "dmz" in (role_at(node, peer), role_at(peer, node)) else "transit"
        if node.policy is None and role != "dmz":
            return None
        rules = parse(node.policy or "", "p").rules
        return Rulebook(rules, direction, peer.key.region, role, open=role != "dmz")

    def transmit(self, sender: SimNode, connection: Connection, frame: wire.Frame) -> None:
        receiver = connection.end(sender)[1]
        if sender.key.region != receiver.key.region:
            if isinstance(frame, Data):
                self.check_batch(sender, receiver, frame.header, frame.body)
            elif isinstance(frame, Delta) and frame.scope is Scope.WORLD:
                self.check_table(sender, receiver, frame)
        super().transmit(sender, connection, frame)

    def check_batch(self, sender: SimNode, receiver: SimNode, header: BatchHeader, body: bytes) -> None:
        book = self.book(sender, Direction.EXPORT, receiver)
        assert header.leg is Leg.BRIDGE
        if book is None or header.flags & Flag.TO_NODE:
            return
        for event in decode_body(body, header.count):
            for region in header.regions:
                self.crossed += 1
                if not book.decide(event, header.region, region, 0.0).allowed:
                    self.found.append(f"{event.topic} for {region} left {sender.key} to {receiver.key}")

    def check_table(self, sender: SimNode, receiver: SimNode, delta: Delta) -> None:
        book = self.book(sender, Direction.IMPORT, receiver)
        if book is None or not delta.owner.startswith(f"{sender.key}"):
            return
        allowed = [target(rule) for rule in book.rules if rule.allow] + (["#"] if book.open else [])
        for key, _, value in delta.entries:
            if value is None:
                continue
            inner = split_told_key(key)[1] if key[0] == TOLD_KEY else key
            if inner[0] == GROUP_KEY:
                filter = split_group_key(inner)[1]
            elif inner[0] == FILTER_KEY:
                filter = inner[1:]
            else:
                continue
            self.told += 1
            if not any(overlaps(filter, one) for one in allowed):
                self.found.append(f"{key} was told by {sender.key} to {receiver.key}")


def role_at(node: SimNode, peer: SimNode) -> str:
    terms = node.bridges.get(peer.key.region)
    return "" if terms is None else terms.role


def random_policy(dice: random.Random, peers: list[str]) -> str:
    lines = []
    for _ in range(dice.randint(1, 6)):
        direction = dice.choice(("export to", "import from"))
        condition = dice.choice(("", "", "", " size <= 60", f" destination {dice.choice(peers)}"))
        action = dice.choice(("allow", "allow", "deny"))
        lines.append(
            f"{direction} {dice.choice(['*', *peers])} {action} topic {dice.choice(FILTERS)}{condition}"
        )
    return "\n".join(lines)


def build(seed: int) -> tuple[Watched, random.Random, list[SimNode]]:
    """Three to five regions: a tree, and perhaps a ring in it."""
    dice = random.Random(seed)
    world = Watched(seed)
    nodes = [world.node(f"r{n}", f"n{n}") for n in range(dice.randint(3, 5))]
    pairs = {(dice.randrange(n), n) for n in range(1, len(nodes))}
    if dice.random() < 0.5:
        pairs.add((0, len(nodes) - 1))
    for one, other in sorted(pairs):
        role = dice.choice(("transit", "transit", "dmz"))
        near, far = nodes[one], nodes[other]
        terms = Terms(far.key.region, role)
        near.bridges = {**near.bridges, far.key.region: terms}
        world.seed_link(near, far, terms)
    peers = [node.key.region for node in nodes]
    for node in nodes:
        if dice.random() < 0.7:
            node.policy = random_policy(dice, peers)
    for node in nodes:
        for sid in (1, 2):
            group = "work" if dice.random() < 0.2 else ""
            node.subscribe(sid, sid, dice.choice(FILTERS), group)
        node.start()
    return world, dice, nodes


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_crosses_what_a_boundary_denies(seed: int) -> None:
    world, dice, nodes = build(seed)
    world.run(5.0)
    for step in range(40):
        node = dice.choice([node for node in nodes if node.up] or nodes)
        if not node.up:
            node.start()
        topic, data = dice.choice(TOPICS), EVENT + b" " * dice.choice((0, 20))
        kept = dice.random() < 0.4 and node.machine.informed(node.now)
        node.publish_kept(topic, data=data) if kept else node.publish(topic, data=data)
        if step == 15:
            dice.choice(nodes).crash()
        if step == 20:
            for down in [one for one in nodes if not one.up]:
                down.start()
        if step == 25:
            changed = dice.choice(nodes)
            if changed.policy is not None:
                world.run(3.0)  # what is under way was judged by the rules before
                changed.change_policy(random_policy(dice, [one.key.region for one in nodes]))
        world.run(dice.uniform(0.0, 0.4))
    world.run(10.0)
    assert not world.found, world.found[:3]
    for one in world.delivered:
        origin, path = one.mesh_id[0], one.delivery.path
        if origin != one.node.region and path:
            last = next(node for node in nodes if node.key.region == path[-1])
            here = world.nodes[one.node]
            if here.policy is None:
                continue
            book = world.book(here, Direction.IMPORT, last)
            assert book is not None
            event = Event(0, one.event.topic, "", 0, None, one.event.attributes, one.event.data)
            if one.at > world.now - 10.0:  # by the rules that hold at the end
                assert book.decide(event, origin, one.node.region, 0.0).allowed, (one.event.topic, one.node)
