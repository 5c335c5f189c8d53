"""Nodes that are given no address: they find their region and the other regions through a registry, and outlive it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from processes import (
    MESH,
    Mesh,
    NodeProcess,
    Subscriber,
    http,
    items,
    publish_many,
    running,
    sees_regions,
    total,
    until,
)
from registries import FolderPlace, make_place

BACK_S = 5.0
"""A node that waited joins within this of the registry's return."""
REGISTERED_S = 15.0
"""Everybody is registered again within this of it, also when it comes back empty."""
RATE = 2_000
BATCH = 100

OwnServer = Callable[..., Any]
KINDS = ["file", "etcd", pytest.param("nacos2", marks=pytest.mark.long), "nacos3"]
"""The older line of Nacos is in the mixed mesh; alone it is for `scripts/test --all`."""


async def diff(node: NodeProcess) -> dict[str, str]:
    """Name -> verdict, as `mesh registry diff` shows it of this node."""
    answer = await http(node.admin, "GET", "/v1/registry/diff?here=true")
    assert answer.status == 200, answer.body
    return {item["id"]: item["verdict"] for item in answer.json["items"]}


async def status(node: NodeProcess) -> dict[str, Any]:
    answer = await http(node.admin, "GET", "/v1/registry/status?here=true")
    [item] = answer.json["items"]
    return dict(item)


async def agree(nodes: list[NodeProcess], timeout_s: float, what: str) -> float:
    """Until the registry and gossip say the same at each of these nodes; the seconds it took."""

    async def same() -> bool:
        names = {node.name for node in nodes}
        return all([await diff(node) == dict.fromkeys(names, "both") for node in nodes])

    return await until(same, timeout_s, what)


async def linked(node: NodeProcess, *others: NodeProcess, timeout_s: float = 15.0) -> float:
    """Until the node has an open link to each of the others of its region."""

    async def has() -> bool:
        found = await http(node.admin, "GET", "/v1/links?here=true&kind=peer&state=open")
        return {other.name for other in others} <= {item["peer"] for item in found.json["items"]}

    return await until(has, timeout_s, f"{node.name} is linked to {[other.name for other in others]}")


MIXED = {"a": "file", "b": "etcd", "c": "nacos2", "d": "none"}
"""Where the nodes of each region of a mixed mesh register; all regions share the directory of "b"."""


def flags_of_regions(kind: str, folder: Path, own_server: OwnServer) -> dict[str, list[str]]:
    """What the nodes of regions a to e are told of registries: all the same, or each its own and one directory."""
    if kind != "mixed":
        return dict.fromkeys("abcde", make_place(kind, folder, own_server).flags())
    places = {each: make_place(each, folder, own_server) for each in MIXED.values() if each != "none"}
    shared = places["etcd"].flags("registry.directory")
    found = {
        region: [*places[each].flags(), *shared] if each in places else shared
        for region, each in MIXED.items()
    }
    return {**found, "b": places["etcd"].flags(), "e": shared}


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
async def test_four_regions_in_a_line_find_each_other_without_any_address(
    kind: str, tmp_path: Path, own_server: OwnServer
) -> None:
    flags = flags_of_regions(kind, tmp_path, own_server)
    async with running(tmp_path) as mesh:
        nodes: dict[str, NodeProcess] = {}
        for region, neighbours in {"a": "b", "b": "ac", "c": "bd", "d": "c"}.items():
            bridges = [f"--bridge={neighbour}" for neighbour in neighbours]
            for number in (1, 2):
                name = f"{region}-{number}"
                seeds = [f"--seed={nodes['d-1'].link}"] if kind == "mixed" and name == "d-2" else []
                nodes[name] = await mesh.start(name, region, *flags[region], *bridges, *seeds)
        for region in "abcd":
            mine = [node for node in nodes.values() if node.region == region]
            if kind == "mixed" and MIXED[region] == "none":
                await linked(mine[0], mine[1])
            else:
                await agree(mine, 20.0, f"registry and gossip agree in {region}")
        for node in nodes.values():
            await sees_regions(node, *({"a", "b", "c", "d"} - {node.region}), timeout_s=40.0)
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, nodes["d-2"].events, "filter=orders/%23&wait=mesh&regions=a")
            assert subscriber.receipt["complete"]
            answers = await publish_many(nodes["a-1"], [("orders/tea", "")] * 500)
            await subscriber.wait(500)
            assert subscriber.ids == [answer["mesh_id"] for answer in answers]
            assert {tuple(event["path"]) for event in subscriber.events} == {("a", "b", "c")}
            nursery.cancel_scope.cancel()
        for region in "abcd":
            mine = [node for node in nodes.values() if node.region == region]
            if kind == "mixed" and MIXED[region] == "none":
                continue
            await agree(mine, 15.0, f"registry and gossip agree in {region}")
            entries = (await http(mine[0].admin, "GET", "/v1/registry/entries?here=true")).json["items"]
            assert {e["id"] for e in entries if e["kind"] == "node"} == {node.name for node in mine}

        late = await mesh.start("e-1", "e", *flags["e"])

        async def listed() -> bool:
            found = (await http(late.admin, "GET", "/v1/registry/entries?here=true&kind=region")).json
            return {e["region"]: set(e["addresses"]) for e in found["items"]} == {
                region: {node.link for node in nodes.values() if node.region == region} for region in "abcd"
            }

        await until(listed, 10.0, "the directory lists every bridge")
        for region in "abc":
            told = await http(nodes[f"{region}-1"].admin, "GET", "/v1/registry/status?here=true")
            for one in told.json["items"]:
                assert one["state"] == "reachable"
                assert one["per_minute"] < 120 or one["kind"] == "file"


