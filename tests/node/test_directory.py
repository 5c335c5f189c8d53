"""The region directory: who lists what, who takes out what is left over, and what is never written over."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until

from mesh.core.opening import Terms
from mesh.model.reasons import Right, Verdict
from mesh.node.directory import LOOK_S, STALE_S
from mesh.node.discovery import Discovery
from mesh.node.runner import Node
from registry.base import RegionEntry, edit_region
from registry.memory import MemoryRegistry, MemoryStore

LEASE_S = 10.0
CLEANED_S = STALE_S + 2 * LOOK_S[1]


def bridging(mesh: MemoryMesh, name: str) -> Node:
    return mesh.node("eu", name, bridges={"us": Terms("us")})


def join(mesh: MemoryMesh, node: Node, store: MemoryStore, address: str | None = None) -> Discovery:
    registry = MemoryRegistry(store)
    address = node.settings.address if address is None else address
    discovery = Discovery(node, address, registry, registry, LEASE_S)
    mesh.nursery.start_soon(discovery.run)
    mesh.nursery.start_soon(node.dialler.keep_members)
    return discovery


async def put(store: MemoryStore, *endpoints: str, fingerprint: str = "") -> None:
    entry = RegionEntry(region="eu", endpoints=endpoints, fingerprint=fingerprint)
    await edit_region(MemoryRegistry(store), "eu", lambda _: entry)


def listed(store: MemoryStore) -> set[str]:
    return set(store.regions["eu"].entry.endpoints) if "eu" in store.regions else set()


async def test_nodes_with_a_bridge_list_themselves_before_they_have_a_link_and_others_do_not(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        for name in ("n1", "n2"):
            join(mesh, bridging(mesh, name), store)
        join(mesh, mesh.node("eu", "n3"), store)
        await until(lambda: listed(store) == {"n1:1", "n2:1"})
        await trio.sleep(300.0)
        assert listed(store) == {"n1:1", "n2:1"}


async def test_the_address_of_a_crashed_bridge_is_taken_out_by_the_first_of_those_that_live(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        await put(store, "crashed:1")
        found = [join(mesh, bridging(mesh, name), store) for name in ("n1", "n2")]
        await trio.sleep(STALE_S / 2)
        assert listed(store) == {"crashed:1", "n1:1", "n2:1"}
        directory = found[0].directory
        assert directory is not None
        await until(lambda: [r.verdict for r in directory.remarks()] == [Verdict.LISTED_STALE], LOOK_S[1])
        assert "crashed:1" in listed(store)
        await until(lambda: listed(store) == {"n1:1", "n2:1"}, CLEANED_S)
        writes = store.writes
        await trio.sleep(600.0)
        assert store.writes == writes, "nobody writes what is right already"
        await trio.sleep(LOOK_S[1])
        assert directory.remarks() == []


async def test_nothing_is_taken_out_while_the_registry_of_the_nodes_cannot_say_who_is_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        nodes, regions = MemoryStore(), MemoryStore()
        nodes.switch(False)
        await put(regions, "unknown:1")
        node = bridging(mesh, "n1")
        discovery = Discovery(node, "n1:1", MemoryRegistry(nodes), MemoryRegistry(regions), LEASE_S)
        mesh.nursery.start_soon(discovery.run)
        await trio.sleep(3 * CLEANED_S)
        assert listed(regions) == {"unknown:1", "n1:1"}
        nodes.switch(True)
        await until(lambda: listed(regions) == {"n1:1"}, 2 * CLEANED_S)


async def test_an_address_that_somebody_took_out_is_listed_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        join(mesh, bridging(mesh, "n1"), store)
        await until(lambda: listed(store) == {"n1:1"})
        await put(store, "other:1")
        await until(lambda: "n1:1" in listed(store), LOOK_S[1] + 5.0)


async def test_a_bridge_that_comes_back_elsewhere_takes_its_old_address_out_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        crashed = bridging(mesh, "n1")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                registry = MemoryRegistry(store)
                nursery.start_soon(Discovery(crashed, "old:1", registry, registry, 60.0).run)
                await until(lambda: listed(store) == {"old:1"})
                scope.cancel()
        again = mesh.node("eu", "n1", epoch=2, bridges={"us": Terms("us")})
        join(mesh, again, store, "new:1")
        await until(lambda: listed(store) == {"new:1"}, 10.0)


async def test_an_entry_with_another_keys_fingerprint_is_shown_and_never_written_over(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        await put(store, "theirs:1", fingerprint="sha256:abc")
        node = bridging(mesh, "n1")
        discovery = join(mesh, node, store)
        await trio.sleep(3 * CLEANED_S)
        assert listed(store) == {"theirs:1"}
        assert discovery.directory is not None
        [remark] = discovery.directory.remarks()[:1]
        assert (remark.verdict, remark.right) == (Verdict.FOREIGN_KEY, Right.NOBODY)
        assert "sha256:abc" in remark.detail
        shown = [item for item in node.inspection.registry.diff() if item["kind"] == "region"]
        assert shown[0]["verdict"] == "foreign_key"
        await discovery.leave()
        assert listed(store) == {"theirs:1"}
        assert capsys.readouterr().out.count("MESH-R008") == 1
