"""What a node tells of its registries: without asking them."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from node.memory_mesh import memory_mesh, until

from mesh.core.opening import Terms
from mesh.node.discovery import Discovery
from mesh.node.registry_views import OFF, RegistryViews
from mesh.node.runner import Node
from registry.base import RegionEntry, edit_region
from registry.memory import MemoryRegistry, MemoryStore

LEASE_S = 9.0


def views_of(node: Node) -> RegistryViews:
    found = node.inspection.registry
    assert isinstance(found, RegistryViews)
    return found


async def test_without_a_registry_it_says_so(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        Discovery(node, "n1:1", None, None, LEASE_S)
        views = views_of(node)
        assert views.status() == [OFF]
        assert (views.entries(), views.diff(), views.counters(), views.registrars()) == ([], [], {}, [])
        views.status()[0]["state"] = "changed"
        assert views.status() == [OFF], "each gets its own"


async def test_status_and_entries_are_what_was_heard_last_and_nobody_is_asked_for_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        registry = MemoryRegistry(store)
        far = RegionEntry(region="us", endpoints=("us:1",), labels={"zone": "x"})
        await edit_region(MemoryRegistry(store), "us", lambda _: far)
        node, other = (mesh.node("eu", name, bridges={"us": Terms("us")}) for name in ("n1", "n2"))
        discovery = Discovery(node, "n1:1", registry, registry, LEASE_S)
        second = MemoryRegistry(store)
        mesh.nursery.start_soon(Discovery(other, "n2:1", second, second, LEASE_S).run)
        views = views_of(node)
        assert views.status()[0]["state"] == "waiting"
        mesh.nursery.start_soon(discovery.run)
        await until(lambda: len(store.held) == 2 and "eu" in store.regions)
        await until(lambda: len(views.entries()) == 4)
        await trio.sleep(1.0)

        asked = registry.statistics().calls
        (status,) = views.status()
        assert (status["id"], status["state"], status["registered"]) == ("all", "reachable", True)
        assert (status["lease_s"], status["calls"]) == (LEASE_S, asked)
        entries = {(item["kind"], item["id"]): item for item in views.entries()}
        assert set(entries) == {("node", "n1"), ("node", "n2"), ("region", "eu"), ("region", "us")}
        assert entries["node", "n2"]["addresses"] == ["n2:1"]
        assert entries["region", "us"]["labels"] == {"zone": "x"}
        verdicts = {item["id"]: item["verdict"] for item in views.diff() if item["kind"] == "node"}
        assert set(verdicts) == {"n1", "n2"}
        assert views.counters()["all"].calls == asked
        assert registry.statistics().calls == asked

        store.switch(False)
        await until(lambda: views.status()[0]["state"] == "unavailable", 20.0)
        (status,) = views.status()
        assert "switched off" in str(status["detail"])
        assert len(views.entries()) == 4, "as it was when it was heard last"
        assert views.counters()["all"].reachable is False


async def test_while_a_registry_is_replaced_both_are_shown_each_as_what_it_is(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        node = mesh.node("eu", "n1")
        old, new = MemoryStore(), MemoryStore()
        discovery = Discovery(node, "n1:1", MemoryRegistry(old), None, LEASE_S)
        mesh.nursery.start_soon(discovery.run)
        await until(lambda: bool(old.held))
        new.switch(False)
        discovery.replace(MemoryRegistry(new), None, LEASE_S)
        await trio.sleep(1.0)
        views = views_of(node)
        assert [(item["id"], item["registered"]) for item in views.status()] == [
            ("nodes", False),
            ("former", True),
        ]
        assert views.status()[1]["detail"] == "until the new one has the entry"
        assert views.counters()["nodes"].reachable is False, "of two with one role the one in use counts"
        new.switch(True)
        await until(lambda: [item["id"] for item in views.status()] == ["nodes"], 30.0)
        assert views.status()[0]["registered"]
