"""One source (a region as one of its bridges announces it), and all routes to it that this node knows.

Decides which of its routes are usable and which one is selected, and keeps the feasibility distance. Each node keeps its
own: what it ever advertised itself, over its bridge links and in its region's table. Never sends anything.
Invariant: the selected route's certificate is feasible against the feasibility distance at every moment, also right
after that distance fell because something was advertised.
Source: design page "Routing", Routes; RFC 8966 sections 3.5 to 3.8. A route of the selected neighbour whose metric rose
past the feasibility distance is held, which section 3.5.3 allows ("MAY be ignored"): the neighbour's own feasibility
distance is at most what it told before, so the way stays free of loops; only its true metric is what counts further.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from federation.core.feasible import Distance, after_advertising, comparison, feasible
from federation.core.policy.roles import Role
from federation.core.route_views import RouteState, Verdict
from federation.core.selection import Candidate, Hop, Key, least
from mesh.model.reasons import RouteReason
from mesh.wire.frames import INFINITY


class Why(IntEnum):
    """Why a newer seqno is wanted. Order is urgency."""

    BETTER = 1
    """A route that is not feasible is shorter than the selected one."""
    ROSE = 2
    """The selected route's metric rose: held until answered."""
    STARVED = 3
    """Routes are there, none is feasible."""


class Need(NamedTuple):
    """A wish for a seqno after the feasibility distance's, and whom to ask."""

    why: Why
    epoch: int
    seqno: int
    hops: tuple[Hop, ...]


class Shape(NamedTuple):
    """What others see of the selected route. Two equal shapes need no update."""

    hop: Hop
    path: tuple[str, ...]
    learned: Role
    metric: int
    epoch: int
    seqno: int

    def refreshes(self, before: Shape | None) -> bool:
        """Only the seqno moved: no hurry to tell."""
        return before is not None and self._replace(seqno=before.seqno) == before

    def same_way(self, before: Shape | None) -> bool:
        """The same next hop, path and role, so that whoever was told may still be told."""
        return before is not None and self[:3] == before[:3]


def _shape(route: Candidate) -> Shape:
    advert = route.advert
    return Shape(route.hop, route.path, route.learned, route.metric, advert.epoch, advert.seqno)


