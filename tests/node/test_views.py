"""Items of a node: the field names are those of mesh.node.inspect, whatever state the node is in."""

from __future__ import annotations

import re

import pytest
import trio
import trio.testing
from node.memory_mesh import Box, MemoryMesh, memory_mesh, until

from mesh.core.opening import Terms
from mesh.model.event import NewEvent
from mesh.model.reasons import Close
from mesh.node import inspect
from mesh.node.dialler import Target
from mesh.node.inspect import Counters, What
from mesh.node.runner import Node


def documented(what: str) -> set[str]:
    """Field names that the page lists for a kind of item."""
    text = (inspect.__doc__ or "").replace("\n  ", " ")
    [line] = [line for line in text.splitlines() if re.match(rf"- ([a-z]+, )*{what}(, [a-z]+)*: ", line)]
    listed = re.findall(r"`([a-z_ ]+)`", line)
    fields = set(listed[0].split())
    return fields | {"node"} | ({"reason", "detail"} if what == "nodes" else set())


async def busy(mesh: MemoryMesh) -> Node:
    """A bridge with a peer, a far region, a client, a target that does not answer, and a link half open."""
    node, peer, far = (
        mesh.node("eu", "n1", labels={"rack": "7"}),
        mesh.node("eu", "n2"),
        mesh.node("us", "u1"),
    )
    mesh.link(node, peer)
    mesh.link(node, far, Terms("us", "stub", 3))
    mesh.nursery.start_soon(node.dialler.keep, Target("nowhere:1", Terms("ap")))
    session = node.clients.open_session(Box(), protocol="ws", name="shop")
    node.clients.subscribe(session, 1, "orders/#")
    node.clients.subscribe(session, 2, "$share/workers/jobs")
    await until(lambda: "us" in node.machine.control.routes.fib and bool(node.machine.links.peers))
    node.machine.link_connected(dialled=False, terms=Terms(), wall_ms=0, now=trio.current_time())
    await trio.sleep(0.5)
    return node


@pytest.mark.parametrize("what", ["nodes", "self", "links", "routes", "subscriptions", "version"])
async def test_every_item_has_the_fields_that_the_page_lists(
    what: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = await busy(mesh)
        items = node.inspection.view(What(what))
        assert items
        wanted = documented("nodes" if what == "self" else what)
        for item in items:
            assert wanted <= item.keys(), item
            assert item["node"] == "n1"


async def test_the_views_tell_what_is_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = await busy(mesh)
        view = node.inspection.view
        assert [(i["id"], i["role"], i["state"]) for i in view(What.NODES)] == [
            ("n1", "bridge", "alive"),
            ("n2", "node", "alive"),
        ]
        [own] = view(What.SELF)
        assert own["labels"] == {"rack": "7"}
        links = {(i["kind"], i["state"]): i for i in view(What.LINKS)}
        assert set(links) == {("peer", "open"), ("bridge", "open"), (None, "opening"), ("bridge", "dialling")}
        assert links["bridge", "open"]["role"] == "stub"
        assert links["bridge", "dialling"]["reason"] == "link_lost: nowhere:1: connection refused"
        [route] = [i for i in view(What.ROUTES) if i["state"] == "selected"]
        assert (route["region"], route["via"]) == ("us", links["bridge", "open"]["id"])
        assert [(i["filter"], i["group"], i["client"]) for i in view(What.SUBSCRIPTIONS)] == [
            ("orders/#", "", "ws#1 shop"),
            ("jobs", "workers", "ws#1 shop"),
        ]
        node.inspection.config_items = lambda: [{"key": "a", "value": 1, "origin": "default"}]
        assert view(What.CONFIG) == [{"key": "a", "value": 1, "origin": "default", "node": "n1"}]


async def test_a_cut_off_regions_kept_interest_is_shown_as_unreachable(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, far = mesh.node("eu", "n1"), mesh.node("us", "u1")
        mesh.link(node, far)
        far.clients.subscribe(far.clients.open_session(Box(), protocol="ws", name=""), 1, "t")
        await until(lambda: node.machine.interest.holders("t") != 0)
        far.stop_now()
        for number in list(node.machine.links.bridges):
            node.links[number].close(Close.LINK_LOST, "test")
        await trio.sleep(400.0)
        routes = [i for i in node.inspection.view(What.ROUTES) if i["region"] == "us"]
        assert routes
        assert all(item["state"] != "in_use" for item in routes)
        assert documented("routes") <= routes[0].keys()


async def test_rates_are_of_the_last_second_and_readings_of_gone_links_are_dropped(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        a, b = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        mesh.link(a, b)
        b.clients.subscribe(b.clients.open_session(Box(), protocol="ws", name=""), 1, "t")
        await until(lambda: a.machine.interest.holders("t") != 0)
        await trio.sleep(2.0)
        a.inspection.view(What.LINKS)
        for _ in range(20):
            a.clients.publish([NewEvent("t", "", 0, (), b"x")])
            await trio.sleep(0.1)
        [link] = a.inspection.view(What.LINKS)
        assert link["rate_out"] == pytest.approx(10.0, rel=0.2)
        assert link["events_out"] == 20
        for connection in list(a.links.values()):
            connection.close(Close.LINK_LOST, "test")
        await trio.sleep(1.5)
        mesh.link(a, b)
        await trio.sleep(2.5)
        a.inspection.view(What.LINKS)
        assert set(a.inspection._views._readings) == set(a.machine.sessions)


async def test_counters_are_a_reading_of_everything_and_outlive_links(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = await busy(mesh)
        before = node.inspection.counters()
        assert isinstance(before, Counters)
        assert before.links == {("peer", "open"): 1, ("bridge", "open"): 1, ("unknown", "opening"): 1}
        assert dict(before.members) == {"alive": 2}
        assert before.sessions == {"ws": 1}
        assert before.subscriptions == 2
        node.clients.publish([NewEvent("orders/1", "", 0, (), b"")])
        for connection in list(node.links.values()):
            connection.close(Close.LINK_LOST, "test")
        await trio.sleep(0.2)
        after = node.inspection.counters()
        assert (after.published, after.delivered) == (1, 1)
        assert after.bytes_in >= before.bytes_in > 0
