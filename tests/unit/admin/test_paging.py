from __future__ import annotations

import contextlib
import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.admin.fake_inspect import member, route

from mesh.admin.paging import page, read_cursor, write_cursor
from mesh.model.errors import MeshError
from mesh.node.inspect import Item, What


def subscriptions(count: int) -> list[Item]:
    return [
        {
            "node": f"eu-{n % 3}",
            "filter": f"orders/{n % 7}/#",
            "group": "",
            "client": f"c{n % 11}",
            "region": "eu",
        }
        for n in range(count)
    ]


async def pages(
    what: What, items: list[Item], limit: int, filters: dict[str, str] | None = None
) -> list[list[Item]]:
    found, cursor = [], ""
    while True:
        one = await page(what, items, filters or {}, limit=limit, after=read_cursor(what, cursor))
        found.append(one.items)
        if one.next is None:
            return found
        cursor = one.next


async def test_pages_together_are_the_whole_list_once_also_where_items_are_equal() -> None:
    items = subscriptions(400)
    found = await pages(What.SUBSCRIPTIONS, items, 17)
    assert all(len(one) == 17 for one in found[:-1])
    flat = [item for one in found for item in one]
    assert len(flat) == 400
    assert sorted(map(id, flat)) == sorted(map(id, items))
    assert [item["node"] for item in flat] == sorted(item["node"] for item in flat)


async def test_a_list_that_fits_has_no_next_page() -> None:
    items = subscriptions(10)
    assert (await page(What.SUBSCRIPTIONS, items, {}, limit=10, after=None)).next is None
    assert (await page(What.SUBSCRIPTIONS, items, {}, limit=9, after=None)).next is not None
    assert (await page(What.SUBSCRIPTIONS, [], {}, limit=9, after=None)).items == []


async def test_items_that_come_and_go_between_pages_do_not_disturb_the_others() -> None:
    items: list[Item] = [member(f"n{n:02}") | {"node": "eu-1"} for n in range(10)]
    first = await page(What.NODES, items, {}, limit=4, after=None)
    assert first.next is not None
    changed = [item for item in items if item["id"] not in ("n01", "n06")] + [
        member("n00b") | {"node": "eu-1"}
    ]
    rest = await page(What.NODES, changed, {}, limit=10, after=read_cursor(What.NODES, first.next))
    assert [item["id"] for item in rest.items] == ["n04", "n05", "n07", "n08", "n09"]


async def test_routes_come_by_node_and_region_the_one_in_use_first() -> None:
    items = [
        {"node": "eu-1"} | route("us", "feasible", 255),
        {"node": "eu-1"} | route("us", "withheld", None),
        {"node": "eu-1"} | route("ap", "in_use", 300),
        {"node": "eu-1"} | route("us", "in_use", 84),
        {"node": "eu-0"} | route("us", "infeasible", 5),
    ]
    found = (await page(What.ROUTES, items, {}, limit=10, after=None)).items
    assert [(item["node"], item["region"], item["state"]) for item in found] == [
        ("eu-0", "us", "infeasible"),
        ("eu-1", "ap", "in_use"),
        ("eu-1", "us", "in_use"),
        ("eu-1", "us", "feasible"),
        ("eu-1", "us", "withheld"),
    ]


async def test_links_come_in_the_order_of_their_numbers() -> None:
    items: list[Item] = [
        {"node": "eu-1", "id": name} for name in ("bridge#10", "bridge#9", "dial x:1", "peer#2")
    ]
    found = (await page(What.LINKS, items, {}, limit=10, after=None)).items
    assert [item["id"] for item in found] == ["bridge#9", "bridge#10", "dial x:1", "peer#2"]


async def test_filters_compare_text_and_look_into_lists() -> None:
    items: list[Item] = [
        {"node": "a", "id": "1", "state": "alive", "addresses": ["x:1", "y:2"], "role": None},
        {"node": "a", "id": "2", "state": "dead", "addresses": [], "role": "bridge"},
    ]

    async def ids(filters: dict[str, str]) -> list[object]:
        return [item["id"] for item in (await page(What.NODES, items, filters, limit=9, after=None)).items]

    assert await ids({"state": "alive"}) == ["1"]
    assert await ids({"addresses": "y:2"}) == ["1"]
    assert await ids({"role": ""}) == ["1"]
    assert await ids({"state": "alive", "role": "bridge"}) == []


async def test_the_loop_turns_while_a_long_list_is_paged() -> None:
    items = subscriptions(20_000)
    random.Random(1).shuffle(items)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await page(What.SUBSCRIPTIONS, items, {}, limit=100, after=None)
        nursery.cancel_scope.cancel()
    assert turns >= 5


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!!!!",
        write_cursor(("a",)),
        write_cursor(("eu", "eu-1", True)),
        write_cursor((1, 2, 3)),
        "W10",
        "é",
    ],
)
def test_a_cursor_of_something_else_is_refused(cursor: str) -> None:
    with pytest.raises(MeshError, match="MESH-A007"):
        read_cursor(What.NODES, cursor)


@settings(max_examples=60, derandomize=True)
@given(st.text(max_size=20))
def test_any_text_is_a_cursor_or_refused(cursor: str) -> None:
    with contextlib.suppress(MeshError):
        read_cursor(What.ROUTES, cursor)