class Load:
    """RATE events a second from one node, with the time of each; `latencies` of those that arrived, in seconds."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.sent: dict[str, float] = {}
        self.stop = False

    async def run(self) -> None:
        host, _, port = self.node.events.rpartition(":")
        begun, count = trio.current_time(), 0
        headers = [("Content-Type", "application/cloudevents-batch+json")]
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            while not self.stop:
                event = {"specversion": "1.0", "source": "/t", "type": "t", "topic": "load/x", "data": 1}
                body = json.dumps([{**event, "id": str(count + n)} for n in range(BATCH)]).encode()
                answer = await http(
                    self.node.events, "POST", "/v1/events", headers=headers, body=body, stream=stream
                )
                assert answer.status == 202, answer.body
                now = trio.current_time()
                self.sent.update((one["mesh_id"], now) for one in answer.json["events"])
                count += BATCH
                await trio.sleep_until(begun + count / RATE)


class Gaps:
    """How long the subscriber went without news, at most, since it was last asked."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.longest_s = 0.0

    async def run(self) -> None:
        last, seen = trio.current_time(), 0
        while True:
            await trio.sleep(0.01)
            if len(self._subscriber.events) != seen:
                last, seen = trio.current_time(), len(self._subscriber.events)
            self.longest_s = max(self.longest_s, trio.current_time() - last)

    def take(self) -> float:
        longest, self.longest_s = self.longest_s, 0.0
        return longest


