"""The other end of one bridge link, as the route machine knows it: role, cost, and the exchange of routes.

Decides what the link costs (1, what an operator set, and the round trip in steps) and whether an update is well formed.
Never decides what is announced. Invariant: the cost is at least 1 and moves at most once in `rtt_announce_s`.
Source: design page "Routing", Routes (metric); RFC 6298 section 2 for the smoothing.
"""

from __future__ import annotations

from math import log

from federation.core.exchange import Inbound, Outbound
from federation.core.policy.roles import Role
from federation.core.route_settings import RouteSettings
from federation.core.selection import Key
from mesh.model.ids import BadName, check_name
from mesh.model.limits import Limits
from mesh.model.reasons import RouteReason
from mesh.wire.frames import INFINITY, RouteUpdate

RTT_MAX_MS = 60_000.0
NUMBER_MAX = 1 << 53
"""Epochs and seqnos stay below it, so that no JSON reader rounds them."""


def quantised(rtt_ms: float, step_ms: int) -> int:
    """A round trip as a whole number of steps: of `step_ms` up to ten steps, of a tenth above. In ms."""
    knee = 10 * step_ms
    if rtt_ms <= knee:
        return round(rtt_ms / step_ms) * step_ms
    return round(knee * 1.1 ** round(log(rtt_ms / knee) / log(1.1)))


class RoundTrip:
    """A link's smoothed round trip, and the figure that is announced for it.

    announced_ms: moves only when the smoothed value left it by a whole step, and not again within `rtt_announce_s`.
    """

    __slots__ = ("_changed_at", "_settings", "announced_ms", "smoothed_ms")

    def __init__(self, first_ms: float, settings: RouteSettings, now: float) -> None:
        """first_ms: negative when not measured yet; then the first sample is taken as it is."""
        self._settings = settings
        self._changed_at = now
        self.smoothed_ms = min(first_ms, RTT_MAX_MS)
        self.announced_ms = quantised(max(self.smoothed_ms, 0.0), settings.rtt_step_ms)

    def sample(self, rtt_ms: float, now: float) -> bool:
        """Take one measurement. Returns: the announced figure changed."""
        rtt_ms = min(max(rtt_ms, 0.0), RTT_MAX_MS)
        first = self.smoothed_ms < 0
        weight = 1.0 if first else self._settings.rtt_weight
        self.smoothed_ms += weight * (rtt_ms - self.smoothed_ms)
        step = max(self._settings.rtt_step_ms, self.announced_ms / 10)
        if not first:
            if abs(self.smoothed_ms - self.announced_ms) < step:
                return False
            if now - self._changed_at < self._settings.rtt_announce_s:
                return False
        before = self.announced_ms
        self.announced_ms = quantised(self.smoothed_ms, self._settings.rtt_step_ms)
        self._changed_at = now
        return self.announced_ms != before


class Neighbour:
    """A bridge of another region at the other end of `link`. withheld: what it is not told, and why."""

    __slots__ = (
        "_base",
        "_full_min_s",
        "digest_at",
        "full_at",
        "inbound",
        "last_full",
        "last_pull",
        "link",
        "node",
        "outbound",
        "region",
        "role",
        "round_trip",
        "withheld",
    )

    def __init__(
        self,
        link: int,
        region: str,
        node: str,
        role: Role,
        cost: int,
        rtt_ms: float,
        settings: RouteSettings,
        limits: Limits,
        now: float,
    ) -> None:
        self.link = link
        self.region = region
        self.node = node
        self.role = role
        self._base = 1 + settings.admin_metric + max(cost, 0)
        self.round_trip = RoundTrip(rtt_ms, settings, now)
        self.outbound = Outbound(settings, limits, now)
        self.inbound = Inbound(settings, limits, now)
        self.withheld: dict[Key, tuple[RouteReason, str]] = {}
        self.digest_at = now + settings.digest_s
        self.full_at: float | None = None
        self.last_full = now
        self.last_pull = now - settings.full_min_s
        self._full_min_s = settings.full_min_s

    @property
    def cost(self) -> int:
        """What this link adds to a metric. At least 1."""
        return self._base + self.round_trip.announced_ms

    def differs(self, root: int, now: float) -> bool:
        """Decide whether to ask for the whole table, given the hash of what the other end announced. Asks at most once
        in `full_min_s`, and never while surplus was refused: then the hashes cannot agree. Cost: O(held)."""
        if self.inbound.incomplete or now < self.last_pull + self._full_min_s or self.inbound.root() == root:
            return False
        self.last_pull = now
        return True


def flaw(update: RouteUpdate, neighbour_region: str) -> str:
    """What is wrong with the form of an update from a bridge of `neighbour_region`; "" when it is well formed.

    A sender checks its own region on arrival, so no region can be twice in a path. Cost: O(path).
    """
    if not (0 <= update.epoch < NUMBER_MAX and 0 <= update.seqno < NUMBER_MAX):
        return "epoch or seqno out of range"
    if not 0 <= update.metric <= INFINITY:
        return "metric out of range"
    try:
        check_name(update.region, "region")
        check_name(update.bridge, "node")
        if update.metric < INFINITY:
            for name in update.path:
                check_name(name, "region")
    except BadName as bad:
        return str(bad)
    if update.metric < INFINITY:
        path = update.path
        if not path or path[0] != neighbour_region or path[-1] != update.region:
            return "path does not lead from the neighbour to the region"
        if len(set(path)) != len(path):
            return "a region is twice in the path"
    return ""


def well_formed_like(known: RouteUpdate, update: RouteUpdate) -> bool:
    """A quick yes for an update of the same source and path as one that was found well formed. False says nothing."""
    numbers = 0 <= update.epoch < NUMBER_MAX and 0 <= update.seqno < NUMBER_MAX
    return numbers and 0 <= update.metric < INFINITY and known.path == update.path
