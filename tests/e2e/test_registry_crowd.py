"""Five nodes in a crowd: two hundred other registrations in their region, most of them dead, and fifty restarts at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from processes import NodeProcess, http, running, until
from registries import ServerPlace
from services.etcd_clients import Keeper
from services.etcd_clients import entry as entry_of
from services.servers.nacos import NacosOptions
from test_registry import agree, linked, status

from registry.base import NodeEntry, Registry
from registry.etcd import EtcdRegistry, EtcdSettings
from registry.nacos import NacosRegistry, NacosSettings

CROWD = 200
STORM = 50
SEEN_S = 5.0
NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""


async def entries(node: NodeProcess) -> dict[str, int]:
    """Name -> epoch of the registered nodes of the region, as this node was told."""
    found = await http(node.admin, "GET", "/v1/registry/entries?here=true&kind=node&limit=1000")
    return {item["id"]: item["epoch"] for item in found.json["items"]}


def crowd_entry(number: int, epoch: int) -> NodeEntry:
    made = entry_of(f"crowd-{number:03}", epoch=epoch)
    return NodeEntry(region=made.region, node=made.node, instance=f"{made.instance}{epoch}", epoch=epoch,
                     addresses=(NOBODY,), since=made.since)  # fmt: skip


def client(server: Any) -> Registry:
    if server.kind == "etcd":
        return EtcdRegistry(EtcdSettings(endpoints=tuple(server.addresses)))
    return NacosRegistry(NacosSettings(servers=tuple(server.addresses)))


def started(kind: str, own_server: Callable[..., Any]) -> Any:
    """Nacos checks no passwords here: one check costs it 0.1 s of a processor, and that is not what is asked for."""
    if kind == "etcd":
        server = own_server(kind)
    else:
        server = own_server(kind, NacosOptions(properties=("nacos.core.auth.enabled=false",)))
    server.start()
    return server


@pytest.mark.timeout(150, func_only=True)
@pytest.mark.parametrize(
    "kind", ["etcd", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("nacos2", "nacos3"))]
)
async def test_five_nodes_see_a_crowd_come_and_restart_and_are_not_slowed_by_it(
    kind: str, tmp_path: Path, own_server: Callable[..., Any]
) -> None:
    server = started(kind, own_server)
    flags = ServerPlace(kind.rstrip("23"), server, tmp_path).flags()
    clients: list[Registry] = []

    def keeper(number: int, epoch: int) -> Keeper:
        clients.append(client(server))
        return Keeper(clients[-1], crowd_entry(number, epoch), 10.0)

    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        nodes = [await mesh.start(f"eu-{number}", "eu", *flags) for number in range(1, 6)]
        await agree(nodes, 20.0, "five nodes are registered and linked")

        async def all_see(epoch: int, count: int) -> bool:
            return all(
                [
                    sum(found == epoch for name, found in (await entries(node)).items() if "crowd" in name)
                    == count
                    for node in nodes
                ]
            )

        keepers = [keeper(number, 100) for number in range(CROWD)]
        for each in keepers:
            nursery.start_soon(each.run)
        took_s = await until(lambda: all_see(100, CROWD), SEEN_S, f"{CROWD} registrations are seen")
        restarted = [keeper(number, 101) for number in range(STORM)]
        for each in restarted:
            nursery.start_soon(each.run)
        storm_s = await until(lambda: all_see(101, STORM), SEEN_S, f"{STORM} restarts are seen")

        late = await mesh.start("eu-6", "eu", *flags)
        late_s = await linked(late, *nodes, timeout_s=SEEN_S)
        print(
            f"{kind}: crowd seen in {took_s:.1f} s, restarts in {storm_s:.1f} s, a newcomer linked in {late_s:.1f} s"
        )

        before = [(await status(node))["calls"] for node in nodes]
        begun = trio.current_time()
        await trio.sleep(10.0)  # a rate is looked at, not a condition
        spent_s = trio.current_time() - begun
        rates = [
            ((await status(node))["calls"] - was) / spent_s for node, was in zip(nodes, before, strict=True)
        ]
        print("calls a second of each node:", [round(rate, 2) for rate in rates])
        assert max(rates) < 1.0
        nursery.cancel_scope.cancel()
    with trio.fail_after(20.0):
        async with trio.open_nursery() as closing:
            for each in clients:
                closing.start_soon(each.aclose)
