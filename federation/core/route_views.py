"""What an operator is shown of routes: rows, states, verdicts and counts.

Decides the fields and nothing else; the values are the ones that the deciding comparison left.
Source: design page "What a person sees" (`routes list`, `routes withheld`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mesh.model.reasons import RouteReason


class RouteState(StrEnum):
    """How far a route got. `in_use`: compiled, beside the selected one. `feasible`: usable, but not needed."""

    SELECTED = "selected"
    IN_USE = "in_use"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    WITHHELD = "withheld"


class Verdict(NamedTuple):
    """What the comparison said of a route. detail: the figures it compared."""

    state: RouteState
    reason: RouteReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RouteView:
    """One row of the RIB, as the commands and the API show it."""

    region: str
    next_hop: str
    via: str
    metric: int
    seqno: int
    path: tuple[str, ...]
    age_s: float
    state: RouteState
    reason: RouteReason
    detail: str
    bridge: str
    epoch: int


class Withheld(NamedTuple):
    """A selected route that one neighbour is not told about, and why."""

    region: str
    bridge: str
    link: int
    to_region: str
    to_node: str
    reason: RouteReason
    detail: str


@dataclass(frozen=True, slots=True)
class RouteStatistics:
    """Sizes now, and counts since the start. refused: updates and frames not taken in, by reason."""

    neighbours: int
    sources: int
    routes: int
    regions: int
    seqno: int
    updates_received: int
    updates_sent: int
    frames_resent: int
    tables_sent: int
    requests_sent: int
    requests_passed: int
    refused: Mapping[str, int]
