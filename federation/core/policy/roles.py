"""What a bridge link is for, and so which routes may cross it.

Decides the role of a link from what its two ends configured, and whether a route learned over one role may be exported
over another (valley-free). Further rules come from a `RoutePolicy` handed to the route machine; without one everything
is open but links of role dmz, which pass nothing. Never chooses among routes, and never makes a metric smaller.
Invariant: nothing learned from a peer or an uplink is exported to a peer or an uplink, so no region carries traffic
between two of its peers or providers against its will.
Source: design page "Routing", Routes (link roles) and Boundary; L. Gao, "On inferring autonomous system relationships
in the Internet", 2001 (valley-free export).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from mesh.model.reasons import RouteReason


class Role(StrEnum):
    """What the region at the other end of a link is to this one.

    `UPLINK` is never configured: it is what a link is to the end whose other end configured `stub`.
    """

    TRANSIT = "transit"
    """Both carry each other's traffic anywhere. The default: a chain works with no configuration."""
    PEER = "peer"
    """Each reaches the other and the stubs behind it, nothing further."""
    STUB = "stub"
    """The other region hangs behind this one and carries nothing for others."""
    UPLINK = "uplink"
    """This region is the stub, and the other one its way out."""
    DMZ = "dmz"
    """Nothing crosses but what a rule allows."""


CONFIGURABLE: Final = frozenset({"transit", "peer", "stub", "dmz"})
"""The words of `[[bridge]] role`."""
_CLOSED: Final = frozenset({Role.PEER, Role.UPLINK})


def link_role(mine: str, theirs: str) -> Role:
    """The role of a link at this end, from what this end and the other one configured for it (Open.role).

    The stricter wins: dmz, then uplink, then peer, then stub, then transit. A word that is no role ("" included) counts
    as transit, so that an end which says nothing changes nothing.
    """
    if Role.DMZ in (mine, theirs):
        return Role.DMZ
    if theirs == Role.STUB:
        return Role.UPLINK
    if Role.PEER in (mine, theirs):
        return Role.PEER
    return Role.STUB if mine == Role.STUB else Role.TRANSIT


class Ruling(NamedTuple):
    """What a policy says of one route on one link. add_metric >= 0: a policy may raise a metric, never lower it."""

    allowed: bool
    rule: str = ""
    add_metric: int = 0


ALLOW = Ruling(True)
_DMZ = Ruling(False, 'role "dmz": no rule allows it')


class RoutePolicy(Protocol):
    """Rules beyond the roles. Both are pure functions of their arguments while a configuration stands."""

    def import_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        """May the route to `region` come from the region `neighbour`, and at what extra metric?"""
        ...

    def export_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        """May the route to `region` (the own region included) be told to the region `neighbour`?"""
        ...


class OpenPolicy:
    """No rules: everything may cross, but on role dmz nothing."""

    def import_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        return _DMZ if role is Role.DMZ else ALLOW

    def export_route(self, role: Role, neighbour: str, region: str, path: tuple[str, ...]) -> Ruling:
        return _DMZ if role is Role.DMZ else ALLOW


def valley_free(learned: Role, link: Role) -> RouteReason | None:
    """Decide whether a route that the region learned over a link of role `learned` may leave over one of role `link`.

    The own region's origin is not asked: it may leave anywhere. Returns: None when it may, else the reason.
    """
    if link in _CLOSED and learned is not Role.STUB:
        return RouteReason.VALLEY_FREE
    return None
