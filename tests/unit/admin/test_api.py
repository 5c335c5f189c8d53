from __future__ import annotations

import json
from typing import Any

import pytest
from unit.admin.fake_inspect import FakeInspect, member, route

from mesh.admin.api import COLLECTIONS, Api
from mesh.model.errors import ERRORS
from mesh.net.http_request import Request, read_target
from mesh.net.http_response import Response
from mesh.node.inspect import MissingNode, What


def request(target: str, method: str = "GET", **headers: str) -> Request:
    path, query = read_target(target.encode())
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request(method, target, path, query, pairs, b"", "127.0.0.1:5", "1.1", True)


@pytest.fixture
def inspect() -> FakeInspect:
    fake = FakeInspect()
    fake.own = {
        What.NODES: [member("eu-1"), member("eu-2", "suspect")],
        What.ROUTES: [route("us", "in_use", 84), route("us", "feasible", 255), route("ap", "in_use", 9)],
        What.LINKS: [{"id": "bridge#3", "peer": "us-1", "kind": "bridge", "state": "open"}],
        What.SUBSCRIPTIONS: [{"filter": "orders/+/#", "group": "", "client": "sse#1", "region": "eu"}],
        What.CONFIG: [{"key": "node.region", "value": '"eu"', "origin": "file"}],
    }
    fake.others = {"eu-3": {What.ROUTES: [route("us", "in_use", 99)]}}
    fake.absent = [MissingNode("eu-2", "suspect 4s")]
    return fake


async def get(inspect: FakeInspect, target: str) -> dict[str, Any]:
    response = await Api(inspect).answer(request(target))
    assert response.status == 200, response.body
    assert ("content-type", "application/json") in list(response.headers)
    return json.loads(response.body)


async def refused(
    inspect: FakeInspect, target: str, method: str = "GET", **headers: str
) -> tuple[Response, dict[str, Any]]:
    response = await Api(inspect).answer(request(target, method, **headers))
    told = json.loads(response.body)
    assert dict(response.headers)["content-type"] == "application/problem+json"
    assert told["status"] == response.status
    assert told["code"] in ERRORS
    assert told["remedy"]
    return response, told


async def test_a_list_covers_the_region_and_says_who_did_not_answer(inspect: FakeInspect) -> None:
    answer = await get(inspect, "/v1/routes")
    assert list(answer) == ["apiVersion", "answered", "missing", "next", "items"]
    assert answer["apiVersion"] == "mesh/v1"
    assert answer["answered"] == ["eu-1", "eu-3"]
    assert answer["missing"] == [{"node": "eu-2", "why": "suspect 4s"}]
    assert answer["next"] is None
    assert [(item["node"], item["region"], item["metric"]) for item in answer["items"]] == [
        ("eu-1", "ap", 9),
        ("eu-1", "us", 84),
        ("eu-1", "us", 255),
        ("eu-3", "us", 99),
    ]


@pytest.mark.parametrize("path", list(COLLECTIONS))
async def test_every_list_has_the_same_shape(inspect: FakeInspect, path: str) -> None:
    assert set(await get(inspect, path)) == {"apiVersion", "answered", "missing", "next", "items"}


async def test_filters_scope_and_pages_are_the_servers_work(inspect: FakeInspect) -> None:
    assert len((await get(inspect, "/v1/routes?region=us&state=in_use"))["items"]) == 2
    assert len((await get(inspect, "/v1/routes?region=us&node=eu-3"))["items"]) == 1
    assert len((await get(inspect, "/v1/subscriptions?filter=orders/+/%23"))["items"]) == 1
    first = await get(inspect, "/v1/routes?here=true&limit=2")
    assert [item["region"] for item in first["items"]] == ["ap", "us"]
    rest = await get(inspect, f"/v1/routes?here=true&limit=2&cursor={first['next']}")
    assert [item["metric"] for item in rest["items"]] == [255]
    assert rest["next"] is None
    assert (first["answered"], first["missing"]) == (["eu-1"], [])


async def test_one_thing_is_asked_for_by_its_name(inspect: FakeInspect) -> None:
    assert [item["id"] for item in (await get(inspect, "/v1/nodes/eu-2"))["items"]] == ["eu-2"]
    assert [item["id"] for item in (await get(inspect, "/v1/links/bridge%233"))["items"]] == ["bridge#3"]
    assert len((await get(inspect, "/v1/routes/us"))["items"]) == 3
    response, told = await refused(inspect, "/v1/nodes/eu-9")
    assert response.status == 404
    assert "silent: eu-2" in told["detail"]


