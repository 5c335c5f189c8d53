"""Makes a plan of faults smaller while what it broke stays broken.

Decides which faults of a plan are needed: it leaves out ever smaller parts and keeps a smaller plan whenever the same
property is still violated. Decides nothing about worlds: whether a plan breaks something is asked of the caller.
Invariant: what it returns still fails, and fails no more when any single fault is left out (unless `tries` ran out).
Source: A. Zeller and R. Hildebrandt, "Simplifying and isolating failure-inducing input", 2002 (ddmin).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.testing.faults import Trouble


def shrink(
    plan: Sequence[Trouble], fails: Callable[[Sequence[Trouble]], bool], tries: int = 300
) -> list[Trouble]:
    """The smallest plan found. Args: plan: one that fails. fails: whether a plan still does. tries: calls of it at most.

    Cost: O(len(plan)^2) calls at worst, O(log) when one fault is to blame.
    """
    kept = list(plan)
    if tries > 0 and kept and fails([]):
        return []
    tries -= 1
    parts = 2
    while len(kept) >= 2 and tries > 0:
        size = -(-len(kept) // parts)
        for begin in range(0, len(kept), size):
            smaller = [*kept[:begin], *kept[begin + size :]]
            tries -= 1
            if smaller and fails(smaller):
                kept, parts = smaller, max(parts - 1, 2)
                break
            if tries <= 0:
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(kept))
    return kept
