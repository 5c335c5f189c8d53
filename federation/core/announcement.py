"""What one neighbour is told of one source, or why it is told nothing.

Decides the announcement: the own origin, or the selected route with the own region prepended once, unless split horizon,
path length, link roles or policy withhold it. Never decides when it is sent (`exchange`).
Invariant: a region is at most once in any path that leaves here.
Source: design page "Routing", Routes and link roles; RFC 8966 section 3.7.4 (split horizon).
"""

from __future__ import annotations

from federation.core.neighbour import Neighbour
from federation.core.policy.roles import RoutePolicy, valley_free
from federation.core.route_views import Withheld
from federation.core.selection import Candidate, Key
from federation.core.source import Source
from mesh.model.limits import Limits
from mesh.model.reasons import RouteReason
from mesh.wire.frames import RouteUpdate


class Announcements:
    """The export side of one node. seqno: of its own origin. closed: announces nothing any more."""

    __slots__ = ("_limits", "_policy", "_sources", "closed", "epoch", "origin", "seqno")

    def __init__(
        self, origin: Key, epoch: int, sources: dict[Key, Source], policy: RoutePolicy, limits: Limits
    ) -> None:
        self.origin = origin
        self.epoch = epoch
        self.seqno = 1
        self.closed = False
        self._sources = sources
        self._policy = policy
        self._limits = limits

    def to(self, neighbour: Neighbour, key: Key) -> RouteUpdate | None:
        """What `neighbour` is told of source `key` now. None: nothing; `neighbour.withheld` then has the reason, if there
        is something to withhold. Cost: O(path)."""
        neighbour.withheld.pop(key, None)
        if self.closed:
            return None
        if key == self.origin:
            return self._own(neighbour)
        source = self._sources.get(key)
        selected = None if source is None else source.selected
        if selected is None:
            return None
        withheld = self._withheld(neighbour, key[0], selected)
        if withheld is not None:
            neighbour.withheld[key] = withheld
            return None
        path = (self.origin[0], *selected.path)
        return RouteUpdate(*key, selected.advert.epoch, selected.advert.seqno, selected.metric, path)

    def _own(self, neighbour: Neighbour) -> RouteUpdate | None:
        region = self.origin[0]
        ruling = self._policy.export_route(neighbour.role, neighbour.region, region, ())
        if not ruling.allowed:
            neighbour.withheld[self.origin] = (RouteReason.EXPORT_DENIED, ruling.rule)
            return None
        return RouteUpdate(*self.origin, self.epoch, self.seqno, 0, (region,))

    def _withheld(
        self, neighbour: Neighbour, region: str, selected: Candidate
    ) -> tuple[RouteReason, str] | None:
        path = selected.path
        if selected.hop == neighbour.link or neighbour.region in path:
            return RouteReason.SPLIT_HORIZON, f"leads through {neighbour.region}"
        if len(path) >= self._limits.path_regions:
            return RouteReason.PATH_TOO_LONG, f"{len(path) + 1} > {self._limits.path_regions}"
        reason = valley_free(selected.learned, neighbour.role)
        if reason is not None:
            return reason, f"learned over {selected.learned.value}, link is {neighbour.role.value}"
        ruling = self._policy.export_route(neighbour.role, neighbour.region, region, path)
        return None if ruling.allowed else (RouteReason.EXPORT_DENIED, ruling.rule)


def withheld(neighbour: Neighbour) -> list[Withheld]:
    """What a neighbour is not told, as rows; the reasons are those its last announcements gave."""
    return [
        Withheld(*key, neighbour.link, neighbour.region, neighbour.node, reason, detail)
        for key, (reason, detail) in sorted(neighbour.withheld.items())
    ]