async def test_members_may_take_as_long_as_the_caller_says(inspect: FakeInspect) -> None:
    await get(inspect, "/v1/links?timeout=500ms")
    await get(inspect, "/v1/links")
    assert [timeout_s for _, timeout_s in inspect.asked] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("/v1/routs", 404, "Did you mean /v1/routes?"),
        ("/", 404, "There are:"),
        ("/v1/config/node.region", 404, "no such path"),
        ("/v1/routes?regoin=us", 400, "Did you mean region?"),
        ("/v1/routes?region=us&region=ap", 400, "twice"),
        ("/v1/routes?limit=0", 400, "1 to 10000"),
        ("/v1/routes?limit=99999999999", 400, "1 to 10000"),
        ("/v1/routes?cursor=zzz", 400, "without a cursor"),
        ("/v1/routes?here=maybe", 400, "true or false"),
        ("/v1/routes?timeout=5", 400, "duration"),
        ("/v1/routes?timeout=10h", 400, "duration"),
        ("/v1/routes?node=eu-9", 404, "no member"),
    ],
)
async def test_what_cannot_be_answered_is_a_problem_with_a_remedy(
    inspect: FakeInspect, target: str, status: int, words: str
) -> None:
    response, told = await refused(inspect, target)
    assert response.status == status
    assert words in told["detail"] + told["remedy"]


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/v1/routes", "POST", "GET, HEAD"),
        ("/v1/node/leave", "GET", "POST"),
        ("/livez", "DELETE", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    inspect: FakeInspect, path: str, method: str, allow: str
) -> None:
    response, _ = await refused(inspect, path, method)
    assert response.status == 405
    assert dict(response.headers)["allow"] == allow
    assert inspect.leaving == 0


async def test_leaving_is_asked_for_with_a_post(inspect: FakeInspect) -> None:
    response = await Api(inspect).answer(request("/v1/node/leave", "POST"))
    assert (response.status, inspect.leaving) == (202, 1)
    assert json.loads(response.body)["node"] == "eu-1"


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://127.0.0.1:8222", True),
        ("http://localhost:3000", True),
        ("https://evil.example", False),
        ("null", False),
        ("http://[x", False),
    ],
)
async def test_a_web_page_of_another_site_cannot_stop_a_node(
    inspect: FakeInspect, origin: str, passes: bool
) -> None:
    response = await Api(inspect).answer(request("/v1/node/leave", "POST", origin=origin))
    assert (response.status == 202, inspect.leaving == 1) == (passes, passes)


async def test_alive_means_that_the_loop_turns_and_ready_that_clients_may_come(inspect: FakeInspect) -> None:
    alive = await Api(inspect).answer(request("/livez"))
    assert json.loads(alive.body)["status"] == "alive"
    assert (await Api(inspect).answer(request("/readyz"))).status == 200
    inspect.readiness = (False, "joining")
    response, told = await refused(inspect, "/readyz")
    assert (response.status, told["detail"]) == (503, "joining")
    assert "retry-after" in dict(response.headers)


async def test_metrics_are_served_as_text(inspect: FakeInspect) -> None:
    response = await Api(inspect).answer(request("/metrics"))
    assert response.status == 200
    assert b"mesh_events_published_total 0.0" in response.body


async def test_the_registry_has_three_lists_with_filters(inspect: FakeInspect) -> None:
    inspect.own |= {
        What.REGISTRY: [{"id": "all", "kind": "etcd", "state": "reachable"}],
        What.REGISTRY_ENTRIES: [{"id": "eu-1", "kind": "node"}, {"id": "us", "kind": "region"}],
        What.REGISTRY_DIFF: [{"id": "eu-1", "verdict": "both"}, {"id": "eu-2", "verdict": "stale_entry"}],
    }
    assert [i["state"] for i in (await get(inspect, "/v1/registry/status"))["items"]] == ["reachable"]
    assert [i["id"] for i in (await get(inspect, "/v1/registry/entries?kind=region"))["items"]] == ["us"]
    found = await get(inspect, "/v1/registry/diff?verdict=stale_entry&here=true")
    assert [(i["node"], i["id"]) for i in found["items"]] == [("eu-1", "eu-2")]
    assert found["answered"] == ["eu-1"]
    response, _ = await refused(inspect, "/v1/registry/dif")
    assert response.status == 404
