"""An event followed through the whole world by explanation alone: each node explains its own step, nothing is sent.

Decides nothing: it takes every copy that one node's explanation names to the node at the other end of the link and asks
there. Used to hold what nodes explain against what then happens.
Invariant: ends, because each copy's hops are bounded; asks each node with its own tables as they are now.
Source: design page "Routing", Explain.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.core.explain import Copy, Explainer, Missed, Step
from mesh.model.ids import NodeKey
from mesh.testing.world import MeshId, SimNode, World
from mesh.wire.frames import Leg


@dataclass(slots=True)
class Walk:
    """Where an event would go. clients: (node, session) -> sids. groups: (group, filter) -> nodes that serve it.
    copies: (from, to, leg) in order. missed: who does not get it, as told by whom."""

    clients: dict[tuple[NodeKey, int], tuple[int, ...]] = field(default_factory=dict)
    groups: dict[tuple[str, str], list[NodeKey]] = field(default_factory=dict)
    copies: list[tuple[NodeKey, NodeKey, Leg]] = field(default_factory=list)
    missed: list[tuple[NodeKey, Missed]] = field(default_factory=list)


def explainer(node: SimNode) -> Explainer:
    """The explainer of a node, over its own tables."""
    machine = node.machine
    control = machine.control
    return Explainer(
        node.key.region,
        node.key.node,
        planner=machine.planner,
        limits=machine.settings.limits,
        known=lambda: {*control.reach.regions(), *control.routes.fib},
        congested=lambda name: machine.sessions[machine.links.peers[name]].congested,
    )


def follow(world: World, node: SimNode, topic: str, mesh_id: MeshId) -> Walk:
    """Explain an event that `node` would take in now under this mesh_id, to its ends."""
    walk = Walk()
    name = "{}/{}/{}/{}".format(*mesh_id)
    origin = f"{mesh_id[0]}/{mesh_id[1]}"
    hop_limit = world.limits.hop_limit
    queue: list[tuple[SimNode, Copy]] = []

    def take(at: SimNode, step: Step) -> None:
        for session, sids in step.sessions:
            walk.clients[at.key, session] = sids
        for group in step.groups:
            walk.groups.setdefault(group, []).append(at.key)
        walk.missed += [(at.key, missed) for missed in step.missed]
        for copy in step.copies:
            connection = at.connections[copy.link]
            other = connection.end(at)[1]
            walk.copies.append((at.key, other.key, copy.leg))
            queue.append((other, copy))

    take(node, explainer(node).published(topic, name))
    while queue:
        at, copy = queue.pop(0)
        explains = explainer(at)
        hops_left = hop_limit - len(copy.path)
        if copy.leg is Leg.LOCAL:
            take(at, explains.delivered(topic, copy))
        elif copy.leg is Leg.TRANSIT:
            take(at, explains.transited(copy, hops_left))
        else:
            take(at, explains.entered(topic, name, copy, hops_left, origin))
    return walk