@pytest.mark.parametrize("empty", [False, True], ids=["as-it-was", "empty"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_registry_that_dies_and_returns_is_not_noticed_by_events_and_a_new_node_joins_when_it_is_back(
    kind: str, empty: bool, tmp_path: Path, own_server: OwnServer
) -> None:
    place = make_place(kind, tmp_path, own_server)
    async with running(tmp_path) as mesh:
        z = await mesh.start("z-1", "z", *place.flags(), "--bridge=m")
        m1 = await mesh.start("m-1", "m", *place.flags(), "--bridge=z")
        m2 = await mesh.start("m-2", "m", *place.flags())
        await sees_regions(m2, "z", timeout_s=30.0)
        await agree([m1, m2], 15.0, "registry and gossip agree before")
        subscriber = Subscriber()
        async with trio.open_nursery() as nursery:
            await nursery.start(subscriber.run, z.events, "filter=load/%23&wait=mesh&regions=m")
            load, gaps = Load(m2), Gaps(subscriber)
            nursery.start_soon(load.run)
            await subscriber.wait(RATE)
            nursery.start_soon(gaps.run)
            await trio.sleep(3.0)
            usual_s = gaps.take()

            await place.kill()
            m3 = await mesh.start("m-3", "m", *place.flags())

            async def waits() -> bool:
                return (await status(m3))["state"] == "unavailable" and (await status(m1))[
                    "state"
                ] == "unavailable"

            await until(waits, 20.0, "nodes say that the registry is away")
            assert m3.log.read_text().count("registry unavailable") == 1
            assert await diff(m3) == {"m-3": "registry_away"}
            assert await diff(m1) == {"m-1": "both", "m-2": "both"}
            told = await http(m1.admin, "GET", "/v1/registry/diff?here=true")
            assert all("the registry was read" in item["detail"] for item in told.json["items"])
            assert [member["id"] for member in await items(m3, "nodes")] == ["m-3"]

            await place.back(empty=empty)
            begun = trio.current_time()
            joined_s = await linked(m3, m1, m2, timeout_s=60.0)
            await agree([m1, m2, m3], 60.0, "everybody is registered again")
            registered_s = trio.current_time() - begun
            disturbed_s = gaps.take()
            load.stop = True
            last = list(load.sent)[-1]
            with trio.fail_after(10.0):
                while not subscriber.ids or subscriber.ids[-1] != last:
                    await trio.sleep(0.02)
            assert subscriber.ids == list(load.sent), "every event arrived, once and in order"
            assert await total([z, m1, m2, m3], "mesh_drops_total") == 0
            nursery.cancel_scope.cancel()
        print(
            f"{kind}: longest gap {usual_s:.3f} s before, {disturbed_s:.3f} s with the registry away; "
            f"the new node joined {joined_s:.1f} s after its return, all registered after {registered_s:.1f} s"
        )
        assert joined_s < BACK_S, "the node that waited joins soon"
        assert registered_s < REGISTERED_S
        for node in (m1, m2, m3):
            log = node.log.read_text()
            # m2 may not have asked anything while it was away.
            assert "registry is back" in log or (node is m2 and "registry unavailable" not in log)
            assert "Traceback" not in log


async def twin(mesh: Mesh, place: Any, name: str) -> tuple[int, str]:
    """Start another process of that name with a data folder of its own; how it ended."""
    folder = mesh.folder / f"{name}-twin"
    folder.mkdir(exist_ok=True)
    ports = [f"--{what}=127.0.0.1:0" for what in ("events", "link", "admin")]
    with trio.fail_after(20):
        done = await trio.run_process(
            [MESH, "run", f"--id={name}", "--region=a", f"--data={folder}", *ports, *place.flags()],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    text = done.stderr.decode()
    assert "Traceback" not in text, text
    return done.returncode, text.splitlines()[-1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_process_of_a_name_is_refused_and_a_restart_takes_over_at_once(
    kind: str, tmp_path: Path, own_server: OwnServer
) -> None:
    place = make_place(kind, tmp_path, own_server)
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a", *place.flags())
        await agree([a1], 10.0, "a-1 is registered")
        code, said = await twin(mesh, place, "a-1")
        assert code == 1
        assert said.startswith("MESH-L005")
        assert a1.link in said, "it is told where the first runs"
        assert await diff(a1) == {"a-1": "both"}
        assert a1.process is not None
        assert a1.process.returncode is None

        a2 = await mesh.start("a-2", "a", *place.flags())
        await agree([a1, a2], 10.0, "both are registered")
        a2.kill()
        assert a2.process is not None
        await a2.process.wait()
        begun = trio.current_time()
        again = await mesh.start("a-2", "a", *place.flags())  # at new ports, while the old entry is leased
        await linked(again, a1)
        await agree([a1, again], 10.0, "the restarted one is registered in the place of the dead one")
        print(f"{kind}: a restart had taken over after {trio.current_time() - begun:.1f} s")
        assert trio.current_time() - begun < 6.0


async def test_diff_tells_a_crashed_node_an_older_entry_and_what_strangers_wrote(
    tmp_path: Path, own_server: OwnServer
) -> None:
    place = FolderPlace(tmp_path / "share")
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a", *place.flags())
        a2 = await mesh.start("a-2", "a", *place.flags())
        await agree([a1, a2], 15.0, "both are registered")
        entry = json.loads((place.folder / "nodes/a/a-2.json").read_text())
        a2.kill()

        async def is_stale() -> bool:
            return (await diff(a1)).get("a-2") == "stale_entry"

        await until(is_stale, 8.0, "the crashed node's entry is told to be stale")

        async def gone() -> bool:
            return "a-2" not in await diff(a1)

        await until(gone, 20.0, "the entry ends with its lease")

        strangers = {
            "nodes/a/hello.json": b"hello \x1b[31mworld",
            "nodes/a/huge.json": b"x" * 100_000,
            "nodes/a/types.json": json.dumps({**entry, "node": "types", "epoch": "soon"}).encode(),
            "nodes/a/other-name.json": json.dumps({**entry, "node": "a-9"}).encode(),
        }
        for path, value in strangers.items():
            (place.folder / path).write_bytes(value)

        async def shown() -> bool:
            told = await http(a1.admin, "GET", "/v1/registry/entries?here=true&kind=ignored")
            return {item["id"]: item["reason"] for item in told.json["items"]} == {
                "nodes/a/hello.json": "no_entry",
                "nodes/a/huge.json": "too_large",
                "nodes/a/types.json": "no_entry",
                "nodes/a/other-name.json": "wrong_name",
            }

        await until(shown, 10.0, "what strangers wrote is shown with its reason")
        assert sum((await status(a1))["ignored"].values()) == 4
        assert await diff(a1) == {"a-1": "both"}


def write_file(path: Path, place: FolderPlace, *more: str) -> None:
    """A node's file, as an operator edits it."""
    text = f'[registry]\nkind = "file"\npath = "{place.folder}"\nlease = "3s"\n' + "".join(more)
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    os.rename(temporary, path)


async def test_a_reload_moves_the_node_to_another_registry_and_refuses_what_it_cannot_change(
    tmp_path: Path,
) -> None:
    old, new = FolderPlace(tmp_path / "old"), FolderPlace(tmp_path / "new")
    file = tmp_path / "mesh.toml"
    write_file(file, old)
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a", f"--config={file}")
        a2 = await mesh.start("a-2", "a", f"--config={file}")
        await linked(a1, a2)
        await agree([a1, a2], 10.0, "both are registered")

        async def told(node: NodeProcess, words: str) -> None:
            async def has() -> bool:
                return words in node.log.read_text()

            await until(has, 5.0, f"{node.name} says {words!r}")

        file.write_text("[registry\n")
        a1.signal(signal.SIGHUP)
        await told(a1, "not reloaded: nothing was changed")
        assert "MESH-C009" in a1.log.read_text()
        assert (await status(a1))["endpoint"] == str(old.folder)

        write_file(file, new, '[node]\nlabels = { rack = "7" }\n')
        for node in (a1, a2):
            node.signal(signal.SIGHUP)
        for node in (a1, a2):
            await told(node, "the registry was changed")
            assert "MESH-C027" in node.log.read_text()
            assert "node.labels" in node.log.read_text()

        async def moved() -> bool:
            found = [await status(node) for node in (a1, a2)]
            return all(one["endpoint"] == str(new.folder) and one["registered"] for one in found)

        await until(moved, 10.0, "both are registered in the new one")
        await agree([a1, a2], 10.0, "registry and gossip agree in the new one")
        assert sorted(path.name for path in (new.folder / "nodes/a").glob("*.json")) == [
            "a-1.json",
            "a-2.json",
        ]
        rows = {
            row["key"]: row["value"]
            for row in (await http(a1.admin, "GET", "/v1/config?here=true")).json["items"]
        }
        assert rows["registry.path"] == json.dumps(str(new.folder))
        assert rows["node.labels"] == "{}"
        members = await items(a1, "nodes")
        assert {m["id"]: m["state"] for m in members} == {"a-1": "alive", "a-2": "alive"}
        assert "member_suspect" not in a1.log.read_text(), "the mesh did not notice"


async def test_other_endpoints_of_the_same_etcd_are_taken_over_and_the_entry_never_goes_away(
    tmp_path: Path, own_server: OwnServer
) -> None:
    group = own_server("etcd3")
    await trio.to_thread.run_sync(group.start)
    first, second, third = group.addresses
    file = tmp_path / "mesh.toml"
    text = '[registry]\nkind = "etcd"\nendpoints = ["http://{}"]\nlease = "5s"\n'
    file.write_text(text.format(first))
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a", f"--config={file}")
        a2 = await mesh.start(
            "a-2", "a", "--set=registry.kind=etcd", f"--set=registry.endpoints=http://{third}"
        )
        await agree([a1, a2], 15.0, "both are registered")
        file.write_text(text.format(second))
        a1.signal(signal.SIGHUP)
        begun = trio.current_time()
        while trio.current_time() - begun < 12.0:  # longer than the lease of the former client
            assert await diff(a2) == {"a-1": "both", "a-2": "both"}
            await trio.sleep(0.1)
        found = await status(a1)
        assert (found["id"], found["state"], found["registered"]) == ("all", "reachable", True)
        assert second in found["endpoint"]
        assert "the registry was changed" in a1.log.read_text()
        assert "Traceback" not in a1.log.read_text()


async def test_a_registry_that_hangs_is_told_like_one_that_is_gone(
    tmp_path: Path, own_server: OwnServer
) -> None:
    place = make_place("etcd", tmp_path, own_server)
    async with running(tmp_path) as mesh:
        a1 = await mesh.start("a-1", "a", *place.flags())
        a2 = await mesh.start("a-2", "a", *place.flags())
        await agree([a1, a2], 15.0, "both are registered")

        async def says(word: str) -> bool:
            return (await status(a1))["state"] == word

        place.server.pause()
        try:
            took_s = await until(lambda: says("unavailable"), 20.0, "a-1 says that it is away")
            assert {item["verdict"] for item in await items(a1, "registry/diff")} == {"both"}
            assert {member["state"] for member in await items(a1, "nodes")} == {"alive"}
        finally:
            place.server.resume()
        back_s = await until(lambda: says("reachable"), 10.0, "a-1 says that it is back")
        await agree([a1, a2], 15.0, "both are registered again")
        print(f"hung: told after {took_s:.1f} s, and that it is back after {back_s:.1f} s")
