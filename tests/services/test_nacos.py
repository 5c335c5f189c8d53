"""The Nacos registry on real servers of both lines that break, refuse, lose pushes and hold what others wrote.

"Nacos" here is 2.3.1 and 3.1.0 as third parties publish their server modules, with class names unchanged.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import trio
from services.servers.relay import Relay

from mesh.model.ids import NodeKey
from registry.base import (
    Event,
    Gone,
    Lease,
    LeaseLost,
    NodeEntry,
    Put,
    RegionEntry,
    RegistryError,
    RegistryUnavailable,
    Relist,
    edit_region,
)
from registry.nacos import NacosRegistry, NacosSettings
from registry.nacos.directory import REGION_PREFIX
from registry.nacos.instance import service_name
from registry.nacos.registry import RELIST_S
from registry.nacos.requests import Answer, BatchInstanceRequest, ConfigPublishRequest, Instance

LINES = ("nacos2", "nacos3")
LONG = pytest.mark.long
LEASE_S = 30.0
LONG_LEASE_S = 300.0
"""Longer than a server takes to come back on a machine that does much else."""

Client = Callable[..., NacosRegistry]


@pytest.fixture(params=[pytest.param(line, marks=pytest.mark.servers(line)) for line in LINES])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
async def client(unique_name: str) -> AsyncIterator[Client]:
    """`client(server, **settings)`: a registry in this test's own group, closed at its end."""
    made: list[NacosRegistry] = []

    def make(server: Any, **more: Any) -> NacosRegistry:
        fields = {
            "servers": (server.address,), "group": unique_name, "user": server.user, "password": server.password,
            **more,
        }  # fmt: skip
        made.append(NacosRegistry(NacosSettings(**fields)))
        return made[-1]

    yield make
    with trio.fail_after(5.0):
        for registry in made:
            await registry.aclose()


def entry(node: str = "eu-1", epoch: int = 100, region: str = "eu", port: int = 7946) -> NodeEntry:
    since = datetime(2025, 6, 1, 12, tzinfo=UTC)
    return NodeEntry(region=region, node=node, instance="i", epoch=epoch, addresses=(f"10.0.0.1:{port}",), bridge=True,
                     software="hopmesh 0.1.0", since=since)  # fmt: skip


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Seconds until it was so. Calls that fail count as not so."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while True:
            try:
                if await condition():
                    return trio.current_time() - began
            except RegistryUnavailable:
                pass
            await trio.sleep(0.1)


async def nodes(registry: NacosRegistry, region: str = "eu") -> list[str]:
    return [found.node for found in (await registry.list(region)).entries]


class Keeper:
    """Keeps an entry as a node does: registers, renews, registers again. Args: lease_s: of it."""

    def __init__(self, registry: NacosRegistry, entry: NodeEntry, lease_s: float) -> None:
        self.registry, self.entry, self.lease_s = registry, entry, lease_s
        self.lease: Lease | None = None
        self.lost = 0

    async def run(self) -> None:
        while True:
            try:
                if self.lease is None:
                    self.lease = await self.registry.register(self.entry, self.lease_s)
                else:
                    await self.registry.renew(self.lease)
                await trio.sleep(self.lease_s / 3)
            except LeaseLost:
                self.lease = None
                self.lost += 1
            except RegistryError:
                await trio.sleep(0.5)


class Follower:
    """What a watch of a region shows. Waits when the registry is away, as callers do."""

    def __init__(self, registry: NacosRegistry) -> None:
        self.registry = registry
        self.seen: dict[NodeKey, NodeEntry] = {}
        self.events: list[Event] = []

    async def run(self) -> None:
        watch = self.registry.watch("eu")
        while True:
            try:
                batch = await watch.next()
            except RegistryUnavailable:
                await trio.sleep(0.2)
                continue
            for event in batch:
                self.events.append(event)
                match event:
                    case Relist():
                        self.seen = {found.key: found for found in event.listing.entries}
                    case Put():
                        self.seen[event.entry.key] = event.entry
                    case Gone():
                        self.seen.pop(event.key)

    async def shows(self, *names: str) -> bool:
        return sorted(key.node for key in self.seen) == sorted(names)


