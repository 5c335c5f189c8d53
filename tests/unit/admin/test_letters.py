from __future__ import annotations

import json
from typing import Any

import pytest
from unit.admin.fake_inspect import FakeInspect
from unit.admin.test_api import get, refused, request

from mesh.admin.api import Api
from mesh.node.inspect import Item, MissingNode, What
from mesh.node.letters import AT_ONCE, PAGE, Act


def page(node: str, *lsns: int, more: int | None = None) -> list[Item]:
    return [{"letters": [{"id": f"{node}/{n}", "lsn": n, "topic": "orders/x"} for n in lsns], "more": more}]


@pytest.fixture
def inspect() -> FakeInspect:
    fake = FakeInspect()
    fake.own = {What.DEAD_LETTERS: page("eu-1", 3, 7)}
    fake.others = {"eu-3": {What.DEAD_LETTERS: page("eu-3", 1, 2)}}
    fake.absent = [MissingNode("eu-2", "suspect 4s")]
    return fake


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


async def test_the_list_covers_the_region_in_the_order_of_node_and_number(inspect: FakeInspect) -> None:
    answer = await get(inspect, "/v1/dlq")
    assert list(answer) == ["apiVersion", "answered", "missing", "next", "items"]
    assert ids(answer) == ["eu-1/3", "eu-1/7", "eu-3/1", "eu-3/2"]
    assert (answer["answered"], answer["next"]) == (["eu-1", "eu-3"], None)
    assert answer["missing"] == [{"node": "eu-2", "why": "suspect 4s"}]


async def test_filters_are_the_work_of_the_nodes_that_have_them(inspect: FakeInspect) -> None:
    await get(inspect, "/v1/dlq?topic=orders/%23&reason=no-route&region=us&limit=7")
    own, others = map(json.loads, inspect.queries)
    assert own == others == {"topic": "orders/#", "reason": "no_route", "part": "r/us", "limit": 7}
    await get(inspect, "/v1/dlq?part=c/shop")
    assert json.loads(inspect.queries[-1]) == {"part": "c/shop", "limit": PAGE}


async def test_a_page_ends_where_its_limit_or_a_nodes_page_does_and_the_next_begins_there(
    inspect: FakeInspect,
) -> None:
    first = await get(inspect, "/v1/dlq?limit=3")
    assert ids(first) == ["eu-1/3", "eu-1/7", "eu-3/1"]
    await get(inspect, f"/v1/dlq?limit=3&cursor={first['next']}")
    assert json.loads(inspect.queries[-1]) == {"node": "eu-3", "after": 1, "limit": 3}
    inspect.own = {What.DEAD_LETTERS: page("eu-1", 3, more=900)}
    short = await get(inspect, "/v1/dlq")
    assert ids(short) == ["eu-1/3"], "eu-1 has more before eu-3's turn comes"
    await get(inspect, f"/v1/dlq?cursor={short['next']}")
    assert json.loads(inspect.queries[-1]) == {"node": "eu-1", "after": 900, "limit": PAGE}


async def test_one_node_alone_can_be_asked_and_none_speaks_in_anothers_name(inspect: FakeInspect) -> None:
    assert ids(await get(inspect, "/v1/dlq?here=true")) == ["eu-1/3", "eu-1/7"]
    assert inspect.asked == []
    inspect.others = {"eu-3": {What.DEAD_LETTERS: page("eu-1", 1)}}
    answer = await get(inspect, "/v1/dlq?node=eu-3")
    assert (ids(answer), answer["answered"], answer["missing"]) == (["eu-3/1"], ["eu-3"], [])
    assert (await refused(inspect, "/v1/dlq?node=eu-9"))[1]["code"] == "MESH-A005"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/v1/dlq?reason=tired", "no reason"),
        ("/v1/dlq?topic=a/%23/b", "#"),
        ("/v1/dlq?region=us&part=r/us", "exclude"),
        ("/v1/dlq?cursor=zzz", "none of this list"),
        ("/v1/dlq?cursor=WzEsMl0", "none of this list"),
        ("/v1/dlq?limit=0", "1 to 10000"),
        ("/v1/dlq?raeson=x", "Did you mean reason?"),
        ("/v1/dlq/eu-1", "no such path"),
        ("/v1/dlq/eu-1/x", "not a number"),
        ("/v1/dlq/eu-1/1,,2", "not a number"),
        ("/v1/dlq/eu-1/99999999999999999999", "not a number"),
        ("/v1/dlq/eu-1/" + ",".join(["1"] * (AT_ONCE + 1)), "are allowed"),
    ],
)
async def test_what_cannot_be_understood_is_told(inspect: FakeInspect, target: str, words: str) -> None:
    _, told = await refused(inspect, target)
    assert words in told["detail"] + told["remedy"]
    assert inspect.acts == []


async def call(inspect: FakeInspect, method: str, target: str) -> tuple[int, dict[str, Any]]:
    response = await Api(inspect).answer(request(target, method))
    return response.status, json.loads(response.body)


async def test_each_method_is_one_act_at_the_node_that_the_path_names(inspect: FakeInspect) -> None:
    inspect.done = [{"id": "eu-3/1", "lsn": 1, "why": ""}]
    for method, target in (
        ("GET", "/v1/dlq/eu-3/1"),
        ("POST", "/v1/dlq/eu-3/1/replay?timeout=500ms"),
        ("DELETE", "/v1/dlq/eu-3/1,2,1"),
    ):
        status, told = await call(inspect, method, target)
        assert (status, told["answered"], told["items"][0]["node"]) == (200, ["eu-3"], "eu-3")
    assert inspect.acts == [
        ("eu-3", Act.SHOW, (1,), 2.0),
        ("eu-3", Act.REPLAY, (1,), 0.5),
        ("eu-3", Act.DROP, (1, 2), 2.0),
    ]


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/v1/dlq", "GET, HEAD"),
        ("DELETE", "/v1/dlq", "GET, HEAD"),
        ("POST", "/v1/dlq/eu-1/1", "GET, HEAD, DELETE"),
        ("GET", "/v1/dlq/eu-1/1/replay", "POST"),
    ],
)
async def test_a_wrong_method_changes_nothing(
    inspect: FakeInspect, method: str, target: str, allow: str
) -> None:
    response = await Api(inspect).answer(request(target, method))
    assert (response.status, dict(response.headers)["allow"]) == (405, allow)
    assert inspect.acts == []


@pytest.mark.parametrize(
    ("why", "status", "code"),
    [
        ("unknown", 404, "MESH-A005"),
        ("nobody", 409, "MESH-A022"),
        ("under_way", 409, "MESH-A022"),
        ("draining", 409, "MESH-A022"),
        ("no_space", 503, "MESH-E050"),
        ("starting", 503, "MESH-E050"),
    ],
)
async def test_one_that_was_refused_is_a_problem_and_among_several_an_item_with_its_code(
    inspect: FakeInspect, why: str, status: int, code: str
) -> None:
    inspect.done = [{"id": "eu-3/1", "lsn": 1, "why": why}]
    found, told = await call(inspect, "POST", "/v1/dlq/eu-3/1/replay")
    assert (found, told["code"], told["where"]) == (status, code, "eu-3/1")
    inspect.done = [{"id": "eu-3/1", "lsn": 1, "why": why}, {"id": "eu-3/2", "lsn": 2, "why": ""}]
    found, told = await call(inspect, "POST", "/v1/dlq/eu-3/1,2/replay")
    assert (found, [item.get("code") for item in told["items"]]) == (200, [code, None])
    assert told["items"][0]["detail"]
