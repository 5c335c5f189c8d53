"""The demo: three regions in a line on this machine, events crossing them, and the bridge in use killed under load.

Decides what is started, what is shown and what is promised; `run` returns whether the promises held. The nodes are the
real program, the clients are `mesh.client`, the lines between regions are relays with the delay of real distances.

    eu-1 eu-2        us-1 us-2        ap-1 ap-2
      └───── 47 ms ────┴┘└┴──── 90 ms ────┘          both bridges of us lead to eu and to ap

With a registry no node is told an address: they find each other there. The lines are then as short as this machine, because
the directory names the nodes themselves and not the relays.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TextIO
from urllib.parse import unquote, urlsplit

import trio

from mesh.cli.ask import Node
from mesh.client import Client
from mesh.model.errors import MeshError
from mesh.model.geo import one_way_ms
from mesh.testing.fleet import MESH, Fleet, RunningNode, fleet
from mesh.testing.relay import Relay

PLACES: Final = {"eu": (50.1, 8.7), "us": (39.0, -77.5), "ap": (1.35, 103.8)}
RATE: Final = 200
"""Orders a second: a line every half second still tells enough."""
BATCH: Final = 10
GAP_S: Final = 3.0
FOUND_S: Final = 30.0
DRAIN_S: Final = 5.0
AGREE_S: Final = 15.0
QUIET_DROPS: Final = "duplicate"


class DemoRegistry(NamedTuple):
    """Where the demo's nodes find each other. url: of the server, with USER:PASSWORD@ where it asks for one; "" for a folder."""

    kind: str
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> DemoRegistry:
        """Read "file", "etcd=http://HOST:PORT" or "nacos=http://USER:PASSWORD@HOST:PORT". Raises: MeshError MESH-A001."""
        kind, _, url = text.partition("=")
        if (kind == "file" and not url) or (kind in ("etcd", "nacos") and urlsplit(url).port):
            return cls(kind, url)
        what = f"{text!r} is not file, etcd=http://HOST:PORT or nacos=http://USER:PASSWORD@HOST:PORT"
        raise MeshError(
            "MESH-A001", "--registry", what, "'scripts/demo --registry etcd' starts a server by itself."
        )

    @property
    def says(self) -> str:
        """For a person, without the password."""
        return self.kind if not self.url else f"{self.kind} at {urlsplit(self.url).netloc.rpartition('@')[2]}"

    def flags(self, folder: Path) -> list[str]:
        """What each node is told; a mesh of its own in a server that others use, too."""
        if self.kind == "file":
            return ["--set=registry.kind=file", f"--set=registry.path={folder / 'registry'}"]
        url = urlsplit(self.url)
        endpoint = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
        found = [f"--set=registry.kind={self.kind}", f"--set=registry.endpoints={endpoint}"]
        if self.kind == "etcd":
            found.append(f"--set=registry.prefix=/{folder.name}")
        else:
            found.append(f"--set=registry.group={folder.name}")
        if url.username:
            password = folder / "registry-password"
            password.touch(mode=0o600)
            password.write_text(unquote(url.password or ""))
            found += [
                f"--set=registry.user={unquote(url.username)}",
                f"--set=registry.password_file={password}",
            ]
        return found


@dataclass
class Tally:
    """What happened. sent: mesh_id -> when published. got: mesh_ids in order of arrival."""

    sent: dict[str, float] = field(default_factory=dict)
    got: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    last_at: float = 0.0
    gap_s: float = 0.0
    killed_at: float = 0.0
    paths: Counter[str] = field(default_factory=Counter)


class Screen:
    """Lines for a person; colour only where it is wanted."""

    def __init__(self, out: TextIO, color: bool) -> None:
        self._out = out
        self._color = color

    def say(self, text: str = "", style: str = "") -> None:
        codes = {"title": "1;36", "good": "32", "bad": "31", "dim": "2"}
        if self._color and style:
            text = f"\x1b[{codes[style]}m{text}\x1b[0m"
        self._out.write(f"{text}\n")
        self._out.flush()


