"""How many clients, how fast, and how many requests: against the one etcd that the run shares."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from services.etcd_clients import Follower, Keeper, client, entry, eventually
from services.servers.etcd import Etcd

from registry.etcd import EtcdRegistry

CLIENTS = 200
WATCHERS = 10
STORM = 50
SEEN_S = 5.0


@pytest.mark.timeout(120)
async def test_200_clients_and_50_restarts_at_once_are_registered_and_seen_in_time(
    etcd_server: Etcd, unique_name: str
) -> None:
    at = [etcd_server.address]
    clients: list[EtcdRegistry] = []

    def make() -> EtcdRegistry:
        clients.append(client(at, unique_name, call_timeout_s=3.0))
        return clients[-1]

    keepers = [Keeper(make(), entry(f"n{number:03}"), 10.0) for number in range(CLIENTS)]
    followers = [Follower(make()) for _ in range(WATCHERS)]

    def all_seen(nodes: set[str], epoch: int) -> Callable[[], bool]:
        def seen() -> bool:
            return all(
                sum(found.epoch == epoch and found.node in nodes for found in follower.seen.values())
                == len(nodes)
                for follower in followers
            )

        return seen

    async with trio.open_nursery() as nursery:
        for each in (*followers, *keepers):
            nursery.start_soon(each.run)
        took_s = await eventually(all_seen({keeper.entry.node for keeper in keepers}, 100), SEEN_S)
        print(f"{CLIENTS} clients registered and seen by {WATCHERS} in {took_s:.2f} s")

        restarted = [Keeper(make(), entry(f"n{number:03}", epoch=101), 10.0) for number in range(STORM)]
        for each in restarted:
            nursery.start_soon(each.run)
        took_s = await eventually(all_seen({each.entry.node for each in restarted}, 101), SEEN_S)
        print(f"{STORM} restarts registered and seen in {took_s:.2f} s")
        assert took_s < SEEN_S

        quiet = keepers[STORM:]

        def calls(of: list[Keeper] | list[Follower]) -> float:
            return sum(each.registry.statistics().calls for each in of) / len(of)

        before, start = calls(quiet) + calls(followers), trio.current_time()
        await trio.sleep(13.3)
        rate = (calls(quiet) + calls(followers) - before) / (trio.current_time() - start)
        print(
            f"{rate:.2f} requests a second of a node with one watch, {60 * rate:.0f} a minute, with a lease of 10 s"
        )
        assert rate < 1.0
        assert all(keeper.errors == [] and keeper.registered == 1 for keeper in quiet)
        nursery.cancel_scope.cancel()
    with trio.fail_after(20.0):
        async with trio.open_nursery() as nursery:
            for each in clients:
                nursery.start_soon(each.aclose)
