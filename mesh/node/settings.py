"""What a node is told before it starts: a value that `mesh.config` fills from files, flags and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.core.routes import RouteSettings
from mesh.core.membership import MembershipSettings
from mesh.core.opening import Terms
from mesh.model.limits import Limits


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Args:
    region, node: who this is. instance: random per process start. epoch: see `mesh.store.epoch`.
    address: where other nodes reach the link port, "" when it only dials out. events_address: where they reach its clients' port.
    accept: "any" or "listed": which regions may dial in. bridges: terms per listed region.
    alone: no seeds, no bridges, no registry and no link port: nobody else will ever tell it anything.
    merge_budget: filters a region exports before its summary merges.
    """

    region: str
    node: str
    instance: str
    epoch: int
    software: str
    address: str = ""
    events_address: str = ""
    location: tuple[float, float] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    accept: str = "any"
    bridges: dict[str, Terms] = field(default_factory=dict)
    merge_budget: int = 4_096
    alone: bool = False
    limits: Limits = field(default_factory=Limits)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    routes: RouteSettings = field(default_factory=RouteSettings)
