"""What every kind of registry promises, on each kind. A new kind adds a service to SERVICES and passes all of it.

Time is trio's. Kinds without a server have a clock that jumps; real servers take the time they take, so their leases are short
and what they show is waited for within a bound. A service hands out clients (one for each node) of one empty registry.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
import trio
from services.servers.relay import Relay
from trio.testing import MockClock

from mesh.model.ids import NodeKey
from registry.base import (
    BadEntry,
    Conflict,
    Event,
    Gone,
    Lease,
    LeaseLost,
    NodeEntry,
    Put,
    RegionEntry,
    Registry,
    RegistryUnavailable,
    Relist,
    Revision,
    Superseded,
    Token,
    edit_region,
)
from registry.etcd import EtcdRegistry, EtcdSettings
from registry.file import FileRegistry
from registry.memory import MemoryRegistry, MemoryStore
from registry.nacos import NacosRegistry, NacosSettings
from registry.nacos_v1 import LATE_S, NacosV1Registry

LONG_LEASE_S = 30.0
SEEN_S = 5.0
"""Every kind shows a change to a watch within this."""


class ServiceUnderTest(Protocol):
    lease_s: float
    late_s: float
    """So long after its lease an entry may still be there."""
    rounds: int
    """How often to repeat what takes time."""

    def client(self) -> Registry: ...
    async def switch(self, on: bool) -> None:
        """Make the service unreachable, or reachable again with what it held."""

    def close(self) -> None: ...


class MemoryService:
    lease_s, late_s, rounds = 10.0, 0.0, 10

    def __init__(self, _: pytest.FixtureRequest) -> None:
        self.store = MemoryStore()

    def client(self) -> Registry:
        return MemoryRegistry(self.store)

    async def switch(self, on: bool) -> None:
        self.store.switch(on)

    def close(self) -> None:
        pass


class FileService:
    """Work runs in place, not in a thread: the test clock would jump while a thread works."""

    lease_s, late_s, rounds = 10.0, 0.0, 10

    def __init__(self, request: pytest.FixtureRequest) -> None:
        folder: Path = request.getfixturevalue("tmp_path")
        self.folder = folder / "shared"

    def client(self) -> Registry:
        def wall() -> float:
            return 1_750_000_000.0 + trio.current_time()

        return FileRegistry(self.folder, wall=wall, in_thread=in_place)

    async def switch(self, on: bool) -> None:
        away = self.folder.with_name("unmounted")
        os.rename(*((away, self.folder) if on else (self.folder, away)))

    def close(self) -> None:
        pass


class EtcdService:
    """A prefix of its own in the server that the run shares, reached through a relay that can be cut."""

    # etcd keeps no lease shorter than 1.5 election times: 2 s here. It looks every 0.5 s for leases that ran out.
    lease_s, late_s, rounds = 2.0, 1.5, 3

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.prefix = f"/{request.getfixturevalue('unique_name')}"
        server = request.getfixturevalue("etcd_server")
        self.relay = Relay(("127.0.0.1", server.client_port))

    def client(self) -> Registry:
        return EtcdRegistry(EtcdSettings(endpoints=(self.relay.address,), prefix=self.prefix))

    async def switch(self, on: bool) -> None:
        await trio.to_thread.run_sync(self.relay.open if on else self.relay.cut)

    def close(self) -> None:
        self.relay.close()


class NacosService:
    """A group of its own in a server that the run shares, reached through a relay that can be cut."""

    # Nacos shows 0.5 s late what has ended.
    lease_s, late_s, rounds = 3.0, 2.0, 4

    def __init__(self, request: pytest.FixtureRequest, line: str) -> None:
        self.group = request.getfixturevalue("unique_name")
        self.server = request.getfixturevalue(f"{line}_server")
        self.relay = Relay(("127.0.0.1", self.server.grpc_port))

    def client(self) -> Registry:
        return NacosRegistry(
            NacosSettings(
                servers=(self.server.address,),
                group=self.group,
                user=self.server.user,
                password=self.server.password,
                grpc_offset=self.relay.port - self.server.port,
            )
        )

    async def switch(self, on: bool) -> None:
        await trio.to_thread.run_sync(self.relay.open if on else self.relay.cut)

    def close(self) -> None:
        self.relay.close()


class NacosV1Service:
    """The same server by HTTP v1, as one before 2.0 would be asked."""

    # The server looks every 5 s for instances without a heart-beat, and each call is a connection of its own.
    lease_s, late_s, rounds = 5.0, LATE_S, 3

    def __init__(self, request: pytest.FixtureRequest, line: str) -> None:
        self.group = request.getfixturevalue("unique_name")
        self.server = request.getfixturevalue(f"{line}_server")
        self.relay = Relay(("127.0.0.1", self.server.port))

    def client(self) -> Registry:
        return NacosV1Registry(
            NacosSettings(
                servers=(self.relay.address,),
                group=self.group,
                user=self.server.user,
                password=self.server.password,
            )
        )

    async def switch(self, on: bool) -> None:
        await trio.to_thread.run_sync(self.relay.open if on else self.relay.cut)

    def close(self) -> None:
        self.relay.close()


async def in_place(work: Callable[[], object]) -> object:
    await trio.lowlevel.checkpoint()
    return work()


SERVICES: dict[str, Callable[[pytest.FixtureRequest], ServiceUnderTest]] = {
    "memory": MemoryService,
    "file": FileService,
    "etcd": EtcdService,
    "nacos2": partial(NacosService, line="nacos2"),
    "nacos3": partial(NacosService, line="nacos3"),
    "nacos2-v1": partial(NacosV1Service, line="nacos2"),
    "nacos3-v1": partial(NacosV1Service, line="nacos3"),
}
REAL = ("etcd", "nacos2", "nacos3", "nacos2-v1", "nacos3-v1")
"""Kinds that a real server of this name stands behind."""


LONG = ("nacos3-v1",)
"""Only in `scripts/test --all`."""


def marks(kind: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.servers(kind.removesuffix("-v1"))] if kind in REAL else []
    return [*found, pytest.mark.long] if kind in LONG else found


@pytest.fixture(params=[pytest.param(kind, marks=marks(kind)) for kind in SERVICES])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def clock(kind: str) -> MockClock | None:
    """pytest-trio takes an argument of the test that is a clock for the clock; None leaves it the real one."""
    return None if kind in REAL else MockClock(autojump_threshold=0)


class ClosingService:
    """A service whose clients are closed when the test is over."""

    def __init__(self, service: ServiceUnderTest) -> None:
        self._service = service
        self.lease_s, self.late_s, self.rounds = service.lease_s, service.late_s, service.rounds
        self.clients: list[Registry] = []
        self.switch = service.switch
        self.close = service.close

    def client(self) -> Registry:
        self.clients.append(self._service.client())
        return self.clients[-1]


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest) -> ClosingService:
    return ClosingService(SERVICES[kind](request))


@pytest.fixture
async def service(opened: ClosingService) -> AsyncIterator[ServiceUnderTest]:
    yield opened
    with trio.fail_after(5.0):
        for client in opened.clients:
            await client.aclose()
    opened.close()


async def eventually(condition: Callable[[], bool], within_s: float = SEEN_S) -> None:
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.05)


async def expired(service: ServiceUnderTest) -> None:
    """Wait until a lease that began now has ended for certain."""
    await trio.sleep(service.lease_s * 1.1 + service.late_s)


def entry(
    node: str = "eu-1", epoch: int = 100, region: str = "eu", instance: str = "i", port: int = 7946
) -> NodeEntry:
    since = datetime(2025, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    return NodeEntry(region=region, node=node, instance=instance, epoch=epoch, addresses=(f"10.0.0.1:{port}",),
                     bridge=True, software="hopmesh 0.1.0", since=since)  # fmt: skip


def region_entry(*endpoints: str, region: str = "eu") -> RegionEntry:
    return RegionEntry(region=region, endpoints=endpoints, labels={"site": "Köln"})


async def listed(registry: Registry, region: str | None = None) -> list[NodeEntry]:
    return list((await registry.list(region)).entries)


async def keep(registry: Registry, lease: Lease) -> None:
    while True:
        await trio.sleep(lease.lease_s / 3)
        await registry.renew(lease)


class TestRegistering:
    async def test_what_one_node_registers_every_client_lists_as_it_was(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        assert await listed(two) == []
        lease = await one.register(entry(), LONG_LEASE_S)
        assert (lease.key, lease.lease_s) == (NodeKey("eu", "eu-1"), LONG_LEASE_S)
        assert await listed(two) == [entry()]
        assert await listed(one) == [entry()]

    async def test_a_list_is_of_one_region_or_of_all_and_in_order(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        for node, region in (("b", "us"), ("b", "eu"), ("a", "us"), ("a-1", "eu")):
            await one.register(entry(node, region=region), LONG_LEASE_S)
        other = service.client()
        assert [str(found.key) for found in await listed(other)] == ["eu/a-1", "eu/b", "us/a", "us/b"]
        assert [str(found.key) for found in await listed(other, "us")] == ["us/a", "us/b"]
        assert await listed(other, "nowhere") == []

    async def test_a_process_may_change_its_own_entry(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        await one.register(entry(), LONG_LEASE_S)
        lease = await one.register(entry(port=9000), LONG_LEASE_S)
        assert await listed(service.client()) == [entry(port=9000)]
        await one.renew(lease)
        assert await listed(service.client()) == [entry(port=9000)]

    async def test_unregistering_takes_it_out_once(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        lease = await one.register(entry(), LONG_LEASE_S)
        await one.unregister(lease)
        assert await listed(service.client()) == []
        await one.unregister(lease)
        with pytest.raises(LeaseLost):
            await one.renew(lease)

    async def test_an_entry_outside_the_form_is_refused(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        bad = [
            entry("no/slash"),
            entry(""),
            entry("x" * 65),
            entry(epoch=0),
            entry(instance=""),
            entry(region=".."),
        ]
        for value in bad:
            with pytest.raises(BadEntry):
                await one.register(value, LONG_LEASE_S)
        for lease_s in (0.0, -1.0, 1e9):
            with pytest.raises(ValueError, match="lease"):
                await one.register(entry(), lease_s)
        assert await listed(one) == []


class TestLeases:
    async def test_an_entry_ends_with_its_lease(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        await one.register(entry(), service.lease_s)
        assert await listed(two) == [entry()]
        await trio.sleep(service.lease_s * 0.9)
        assert await listed(two) == [entry()]
        await expired(service)
        assert await listed(two) == []

    async def test_an_entry_lives_while_it_is_renewed(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        lease = await one.register(entry(), service.lease_s)
        for _ in range(service.rounds):
            await trio.sleep(service.lease_s / 2)
            await one.renew(lease)
            assert await listed(two) == [entry()]

    async def test_a_lease_that_ran_out_cannot_be_renewed_but_taken_anew(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        lease = await one.register(entry(), service.lease_s)
        await expired(service)
        with pytest.raises(LeaseLost):
            await one.renew(lease)
        lease = await one.register(entry(), service.lease_s)
        await one.renew(lease)
        assert await listed(service.client()) == [entry()]


class TestTwoProcessesOfOneName:
    async def test_a_newer_process_takes_over_at_once_and_the_older_one_learns_it(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        old, new = service.client(), service.client()
        old_lease = await old.register(entry(epoch=100, instance="old"), LONG_LEASE_S)
        await new.register(entry(epoch=101, instance="new"), LONG_LEASE_S)
        with pytest.raises(LeaseLost):
            await old.renew(old_lease)
        with pytest.raises(Superseded):
            await old.register(entry(epoch=100, instance="old"), LONG_LEASE_S)
        await old.unregister(old_lease)
        assert await listed(service.client()) == [entry(epoch=101, instance="new")]

    async def test_in_one_epoch_the_greater_instance_has_it(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        await two.register(entry(instance="b"), LONG_LEASE_S)
        with pytest.raises(Superseded):
            await one.register(entry(instance="a"), LONG_LEASE_S)

    async def test_a_name_whose_lease_ran_out_is_free_for_any(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        await one.register(entry(epoch=500), service.lease_s)
        await listed(two)
        await expired(service)
        await two.register(entry(epoch=100), service.lease_s)
        assert await listed(service.client()) == [entry(epoch=100)]


class TestWatching:
    async def follow(self, registry: Registry, seen: dict[NodeKey, NodeEntry], events: list[Event]) -> None:
        """Keep `seen` as a watcher would."""
        watch = registry.watch("eu")
        while True:
            batch = await watch.next()
            assert batch
            for event in batch:
                events.append(event)
                match event:
                    case Relist():
                        seen.clear()
                        seen.update({found.key: found for found in event.listing.entries})
                    case Put():
                        seen[event.entry.key] = event.entry
                    case Gone():
                        del seen[event.key]

    async def test_a_watch_without_a_revision_begins_with_what_is_there(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        await one.register(entry(), LONG_LEASE_S)
        await one.register(entry("us-1", region="us"), LONG_LEASE_S)
        (event,) = await service.client().watch("eu").next()
        assert isinstance(event, Relist)
        assert event.listing.entries == (entry(),)
        (event,) = await service.client().watch().next()
        assert isinstance(event, Relist)
        assert len(event.listing.entries) == 2

    async def test_a_watch_follows_new_changed_unregistered_and_expired_entries(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        seen: dict[NodeKey, NodeEntry] = {}
        events: list[Event] = []
        one = service.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.follow, service.client(), seen, events)
            await eventually(lambda: bool(events))
            a = await one.register(entry("a"), LONG_LEASE_S)
            await one.register(entry("b"), service.lease_s)
            await one.register(entry("c", region="us"), LONG_LEASE_S)
            await eventually(lambda: sorted(seen) == [NodeKey("eu", "a"), NodeKey("eu", "b")])
            a = await one.register(entry("a", port=1), LONG_LEASE_S)
            await eventually(lambda: seen[NodeKey("eu", "a")] == entry("a", port=1))
            await one.unregister(a)
            await eventually(lambda: NodeKey("eu", "a") not in seen)
            await eventually(lambda: not seen, service.lease_s + service.late_s + SEEN_S)
            nursery.cancel_scope.cancel()
        assert isinstance(events[0], Relist)
        assert sum(isinstance(event, Relist) for event in events) == 1
        assert {event.reason for event in events if isinstance(event, Gone)} <= {
            "unregistered",
            "expired",
            "ended",
        }
        assert not any(isinstance(event, Put) and event.entry.region == "us" for event in events)

    async def test_renewals_are_no_changes(self, service: ServiceUnderTest, clock: MockClock | None) -> None:
        one = service.client()
        lease = await one.register(entry(), service.lease_s)
        watch = service.client().watch("eu")
        await watch.next()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, one, lease)
            with trio.move_on_after(service.rounds / 2 * service.lease_s) as quiet:
                await watch.next()
            assert quiet.cancelled_caught
            nursery.cancel_scope.cancel()

    async def test_a_watch_goes_on_from_the_revision_of_a_list(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        await one.register(entry("a"), LONG_LEASE_S)
        listing = await two.list("eu")
        await one.register(entry("b"), LONG_LEASE_S)
        (event,) = await two.watch("eu", listing.revision).next()
        assert isinstance(event, Put)
        assert event.entry == entry("b")
        again = two.watch("eu", event.revision)
        with trio.move_on_after(1.5) as quiet:
            await again.next()
        assert quiet.cancelled_caught

    async def test_a_revision_that_nobody_knows_is_answered_by_a_relist(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        await one.register(entry(), LONG_LEASE_S)
        for unknown in ("", "no such", "memory.-1", "memory.7", "x.9999999999999999999999"):
            (event,) = await two.watch("eu", Revision(unknown)).next()
            assert isinstance(event, Relist)
            assert event.listing.entries == (entry(),)

    async def test_cancelling_a_watch_loses_nothing(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        watch = service.client().watch("eu")
        await watch.next()
        with trio.move_on_after(2.5):
            await watch.next()
        await one.register(entry(), LONG_LEASE_S)
        (event,) = await watch.next()
        assert isinstance(event, Put)


class TestTheDirectory:
    async def test_an_entry_is_made_changed_and_removed_by_who_saw_the_latest(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        assert await one.get_region("eu") is None
        assert await one.regions() == ()
        first = await one.put_region(region_entry("a:1"), None)
        found = await two.get_region("eu")
        assert found is not None
        assert (found.entry, found.token) == (region_entry("a:1"), first)
        second = await two.put_region(region_entry("a:1", "b:1"), first)
        assert second != first
        with pytest.raises(Conflict):
            await one.put_region(region_entry("c:1"), first)
        with pytest.raises(Conflict):
            await one.put_region(region_entry("c:1"), None)
        with pytest.raises(Conflict):
            await one.remove_region("eu", first)
        await one.remove_region("eu", second)
        assert await two.get_region("eu") is None
        assert await two.regions() == ()
        with pytest.raises(Conflict):
            await two.remove_region("eu", second)
        with pytest.raises(Conflict):
            await two.put_region(region_entry("z:1"), second)
        assert await two.put_region(region_entry("z:1"), None) not in (first, second)

    async def test_regions_are_listed_in_order_and_outlive_leases(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        for name in ("us", "ap", "eu"):
            await one.put_region(region_entry("a:1", region=name), None)
        await trio.sleep(service.rounds * service.lease_s)
        found = await service.client().regions()
        assert [region.entry.region for region in found] == ["ap", "eu", "us"]
        assert await service.client().get_region("ap") == found[0]

    async def test_a_token_that_was_never_given_out_conflicts(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        with pytest.raises(Conflict):
            await service.client().put_region(region_entry("a:1"), Token("no such"))

    async def test_many_writers_lose_nothing(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        async def add(registry: Registry, endpoint: str) -> None:
            def change(found: RegionEntry | None) -> RegionEntry:
                return region_entry(*(() if found is None else found.endpoints), endpoint)

            await edit_region(registry, "eu", change)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(add, service.client(), f"n{number}:1")
        found = await service.client().get_region("eu")
        assert found is not None
        assert sorted(found.entry.endpoints) == [f"n{number}:1" for number in range(8)]

    async def test_an_edit_may_leave_or_remove_an_entry(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        assert await edit_region(one, "eu", lambda found: found) is None
        await one.put_region(region_entry("a:1"), None)
        assert await edit_region(one, "eu", lambda found: found) == region_entry("a:1")
        assert await edit_region(one, "eu", lambda _: None) is None
        assert await one.get_region("eu") is None

    async def test_an_entry_outside_the_form_is_refused(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        for bad in (region_entry(region="a/b"), region_entry(""), region_entry("x" * 301), region_entry(*["a:1"] * 17),
                    region_entry("a\nb:1"), RegionEntry(region="eu", endpoints=(), labels={"k": "v" * 300})):  # fmt: skip
            with pytest.raises(BadEntry):
                await one.put_region(bad, None)
        assert await one.regions() == ()


class TestTheServiceIsAway:
    async def test_every_call_says_so_and_all_is_as_before_when_it_is_back(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one, two = service.client(), service.client()
        lease = await one.register(entry(), LONG_LEASE_S)
        token = await one.put_region(region_entry("a:1"), None)
        watch = two.watch("eu")
        await watch.next()
        await service.switch(False)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: one.register(entry("b"), LONG_LEASE_S),
            lambda: one.renew(lease),
            two.list,
            watch.next,
            two.regions,
            lambda: two.get_region("eu"),
            lambda: two.put_region(region_entry("b:1"), token),
            lambda: two.remove_region("eu", token),
        ]
        for call in calls:
            with pytest.raises(RegistryUnavailable) as error:
                await call()
            assert error.value.code == "MESH-R001"
        assert two.statistics().failures > 0
        await service.switch(True)
        await one.renew(lease)
        assert await listed(two) == [entry()]
        await two.put_region(region_entry("b:1"), token)
        await one.register(entry("b"), LONG_LEASE_S)
        (event,) = await watch.next()
        assert isinstance(event, Put)
        assert event.entry == entry("b")

    async def test_statistics_tell_what_was_seen(
        self, service: ServiceUnderTest, clock: MockClock | None
    ) -> None:
        one = service.client()
        await one.register(entry(), LONG_LEASE_S)
        await one.put_region(region_entry("a:1"), None)
        await one.list()
        await one.regions()
        statistics = one.statistics()
        assert (statistics.entries, statistics.regions, statistics.failures, statistics.ignored) == (
            1,
            1,
            0,
            {},
        )
        assert statistics.calls >= 4