# -- the server breaks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", LINES)
async def test_a_server_that_comes_back_empty_has_all_again_within_15_s(
    line: str, own_server: Callable[..., Any], client: Client
) -> None:
    """kill -9 and an empty disk: its connection ids, its tokens' users and its configurations are gone with it."""
    from services.servers.nacos import NacosOptions

    server = own_server(line, NacosOptions(token_ttl_s=8))
    await trio.to_thread.run_sync(server.start)
    keepers = [Keeper(client(server), entry(f"eu-{number}"), LONG_LEASE_S) for number in range(3)]
    follower = Follower(client(server))
    async with trio.open_nursery() as nursery:
        for keeper in keepers:
            nursery.start_soon(keeper.run)
        nursery.start_soon(follower.run)
        await eventually(lambda: follower.shows("eu-0", "eu-1", "eu-2"), 15.0)
        before = len(follower.events)
        await edit_region(keepers[0].registry, "eu", lambda _: RegionEntry(region="eu", endpoints=("a:1",)))
        await trio.to_thread.run_sync(server.kill)
        with pytest.raises(RegistryUnavailable) as away:
            await keepers[0].registry.list("eu")
        assert away.value.code == "MESH-R001"
        await trio.to_thread.run_sync(server.wipe)
        fresh = client(server)

        async def all_there() -> bool:
            return await nodes(fresh) == ["eu-0", "eu-1", "eu-2"]

        took_s = await eventually(all_there, 15.0)
        print(f"{line}: registered again {took_s:.2f} s after its return")
        assert await fresh.regions() == ()
        await edit_region(fresh, "eu", lambda _: RegionEntry(region="eu", endpoints=("a:1",)))
        assert len(await keepers[0].registry.regions()) == 1
        await eventually(lambda: follower.shows("eu-0", "eu-1", "eu-2"), 5.0)
        # The lease outlives the server: who watched saw nobody go.
        assert not any(isinstance(event, Gone) for event in follower.events[before:])
        await trio.sleep(9.0)  # longer than a token lives
        assert await all_there()
        assert [keeper.lost for keeper in keepers] == [0, 0, 0]
        nursery.cancel_scope.cancel()


async def test_a_connection_that_ends_is_made_again_with_all_it_carried(server: Any, client: Client) -> None:
    relay = Relay(("127.0.0.1", server.grpc_port))
    one = client(server, grpc_offset=relay.port - server.port)
    lease = await one.register(entry(), LEASE_S)
    other = client(server)
    relay.cut()
    took_s = await eventually(lambda: gone(other), 10.0)
    print(f"gone {took_s:.2f} s after its connection")
    relay.open()
    took_s = await eventually(lambda: has(other, "eu-1"), 15.0)
    print(f"back {took_s:.2f} s after the line")
    await one.renew(lease)
    await one.aclose()
    relay.close()


async def gone(registry: NacosRegistry) -> bool:
    return await nodes(registry) == []


async def has(registry: NacosRegistry, node: str) -> bool:
    return node in await nodes(registry)


async def test_a_server_that_sends_its_clients_away_gets_them_back(server: Any, client: Client) -> None:
    one, other = client(server), client(server)
    lease = await one.register(entry(), LEASE_S)
    before = one.connection_id
    form = {"connectionId": before, "redirectAddress": ""}
    if server.kind == "nacos2":
        await trio.to_thread.run_sync(server.call, "GET", "/nacos/v2/core/loader/reloadClient", form)
    else:
        await trio.to_thread.run_sync(server.call, "POST", "/nacos/v3/admin/core/loader/reloadClient", form)

    async def moved() -> bool:
        return one.connection_id not in ("", before)

    await eventually(moved, 10.0)
    await one.renew(lease)
    assert await nodes(other) == ["eu-1"]


