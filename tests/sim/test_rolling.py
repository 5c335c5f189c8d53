"""P12: every node of a mesh is restarted, one after the other, while events are published at least once: nothing accepted is lost."""

from __future__ import annotations

import pytest

from mesh.testing.faults import Fault, Trouble
from mesh.testing.soak import live
from mesh.testing.topology import Size


@pytest.mark.parametrize("seed", [4, 9])
def test_a_rolling_upgrade_of_every_region(seed: int) -> None:
    plan = [Trouble(Fault.ROLLING, 1.0 + 3.0 * region, 0.4, region, 0.5) for region in range(6)]
    outcome = live(seed, Size.SMALL, plan)[1]
    assert not outcome.failed, "\n".join(map(str, outcome.violations))
    assert outcome.kept > 50
    assert outcome.kept_repeats > 0
