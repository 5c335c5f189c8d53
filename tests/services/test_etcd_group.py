"""The registry on three etcd servers that are one: endpoints that hang, refuse, lose their leader or are cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from services.etcd_clients import Follower, Keeper, client, control, entry, eventually
from services.servers.etcd_group import EtcdGroup

from registry.base import RegionEntry

OwnServer = Callable[..., Any]
CALL_S = 1.0


@pytest.fixture
def group(own_server: OwnServer) -> EtcdGroup:
    group: EtcdGroup = own_server("etcd3", cuttable=True)
    group.start()
    return group


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients begin with the first endpoint, not with any."""
    monkeypatch.setattr("registry.etcd.connection.random.randrange", lambda _: 0)


async def held(keeper: Keeper, follower: Follower) -> None:
    await eventually(lambda: keeper.registered and follower.nodes == [keeper.entry.node])


@pytest.mark.usefixtures("in_order")
class TestEndpoints:
    async def test_a_hung_one_is_left_after_one_call_time(self, group: EtcdGroup, unique_name: str) -> None:
        leader = group.leader()
        hung = next(member for member in group.members if member is not leader)
        others = [member.address for member in group.members if member is not hung]
        await control(hung.pause)
        async with client([hung.address, *others], unique_name, call_timeout_s=CALL_S) as one:
            start = trio.current_time()
            await one.register(entry(), 30)
            took_s = trio.current_time() - start
            assert CALL_S <= took_s < CALL_S + 1.0
            assert one.statistics().endpoint == others[0]
            start = trio.current_time()
            await one.register(entry("b"), 30)
            assert trio.current_time() - start < 0.5
            print(f"registered {took_s:.2f} s after it was begun at a hung endpoint")
            await control(hung.resume)

    async def test_one_that_hangs_in_use_is_left_by_calls_and_watches(
        self, group: EtcdGroup, unique_name: str
    ) -> None:
        leader = group.leader()
        used = next(member for member in group.members if member is not leader)
        others = [member.address for member in group.members if member is not used]
        options = {"call_timeout_s": CALL_S, "silence_s": 1.0}
        async with trio.open_nursery() as nursery, client(others, unique_name) as other:
            async with client([used.address, *others], unique_name, **options) as one:
                async with client([used.address, *others], unique_name, **options) as quiet:
                    keeper, follower = Keeper(one, entry(), 6.0), Follower(quiet)
                    nursery.start_soon(keeper.run)
                    nursery.start_soon(follower.run)
                    await held(keeper, follower)
                    await control(used.pause)
                    await other.register(entry("eu-2"), 30)
                    took_s = await eventually(lambda: "eu-2" in follower.nodes, 6.0)
                    print(f"the watch had left the hung endpoint after {took_s:.2f} s")
                    await trio.sleep(4.0)
                    assert (keeper.registered, keeper.errors) == (1, [])
                    assert (follower.relists, follower.errors) == (1, [])
                    await control(used.resume)
                    nursery.cancel_scope.cancel()

    async def test_one_that_refuses_is_passed_over_at_once(self, group: EtcdGroup, unique_name: str) -> None:
        addresses = ["127.0.0.1:1", *group.addresses]
        async with client(addresses, unique_name) as one:
            start = trio.current_time()
            await one.put_region(RegionEntry(region="eu", endpoints=("a:1",)), None)
            assert trio.current_time() - start < 1.0
            watch = one.watch()
            await watch.next()

    async def test_a_new_leader_costs_no_entry_and_no_watch(self, group: EtcdGroup, unique_name: str) -> None:
        leader = group.leader()
        addresses = [leader.address, *(m.address for m in group.members if m is not leader)]
        async with trio.open_nursery() as nursery, client(addresses, unique_name) as one:
            async with client(addresses, unique_name) as two:
                keeper, follower = Keeper(one, entry(), 10.0), Follower(two)
                nursery.start_soon(keeper.run)
                nursery.start_soon(follower.run)
                await held(keeper, follower)
                await control(leader.kill)
                start = trio.current_time()
                late = Keeper(two, entry("eu-2"), 10.0)
                nursery.start_soon(late.run)
                await eventually(lambda: follower.nodes == ["eu-1", "eu-2"], 10.0)
                print(f"registered and seen {trio.current_time() - start:.2f} s after the leader was killed")
                await trio.sleep(4.0)
                assert (keeper.registered, follower.relists) == (1, 1)
                nursery.cancel_scope.cancel()

    async def test_a_member_that_is_cut_off_is_left(self, group: EtcdGroup, unique_name: str) -> None:
        leader = group.leader()
        cut = next(member for member in group.members if member is not leader)
        others = [member.address for member in group.members if member is not cut]
        async with trio.open_nursery() as nursery, client(others, unique_name) as other:
            async with client([cut.address, *others], unique_name) as one:
                keeper, follower = Keeper(one, entry(), 10.0), Follower(one)
                nursery.start_soon(keeper.run)
                nursery.start_soon(follower.run)
                await held(keeper, follower)
                assert one.statistics().endpoint == cut.address
                await control(group.cut_off, cut)
                await other.register(entry("eu-2"), 30)
                took_s = await eventually(lambda: "eu-2" in follower.nodes, 10.0)
                print(f"the watch had left the member {took_s:.2f} s after it was cut off")
                assert one.statistics().endpoint in others
                async with client([cut.address, *others], unique_name) as new:
                    start = trio.current_time()
                    await new.register(entry("eu-3"), 30)
                    took_s = trio.current_time() - start
                    print(f"a new client registered past it in {took_s:.2f} s")
                    assert took_s < 2.5
                assert keeper.registered == 1
                await control(group.join_again, cut)
                await eventually(lambda: follower.nodes == ["eu-1", "eu-2", "eu-3"])
                assert follower.relists == 1
                nursery.cancel_scope.cancel()
