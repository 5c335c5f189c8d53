"""The other nodes of the region as the route machine knows them: reachable or not, and what each one published.

Decides which sources are concerned when a sibling's link or entries change. Never chooses among routes.
Invariant: a route of a sibling without a link is known and shown, and never used.
Source: design page "Routing", Routes (selection over the bridges of the region, in-region cost at least 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.core.feasible import Distance
from federation.core.policy.roles import Role
from federation.core.publication import Published
from federation.core.route_views import RouteState, Verdict
from federation.core.selection import Key
from federation.core.source import Source
from mesh.model.reasons import RouteReason

_UNREACHABLE = Verdict(RouteState.INFEASIBLE, RouteReason.NODE_UNREACHABLE, "no link to this node")


@dataclass(slots=True)
class _Sibling:
    up: bool = False
    cost: int = 1
    told: dict[Key, Published] = field(default_factory=dict)


class Siblings:
    """By node name. Bounded by the region's members and by `RouteSettings.sources` for each."""

    __slots__ = ("_nodes", "_sources")

    def __init__(self, sources: int) -> None:
        self._nodes: dict[str, _Sibling] = {}
        self._sources = sources

    def link(self, node: str, up: bool, cost: int) -> list[Key]:
        """The link to `node` came, went or changed its cost. Returns: the sources to take in again."""
        sibling = self._nodes.setdefault(node, _Sibling())
        cost = max(cost, 1)
        if (sibling.up, sibling.cost) == (up, cost):
            return []
        sibling.up, sibling.cost = up, cost
        return list(sibling.told)

    def tell(self, node: str, key: Key, value: Published) -> bool:
        """`node` published a route. Returns: False when it publishes too many."""
        told = self._nodes.setdefault(node, _Sibling()).told
        if key not in told and len(told) >= self._sources:
            return False
        told[key] = value
        return True

    def withdraw(self, node: str, key: Key) -> bool:
        """`node` deleted an entry. Returns: there was one."""
        sibling = self._nodes.get(node)
        return sibling is not None and sibling.told.pop(key, None) is not None

    def gone(self, node: str) -> list[Key]:
        """Forget what a node told; a link to it that is still open is not its business. Returns: the sources."""
        sibling = self._nodes.get(node)
        if sibling is None:
            return []
        told, sibling.told = list(sibling.told), {}
        if not sibling.up:
            del self._nodes[node]
        return told

    def teach(self, node: str, key: Key, source: Source, now: float) -> None:
        """Let `source` learn what `node` published of it. Evaluate it afterwards."""
        sibling = self._nodes[node]
        epoch, seqno, metric, path, learned = sibling.told[key]
        barred = None if sibling.up else _UNREACHABLE
        advert = Distance(epoch, seqno, metric)
        source.learn(node, node, advert, path, Role(learned), sibling.cost, barred, now)
