"""Gaps stay bounded, and none is forgotten."""

from __future__ import annotations

from mesh.core.replay import Gap
from mesh.model.reasons import LogGap
from mesh.store.eventlog import GAPS, bounded_gaps


def test_few_gaps_stay_as_they_are() -> None:
    gaps = (Gap(1, 2, 3, 4, LogGap.STOPPED),)
    assert bounded_gaps(gaps) == gaps


def test_of_too_many_the_oldest_become_one_that_spans_them() -> None:
    gaps = [Gap(n, n * 10, n * 10 + 5, 1, LogGap.OVERRUN) for n in range(1, GAPS + 3)]
    found = bounded_gaps(gaps)
    assert len(found) == GAPS
    assert found[0] == Gap(3, 10, 35, None, LogGap.OVERRUN)
    assert list(found[1:]) == gaps[3:]
