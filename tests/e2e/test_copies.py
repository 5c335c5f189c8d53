"""`copies = 2` with real processes: nodes that are killed, and their disks with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import trio
from processes import Mesh, NodeProcess, bridge, http, items, metrics, running, sees_regions, until
from test_custody import events_port
from test_custody import published as kept

from mesh.client import CallRefused, Client, Delivery
from mesh.model.errors import MeshError

RULE = '[[topic]]\nfilter = "orders/#"\nlevel = "at-least-once"\ncopies = 2\n'
QUICK = '[limits]\ncopies_takeover_s = "2s"\n'
DEAD_S = 45.0
"""A node of two is declared dead, and taken over from, within this."""


def rules(folder: Path, more: str = "") -> str:
    path = folder / "mesh.toml"
    path.write_text(RULE + more)
    return f"--config={path}"


async def two_and_one(mesh: Mesh, folder: Path) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    """Region a of two nodes that are each other's mirror, and b of one, linked to both."""
    config = rules(folder, QUICK)
    b = await mesh.start("b-1", "b", config)
    first = await mesh.start("a-1", "a", config, *bridge(b))
    second = await mesh.start("a-2", "a", config, *bridge(b), f"--seed={first.link}")
    for node in (first, second):
        await sees_regions(node, "b")

    async def paired() -> bool:
        return len([one for one in await items(first, "nodes") if one["state"] == "alive"]) == 2

    await until(paired, 15, "the nodes of a know each other")
    return b, first, second


async def published(node: NodeProcess, topic: str, data: str) -> str:
    """The mesh_id of an event that was accepted."""
    return str((await kept(node, topic, data))["mesh_id"])


async def knows(node: NodeProcess, topic: str, region: str) -> None:
    """Until a node has the interest of a region."""

    async def has() -> bool:
        return region in (await kept(node, topic, "?"))["regions"]

    await until(has, 15, f"{node.name} knows what {region} wants")


async def lose(node: NodeProcess) -> None:
    """kill -9, and the data folder is gone."""
    node.kill()
    assert node.process is not None
    await node.process.wait()
    shutil.rmtree(node.folder / "data")


async def settled(*nodes: NodeProcess) -> None:
    """Until nothing waits at these, for anybody."""

    async def empty() -> bool:
        return not any([await items(node, "spools") for node in nodes])

    await until(empty, 20, "nothing waits")


class Reader:
    """A durable client that connects wherever it is let in, and acknowledges what it gets while `acks`."""

    def __init__(self, name: str, filter: str, *, acks: bool = True) -> None:
        self.name = name
        self.filter = filter
        self.acks = acks
        self.got: list[tuple[str, bool]] = []
        self.connected = trio.Event()

    async def run(self, *nodes: NodeProcess) -> None:
        while True:
            try:
                await self._read(*map(events_port, nodes))
            except* (MeshError, CallRefused, OSError):
                await trio.sleep(0.1)

    async def _read(self, *urls: str) -> None:
        async with Client(urls, durable=self.name) as client:
            async with await client.subscribe(self.filter) as events:
                self.connected.set()
                async for one in events:
                    await self._take(client, one)

    async def _take(self, client: Client, one: Delivery) -> None:
        self.got.append((one.mesh_id, one.redelivered))
        if self.acks:
            await client.ack(one)

    def ids(self) -> set[str]:
        return {mesh_id for mesh_id, _ in self.got}

    def twice_unflagged(self) -> list[str]:
        plain = [mesh_id for mesh_id, redelivered in self.got if not redelivered]
        return [mesh_id for mesh_id in set(plain) if plain.count(mesh_id) > 1]


