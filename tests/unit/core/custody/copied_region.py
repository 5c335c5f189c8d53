"""Two regions of two nodes each under a rule with copies = 2, in virtual time."""

from __future__ import annotations

from mesh.model.topic_rules import Level, TopicRule, TopicRules
from mesh.testing.sim_client import Delivered, DurableSim
from mesh.testing.sim_node import SimNode
from mesh.testing.world import World

RULE = TopicRule("orders/#", Level.AT_LEAST_ONCE, copies=2)


def copied_region(seed: int = 3, rules: TopicRules | None = None) -> tuple[World, dict[str, SimNode]]:
    """Regions a and b, bridges between nodes of the same number, started and settled."""
    world = World(seed, rules=TopicRules((RULE,)) if rules is None else rules)
    nodes = {name: world.node(name[0], name, bridges=["b"] * (name[0] == "a")) for name in ("a-1", "a-2")}
    nodes |= {name: world.node(name[0], name, (0.0, 3.0)) for name in ("b-1", "b-2")}
    for region in "ab":
        world.seed_link(nodes[f"{region}-2"], nodes[f"{region}-1"])
    for number in "12":
        world.seed_link(nodes[f"a-{number}"], nodes[f"b-{number}"])
    for node in nodes.values():
        node.start()
    world.run(6.0)
    return world, nodes


def unacknowledged(node: SimNode, name: str) -> DurableSim:
    """A durable client that gets orders/# and acknowledges nothing."""
    node.habit = node.habit._replace(forgets=1.0)
    return node.join(name, ("orders/#", ""))


def events_of(world: World, name: str) -> list[Delivered]:
    """What a durable client got."""
    return [one for one in world.delivered if one.client == name]
