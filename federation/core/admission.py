"""Whether a route that was told is taken in, and at what cost.

Decides what bars a route whatever its distance (own region in the path, path length, an epoch too far ahead,
a seqno that jumps, an import rule) and what it costs to reach whoever told it. Never judges distances (`source`).
Invariant: the own-region check is made here, on arrival over a bridge link, and nowhere else; what a sibling published
has passed it already. A barred route is kept and shown, never used.
Source: design page "Routing", Routes and Identity and restart (an epoch may lie at most one day ahead).
"""

from __future__ import annotations

from federation.core.feasible import Distance
from federation.core.neighbour import Neighbour
from federation.core.policy.roles import RoutePolicy
from federation.core.rib import Rib
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteState, Verdict
from federation.core.selection import Key
from federation.core.siblings import Siblings
from federation.core.source import Source
from mesh.model.limits import Limits
from mesh.model.reasons import RouteReason
from mesh.wire.frames import RouteUpdate


class Admission:
    """What comes in at one node of `region`, from neighbours and from siblings."""

    __slots__ = ("_epoch_ahead", "_limits", "_policy", "_region", "_rib", "_seqno_jump", "siblings")

    def __init__(
        self,
        region: str,
        epoch: int,
        rib: Rib,
        policy: RoutePolicy,
        settings: RouteSettings,
        limits: Limits,
        now: float,
    ) -> None:
        """epoch: of this node, which is wall time or a little more: by it other epochs are bounded."""
        self._region = region
        self._rib = rib
        self._policy = policy
        self._limits = limits
        self._epoch_ahead = epoch - now + limits.clock_skew_s
        self._seqno_jump = settings.seqno_jump
        self.siblings = Siblings(settings.sources)

    def from_neighbour(self, neighbour: Neighbour, key: Key, update: RouteUpdate, now: float) -> bool:
        """Take in an update of a neighbour. Returns: False when there is no room for another source."""
        source = self._rib.source(key)
        if source is None:
            neighbour.inbound.incomplete = True
            return False
        cost, path = neighbour.cost, update.path
        barred = self._barred(update, now) or self._jump(source, update)
        if barred is None:
            ruling = self._policy.import_route(neighbour.role, neighbour.region, update.region, path)
            cost += max(ruling.add_metric, 0)
            if not ruling.allowed:
                barred = Verdict(RouteState.WITHHELD, RouteReason.IMPORT_DENIED, ruling.rule)
        advert = Distance(update.epoch, update.seqno, update.metric)
        path = path[: self._limits.path_regions]
        source.learn(neighbour.link, neighbour.node, advert, path, neighbour.role, cost, barred, now)
        return True

    def from_sibling(self, node: str, key: Key, now: float) -> bool:
        """Take in what a sibling published of a source. Returns: False when there is no room for another source."""
        source = self._rib.source(key)
        if source is None:
            return False
        self.siblings.teach(node, key, source, now)
        return True

    def _jump(self, source: Source, update: RouteUpdate) -> Verdict | None:
        known = source.newest
        if known is None or update.epoch != known.epoch or update.seqno <= known.seqno + self._seqno_jump:
            return None
        detail = f"seqno jumps from {known.seqno} to {update.seqno}"
        return Verdict(RouteState.WITHHELD, RouteReason.IMPORT_DENIED, detail)

    def _barred(self, update: RouteUpdate, now: float) -> Verdict | None:
        if self._region in update.path:
            return Verdict(RouteState.INFEASIBLE, RouteReason.OWN_REGION_IN_PATH, ",".join(update.path))
        if len(update.path) > self._limits.path_regions:
            detail = f"{len(update.path)} > {self._limits.path_regions}"
            return Verdict(RouteState.INFEASIBLE, RouteReason.PATH_TOO_LONG, detail)
        if update.epoch > self._epoch_ahead + now:
            return Verdict(RouteState.WITHHELD, RouteReason.IMPORT_DENIED, "epoch lies too far ahead")
        return None
