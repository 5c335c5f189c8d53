"""Which addresses of other regions are dialled: seeds, or what the directory says, as it changes."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until

from federation.bridge import DIRECTORY_S, LINKED_S, PATIENCE_S, BridgePlan, keep_bridges
from mesh.core.opening import Terms
from mesh.node.directory import RegionDirectory
from mesh.node.registrar import Registrar
from mesh.node.runner import Node
from registry.base import RegionEntry, edit_region
from registry.memory import MemoryRegistry, MemoryStore


def plan(*seeds: str, links: int = 2) -> BridgePlan:
    return BridgePlan("us", seeds, links, "tcp", Terms("us"), "bridge us")


async def listed(store: MemoryStore, *endpoints: str) -> None:
    """Make the directory name exactly these bridges of us."""
    entry = RegionEntry(region="us", endpoints=endpoints) if endpoints else None
    await edit_region(MemoryRegistry(store), "us", lambda _: entry)


def linked(node: Node) -> list[str]:
    return sorted(s.peer_key.node for s in node.machine.sessions.values() if s.is_open)


def keep(mesh: MemoryMesh, node: Node, plan: BridgePlan, store: MemoryStore | None) -> None:
    directory = None if store is None else RegionDirectory(node, Registrar(MemoryRegistry(store)), "")
    mesh.nursery.start_soon(keep_bridges, node, [plan], directory)


async def test_every_seed_is_kept_linked_and_the_directory_is_not_asked(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, store = mesh.node("eu", "n1"), MemoryStore()
        for name in ("u1", "u2", "u3"):
            mesh.node("us", name)
        await listed(store, "u3:1")
        keep(mesh, node, plan("u1:1", "u2:1", links=1), store)
        await trio.sleep(20.0)
        assert linked(node) == ["u1", "u2"]


async def test_without_seeds_and_directory_a_bridge_only_accepts(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        with trio.fail_after(1.0):
            await keep_bridges(node, [plan()], None)
        assert mesh.dialled == []


async def test_the_directorys_bridges_are_dialled_up_to_the_number_of_links_as_they_appear(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, store = mesh.node("eu", "n1"), MemoryStore()
        for name in ("u1", "u2", "u3"):
            mesh.node("us", name)
        keep(mesh, node, plan(), store)
        await trio.sleep(20.0)
        assert linked(node) == []
        await listed(store, "u1:1")
        await trio.sleep(DIRECTORY_S + 1)
        assert linked(node) == ["u1"]
        await listed(store, "u1:1", "u2:1", "u3:1")
        await trio.sleep(LINKED_S + 1)
        assert linked(node) == ["u1", "u2"]


async def test_links_outlive_the_directory_and_its_entries(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, store = mesh.node("eu", "n1"), MemoryStore()
        mesh.node("us", "u1")
        await listed(store, "u1:1")
        keep(mesh, node, plan(), store)
        await until(lambda: linked(node) == ["u1"])
        store.switch(False)
        await trio.sleep(30.0)
        assert linked(node) == ["u1"]
        store.switch(True)
        await listed(store)
        await trio.sleep(30.0)
        assert linked(node) == ["u1"], "an entry is a hint: what is linked stays"


async def test_an_address_the_directory_no_longer_names_makes_room_for_its_successor(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, store = mesh.node("eu", "n1"), MemoryStore()
        mesh.node("us", "u2")
        await listed(store, "gone:1")
        keep(mesh, node, plan(links=1), store)
        await trio.sleep(20.0)
        await listed(store, "u2:1")
        await trio.sleep(DIRECTORY_S + 1)
        assert linked(node) == ["u2"]
        assert [target.address for target in node.dialler.targets] == ["u2:1"]
        mesh.dialled.clear()
        await trio.sleep(20.0)
        assert mesh.dialled == []


async def test_a_directory_entry_that_leads_to_another_region_does_not_end_the_node(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, store = mesh.node("eu", "n1"), MemoryStore()
        mesh.node("ap", "a1")
        mesh.node("us", "u1")
        await listed(store, "a1:1", "u1:1")
        keep(mesh, node, plan(), store)
        await trio.sleep(20.0)
        assert node.failure is None
        assert linked(node) == ["u1"]


async def test_addresses_of_crashed_bridges_hold_up_nobody(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node, store = mesh.node("eu", "n1"), MemoryStore()
        mesh.node("us", "u9")
        await listed(store, *(f"gone-{n}:1" for n in range(4)), "u9:1")
        keep(mesh, node, plan(links=2), store)
        await until(lambda: linked(node) == ["u9"], 4 * PATIENCE_S)
        most = max(len(node.dialler.targets), 0)
        await trio.sleep(120.0)
        assert linked(node) == ["u9"]
        assert most <= 2
        assert len(node.dialler.targets) <= 2, "never more than `links` at a time"
