"""What the admin port tells of a node's policy, on nodes with rules and links."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until

from federation.core.policy.rule_file import parse
from mesh.admin.api import Api
from mesh.core.opening import Terms
from mesh.model.event import NewEvent
from mesh.net.http_request import Request
from mesh.node.inspect import What
from mesh.node.runner import Node

RULES = """\
export to us allow topic orders/# mask data $.card rename orders -> eu/orders
import from us allow topic tickets/#
"""


async def pair(mesh: MemoryMesh) -> tuple[Node, Node]:
    """A node with rules, and one of the region beyond with a subscriber of everything."""
    node, far = mesh.node("eu", "n1"), mesh.node("us", "u1")
    for one, rules in ((node, RULES), (far, "export to * allow topic #\nimport from * allow topic #")):
        one.machine.boundary.configured = True
        one.machine.boundary.replace(parse(rules, "p.rules"), {})
    mesh.link(node, far, Terms("us", "dmz"))
    far.machine.subscribe(1, 1, "#", "", trio.current_time())
    node.machine.subscribe(1, 1, "secret/#", "", trio.current_time())
    node.machine.subscribe(1, 2, "tickets/#", "", trio.current_time())
    far.after_call()
    node.after_call()
    await until(lambda: bool(node.machine.interest.match("orders/1").mask))
    return node, far


async def call(node: Node, method: str, path: str, body: object = b"") -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await Api(node.inspection).answer(
        Request(method, path, path, "", [], raw, "127.0.0.1", "1.1", True)
    )
    return response.status, json.loads(response.body)


async def test_one_event_in_question(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, _ = await pair(mesh)
        status, told = await call(
            node, "POST", "/v1/policy/test", {"topic": "orders/1", "to": "us", "data": '{"card":"4111"}'}
        )
        assert status == 200
        assert (told["allowed"], told["place"], told["topic_after"]) == (True, "p.rules:1", "eu/orders/1")
        assert json.loads(told["event_after"])["data"] == {"card": "***"}
        _, told = await call(node, "POST", "/v1/policy/test", {"topic": "hr/1", "to": "us"})
        assert (told["allowed"], told["reason"], told["role"]) == (False, "default_deny", "dmz")
        other = {
            "topic": "hr/1",
            "from": "us",
            "rules": "\nimport from us deny topic hr/#",
            "name": "new.rules",
        }
        _, told = await call(node, "POST", "/v1/policy/test", other)
        assert (told["allowed"], told["place"]) == (False, "new.rules:2")
        for wrong, code in (
            ({"topic": "a"}, "MESH-A007"),
            ({"topic": "a", "to": "us", "from": "us"}, "MESH-A007"),
            ({"topic": "a/+", "to": "us"}, "MESH-A007"),
            ({"topic": "a", "to": "us", "colour": "red"}, "MESH-A007"),
            ({"topic": "a", "to": "us", "attributes": [1]}, "MESH-A007"),
            ({"topic": "a", "to": "us", "data_base64": "%"}, "MESH-A007"),
            ({"topic": "a", "to": "mars"}, "MESH-F024"),
            ({"topic": "a", "to": "us", "rules": "nonsense"}, "MESH-F021"),
            ([], "MESH-A007"),
        ):
            status, told = await call(node, "POST", "/v1/policy/test", wrong)
            assert status in (400, 404)
            assert told["code"] == code, wrong
        assert node.inspection.view(What.POLICY)[0]["allowed"] == 0, "asking counts nothing"


async def test_what_other_rules_would_change(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, _ = await pair(mesh)
        attributes = ("specversion", "1.0", "id", "1", "source", "s", "type", "t")
        for topic in ("orders/1", "orders/2"):
            node.machine.publish([NewEvent(topic, "", 0, attributes, b"{}")], trio.current_time())
        node.machine.flush(trio.current_time())
        node.after_call()
        status, told = await call(node, "POST", "/v1/policy/preview", b"export to us allow topic orders/1\n")
        assert status == 200
        assert (told["rules"], told["rules_now"], told["in_force"]) == (1, 2, True)
        interest = {(one["change"], one["direction"], one["filter"]) for one in told["interest"]}
        assert interest == {
            ("opened", "export", "orders/1"),
            ("closed", "export", "orders/#"),
            ("closed", "import", "tickets/#"),
        }
        assert (told["events_seen"], told["events_changed"]) == (2, 2)
        assert told["events"][1]["after"] == "deny"
        assert not told["routes"]
        _, told = await call(node, "POST", "/v1/policy/preview", b"")
        assert {(one["region"], one["change"]) for one in told["routes"]} == {
            ("us", "closed"),
            ("eu", "closed"),
        }
        status, told = await call(node, "POST", "/v1/policy/preview", b"\xff")
        assert (status, told["code"]) == (400, "MESH-F021")
        assert node.machine.interest.match("orders/1").mask, "nothing changed"


async def test_lists(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, _ = await pair(mesh)
        session_of = {region: link for link, region in node.machine.links.bridges.items()}
        passage = node.machine.sessions[session_of["us"]].passage
        assert passage is not None
        await trio.sleep(1.0)
        held = {(one["direction"], one["filter"]): one for one in node.inspection.view(What.POLICY_WITHHELD)}
        assert held["import", "secret/#"]["told"] == []
        assert held["import", "secret/#"]["reason"] == "import_denied"
        assert held["export", "#"]["told"] == ["orders/#"]
        items = node.inspection.view(What.POLICY)
        assert [(one["direction"], one["place"]) for one in items] == [
            ("export", "p.rules:1"),
            ("export", ""),
            ("import", "p.rules:2"),
            ("import", ""),
        ]
        status, told = await call(node, "GET", "/v1/policy/denials")
        assert (status, told["items"]) == (200, [])
