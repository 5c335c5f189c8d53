"""What ought to happen: a naive model that knows everything and is too simple to be wrong in the same way.

Decides, from what was asked of the world (nodes that run, links that may exist, what clients subscribed), which regions
reach which and who must get an event of a topic. Uses a linear scan of filters and a search of the whole graph; never
asks a machine.
Source: design page "Routing"; L. Gao, 2001 (valley-free paths).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from federation.core.policy.roles import Role, link_role, valley_free
from mesh.model.ids import NodeKey
from mesh.model.topic import matches
from mesh.testing.world import SimNode, World

Client: TypeAlias = tuple[NodeKey, int]
"""A client's session on a node."""


@dataclass(slots=True)
class Receivers:
    """Who must get an event. clients: session -> its sids, all of them. groups: each by exactly one of these sids."""

    clients: dict[Client, tuple[int, ...]] = field(default_factory=dict)
    groups: dict[tuple[str, str], set[tuple[Client, int]]] = field(default_factory=dict)


class Oracle:
    """The truth about a world at this moment. Valid until the world is changed. Cost: whatever it takes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._links = self._live_links()
        self._reached: dict[str, frozenset[str]] = {}

    def _live_links(self) -> dict[str, list[tuple[str, Role]]]:
        """Region -> (neighbour, what the link to it is to this region)."""
        world = self._world
        links: dict[str, list[tuple[str, Role]]] = {key.region: [] for key in world.nodes}
        for node in world.live_nodes():
            for key, terms in node.targets:
                other = world.nodes[key]
                if key.region == node.key.region or not other.up:
                    continue
                if (node.key, key) in world.blocked or (key, node.key) in world.blocked:
                    continue
                theirs = other.bridges.get(node.key.region)
                mine, back = terms.role, "" if theirs is None else theirs.role
                links[node.key.region].append((key.region, link_role(mine, back)))
                links[key.region].append((node.key.region, link_role(back, mine)))
        return links

    def reachable(self, region: str) -> frozenset[str]:
        """Regions, this one included, that an event published in `region` can get to.

        A route to R exists here if R's announcement gets here: each region on the way may pass on what it learned.
        """
        known = self._reached.get(region)
        if known is None:
            live = {node.key.region for node in self._world.live_nodes()}
            known = self._reached[region] = frozenset(
                origin for origin in live if region in self._told(origin)
            )
        return known

    def _told(self, origin: str) -> set[str]:
        """Regions that hear of `origin`."""
        seen: set[tuple[str, Role | None]] = {(origin, None)}
        queue = [*seen]
        while queue:
            region, learned = queue.pop()
            for neighbour, role in self._links[region]:
                if (learned is not None and valley_free(learned, role) is not None) or role is Role.DMZ:
                    continue
                seen_by_them = [r for name, r in self._links[neighbour] if name == region]
                for back in seen_by_them:
                    if (neighbour, back) not in seen and back is not Role.DMZ:
                        seen.add((neighbour, back))
                        queue.append((neighbour, back))
        return {region for region, _ in seen}

    def filters(self, region: str) -> list[tuple[NodeKey, str]]:
        """Plain filters of all running nodes of a region."""
        return [
            (node.key, filter)
            for node in self._world.live_nodes()
            if node.key.region == region
            for filter, group in (*node.subscriptions.values(), *_of_durable(node))
            if not group
        ]

    def wants(self, region: str, topic: str) -> bool:
        """Whether some client of the region has a plain subscription that matches."""
        return any(matches(filter, topic) for _, filter in self.filters(region))

    def receivers(self, topic: str, at: NodeKey) -> Receivers:
        """Who must get an event of `topic` that is published at a node."""
        found = Receivers()
        reachable = self.reachable(at.region)
        for node in self._world.live_nodes():
            if node.key.region not in reachable:
                continue
            for (session, sid), (filter, group) in sorted(node.subscriptions.items()):
                if not matches(filter, topic):
                    continue
                client = (node.key, session)
                if group:
                    found.groups.setdefault((group, filter), set()).add((client, sid))
                else:
                    found.clients[client] = (*found.clients.get(client, ()), sid)
        return found


def _of_durable(node: SimNode) -> Iterator[tuple[str, str]]:
    """(filter, group) of durable clients: connected or not, they want it."""
    for client in node.durable.values():
        yield from client.subscriptions.values()


def topics_of(filters: Iterable[str], words: Iterable[str]) -> list[str]:
    """Topics that tell filters apart: each filter with every wildcard replaced by a word, and by another one."""
    found: dict[str, None] = {}
    for filter in filters:
        for word in words:
            levels = [word if level in ("+", "#") else level for level in filter.split("/")]
            found["/".join(levels)] = None
    return list(found)
