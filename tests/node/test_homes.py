"""Homes of durable clients: what a region keeps of a node that is away, and clients that connect elsewhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
import trio_websocket
from node.events_port import upgrade_request
from node.kept import Served, keep, serving
from node.memory_mesh import Box, MemoryMesh, memory_mesh, until

from mesh.core.custody.window import AckTerms
from mesh.model.limits import Limits
from mesh.node.control import KEPT_S
from mesh.node.runner import Node
from mesh.testing.memory_store import MemoryStore

TERMS = AckTerms(False, 30.0, 5, 256)


def durable(node: Node, name: str, filter: str, group: str = "") -> int:
    """A durable client of the node that is not connected."""
    machine = node.machine
    number = machine.connect_client(name, TERMS, trio.current_time()).number
    machine.subscribe(number, 1, filter, group, trio.current_time())
    machine.consumers.disconnect(number, trio.current_time())
    node.after_call()
    return number


def wants(node: Node, member: str, topic: str) -> bool:
    machine = node.machine
    return bool(machine.interest.match(topic).mask & machine.destinations.find(f"n/{member}"))


async def died(mesh: MemoryMesh, node: Node, seen_by: Node) -> None:
    """The process is gone without a word."""
    mesh.refusing.add(node.settings.address)
    for link in list(node.links.values()):
        link.transport.abort()
    node.stop_now()
    await until(lambda: node.key.node not in seen_by.machine.control.live_members(), 60.0)


async def test_what_durable_clients_of_a_dead_node_want_still_counts_and_nothing_else_of_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, far = mesh.node("eu", "n1"), mesh.node("eu", "n2"), mesh.node("us", "n3")
        mesh.link(one, two)
        mesh.link(one, far)
        await until(lambda: "us" in two.machine.control.routes.fib)
        durable(two, "shop", "kept/#")
        durable(two, "worker", "jobs", "g")
        live = two.clients.open_session(Box(), protocol="inproc", name="live")  # type: ignore[arg-type]
        two.clients.subscribe(live, 1, "live/#")
        two.clients.subscribe(live, 2, "jobs", "g")
        await until(lambda: wants(one, "n2", "live/x") and wants(one, "n2", "kept/x"))
        await until(lambda: bool(far.machine.interest.match("live/x").mask))
        members = one.machine.interest.group_members("g", "jobs")
        assert list(members.values()) == [2]

        await died(mesh, two, one)
        assert wants(one, "n2", "kept/x")
        assert not wants(one, "n2", "live/x")
        assert list(one.machine.interest.group_members("g", "jobs").values()) == [1]
        plan = one.machine.planner.plan("kept/x")
        assert [(gone.node, gone.reason) for gone in plan.unreached] == [("n2", "link_down")]
        await until(lambda: not far.machine.interest.match("live/x").mask, 30.0)
        assert far.machine.interest.match("kept/x").mask, "the region still exports it"

        # A node that comes only now learns it too, from the tables of others.
        late = mesh.node("eu", "n4")
        mesh.link(late, one)
        await until(lambda: wants(late, "n2", "kept/x"))
        assert not wants(late, "n2", "live/x")
        assert late.machine.control.homes("shop") == [("n2", "")]
        assert "n2" not in late.machine.control.live_members()

        # The client is removed while its node is away from this one: told as soon as the node is back.
        again = mesh.node("eu", "n2", epoch=2)
        mesh.refusing.clear()
        mesh.link(one, again)
        await until(lambda: not wants(one, "n2", "kept/x") and not wants(late, "n2", "kept/x"), 60.0)
        await until(lambda: not far.machine.interest.match("kept/x").mask, 30.0)


async def test_a_new_bridge_exports_what_members_that_are_away_keep(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, far = mesh.node("eu", "n1"), mesh.node("eu", "n2"), mesh.node("us", "n3")
        mesh.link(one, two)
        await until(lambda: "n2" in one.machine.control.live_members())
        durable(two, "shop", "kept/#")
        await until(lambda: wants(one, "n2", "kept/x"))
        await died(mesh, two, one)
        mesh.link(one, far)
        await until(lambda: bool(far.machine.interest.match("kept/x").mask))


async def test_what_a_forgotten_member_kept_is_forgotten_a_day_later(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        one, two, far = mesh.node("eu", "n1"), mesh.node("eu", "n2"), mesh.node("us", "n3")
        mesh.link(one, two)
        mesh.link(one, far)
        await until(lambda: "n2" in one.machine.control.live_members())
        durable(two, "shop", "kept/#")
        await until(lambda: bool(far.machine.interest.match("kept/x").mask))
        await died(mesh, two, one)
        one.machine.control.membership._roster.forget("n2")
        one.machine.control._forget_the_long_gone(trio.current_time())
        assert one.machine.interest.match("kept/x").mask
        one.machine.control._quiet["n2"] -= KEPT_S + 1
        one.machine.control._forget_the_long_gone(trio.current_time())
        assert one.machine.interest.match("kept/x").mask == 0
        await until(lambda: not far.machine.interest.match("kept/x").mask, 30.0)


# -- connecting elsewhere ------------------------------------------------------------------------------------------


@asynccontextmanager
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[MemoryMesh, Served, Served]]:
    """eu/n1 and eu/n2, linked, with events ports on real sockets; both take events at least once."""
    async with memory_mesh(monkeypatch) as mesh:
        nodes = []
        async with trio.open_nursery() as nursery:
            for name in ("n1", "n2"):
                node = mesh.node("eu", name, store=MemoryStore())
                served = await nursery.start(_serve, node)
                node.machine.control.settings = replace(
                    node.settings, events_address=f"127.0.0.1:{served.port}"
                )
                nodes.append(served)
            mesh.link(nodes[0].node, nodes[1].node)
            await until(lambda: "n2" in nodes[0].node.machine.control.live_members())
            await until(lambda: all(one.node.machine.informed(trio.current_time()) for one in nodes))
            yield mesh, nodes[0], nodes[1]
            nursery.cancel_scope.cancel()


async def _serve(node: Node, *, task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED) -> None:
    async with serving(node, Limits()) as served:
        task_status.started(served)
        await trio.sleep_forever()


async def socket_of(socket: trio_websocket.WebSocketConnection) -> dict[str, object]:
    with trio.fail_after(5):
        found: dict[str, object] = json.loads(await socket.get_message())
    return found


async def test_a_client_that_connects_to_another_node_reaches_its_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair(monkeypatch) as (_, one, two):
        durable(two.node, "shop", "t")
        await until(lambda: bool(one.node.machine.control.homes("shop")))
        async with trio_websocket.open_websocket_url(
            f"ws://127.0.0.1:{one.port}/v1/ws?client=shop&durable=true", subprotocols=["mesh.v1.json"]
        ) as socket:
            assert (await socket_of(socket))["subscriptions"] == [{"sid": 1, "filter": "t"}]
            (mesh_id,) = keep(two.node, "a")
            assert (await socket_of(socket))["mesh_id"] == mesh_id
            await socket.send_message(json.dumps({"op": "ack", "id": 1, "mesh_id": mesh_id}))
            assert await socket_of(socket) == {"op": "ok", "id": 1, "acked": 1}
            assert one.node.clients.receivers.clients() == []
            assert two.node.clients.receivers.clients()[0].connected
        await until(lambda: not two.node.clients.receivers.clients()[0].connected)

        stream = await one.connect()
        await stream.subscribe("client=shop&durable=true")
        assert (await stream.event())["data"]["client"] == "shop"
        keep(two.node, "b")
        assert (await stream.event())["data"]["event"]["data"] == "b"
        await stream.stream.aclose()
        await until(lambda: not two.node.clients.receivers.clients()[0].connected)

        remover = await one.connect()
        assert (await remover.call("DELETE", "/v1/clients/shop"))[0] == 204
        assert await remover.rest() == b"", "a spliced call has its connection for itself"
        await remover.stream.aclose()
        assert two.node.clients.receivers.clients() == []
        await until(lambda: not one.node.machine.control.homes("shop"))


async def test_a_home_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(monkeypatch) as (mesh, one, two):
        durable(two.node, "shop", "t")
        await until(lambda: bool(one.node.machine.control.homes("shop")))
        asked = "/v1/ws?client=shop&durable=true"
        marked = await one.connect()
        await marked.send(upgrade_request(asked, "mesh.v1.json", "mesh-proxied-by: eu/n3"))
        status, _, body = await marked.answer()
        assert (status, json.loads(body)["code"]) == (503, "MESH-E041")
        await marked.stream.aclose()
        await died(mesh, two.node, one.node)
        client = await one.connect()
        await client.send(upgrade_request(asked, "mesh.v1.json"))
        status, headers, body = await client.answer()
        problem = json.loads(body)
        assert (status, problem["code"], problem["home"]) == (503, "MESH-E041", "n2")
        assert "retry-after" in headers
        await client.stream.aclose()
