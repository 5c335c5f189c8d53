"""Which member of a queue group gets an event: decided once, at ingress, and written into the batch.

Decides the region (the local one first if it has members that can take it, else the nearest, else by weight among equally
near ones) and, inside a region, the member node (rendezvous hash of mesh_id and group). Never delivers.
Invariant: for one event and group exactly one (region, node) is chosen, or none with NO_MEMBERS.
Source: design page "Routing", Forwarding (Queue groups); rendezvous hashing: Thaler and Ravishankar, 1998.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple


class Assigned(NamedTuple):
    """Who serves one event of a group. node is "" when another region decides that."""

    group: str
    filter: str
    region: str
    node: str


class Far(NamedTuple):
    """A region with members: its metric here (smaller is nearer) and its bucketed member count."""

    region: str
    metric: int
    members: int


def _score(mesh_id: str, group: str, name: str) -> int:
    return int.from_bytes(blake2b(f"{mesh_id}\0{group}\0{name}".encode(), digest_size=8).digest(), "big")


def member_node(mesh_id: str, group: str, nodes: Iterable[str]) -> str | None:
    """The node of highest score, None when there is none. The same for everybody who knows the same nodes. O(nodes)."""
    return max(nodes, key=lambda node: (_score(mesh_id, group, node), node), default=None)


def far_region(mesh_id: str, group: str, regions: Iterable[Far]) -> str | None:
    """The nearest region with members; among equally near ones by weight of their member counts. O(regions)."""
    nearest: list[Far] = []
    for far in regions:
        if far.members <= 0:
            continue
        if not nearest or far.metric < nearest[0].metric:
            nearest = [far]
        elif far.metric == nearest[0].metric:
            nearest.append(far)
    if not nearest:
        return None
    if len(nearest) == 1:
        return nearest[0].region
    nearest.sort()
    point = _score(mesh_id, group, "") % sum(far.members for far in nearest)
    for far in nearest:
        point -= far.members
        if point < 0:
            return far.region
    raise AssertionError("the weights sum to more than the point")


def assign(
    mesh_id: str,
    group: str,
    filter: str,
    own_region: str,
    near: Mapping[str, bool],
    far: Iterable[Far],
) -> Assigned | None:
    """Choose for one event.

    Args:
        near: nodes of the own region with live members -> whether their link has credit now (the own node: True).
        far: other regions with members and a route.
    Returns: the choice, or None when nobody is left. Members without credit are taken before none at all.
    """
    ready = [node for node, credit in near.items() if credit]
    node = member_node(mesh_id, group, ready)
    if node is not None:
        return Assigned(group, filter, own_region, node)
    region = far_region(mesh_id, group, far)
    if region is not None:
        return Assigned(group, filter, region, "")
    node = member_node(mesh_id, group, near)
    if node is not None:
        return Assigned(group, filter, own_region, node)
    return None
