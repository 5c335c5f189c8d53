"""All routes this node knows, by source and by region, and the FIB compiled from them.

Decides when a source is forgotten, and what an operator is told when a region's route comes, goes or changes. Which
routes are usable and which wins is decided by `source` and `selection`; this keeps their results.
Invariant: the FIB has a line for a region exactly when some route to it is usable, and that line is what `selection.rank`
last returned. Sources are bounded by `RouteSettings.sources`.
Source: design page "Routing", Routes; "What a person sees" for the rows; RFC 8966 section 3.2.5 for how long a source is
remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteState, RouteView, Verdict
from federation.core.selection import Candidate, FibEntry, Hop, Key, rank
from federation.core.source import Source
from mesh.core.effects import Notify
from mesh.model.reasons import NotDelivered
from mesh.wire.frames import INFINITY

_STATES = list(RouteState)


class Rib:
    """The route table of one node.

    sources: all known, by (region, bridge). fib: region -> its line, a live view. generation: counts its changes.
    live_generation: counts changes of what `live_bridges` answers.
    """

    __slots__ = (
        "_by_region",
        "_fib",
        "_live",
        "_quiet",
        "_settings",
        "fib",
        "generation",
        "live_generation",
        "sources",
    )

    def __init__(self, settings: RouteSettings) -> None:
        self._settings = settings
        self._by_region: dict[str, dict[str, Source]] = {}
        self._quiet: dict[Key, float] = {}
        self._fib: dict[str, FibEntry] = {}
        self._live: dict[str, frozenset[str]] = {}
        self.sources: dict[Key, Source] = {}
        self.fib: Mapping[str, FibEntry] = MappingProxyType(self._fib)
        self.generation = 0
        self.live_generation = 0

    def source(self, key: Key) -> Source | None:
        """The source, made if it is new. Returns: None when there is no room for another one."""
        source = self.sources.get(key)
        if source is None and len(self.sources) < self._settings.sources:
            source = self.sources[key] = Source(key)
            self._by_region.setdefault(key[0], {})[key[1]] = source
        return source

    def forget(self, key: Key, hop: Hop) -> bool:
        """Drop what `hop` told of a source. Returns: there was something; evaluate the source again."""
        source = self.sources.get(key)
        return source is not None and source.forget(hop)

    # -- the FIB -------------------------------------------------------------------------------------------------

    def compile(self, region: str) -> Notify | None:
        """Choose anew for one region. Returns: what to tell an operator, if its route came, went or changed."""
        self._note_live(region)
        entry = rank(region, _routes(self._by_region.get(region, {}).values()), self._settings)
        before = self._fib.get(region)
        if entry == before:
            return None
        self.generation += 1
        if entry is None:
            del self._fib[region]
            return Notify("route_lost", region, self.absence(region).value)
        self._fib[region] = entry
        if before is not None and (before.hops[0], before.path) == (entry.hops[0], entry.path):
            return None
        what = "route_selected" if before is None else "route_changed"
        detail = f"{entry.metric} via {entry.hops[0].node}, path {','.join(entry.path)}"
        return Notify(what, region, self._verdict(entry).reason.value, detail)

    def _note_live(self, region: str) -> None:
        """Which bridges of a region somebody still has a way to, feasible or not: their summaries count."""
        live = frozenset(
            bridge
            for bridge, source in self._by_region.get(region, {}).items()
            if any(route.barred is None and route.metric < INFINITY for route in source.candidates.values())
        )
        if live != self._live.get(region, frozenset()):
            self.live_generation += 1
            if live:
                self._live[region] = live
            else:
                del self._live[region]

    def live_bridges(self, region: str) -> frozenset[str]:
        """Bridges of a region to which some neighbour still announces a way. Cost: O(1)."""
        return self._live.get(region, frozenset())

    def exits(self, region: str) -> tuple[str, ...]:
        """Siblings that publish a way of their own to a region, feasible for this node or not, best first.

        For a region without a line in the FIB: a sibling sends it over its own bridges only, by a route that is feasible
        there (docs/decisions). Cost: O(routes to the region).
        """
        routes = [
            route
            for route in _routes(self._by_region.get(region, {}).values())
            if isinstance(route.hop, str) and route.barred is None and route.metric < INFINITY
        ]
        return tuple(dict.fromkeys(route.node for route in sorted(routes, key=lambda route: route.order)))

    def _verdict(self, entry: FibEntry) -> Verdict:
        hop = entry.hops[0]
        source = self.sources[(entry.region, hop.bridge)]
        return source.candidates[hop.node if hop.link is None else hop.link].verdict

    # -- forgetting ----------------------------------------------------------------------------------------------

    def note(self, source: Source, now: float) -> None:
        """Start or stop the time after which a source without a usable route is forgotten: meanwhile this node advertises
        nothing of it."""
        if source.selected is None:
            self._quiet.setdefault(source.key, now)
        else:
            self._quiet.pop(source.key, None)

    def next_deadline(self) -> float | None:
        # Waits are all equally long, so the first one noted is the first one due.
        first = next(iter(self._quiet.values()), None)
        return None if first is None else first + self._settings.source_keep_s

    def expire(self, now: float) -> list[Key]:
        """Forget what was not usable for `source_keep_s`. Returns: sources to evaluate again, or to forget elsewhere, too."""
        keys = []
        for key, since in self._quiet.items():
            if now < since + self._settings.source_keep_s:
                break
            keys.append(key)
        return self.renew(keys)

    def renew(self, keys: Iterable[Key]) -> list[Key]:
        """Forget what this node advertised of these sources, and altogether those without any route. Returns: `keys`."""
        renewed = list(keys)
        for key in renewed:
            self._quiet.pop(key, None)
            source = self.sources[key]
            if source.candidates:
                source.renew()
            else:
                self._remove(key)
        return renewed

    def _remove(self, key: Key) -> None:
        del self.sources[key]
        bridges = self._by_region[key[0]]
        del bridges[key[1]]
        if not bridges:
            del self._by_region[key[0]]

    # -- views ---------------------------------------------------------------------------------------------------

    def views(self, now: float) -> list[RouteView]:
        """Every route with the verdict that its last comparison left on it. Cost: O(routes), sorted by preference."""
        views = []
        for region in sorted(self._by_region):
            routes = sorted(_routes(self._by_region[region].values()), key=_shown_order)
            views += [_view(region, route, now) for route in routes]
        return views

    def absence(self, region: str) -> NotDelivered:
        """Why a region is not in the FIB: routes are known but none is feasible, or there is none."""
        routes = _routes(self._by_region.get(region, {}).values())
        lacking = any(route.barred is None and route.metric < INFINITY for route in routes)
        return NotDelivered.INFEASIBLE_ONLY if lacking else NotDelivered.NO_ROUTE


def _routes(sources: Iterable[Source]) -> Iterator[Candidate]:
    for source in sources:
        yield from source.candidates.values()


def _shown_order(route: Candidate) -> tuple[object, ...]:
    return (_STATES.index(route.verdict.state), route.order)


def _view(region: str, route: Candidate, now: float) -> RouteView:
    return RouteView(
        region=region,
        next_hop=route.node,
        via=f"bridge#{route.hop}" if isinstance(route.hop, int) else "peer",
        metric=route.metric,
        seqno=route.advert.seqno,
        path=route.path,
        age_s=max(0.0, now - route.since),
        state=route.verdict.state,
        reason=route.verdict.reason,
        detail=route.verdict.detail,
        bridge=route.bridge,
        epoch=route.advert.epoch,
    )