async def test_what_was_accepted_outlives_the_disk_of_the_node_that_accepted_it(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        b, first, second = await two_and_one(mesh, tmp_path)
        shop = Reader("shop", "orders/#")
        nursery.start_soon(shop.run, b)
        with trio.fail_after(15):
            await shop.connected.wait()
        await knows(first, "orders/x", "b")
        accepted = []
        b.kill()  # what is published now waits at a-1, and nowhere else but at its mirror
        for n in range(30):
            accepted.append(await published(first, "orders/x", f"{n}"))
        await lose(first)
        await mesh.restart(b)

        async def all_there() -> bool:
            return shop.ids() >= set(accepted)

        await until(all_there, DEAD_S, f"the {len(accepted)} accepted events")
        assert shop.twice_unflagged() == []
        assert (await metrics(second))["mesh_copies_taken_total"] >= 1
        await settled(second, b)
        nursery.cancel_scope.cancel()


async def test_a_durable_client_finds_what_it_had_not_acknowledged_at_the_other_node(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        b, first, second = await two_and_one(mesh, tmp_path)
        shop = Reader("shop", "orders/#", acks=False)
        visit = trio.CancelScope()

        async def come() -> None:
            with visit:
                await shop.run(first)

        nursery.start_soon(come)
        with trio.fail_after(15):
            await shop.connected.wait()
        await knows(b, "orders/x", "a")
        accepted = [await published(b, "orders/x", f"{n}") for n in range(20)]
        accepted += [await published(second, "orders/y", f"{n}") for n in range(20)]

        async def seen() -> bool:
            return shop.ids() >= set(accepted)

        await until(seen, 20, "the events, which it does not acknowledge")
        visit.cancel()
        await lose(first)
        after = [await published(second, "orders/z", f"{n}") for n in range(5)]
        again = Reader("shop", "orders/#")
        nursery.start_soon(again.run, second)

        async def all_there() -> bool:
            return again.ids() >= {*accepted, *after}

        await until(all_there, DEAD_S, "what it had not acknowledged, and what came since")
        flags = dict(again.got)
        assert all(flags[mesh_id] for mesh_id in accepted)
        assert (await http(second.events, "GET", "/v1/clients")).json["clients"][0]["client"] == "shop"
        await settled(second, b)
        nursery.cancel_scope.cancel()


async def test_a_home_that_comes_back_gives_its_client_up_and_nothing_comes_twice_unflagged(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as mesh, trio.open_nursery() as nursery:
        b, first, second = await two_and_one(mesh, tmp_path)
        shop = Reader("shop", "orders/#")
        nursery.start_soon(shop.run, first, second)
        with trio.fail_after(15):
            await shop.connected.wait()
        await knows(b, "orders/x", "a")
        accepted = [await published(b, "orders/x", f"{n}") for n in range(20)]
        first.kill()
        accepted += [await published(b, "orders/x", f"{n}") for n in range(20)]

        async def moved() -> bool:
            return bool((await http(second.events, "GET", "/v1/clients")).json["clients"])

        await until(moved, DEAD_S, "the client at its new home")
        accepted += [await published(b, "orders/x", f"{n}") for n in range(20)]
        await mesh.restart(first)
        accepted += [await published(b, "orders/x", f"{n}") for n in range(20)]

        async def given_up() -> bool:
            return (await http(first.events, "GET", "/v1/clients")).json["clients"] == []

        await until(given_up, 20, "the old home gives the client up")

        async def all_there() -> bool:
            return shop.ids() >= set(accepted)

        await until(all_there, 30, "every accepted event")
        assert shop.twice_unflagged() == []
        await settled(first, second, b)
        nursery.cancel_scope.cancel()


async def test_a_region_of_one_node_accepts_with_one_copy_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        node = await mesh.start("a-1", "a", rules(tmp_path))
        async with Client(events_port(node), durable="shop") as shop:
            await shop.subscribe("orders/#")
        await published(node, "orders/x", "one")
        (waiting,) = [one for one in await items(node, "spools") if one["kind"] == "copy"]
        assert (waiting["records"], waiting["why"]) == (1, "no_sibling")
        assert (await metrics(node))['mesh_copies_short_total{reason="no_sibling"}'] == 1