class Source:
    """All that one node knows of one source.

    epoch: newest one heard. kept: the feasibility distance, None while nothing was advertised. external: the best
    usable route over an own bridge link. shape: what the last evaluation showed to others.
    """

    __slots__ = ("_moved", "candidates", "epoch", "external", "kept", "key", "selected", "shape")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.epoch = 0
        self.kept: Distance | None = None
        self.candidates: dict[Hop, Candidate] = {}
        self.selected: Candidate | None = None
        self.external: Candidate | None = None
        self.shape: Shape | None = None
        self._moved = False

    # -- learning ------------------------------------------------------------------------------------------------

    def learn(
        self,
        hop: Hop,
        node: str,
        advert: Distance,
        path: tuple[str, ...],
        learned: Role,
        cost: int,
        barred: Verdict | None,
        now: float,
    ) -> None:
        """Replace what `hop` told before. cost: of the hop, at least 1. barred: None, or why it may not be used at all.

        Call `evaluate` afterwards. Cost: constant.
        """
        candidate = self.candidates.get(hop)
        if candidate is None:
            candidate = self.candidates[hop] = Candidate(hop, node, self.key[1])
            self._moved = True
        risen = barred is None and candidate is self.selected and self._rose(advert)
        if risen != candidate.held or advert.epoch != candidate.advert.epoch:
            self._moved = True
        candidate.advert = advert
        candidate.held = risen
        if not risen:
            candidate.certificate = advert
        if path != candidate.path:
            candidate.path = path
            candidate.since = now
            self._moved = True
        candidate.learned = learned
        candidate.barred = barred
        if candidate.price(cost, now):
            self._moved = True
        if barred is None and advert.epoch > self.epoch:
            self.epoch = advert.epoch

    def _rose(self, advert: Distance) -> bool:
        """Same generation as the feasibility distance, but further away: the case that RFC 8966 allows to hold."""
        return advert.epoch >= self.epoch and feasible(advert, self.kept) is RouteReason.METRIC_NOT_FEASIBLE

    def forget(self, hop: Hop) -> bool:
        """Drop what `hop` told (it retracted, or the link went). Returns: there was something."""
        gone = self.candidates.pop(hop, None) is not None
        self._moved = self._moved or gone
        return gone

    def release(self) -> None:
        """Stop holding the selected route: its seqno was asked for in vain."""
        if self.selected is not None:
            self.selected.held = False
            self.selected.certificate = self.selected.advert

    def advertised(self, distance: Distance) -> bool:
        """Note that this node advertises `distance` from now on. Returns: the feasibility distance fell; evaluate again."""
        before = self.kept
        self.kept = after_advertising(before, distance)
        return self.kept is not before

    def renew(self) -> None:
        """Forget the feasibility distance, and an epoch that nobody announces any more.

        Call only when nothing was advertised for `RouteSettings.source_keep_s`, so that nobody relies on anything this
        node told. It ends the harm of a seqno or epoch that no origin ever had.
        """
        self.kept = None
        self.epoch = max((c.advert.epoch for c in self.candidates.values() if c.barred is None), default=0)

    @property
    def newest(self) -> Distance | None:
        """What this node advertised of the newest epoch, None when nothing."""
        return self.kept if self.kept is not None and self.kept.epoch == self.epoch else None

    # -- choosing ------------------------------------------------------------------------------------------------

    def evaluate(self) -> bool:
        """Judge every route against the feasibility distance and select the best usable one.

        Returns: something that ranks or shows a route changed, so that its region has to be compiled anew; a mere new
        seqno does not. Cost: O(routes of this source). Keeps: the invariant above.
        """
        self._choose()
        passed_over = [c for c in self.candidates.values() if c.held and c is not self.selected]
        if passed_over:
            # Holding is for the route in use. Once another one is preferred, this one is judged like any other.
            for candidate in passed_over:
                candidate.held = False
                candidate.certificate = candidate.advert
            self._choose()
        self.shape = None if self.selected is None else _shape(self.selected)
        moved, self._moved = self._moved, False
        return moved

    def _choose(self) -> None:
        best = external = None
        for candidate in self.candidates.values():
            refusal = self._judge(candidate)
            if refusal != candidate.refusal:
                candidate.refusal = refusal
                self._moved = True
            if refusal is None:
                if best is None or candidate.order < best.order:
                    best = candidate
                if candidate.external and (external is None or candidate.order < external.order):
                    external = candidate
        self.selected = best
        self.external = external

    def _judge(self, candidate: Candidate) -> Verdict | None:
        if candidate.barred is not None:
            return candidate.barred
        advert = candidate.advert
        if advert.epoch < self.epoch:
            return _infeasible(RouteReason.OLD_EPOCH, f"{advert.epoch} < {self.epoch}")
        if candidate.metric >= INFINITY:
            return _infeasible(RouteReason.RETRACTED, "")
        reason = feasible(advert, self.kept)
        if reason is None:
            candidate.held = False
            candidate.certificate = advert
            return None
        if candidate.held and feasible(candidate.certificate, self.kept) is None:
            return None
        candidate.held = False
        candidate.certificate = advert
        assert self.kept is not None
        return _infeasible(reason, comparison(reason, advert, self.kept))

    # -- wanting a newer seqno -----------------------------------------------------------------------------------

    def need(self) -> Need | None:
        """Decide whether a newer seqno would help, and whom to ask (RFC 8966 sections 3.8.2.1 and 3.8.2.2).

        Cost: O(routes of this source).
        """
        kept, best = self.kept, self.selected
        if kept is None or kept.epoch < self.epoch:
            return None
        if best is not None and best.held:
            return Need(Why.ROSE, kept.epoch, kept.seqno + 1, (best.hop,))
        refused = [
            c
            for c in self.candidates.values()
            if c.refusal is not None
            and c.barred is None
            and c.metric < INFINITY
            and c.advert.epoch == kept.epoch
        ]
        if not refused:
            return None
        if best is None:
            return Need(Why.STARVED, kept.epoch, kept.seqno + 1, tuple(c.hop for c in refused))
        # One whose seqno merely lags catches up by itself; asking would move the goal it runs after.
        nearest = least([c for c in refused if c.advert.seqno == kept.seqno])
        if nearest is not None and nearest.metric < best.metric:
            return Need(Why.BETTER, kept.epoch, kept.seqno + 1, (nearest.hop,))
        return None

    def towards(self, asker: Hop) -> Candidate | None:
        """Where to pass on `asker`'s seqno request: the best usable route not through it, else the best other one
        (RFC 8966 section 3.8.1.2). A sibling's request leaves over an own link only, so that it cannot wander."""
        others = [
            c
            for c in self.candidates.values()
            if c.hop != asker
            and c.barred is None
            and c.metric < INFINITY
            and (c.external or isinstance(asker, int))
        ]
        return least([c for c in others if c.refusal is None]) or least(others)


def _infeasible(reason: RouteReason, detail: str) -> Verdict:
    return Verdict(RouteState.INFEASIBLE, reason, detail)