class Demo:
    """Args: seconds: how long orders flow, half before and half after the fault. color: paint lines. registry: the registry that
    the nodes find each other in, None: they are told addresses."""

    def __init__(
        self, seconds: float, color: bool, out: TextIO = sys.stdout, *, registry: DemoRegistry | None = None
    ) -> None:
        self.seconds = seconds
        self.registry = registry
        self.screen = Screen(out, color)
        self.tally = Tally()
        self.problems: list[str] = []

    def run(self) -> int:
        """Run it all. Returns 0 if everything it promised happened."""
        try:
            return trio.run(self._run)
        except BaseExceptionGroup as group:
            told = group.subgroup(MeshError)
            if told is None:
                raise
            error: BaseException = told
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None

    async def _run(self) -> int:
        with tempfile.TemporaryDirectory(prefix="hopmesh-demo-") as folder:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_interrupted, nursery.cancel_scope)
                async with fleet(Path(folder)) as nodes:
                    await self._scenes(nodes, nursery)
                nursery.cancel_scope.cancel()
            if nursery.cancel_scope.cancelled_caught and not self.tally.killed_at:
                self.screen.say("interrupted: everything that was started is stopped", "bad")
                return 130
        return 1 if self.problems else 0

    async def _until_interrupted(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.problems.append("interrupted")
                scope.cancel()

    # -- scenes --------------------------------------------------------------------------------------------------

    async def _scenes(self, nodes: Fleet, nursery: trio.Nursery) -> None:
        say = self.screen.say
        say("Hopmesh: three regions in a line, eu - us - ap, two nodes in each", "title")
        begun = trio.current_time()
        eu, ap = await self._start(nodes, nursery)
        await self._found(nodes, begun)
        async with Client(f"http://{eu.events}") as reader, Client(f"http://{ap.events}") as writer:
            subscription = await reader.subscribe("orders/#", wait="mesh", wait_timeout_s=15.0)
            receipt = subscription.receipt or {}
            say(
                f"subscribed to orders/# at {eu.name}; installed in {', '.join(receipt.get('installed', []))}",
                "good",
            )
            if not receipt.get("complete"):
                self.problems.append(f"the subscription is not installed everywhere: {receipt}")
            say()
            say(f"orders are published at {ap.name}, {RATE} a second:", "title")
            async with trio.open_nursery() as traffic:
                traffic.start_soon(self._read, subscription)
                traffic.start_soon(self._report, eu)
                with trio.move_on_after(self.seconds / 2):
                    await self._write(writer)
                await self._fault(nodes, ap)
                with trio.move_on_after(self.seconds / 2):
                    await self._write(writer)
                with trio.move_on_after(DRAIN_S):
                    while not self._settled():
                        await trio.sleep(0.05)
                traffic.cancel_scope.cancel()
        if self.registry is not None:
            await self._compared(nodes)
        await self._sum_up(nodes)

    async def _compared(self, nodes: Fleet) -> None:
        """`mesh registry diff` as a person would see it, and whether registry and gossip agree."""
        node = nodes.nodes["us-1"] if nodes.nodes["us-1"].alive else nodes.nodes["us-2"]
        with trio.move_on_after(AGREE_S):
            while {item["verdict"] for item in await self._items(node, "/v1/registry/diff")} != {"both"}:
                await trio.sleep(0.5)
        found = await self._items(node, "/v1/registry/diff")
        if {item["verdict"] for item in found} != {"both"}:
            self.problems.append(f"registry and gossip disagree at {node.name}: {found}")
        await self._show(node, "registry", "diff")

    async def _items(self, node: RunningNode, path: str) -> list[dict[str, object]]:
        """A list of the node's own."""

        def ask() -> list[dict[str, object]]:
            with Node(f"http://{node.admin}", 5.0) as admin:
                return list(admin.list(path, [("here", "true")])["items"])

        return await trio.to_thread.run_sync(ask)

    async def _start(self, nodes: Fleet, nursery: trio.Nursery) -> tuple[RunningNode, RunningNode]:
        """Start six nodes; returns the one that subscribes and the one that publishes."""
        if self.registry is not None:
            return await self._start_in(nodes, self.registry)
        us1 = await self._one(nodes, "us-1", "us")
        us2 = await self._one(nodes, "us-2", "us", f"--seed={us1.link}")
        lines: dict[str, str] = {}
        for region in ("eu", "ap"):
            delay_ms = one_way_ms(PLACES[region], PLACES["us"])
            relays = [Relay(node.link, delay_ms / 1e3) for node in (us1, us2)]
            for relay in relays:
                await nursery.start(relay.serve)
            lines[region] = "--bridge=us=" + ",".join(relay.address for relay in relays)
            self.screen.say(f"  line {region} - us: {delay_ms:.0f} ms one way", "dim")
        last: dict[str, RunningNode] = {}
        for region in ("eu", "ap"):
            first = await self._one(nodes, f"{region}-1", region, lines[region])
            last[region] = await self._one(nodes, f"{region}-2", region, f"--seed={first.link}")
        return last["eu"], last["ap"]

    async def _start_in(self, nodes: Fleet, registry: DemoRegistry) -> tuple[RunningNode, RunningNode]:
        """The same six nodes, each told the registry and its neighbours' names, and no address."""
        self.screen.say(f"  no node is told an address: they find each other in {registry.says}", "dim")
        flags = registry.flags(nodes.folder)
        for name, neighbours in (
            ("us-1", ("eu", "ap")),
            ("us-2", ("eu", "ap")),
            ("eu-1", ("us",)),
            ("eu-2", ()),
            ("ap-1", ("us",)),
            ("ap-2", ()),
        ):
            bridges = [f"--bridge={region}" for region in neighbours]
            await self._one(nodes, name, name[:2], *flags, *bridges)
        return nodes.nodes["eu-2"], nodes.nodes["ap-2"]

    async def _one(self, nodes: Fleet, name: str, region: str, *arguments: str) -> RunningNode:
        place = ",".join(str(degrees) for degrees in PLACES[region])
        node = await nodes.start(name, region, f"--set=node.location={place}", *arguments)
        self.screen.say(f"  {name} serves: events {node.events}, link {node.link}", "dim")
        return node

    async def _found(self, nodes: Fleet, begun: float) -> None:
        """Wait until every node has a route to every other region."""
        with trio.move_on_after(FOUND_S) as waiting:
            for node in nodes.nodes.values():
                others = {"eu", "us", "ap"} - {node.region}
                while not others <= {r["region"] for r in await self._routes(node)}:
                    await trio.sleep(0.1)
        if waiting.cancelled_caught:
            self.problems.append(f"the regions did not find each other within {FOUND_S:.0f} s")
        took = trio.current_time() - begun
        self.screen.say(
            f"all six nodes know a way to every region, {took:.1f} s after the first was started", "good"
        )

    async def _routes(self, node: RunningNode) -> list[dict[str, object]]:
        """Routes in use at one node."""

        found = await self._items(node, "/v1/routes")
        return [item for item in found if item["state"] in ("selected", "in_use")]

    async def _table(self, node: RunningNode) -> None:
        """`mesh routes list` as a person would see it."""
        await self._show(node, "routes", "list", "--here")

    async def _show(self, node: RunningNode, *words: str) -> None:
        """A command's output."""
        done = await trio.run_process(
            [*MESH, *words, "--node", f"http://{node.admin}"],
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        self.screen.say(f"\n$ mesh {' '.join(words)}     (at {node.name})", "title")
        self.screen.say(f"{done.stdout.decode().rstrip()}\n")

    async def _fault(self, nodes: Fleet, ap: RunningNode) -> None:
        """kill -9 of the bridge that carries the traffic, and its return."""
        await self._table(ap)
        used = next(r for r in await self._routes(nodes.nodes["ap-1"]) if r["region"] == "eu")
        victim = nodes.nodes[str(used["next_hop"])]
        self.screen.say(f"kill -9 {victim.name}: it carries the traffic", "bad")
        self.tally.killed_at = trio.current_time()
        victim.kill()

        async def come_back() -> None:
            await trio.sleep(max(1.0, self.seconds / 6))
            await nodes.restart(victim)
            self.screen.say(f"{victim.name} is back", "good")

        self._return = come_back

    # -- traffic -------------------------------------------------------------------------------------------------

    async def _write(self, writer: Client) -> None:
        """Publish until cancelled; the second time also brings the victim back."""
        async with trio.open_nursery() as nursery:
            if self.tally.killed_at:
                nursery.start_soon(self._return)
            begun, sent = trio.current_time(), 0
            while True:
                orders = [
                    {
                        "specversion": "1.0",
                        "id": f"{sent + n}",
                        "source": "/demo/shop",
                        "type": "order.created",
                        "data": {"at": time.time(), "item": "tea"},
                    }
                    for n in range(BATCH)
                ]
                with trio.CancelScope(shield=True):  # a batch is published whole, or it would be nobody's
                    for one in await writer.publish_all("orders/tea", orders):
                        self.tally.sent[one.mesh_id] = trio.current_time()
                sent += BATCH
                await trio.sleep_until(begun + sent / RATE)

    async def _read(self, subscription: object) -> None:
        tally = self.tally
        async for delivery in subscription:  # type: ignore[attr-defined]
            now = trio.current_time()
            if tally.last_at and tally.killed_at:
                tally.gap_s = max(tally.gap_s, now - max(tally.last_at, tally.killed_at))
            tally.last_at = now
            tally.got.append(delivery.mesh_id)
            tally.paths[">".join(delivery.path)] += 1
            tally.latencies_ms.append((time.time() - delivery.plain.data["at"]) * 1e3)

    async def _report(self, eu: RunningNode) -> None:
        """One line a second: how many, over which path, how fast."""
        tally, seen = self.tally, 0
        while True:
            await trio.sleep(1.0)
            fresh = sorted(tally.latencies_ms[seen:])
            seen = len(tally.latencies_ms)
            if fresh:
                path = tally.paths.most_common(1)[0][0]
                middle, last = fresh[len(fresh) // 2], fresh[-1]
                hops = path.count(">") + 1
                self.screen.say(
                    f"  {len(fresh):4d} orders at {eu.name}   {hops} hops {path}>eu   p50 {middle:.0f} ms   max {last:.0f} ms"
                )
            else:
                self.screen.say("     0 orders: going round it ...", "bad")

    def _settled(self) -> bool:
        last = next(reversed(self.tally.sent), None)
        return last in self.tally.got[-BATCH:]

    # -- the end -------------------------------------------------------------------------------------------------

    async def _sum_up(self, nodes: Fleet) -> None:
        tally, say = self.tally, self.screen.say
        await self._table(nodes.nodes["ap-2"])
        drops = Counter[str]()
        for node in nodes.nodes.values():
            if node.alive and node.admin:  # one that is being started again has counted nothing
                drops += await self._drops(node)
        got = set(tally.got)
        lost = [mesh_id for mesh_id in tally.sent if mesh_id not in got]
        duplicates = len(tally.got) - len(got)
        counted = sum(drops.values())
        told = ", ".join(f"{name} {count}" for name, count in sorted(drops.items())) or "none"
        say("summary", "title")
        say(f"  published {len(tally.sent)}, delivered {len(got)}, duplicates {duplicates}")
        say(f"  lost {len(lost)}; drop counters of the nodes that live: {told}")
        say(f"  longest gap at the subscriber after the kill: {tally.gap_s:.2f} s")
        after = [mesh_id for mesh_id, at in tally.sent.items() if at > tally.killed_at + GAP_S]
        for held, promise in (
            (bool(got), "orders arrive in a region without a direct connection"),
            (duplicates == 0, "nothing arrives twice"),
            (len(lost) <= counted, "every lost order is counted under a reason"),
            (0 < tally.gap_s < GAP_S, f"the mesh goes round a killed bridge within {GAP_S:.0f} s"),
            (all(mesh_id in got for mesh_id in after), "afterwards everything arrives"),
        ):
            say(f"  {'ok' if held else 'NO'}  {promise}", "good" if held else "bad")
            if not held:
                self.problems.append(promise)
        for problem in self.problems:
            say(f"not as promised: {problem}", "bad")

    async def _drops(self, node: RunningNode) -> Counter[str]:
        """Drop counters of a node, by reason."""

        def read() -> str:
            import urllib.request

            with urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        found = Counter[str]()
        for line in (await trio.to_thread.run_sync(read)).splitlines():
            if line.startswith("mesh_drops_total{"):
                reason = line.partition('reason="')[2].partition('"')[0]
                if reason != QUIET_DROPS:
                    found[reason] += int(float(line.rpartition(" ")[2]))
        return found
