"""What a publisher is told of each event: where it goes, who serves its groups, and why somebody does not get it.

Decides nothing: the plan has the destinations and the reasons, and this says them in the words of the service page.
Bound: TOLDS different answers are remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mesh.core.groups import Assigned
from mesh.core.plan import Plan
from mesh.model.reasons import Drop, NotDelivered
from mesh.node.service import Outcome, RegionReason

TOLDS: Final = 1_024
"""Different outcomes that are remembered at once."""


class PublishAnswers:
    """Args: region: the own one. Cost: nothing for a plan that was told before, about 3 us for another one."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._tolds: dict[Outcome, Outcome] = {}

    def alone(self, plan: Plan) -> Outcome:
        """The outcome of an event that follows this plan with no queue group, kept in it. Plans that lead to the same places share
        one, so that who writes outcomes down sees at once that nothing changed."""
        if len(self._tolds) > TOLDS:
            self._tolds.clear()
        told = self.of(plan, ())
        plan.told = told = self._tolds.setdefault(told, told)
        return told

    def of(self, plan: Plan, assigned: Sequence[Assigned], *, kept: bool = False) -> Outcome:
        """kept: at least once, whoever is out of reach is among those who get it, and the reason says why later."""
        own = self._region
        regions = plan.regions
        local = len(plan.local) + len(plan.nodes)
        if kept and plan.unreached:
            regions = tuple(sorted({*regions, *(u.region for u in plan.unreached if not u.node)}))
            local += sum(1 for u in plan.unreached if u.node)
        groups: tuple[tuple[str, str], ...] = ()
        if assigned:
            groups = tuple((a.group, a.region) for a in assigned)
            regions = tuple(sorted({*regions, *(a.region for a in assigned if a.region != own)}))
            local += sum(1 for a in assigned if a.region == own)
        reasons = tuple(
            RegionReason(
                u.region, u.reason.value, f"{u.detail}; kept here until it returns" if kept else u.detail
            )
            for u in plan.unreached
        )
        if not regions and not local and not reasons:
            why = Drop.NO_MEMBERS.value if plan.groups else NotDelivered.NO_INTEREST.value
            reasons = (RegionReason("", why, "nobody in the mesh subscribes to this topic"),)
        return Outcome(regions, local, groups, reasons)
