"""A node and its registry: registering, finding others, and running on without it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until

from mesh.node.discovery import Discovery
from mesh.node.runner import Node
from registry.base import edit_region
from registry.memory import MemoryRegistry, MemoryStore

LEASE_S = 9.0


def join(mesh: MemoryMesh, node: Node, store: MemoryStore, address: str | None = None) -> Discovery:
    """Start a node's discovery and its dialling of members."""
    registry = MemoryRegistry(store)
    discovery = Discovery(
        node, node.settings.address if address is None else address, registry, registry, LEASE_S
    )
    mesh.nursery.start_soon(discovery.run)
    mesh.nursery.start_soon(node.dialler.keep_members)
    return discovery


def names(store: MemoryStore) -> list[str]:
    return sorted(str(key) for key in store.held)


async def test_nodes_of_a_region_find_each_other_and_stay_registered(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        nodes = [mesh.node("eu", f"n{n}") for n in (1, 2, 3)]
        for node in nodes:
            join(mesh, node, store)
        await until(lambda: all(len(node.machine.links.peers) == 2 for node in nodes))
        await trio.sleep(5 * LEASE_S)
        assert names(store) == ["eu/n1", "eu/n2", "eu/n3"]
        assert store.held[nodes[0].key].entry.addresses == ("n1:1",)


async def test_a_node_leaves_its_place_within_a_second_even_when_the_registry_is_slow(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        discovery = join(mesh, mesh.node("eu", "n1"), store)
        await until(lambda: names(store) == ["eu/n1"])
        await discovery.leave()
        assert names(store) == []
        store.delay_s = 30.0
        begun = trio.current_time()
        await discovery.leave()
        assert trio.current_time() - begun <= 1.0
        store.delay_s = 0.0
        store.switch(False)
        await discovery.leave()


async def test_a_registry_that_was_away_gets_the_entry_again_and_the_mesh_did_not_notice(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        a, b = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        for node in (a, b):
            join(mesh, node, store)
        await until(lambda: bool(a.machine.links.peers) and bool(b.machine.links.peers))
        store.switch(False)
        await trio.sleep(3 * LEASE_S)
        assert len(a.machine.links.peers) == len(b.machine.links.peers) == 1
        store.switch(True)
        store.expire()
        assert names(store) == []
        await trio.sleep(LEASE_S)
        assert names(store) == ["eu/n1", "eu/n2"]


async def test_a_bridge_lists_its_address_in_the_directory_and_takes_only_its_own_away(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        node, far = mesh.node("eu", "n1"), mesh.node("us", "n2")
        discovery = join(mesh, node, store)
        await trio.sleep(LEASE_S)
        assert store.regions == {}
        mesh.link(node, far)
        await until(lambda: "eu" in store.regions, LEASE_S)
        assert store.held[node.key].entry.bridge
        await edit_region(
            MemoryRegistry(store),
            "eu",
            lambda entry: (
                entry and type(entry)(region="eu", endpoints=("other:1", *entry.endpoints), labels={"a": "b"})
            ),
        )
        await discovery.leave()
        assert store.regions["eu"].entry.endpoints == ("other:1",)
        assert store.regions["eu"].entry.labels == {"a": "b"}


async def test_a_node_without_an_address_lists_none(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        node, far = mesh.node("eu", "n1"), mesh.node("us", "n2")
        discovery = join(mesh, node, store, address="")
        mesh.link(node, far)
        await trio.sleep(2 * LEASE_S)
        assert store.held[node.key].entry.addresses == ()
        assert store.regions == {}
        await discovery.leave()


async def test_a_leased_member_that_membership_gave_up_is_announced_to_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        a, b = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        for node in (a, b):
            join(mesh, node, store)
        await until(lambda: bool(a.machine.links.peers))
        introduced: list[str] = []
        membership = a.machine.control.membership
        monkeypatch.setattr(membership, "is_live", lambda name: name != "n2")
        monkeypatch.setattr(membership, "introduce", lambda name, *rest: introduced.append(name))
        await trio.sleep(61.0)
        assert introduced == ["n2"] or introduced == ["n2", "n2"]
