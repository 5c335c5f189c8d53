"""Whether a route may be used without any risk of a loop: the feasibility condition.

Decides, for one advertised distance and the smallest distance this node ever advertised itself for the same source,
whether the route is feasible. Never compares two feasible routes (that is `selection`), never looks at paths or policy.
Invariant: along any chain of feasible next hops the feasibility distance strictly falls, so no snapshot of the mesh
contains a forwarding cycle for one source, however stale, lost or reordered the updates are that led to it. It holds
because a node's feasibility distance never rises while it lives, and is never above anything the node advertised.
Source: RFC 8966 sections 2.4, 2.5 and 3.5.1. The epoch of the origin goes before the seqno: an origin that started
again replaces everything its earlier life advertised.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.model.reasons import RouteReason
from mesh.wire.frames import INFINITY


class Distance(NamedTuple):
    """How far away a source was said to be, and in which generation of its origin. Metric INFINITY: not reachable."""

    epoch: int
    seqno: int
    metric: int


def feasible(advert: Distance, kept: Distance | None) -> RouteReason | None:
    """Decide whether a neighbour's `advert` is feasible against `kept`, this node's own feasibility distance.

    Args: kept: None when this node never advertised the source, which makes every reachable advert feasible.
    Returns: None when feasible, else the reason why not. Cost: constant.
    """
    if advert.metric >= INFINITY:
        return RouteReason.RETRACTED
    if kept is None or advert[:2] > kept[:2]:
        return None
    if advert.epoch < kept.epoch:
        return RouteReason.OLD_EPOCH
    if advert.seqno < kept.seqno:
        return RouteReason.STALE_SEQNO
    return None if advert.metric < kept.metric else RouteReason.METRIC_NOT_FEASIBLE


def after_advertising(kept: Distance | None, advertised: Distance) -> Distance:
    """The feasibility distance of a node that now advertises `advertised` (RFC 8966 section 3.7.3).

    Returns: `advertised` when it is of a newer generation or smaller, else `kept` unchanged. Retractions change nothing
    and must not be passed. Cost: constant.
    """
    if kept is None or advertised[:2] > kept[:2]:
        return advertised
    if advertised[:2] == kept[:2] and advertised.metric < kept.metric:
        return advertised
    return kept


def comparison(reason: RouteReason, advert: Distance, kept: Distance) -> str:
    """The figures that `feasible` compared when it gave `reason`, for a person: "117 < 118" or "30 >= 11"."""
    match reason:
        case RouteReason.OLD_EPOCH:
            return f"{advert.epoch} < {kept.epoch}"
        case RouteReason.STALE_SEQNO:
            return f"{advert.seqno} < {kept.seqno}"
        case RouteReason.METRIC_NOT_FEASIBLE | RouteReason.METRIC_ROSE:
            return f"{advert.metric} >= {kept.metric}"
        case _:
            return ""
