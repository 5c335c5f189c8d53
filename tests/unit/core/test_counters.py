from __future__ import annotations

from mesh.core.counters import Counters
from mesh.model.reasons import Drop


def test_drops_add_up_by_reason_and_a_new_count_begins_empty() -> None:
    counters = Counters()
    counters.drop(Drop.NO_ROUTE, 2)
    counters.drop(Drop.NO_ROUTE, 3)
    counters.drop(Drop.EXPIRED, 1)
    assert counters.drops == {Drop.NO_ROUTE: 5, Drop.EXPIRED: 1}
    assert Counters().drops == {}
