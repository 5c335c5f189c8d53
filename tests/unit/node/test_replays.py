"""What `from` means, and how what a replay hands over becomes deliveries."""

from __future__ import annotations

import pytest

from mesh.core.replay import Item
from mesh.model.event import Event, Logged, Told
from mesh.model.ids import MeshId
from mesh.node.replays import deliveries_of, read_start
from mesh.node.service import RefusedError

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("since", "start"),
    [
        ("10m", NOW_MS - 600_000),
        ("1m30s", NOW_MS - 90_000),
        ("200ms", NOW_MS - 200),
        ("0s", NOW_MS),
        ("2023-11-14T22:13:20Z", NOW_MS),
        ("2023-11-14T23:13:20+01:00", NOW_MS),
        ("2023-11-14t22:13:20.5z", NOW_MS + 500),
        ("2023-11-14T22:13:20.123456789Z", NOW_MS + 123),
        ("eu/eu-1/7/12", MeshId("eu", "eu-1", 7, 12)),
    ],
)
def test_where_it_begins(since: str, start: int | MeshId) -> None:
    assert read_start(since, NOW_MS) == start


@pytest.mark.parametrize(
    "since",
    [
        "",
        "now",
        "10",
        "-5m",
        "2023-11-14",
        "2023-11-14T22:13:20",
        "2023-11-31T00:00:00Z",
        "2023-11-14T22:13:20+99:00",
        "eu/eu-1/7",
        "eu/eu-1/x/12",
        "eu/eu-1/7/012",
        "9" * 400 + "d",
        "x" * 10_000,
    ],
)
def test_what_is_no_beginning_is_refused_and_told_how(since: str) -> None:
    with pytest.raises(RefusedError, match="write a duration") as refused:
        read_start(since, NOW_MS)
    assert refused.value.code == "MESH-E011"
    assert len(refused.value.detail) < 1_000


def item(position: int, node: str = "a", sids: tuple[int, ...] = (1,), path: tuple[str, ...] = ()) -> Item:
    event = Event(position, "t", "", 0, None, None, b"{}")
    return Logged(position, 0, 0, ("eu", node, 1), path, event), sids


def test_events_that_came_one_way_for_the_same_sids_are_one_delivery() -> None:
    told = Told("gap", {"reason": "stopped"})
    found = deliveries_of(
        [
            item(1),
            item(2),
            item(3, "b"),
            item(4, "b", (1, 2)),
            told,
            item(5, "b", (1, 2)),
            item(6, path=("us",)),
        ],
        9,
    )
    assert [[event.seq for event in one.events] for one in found] == [[1, 2], [3], [4], [], [5], [6]]
    assert [one.sids for one in found] == [(1,), (1,), (1, 2), (9,), (1, 2), (1,)]
    assert [one.origin[1] for one in found if one.events] == ["a", "b", "b", "b", "a"]
    assert [one.told for one in found] == [None, None, None, told, None, None]
    assert all(one.replayed for one in found)
    assert found[0].size_bytes > 0
    assert found[3].size_bytes == 0
    assert deliveries_of([], 1) == []
