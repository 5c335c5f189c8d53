"""A node and its registry: registering, finding others, and running on without it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until

from mesh.core.opening import Terms
from mesh.model.errors import MeshError
from mesh.model.reasons import Verdict
from mesh.net.transport import LinkLost, Transport
from mesh.node.dialler import DIALS, HINT_TIMEOUT_S
from mesh.node.discovery import Discovery
from mesh.node.registrar import CALL_S, Registrar
from mesh.node.rendezvous import Rendezvous
from mesh.node.runner import Node
from registry.base import RegistryUnavailable, edit_region
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


def process(mesh: MemoryMesh, name: str, epoch: int, address: str) -> Node:
    """Another process start of a node of eu, reachable at `address`."""
    before = mesh.nodes[f"{name}:1"]
    node = mesh.nodes[address] = mesh.node("eu", name, epoch=epoch, run=False)
    mesh.nodes[f"{name}:1"] = before
    return node


class Ended:
    """How a node's `run` ended."""

    def __init__(self) -> None:
        self.error: MeshError | None = None

    async def watch(self, node: Node) -> None:
        try:
            await node.run()
        except MeshError as error:
            self.error = error


async def test_a_newcomer_whose_name_is_held_by_a_process_that_answers_ends_and_the_holder_goes_on(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        first = mesh.node("eu", "n1", epoch=5)
        join(mesh, first, store)
        await until(lambda: names(store) == ["eu/n1"])
        second, ended = process(mesh, "n1", 6, "elsewhere:1"), Ended()
        mesh.nursery.start_soon(ended.watch, second)
        join(mesh, second, store, "elsewhere:1")
        await until(lambda: ended.error is not None)
        assert ended.error is not None
        assert ended.error.code == "MESH-L005"
        assert "n1:1" in ended.error.what
        assert first.failure is None
        assert store.held[first.key].entry.epoch == 5, "the name was not taken from the holder"


@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_a_restart_takes_its_name_over_from_an_entry_whose_process_does_not_answer(
    how: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        crashed = mesh.node("eu", "n1", epoch=5, run=False)
        registry = MemoryRegistry(store)
        await registry.register(Rendezvous(crashed, Registrar(registry), "n1:1", 60.0)._entry(), 60.0)
        if how == "refuses":
            mesh.refusing.add("n1:1")
        else:
            monkeypatch.setattr(mesh, "dial", hang)
            monkeypatch.setattr("mesh.node.dialler.dial", hang)
        again = process(mesh, "n1", 6, "elsewhere:1")
        mesh.nursery.start_soon(again.run)
        join(mesh, again, store, "elsewhere:1")
        begun = trio.current_time()
        await until(lambda: store.held[again.key].entry.epoch == 6)
        assert trio.current_time() - begun < (0.2 if how == "refuses" else 2.0)
        assert again.failure is None


@asynccontextmanager
async def hang(address: str, transport: str, timeout_s: float, *_: object) -> AsyncIterator[Transport]:
    """A dialled address from which nothing ever comes back."""
    await trio.sleep(timeout_s)
    raise LinkLost(f"{address}: no answer within {timeout_s:g} s")
    yield  # pragma: no cover


async def test_many_stale_entries_hold_up_nobody(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        registry = MemoryRegistry(store)
        alive = mesh.node("eu", "zz")
        join(mesh, alive, store)
        for number in range(100):
            gone = mesh.node("eu", f"gone-{number}", run=False)
            entry = Rendezvous(gone, Registrar(registry), f"black-hole-{number}:1", 60.0)._entry()
            await registry.register(entry, 60.0)
        dialled = mesh.dial
        at_once, most = 0, 0

        @asynccontextmanager
        async def dial(
            address: str, transport: str, timeout_s: float, *_: object
        ) -> AsyncIterator[Transport]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                async with (hang if address.startswith("black") else dialled)(
                    address, transport, timeout_s
                ) as found:
                    yield found
            finally:
                at_once -= 1

        monkeypatch.setattr("mesh.node.dialler.dial", dial)
        fresh = mesh.node("eu", "fresh")
        join(mesh, fresh, store)
        begun = trio.current_time()
        await until(lambda: "zz" in fresh.machine.links.peers, 60.0)
        assert trio.current_time() - begun < 3 * HINT_TIMEOUT_S + 2.0
        assert most <= 2 * DIALS + 4, "of each of the two nodes"


async def test_a_member_that_is_missing_in_the_registry_is_shown_and_stays(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        a, b = mesh.node("eu", "n1"), mesh.node("eu", "n2")
        discovery = join(mesh, a, store)
        mesh.link(a, b)
        await until(lambda: "n2" in a.machine.links.peers)
        await trio.sleep(120.0)
        assert discovery.rendezvous is not None
        found = {one.node: one.verdict for one in discovery.rendezvous.compare()}
        assert found == {"n1": Verdict.BOTH, "n2": Verdict.UNREGISTERED}
        assert "n2" in a.machine.links.peers


async def test_a_registry_that_is_away_at_the_start_is_said_once_and_joined_within_five_seconds_of_its_return(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        store.switch(False)
        nodes = [mesh.node("eu", f"n{n}") for n in (1, 2, 3)]
        found = [join(mesh, node, store) for node in nodes]
        await trio.sleep(300.0)
        said = capsys.readouterr().out
        assert said.count("registry unavailable") == 3, "once by each"
        registrar = found[0].rendezvous.tenancy.registrar  # type: ignore[union-attr]
        assert registrar.available is False
        assert 0 < registrar.per_minute() <= 2 * 60, "bounded while it is away"
        store.switch(True)
        begun = trio.current_time()
        await until(lambda: all(len(node.machine.links.peers) == 2 for node in nodes))
        assert trio.current_time() - begun < 5.0
        assert names(store) == ["eu/n1", "eu/n2", "eu/n3"]


@pytest.mark.parametrize("empty", [False, True])
async def test_after_an_outage_everybody_is_registered_again_within_fifteen_seconds(
    empty: bool, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        nodes = [mesh.node("eu", f"n{n}") for n in (1, 2, 3)]
        for node in nodes:
            join(mesh, node, store)
        await until(lambda: len(store.held) == 3)
        store.switch(False)
        await trio.sleep(7.0)
        if empty:
            store.held.clear()
            for node in nodes:
                store.timeline.end(node.key, "expired")
        store.switch(True)
        await trio.sleep(3.0)
        assert names(store) == ["eu/n1", "eu/n2", "eu/n3"]


async def test_a_call_that_hangs_is_given_up_and_the_registry_counts_as_away(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    registrar = Registrar(MemoryRegistry(store))
    store.delay_s = 3_600.0
    begun = trio.current_time()
    with pytest.raises(RegistryUnavailable):
        await registrar.ask(lambda registry: registry.list())
    assert trio.current_time() - begun == CALL_S
    assert registrar.available is False
    store.delay_s = 0.0
    await registrar.ask(lambda registry: registry.list())
    assert registrar.available is True


async def test_another_registry_takes_the_place_of_the_first_only_when_the_node_is_registered_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        old, new = MemoryStore(), MemoryStore()
        a, b = mesh.node("eu", "n1", bridges={"us": Terms("us")}), mesh.node("eu", "n2")
        discovery, other = join(mesh, a, old), join(mesh, b, old)
        await until(lambda: bool(a.machine.links.peers) and "eu" in old.regions)
        new.switch(False)
        wrong = MemoryRegistry(MemoryStore())
        discovery.replace(wrong, wrong, LEASE_S)
        registry = MemoryRegistry(new)
        discovery.replace(registry, registry, LEASE_S)
        await trio.sleep(5 * LEASE_S)
        assert names(old) == ["eu/n1", "eu/n2"], "the former one is kept"
        assert {item["id"]: item["state"] for item in a.inspection.registry.status()} == {
            "all": "unavailable",
            "former": "reachable",
        }
        assert [one.verdict for one in discovery.rendezvous.compare()] == [Verdict.BOTH] * 2  # type: ignore[union-attr]
        new.switch(True)
        await until(lambda: names(new) == ["eu/n1"] and "eu" in new.regions)
        await until(lambda: names(old) == ["eu/n2"], 2 * LEASE_S)
        assert [item["id"] for item in a.inspection.registry.status()] == ["all"]
        assert len(a.machine.links.peers) == 1
        await discovery.leave()
        await other.leave()
        assert names(new) == []
        assert new.regions == {}


async def test_one_service_under_another_address_keeps_the_entry_all_along(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        node = mesh.node("eu", "n1")
        discovery = join(mesh, node, store)
        await until(lambda: names(store) == ["eu/n1"])
        registry = MemoryRegistry(store)
        discovery.replace(registry, registry, LEASE_S)
        for _ in range(300):
            await trio.sleep(0.1)
            assert names(store) == ["eu/n1"]
        assert registry.statistics().calls > 0


async def test_requests_of_an_idle_node_are_few(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_mesh(monkeypatch) as mesh:
        store = MemoryStore()
        node = mesh.node("eu", "n1", bridges={"us": Terms("us")})
        discovery = Discovery(node, "n1:1", registry := MemoryRegistry(store), registry, 10.0)
        mesh.nursery.start_soon(discovery.run)
        await trio.sleep(600.0)
        calls = discovery.rendezvous.tenancy.registrar.calls  # type: ignore[union-attr]
        assert 180 <= calls <= 250, "a renewal every third of the lease, a list and a look at the directory"
