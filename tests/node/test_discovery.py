"""The registries of a node, one or two: who shares a client, and that each is closed once, when nothing uses it any more."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import memory_mesh, until

from mesh.core.opening import Terms
from mesh.node.discovery import LEAVE_S, Discovery
from registry.memory import MemoryRegistry, MemoryStore

LEASE_S = 9.0


class Closing(MemoryRegistry):
    """Counts how often it is closed."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


async def test_one_client_serves_both_where_they_are_one_service_and_is_closed_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        registry = Closing(MemoryStore())
        discovery = Discovery(mesh.node("eu", "n1"), "n1:1", registry, registry, LEASE_S)
        assert discovery.rendezvous is not None
        assert discovery.directory is not None
        assert discovery.rendezvous.tenancy.registrar is discovery.directory.registrar
        assert discovery.directory.registrar.role == "all"
        await discovery.close()
        assert registry.closed == 1


async def test_two_services_have_a_client_each_and_one_may_be_missing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        nodes, directory = Closing(MemoryStore()), Closing(MemoryStore())
        both = Discovery(mesh.node("eu", "n1"), "n1:1", nodes, directory, LEASE_S)
        assert [one.role for one in (both.rendezvous.tenancy.registrar, both.directory.registrar)] == [  # type: ignore[union-attr]
            "nodes",
            "directory",
        ]
        await both.close()
        assert (nodes.closed, directory.closed) == (1, 1)
        alone = Discovery(mesh.node("eu", "n2"), "n2:1", None, directory, LEASE_S)
        assert alone.rendezvous is None
        await alone.leave()
        await alone.close()
        assert (nodes.closed, directory.closed) == (1, 2)
        neither = Discovery(mesh.node("eu", "n3"), "n3:1", None, None, LEASE_S)
        await neither.leave()
        await neither.close()


async def test_a_replaced_registry_is_let_go_when_the_node_is_in_the_new_one_and_each_is_closed_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1", bridges={"us": Terms("us")})
        old, new, old_directory, new_directory = (MemoryStore() for _ in range(4))
        clients = [Closing(store) for store in (old, old_directory, new, new_directory)]
        discovery = Discovery(node, "n1:1", clients[0], clients[1], LEASE_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.run)
            await until(lambda: node.key in old.held and "eu" in old_directory.regions)
            new.switch(False)
            discovery.replace(clients[2], clients[3], LEASE_S)
            await until(lambda: "eu" in new_directory.regions)
            await until(lambda: clients[1].closed == 1)
            await trio.sleep(LEASE_S)
            assert node.key in old.held, "still there while the new one cannot be reached"
            assert clients[0].closed == 0
            new.switch(True)
            await until(lambda: node.key in new.held and clients[0].closed == 1, 30.0)
            assert node.key in old.held, "left to its lease"
            nursery.cancel_scope.cancel()
        await discovery.leave()
        assert new.held == {}
        await discovery.close()
        assert [client.closed for client in clients] == [1, 1, 1, 1]


async def test_leaving_waits_no_longer_than_its_bound_for_either(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        nodes, directory = MemoryStore(), MemoryStore()
        node = mesh.node("eu", "n1", bridges={"us": Terms("us")})
        discovery = Discovery(node, "n1:1", MemoryRegistry(nodes), MemoryRegistry(directory), LEASE_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discovery.run)
            await until(lambda: bool(nodes.held) and "eu" in directory.regions)
            nodes.delay_s = 60.0
            begun = trio.current_time()
            await discovery.leave()
            assert trio.current_time() - begun == LEAVE_S
            assert "n1:1" not in (directory.regions["eu"].entry.endpoints if directory.regions else ()), (
                "the other one did not wait"
            )
            nursery.cancel_scope.cancel()
