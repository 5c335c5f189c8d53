"""One process's entry in a registry: when it goes in again, and what is told of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import trio
import trio.testing
from node.memory_mesh import MemoryMesh, memory_mesh, until

from mesh.model.ids import NodeKey
from mesh.node.registrar import Registrar
from mesh.node.tenancy import FLAPPING_S, SUPERSEDED_S, Tenancy
from registry.base import Lease, LeaseLost, NodeEntry
from registry.memory import MemoryRegistry, MemoryStore

LEASE_S = 9.0
KEY = NodeKey("eu", "n1")


def entry(node: str = "n1", *, epoch: int = 5, address: str = "n1:1", bridge: bool = False) -> NodeEntry:
    return NodeEntry(
        region="eu",
        node=node,
        instance=f"{node}#{epoch}",
        epoch=epoch,
        addresses=(address,),
        bridge=bridge,
        since=datetime(2026, 1, 1, tzinfo=UTC),
    )


class Counting(MemoryRegistry):
    """Counts what it is asked. lost: how many renewals find no lease."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.registered: list[float] = []
        self.renewed: list[float] = []
        self.lost = 0

    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        self.registered.append(trio.current_time())
        return await super().register(entry, lease_s)

    async def renew(self, lease: Lease) -> None:
        if self.lost:
            self.lost -= 1
            raise LeaseLost(f"registry entry {lease.key}", "it ran out")
        self.renewed.append(trio.current_time())
        await super().renew(lease)


@dataclass
class Tenant:
    """Node eu/n1 in a registry; `own` is what it registers now."""

    mesh: MemoryMesh
    store: MemoryStore = field(default_factory=MemoryStore)
    own: NodeEntry = field(default_factory=entry)
    found: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def begin(self) -> Tenancy:
        self.registry = Counting(self.store)
        self.node = self.mesh.node("eu", "n1", epoch=5)
        self.tenancy = Tenancy(
            self.node,
            Registrar(self.registry),
            lambda: self.own,
            LEASE_S,
            found=lambda one: self.found.append(one.node),
            gone=self.gone.append,
        )
        self.mesh.nursery.start_soon(self.tenancy.run, self.mesh.nursery)
        return self.tenancy


@asynccontextmanager
async def tenant(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tenant]:
    async with memory_mesh(monkeypatch) as mesh:
        yield Tenant(mesh)


async def test_it_is_renewed_every_third_of_its_lease_and_registered_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(monkeypatch) as one:
        tenancy = one.begin()
        await tenancy.registered.wait()
        assert tenancy.holds
        await trio.sleep(10 * LEASE_S)
        assert len(one.registry.registered) == 1
        pauses = [b - a for a, b in zip(one.registry.renewed, one.registry.renewed[1:], strict=False)]
        assert 29 <= len(pauses) <= 34
        assert all(0.9 * LEASE_S / 3 <= pause <= LEASE_S / 3 + 0.01 for pause in pauses)
        await tenancy.leave()
        assert one.store.held == {}
        assert not tenancy.holds


async def test_what_changed_is_told_within_a_second_and_not_at_the_next_renewal(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(monkeypatch) as one:
        await one.begin().registered.wait()
        await trio.sleep(0.3)
        one.own = entry(bridge=True)
        await trio.sleep(1.1)
        assert one.store.held[KEY].entry.bridge


async def test_a_lost_lease_is_registered_again_at_once_but_not_in_a_circle(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(monkeypatch) as one:
        await one.begin().registered.wait()
        one.registry.lost = 1
        await trio.sleep(LEASE_S / 3 + 0.1)
        assert len(one.registry.registered) == 2
        one.registry.lost = 1_000
        begun = trio.current_time()
        await trio.sleep(60.0)
        again = [at for at in one.registry.registered if at > begun]
        assert 10 <= len(again) <= 60 / FLAPPING_S, (
            "a registry that loses every lease is not asked without a pause"
        )


async def test_a_newer_process_of_the_name_that_does_not_answer_is_waited_for(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with tenant(monkeypatch) as one:
        tenancy = one.begin()
        await tenancy.registered.wait()
        one.mesh.refusing.add("dead:1")
        lease = await MemoryRegistry(one.store).register(entry(epoch=6, address="dead:1"), 10 * LEASE_S)
        await trio.sleep(6 * SUPERSEDED_S)
        assert one.node.failure is None
        assert one.store.held[KEY].entry.epoch == 6
        assert "dead:1" in [address for _, address in one.mesh.dialled]
        assert capsys.readouterr().out.count("a newer process holds this name") == 1
        await MemoryRegistry(one.store).unregister(lease)
        await trio.sleep(SUPERSEDED_S + LEASE_S)
        assert one.store.held[KEY].entry.epoch == 5, "its entry ended, so the name is free"


async def test_others_are_told_when_they_come_and_go_and_the_own_entry_never_is(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(monkeypatch) as one:
        other = MemoryRegistry(one.store)
        await other.register(entry("n2", address="n2:1"), 5.0)
        tenancy = one.begin()
        await tenancy.registered.wait()
        assert set(one.found) == {"n2"}
        lease = await other.register(entry("n3", address="n3:1"), 1_000.0)
        await until(lambda: "n3" in one.found)
        await trio.sleep(6.0)
        assert one.gone == ["n2"], "its lease ran out"
        since = tenancy.leased["n3"].since
        await other.register(entry("n3", address="n3:2"), 1_000.0)
        await until(lambda: tenancy.leased["n3"].entry.addresses == ("n3:2",))
        assert tenancy.leased["n3"].since == since, "the same process"
        await other.unregister(lease)
        await until(lambda: one.gone == ["n2", "n3"])
        assert set(tenancy.leased) == {"n1"}
        assert "n1" not in one.found


async def test_what_ended_while_the_registry_was_away_is_found_by_listing_it_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(monkeypatch) as one:
        await MemoryRegistry(one.store).register(entry("n2", address="n2:1"), 30.0)
        tenancy = one.begin()
        await until(lambda: "n2" in tenancy.leased)
        one.store.switch(False)
        await trio.sleep(40.0)
        assert "n2" in tenancy.leased, "what was known stays while nobody can say"
        assert tenancy.registrar.available is False
        one.store.switch(True)
        await until(lambda: "n2" not in tenancy.leased, 20.0)
        assert "n2" in one.gone
        await until(lambda: KEY in one.store.held and one.store.held[KEY].entry == one.own)
