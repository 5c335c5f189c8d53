from __future__ import annotations

import pytest
from unit.core.custody.journal_twin import Desk, event

from mesh.core.custody.wanted import group_part, split_group_part


@pytest.mark.parametrize("filter", ["a", "a/b/#", "+/x"])
def test_a_groups_part_names_it(filter: str) -> None:
    assert split_group_part(group_part("workers", filter)) == ("workers", filter)


def test_each_event_and_session_is_served_one_way() -> None:
    desk = Desk()
    desk.connect("shop", filter="a/#")
    desk.subscribe(3, 1, "a/b")
    desk.subscribe(4, 1, "c")
    batch = [event(1), event(2, topic="c"), event(3), event(4, topic="a/x")]
    _, wanted = desk.batch(batch)
    assert wanted.parts == {"c/shop": [0, 2, 3]}
    assert [(audience, [one.seq for one in some]) for audience, some in wanted.direct] == [
        (((3, (1,)),), [1]),
        (((4, (1,)),), [2]),
        (((3, (1,)),), [3]),
    ]
    assert wanted.nobody == []