async def test_a_server_that_hangs_is_left_for_one_that_answers(server: Any, client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = f"127.0.0.1:{silent.getsockname()[1] - 1000}"
        for _ in range(2):  # whichever is tried first
            one = client(server, servers=(hung, server.address))
            with trio.fail_after(12.0):
                await one.register(entry(), LEASE_S)
                assert await nodes(one) == ["eu-1"]
            assert one.statistics().endpoint == server.address
            await one.aclose()


# -- pushes --------------------------------------------------------------------------------------------------------------


async def test_a_push_shows_a_change_before_a_look_would(server: Any, client: Client) -> None:
    one, follower = client(server), Follower(client(server))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await one.register(entry("first"), LEASE_S)
        await eventually(lambda: follower.shows("first"), 5.0)
        calls = follower.registry.statistics().calls
        await one.register(entry("second"), LEASE_S)
        took_s = await eventually(lambda: follower.shows("first", "second"), 2.0)
        assert follower.registry.statistics().calls - calls <= 1
        print(f"seen {took_s:.2f} s after register returned")
        nursery.cancel_scope.cancel()


async def test_a_push_that_never_comes_is_made_up_for_by_a_look(
    server: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, watching = client(server), client(server)
    monkeypatch.setattr(watching._session, "_pushed", lambda _: None)
    follower = Follower(watching)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        lease = await one.register(entry(), LEASE_S)
        await eventually(lambda: follower.shows("eu-1"), RELIST_S[0] + 2.0)
        await one.unregister(lease)  # the last one of its service
        await eventually(follower.shows, RELIST_S[0] + 2.0)
        nursery.cancel_scope.cancel()


async def test_a_line_that_passes_nothing_on_is_left_and_what_was_missed_is_seen(
    server: Any, client: Client
) -> None:
    relay = Relay(("127.0.0.1", server.grpc_port))
    one = client(server)
    follower = Follower(client(server, grpc_offset=relay.port - server.port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await one.register(entry("first"), LEASE_S)
        await eventually(lambda: follower.shows("first"), 5.0)
        relay.stall()
        await one.register(entry("second"), LEASE_S)
        await trio.sleep(RELIST_S[0] + 4.0)
        assert await follower.shows("first")
        relay.open()
        await eventually(lambda: follower.shows("first", "second"), 10.0)
        assert not any(isinstance(event, Gone) for event in follower.events)
        nursery.cancel_scope.cancel()
    await follower.registry.aclose()
    relay.close()


# -- user and password ----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_named(server: Any, client: Client) -> None:
    with pytest.raises(RegistryUnavailable, match="refuses user 'nacos' or the password") as error:
        await client(server, password="not-this-one").list("eu")
    assert error.value.code == "MESH-R009"
    assert "not-this-one" not in str(error.value)


async def test_a_missing_user_is_named(server: Any, client: Client) -> None:
    with pytest.raises(RegistryUnavailable, match="none is set") as error:
        await client(server, user="", password="").list("eu")
    assert error.value.code == "MESH-R009"


async def test_a_token_that_the_server_does_not_take_any_more_is_replaced(
    server: Any, client: Client
) -> None:
    one = client(server)
    lease = await one.register(entry(), LEASE_S)
    login = one._session._login
    login._token = "spoiled"
    await one.renew(lease)
    assert login._token != "spoiled"
    login._token = "spoiled"
    await edit_region(one, "eu", lambda _: RegionEntry(region="eu", endpoints=("a:1",)))
    assert one.statistics().failures == 0


# -- what others wrote -----------------------------------------------------------------------------------------------------


async def test_ten_thousand_foreign_instances_are_counted_and_in_nobodys_way(
    server: Any, client: Client
) -> None:
    one, stranger = client(server), client(server)
    await one.register(entry("real"), LEASE_S)
    odd = (
        {},
        {"region": "eu", "node": "x"},
        {"region": "eu", "node": "x", "epoch": "soon"},
        {"region": "us", "node": "y"},
    )
    instances = [
        Instance(
            ip="10.9.9.9",
            port=number % 60_000,
            metadata=dict(odd[number % 4]),
            service_name=service_name("eu"),
        )
        for number in range(10_000 - 1)
    ]
    request = BatchInstanceRequest(
        namespace="public",
        group_name=one.settings.group,
        service_name=service_name("eu"),
        instances=instances,
    )
    stranger._begin()
    await stranger._session.ask(request, Answer)

    async def all_seen() -> bool:
        await one.list("eu")
        return sum(one.statistics().ignored.values()) == len(instances)

    await eventually(all_seen, 10.0)
    began = trio.current_time()
    assert await nodes(one) == ["real"]
    print(f"a list beside 9,999 foreign instances: {trio.current_time() - began:.2f} s")
    assert set(one.statistics().ignored) == {"not_ours", "no_entry"}
    assert one.statistics().entries == 1


async def test_configurations_that_others_wrote_are_no_regions(server: Any, client: Client) -> None:
    one, stranger = client(server), client(server)
    await one.put_region(RegionEntry(region="eu", endpoints=("a:1",)), None)
    await one.put_region(RegionEntry(region="us", endpoints=("b:1",)), None)
    stranger._begin()
    before = stranger._directory
    content = await before._look(REGION_PREFIX + "us")
    for garbage in ("{", '{"region":"us","endpoints":7}', "x" * 100_000):
        await stranger._session.ask(
            ConfigPublishRequest(
                data_id=REGION_PREFIX + "us",
                group=one.settings.group,
                tenant="",
                content=garbage,
                cas_md5=content.md5,
            ),
            Answer,
        )

        async def spoiled(md5: str = content.md5) -> bool:
            return (await before._look(REGION_PREFIX + "us")).md5 != md5

        await eventually(spoiled, 5.0)
        content = await before._look(REGION_PREFIX + "us")
        assert [found.entry.region for found in await one.regions()] == ["eu"]
        assert one.statistics().ignored == {"no_region": 1}
    await one.put_region(RegionEntry(region="us", endpoints=("c:1",)), None)
    assert [found.entry.region for found in await one.regions()] == ["eu", "us"]


async def test_a_person_finds_the_nodes_in_what_nacos_shows(
    server: Any, client: Client, unique_name: str
) -> None:
    await client(server).register(entry(), LEASE_S)
    found = await trio.to_thread.run_sync(lambda: server.instances("hopmesh.eu", group=unique_name))
    (shown,) = found
    assert (shown["ip"], shown["port"], shown["healthy"], shown["ephemeral"]) == (
        "10.0.0.1",
        7946,
        True,
        True,
    )
    assert shown["metadata"]["node"] == "eu-1"
    assert shown["metadata"]["version"] == "hopmesh 0.1.0"
    assert shown["metadata"]["addresses"] == "10.0.0.1:7946"


# -- many ------------------------------------------------------------------------------------------------------------------


async def connected(registries: Sequence[NacosRegistry]) -> None:
    """Wait until each has a connection: fifty passwords to check at once take a busy server its time."""
    async with trio.open_nursery() as nursery:
        for registry in registries:
            nursery.start_soon(eventually, partial(lists, registry), 60.0)


async def lists(registry: NacosRegistry) -> bool:
    await registry.list("eu")
    return True


async def test_fifty_that_register_at_once_are_all_seen(server: Any, client: Client) -> None:
    follower = Follower(client(server))
    registries = [client(server) for _ in range(50)]
    began = trio.current_time()
    await connected(registries)
    print(f"50 logins and connections at once: {trio.current_time() - began:.2f} s")
    times: list[float] = []

    async def start(registry: NacosRegistry, node: str) -> None:
        began = trio.current_time()
        await registry.register(entry(node), LEASE_S)
        times.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        began = trio.current_time()
        async with trio.open_nursery() as starting:
            for number, registry in enumerate(registries):
                starting.start_soon(start, registry, f"eu-{number}")
        await eventually(lambda: follower.shows(*(f"eu-{number}" for number in range(50))), 15.0)
        print(f"50 at once: slowest {max(times):.2f} s, all seen after {trio.current_time() - began:.2f} s")
        nursery.cancel_scope.cancel()
    assert len({registry.connection_id for registry in registries}) == 50


async def test_a_node_with_nothing_to_do_asks_less_than_once_a_second(server: Any, client: Client) -> None:
    registry = client(server)
    keeper, follower = Keeper(registry, entry(), LEASE_S), Follower(registry)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        nursery.start_soon(follower.run)
        await eventually(lambda: follower.shows("eu-1"), 10.0)
        await trio.sleep(2.0)
        before = registry.statistics().calls
        await trio.sleep(12.0)
        asked = registry.statistics().calls - before
        print(f"{asked} requests in 12 s")
        assert asked <= 6
        nursery.cancel_scope.cancel()


async def test_eight_that_edit_one_region_at_once_lose_nothing(server: Any, client: Client) -> None:
    async def add(registry: NacosRegistry, endpoint: str) -> None:
        def change(found: RegionEntry | None) -> RegionEntry:
            return RegionEntry(region="eu", endpoints=(*(() if found is None else found.endpoints), endpoint))

        await edit_region(registry, "eu", change)

    registries = [client(server) for _ in range(8)]
    await connected(registries)
    async with trio.open_nursery() as nursery:
        for number, registry in enumerate(registries):
            nursery.start_soon(add, registry, f"n{number}:1")
    found = await registries[0].get_region("eu")
    assert found is not None
    assert sorted(found.entry.endpoints) == [f"n{number}:1" for number in range(8)]


@LONG
async def test_a_client_that_is_stopped_loses_its_entry_and_takes_it_again(
    server: Any, client: Client
) -> None:
    """What a stopped process is to a server: a connection on which nothing moves. Its lease is longer than that here, so
    that the server's own detection is what ends it; the client comes back with its lease."""
    relay = Relay(("127.0.0.1", server.grpc_port))
    one, other = client(server, grpc_offset=relay.port - server.port), client(server)
    keeper = Keeper(one, entry(), 120.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await eventually(lambda: has(other, "eu-1"), 5.0)
        relay.stall()
        took_s = await eventually(lambda: gone(other), 40.0)
        print(f"a silent client was dropped after {took_s:.1f} s")
        relay.open()
        took_s = await eventually(lambda: has(other, "eu-1"), 15.0)
        print(f"and was back {took_s:.1f} s after its return")
        assert keeper.lost == 0
        nursery.cancel_scope.cancel()
    await one.aclose()
    relay.close()
