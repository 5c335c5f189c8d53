"""Which of the routes to a region is used, which stand by, and why each other one is not.

Decides the order of usable routes, and compiles one region's line of the FIB from all routes of all its sources. The
comparison that ranks a route writes its verdict on it, and lists, explain and watch print that verdict.
Never judges feasibility (`feasible`, `source`), never sends anything.
Invariant: only routes that are feasible at this moment are compiled, so every next hop of a line, primary, equal or
alternate, is free of loops for its source and can be used at once.
Source: design page "Routing", Routes; RFC 8966 section 3.6; RFC 5286 (loop-free alternates).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from federation.core.feasible import Distance
from federation.core.policy.roles import Role
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteState, Verdict
from mesh.model.reasons import RouteReason
from mesh.wire.frames import INFINITY

Key: TypeAlias = tuple[str, str]
"""(region, origin bridge): a source, whatever its epoch."""

Hop: TypeAlias = int | str
"""Where a route was learned: an own bridge link, or a sibling bridge of the region."""

Order: TypeAlias = tuple[int, bool, int, str, str, int]
"""Preference among usable routes: metric, own link before sibling, shorter path, then names and link, so that equal
routes are ordered alike after any history."""


UNDECIDED = Verdict(RouteState.FEASIBLE, RouteReason.HIGHER_METRIC)


class Candidate:
    """One route to one source as one neighbour (or sibling) last told it.

    advert: the distance told. certificate: the told distance by which the route was last feasible; while `held`, it
    stands in for an advert whose metric rose. cost: of the hop and of policy. metric: advert and cost. learned: role of
    the link over which this region learned it. barred: set when the route may not be used whatever its distance.
    refusal: why it is not usable now, None when it is. since: monotonic time at which its metric or path last changed.
    """

    __slots__ = (
        "advert",
        "barred",
        "bridge",
        "certificate",
        "cost",
        "held",
        "hop",
        "learned",
        "metric",
        "node",
        "order",
        "path",
        "refusal",
        "since",
        "verdict",
    )

    def __init__(self, hop: Hop, node: str, bridge: str) -> None:
        self.hop = hop
        self.node = node
        self.bridge = bridge
        self.advert = Distance(0, 0, INFINITY)
        self.certificate = self.advert
        self.held = False
        self.path: tuple[str, ...] = ()
        self.learned = Role.TRANSIT
        self.cost = 0
        self.metric = INFINITY
        self.barred: Verdict | None = None
        self.refusal: Verdict | None = None
        self.verdict = UNDECIDED
        self.since = 0.0
        self.order: Order = (INFINITY, True, 0, "", "", 0)

    @property
    def external(self) -> bool:
        """Learned over a bridge link of this node."""
        return isinstance(self.hop, int)

    def price(self, cost: int, now: float) -> bool:
        """Set the cost of the hop and, from it, the metric and the place among others. Returns: the metric changed."""
        self.cost = cost
        before = self.metric
        self.metric = min(INFINITY, self.advert.metric + cost)
        link = self.hop if isinstance(self.hop, int) else -1
        self.order = (self.metric, link < 0, len(self.path), self.node, self.bridge, link)
        if self.metric != before:
            self.since = now
        return self.metric != before


class NextHop(NamedTuple):
    """A way out: over an own bridge link (`link` set, `node` at its other end), or through the sibling `node`.

    bridge, epoch: the source it leads to. metric: of the whole way.
    """

    link: int | None
    node: str
    metric: int
    bridge: str
    epoch: int


class SourceId(NamedTuple):
    """The source a region's route was chosen from: its region, origin bridge and that bridge's epoch."""

    region: str
    bridge: str
    epoch: int


@dataclass(frozen=True, slots=True)
class FibEntry:
    """One region's line in the FIB.

    hops: the selected next hop, then those of equal metric; a flow keeps to one of them by its hash. alternates:
    loop-free next hops of higher metric, best first, for when none of `hops` is left. A node with a usable bridge link
    of its own always finds one in `hops` or `alternates`, so that it can serve TRANSIT. path: nearest region first.
    """

    region: str
    hops: tuple[NextHop, ...]
    alternates: tuple[NextHop, ...]
    metric: int
    path: tuple[str, ...]
    source: SourceId


def rank(region: str, candidates: Iterable[Candidate], settings: RouteSettings) -> FibEntry | None:
    """Choose among all routes to `region`, of all its sources, and write the verdict on each of them.

    Args: candidates: with `refusal` up to date. Returns: the region's line, None when nothing is usable.
    Cost: O(n log n) in the region's routes, of which there are few.
    """
    usable: list[Candidate] = []
    for candidate in candidates:
        if candidate.refusal is None:
            usable.append(candidate)
        else:
            candidate.verdict = candidate.refusal
    if not usable:
        return None
    usable.sort(key=_order)
    best = usable[0]
    _crown(best, len(usable))
    equal = [_next_hop(best)]
    alternates: list[NextHop] = []
    taken = {best.hop}
    own_link = best.external
    for candidate in usable[1:]:
        more = candidate.metric - best.metric
        fresh = candidate.hop not in taken
        room = len(equal) < settings.equal_hops if more == 0 else len(alternates) < settings.alternates
        needed = candidate.external and not own_link
        if fresh and (room or needed):
            taken.add(candidate.hop)
            own_link = own_link or candidate.external
            (alternates if more or not room else equal).append(_next_hop(candidate))
            candidate.verdict = _IN_USE_EQUAL if more == 0 else _higher(RouteState.IN_USE, more)
        else:
            candidate.verdict = _SAME_LATER if more == 0 else _higher(RouteState.FEASIBLE, more)
    source = SourceId(region, best.bridge, best.advert.epoch)
    return FibEntry(region, tuple(equal), tuple(alternates), best.metric, best.path, source)


def _order(candidate: Candidate) -> Order:
    return candidate.order


def _next_hop(candidate: Candidate) -> NextHop:
    link = candidate.hop if isinstance(candidate.hop, int) else None
    return NextHop(link, candidate.node, candidate.metric, candidate.bridge, candidate.advert.epoch)


_ONLY = Verdict(RouteState.SELECTED, RouteReason.ONLY_ROUTE)
_LOWEST = Verdict(RouteState.SELECTED, RouteReason.LOWEST_METRIC)
_IN_USE_EQUAL = Verdict(RouteState.IN_USE, RouteReason.EQUAL_METRIC)
_SAME_LATER = Verdict(RouteState.FEASIBLE, RouteReason.SAME_METRIC_LATER_NAME)


def _crown(best: Candidate, of: int) -> None:
    if best.held:
        rose = f"{best.certificate.metric} -> {best.advert.metric}, kept while a newer seqno is asked for"
        best.verdict = Verdict(RouteState.SELECTED, RouteReason.METRIC_ROSE, rose)
    else:
        best.verdict = _ONLY if of == 1 else _LOWEST


def _higher(state: RouteState, more: int) -> Verdict:
    return Verdict(state, RouteReason.HIGHER_METRIC, f"+{more}")


def least(candidates: Sequence[Candidate]) -> Candidate | None:
    """The first of `candidates` in the order in which routes are preferred, None of an empty sequence."""
    return min(candidates, key=_order, default=None)
