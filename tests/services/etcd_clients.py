"""What a node does with a registry, for tests that break it: hold an entry, follow a watch, and go on after every error."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import trio
from services.servers.etcd import Etcd

from mesh.model.ids import NodeKey
from registry.base import Gone, LeaseLost, NodeEntry, Put, Registry, RegistryError, Relist
from registry.etcd import EtcdRegistry, EtcdSettings

RETRY_S = 0.2


def client(addresses: list[str], prefix: str, **more: object) -> EtcdRegistry:
    settings: dict[str, object] = {"call_timeout_s": 1.0, **more}
    return EtcdRegistry(EtcdSettings(endpoints=tuple(addresses), prefix=f"/{prefix}", **settings))  # type: ignore[arg-type]


def entry(node: str = "eu-1", epoch: int = 100, port: int = 7946, region: str = "eu") -> NodeEntry:
    since = datetime(2025, 6, 1, tzinfo=UTC)
    return NodeEntry(region=region, node=node, instance="i", epoch=epoch, addresses=(f"10.0.0.1:{port}",), since=since)  # fmt: skip


async def eventually(condition: Callable[[], object], within_s: float = 10.0) -> float:
    """Wait for it; how long that took, in seconds."""
    start = trio.current_time()
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.02)
    return trio.current_time() - start


class Keeper:
    """Holds an entry as a node does. registered: how often it had to register; errors: codes of what went wrong."""

    def __init__(self, registry: Registry, held: NodeEntry, lease_s: float) -> None:
        self.registry, self.entry, self.lease_s = registry, held, lease_s
        self.registered = 0
        self.errors: list[str] = []

    async def run(self) -> None:
        lease = None
        while True:
            try:
                if lease is None:
                    lease = await self.registry.register(self.entry, self.lease_s)
                    self.registered += 1
                else:
                    await self.registry.renew(lease)
                await trio.sleep(self.lease_s / 3)
            except LeaseLost:
                lease = None
            except RegistryError as error:
                self.errors.append(error.code)
                await trio.sleep(RETRY_S)


class Follower:
    """Follows a watch as a node does. seen: what is there, as far as it was told; relists: how often it began anew."""

    def __init__(self, registry: Registry, region: str | None = "eu") -> None:
        self.registry, self.region = registry, region
        self.seen: dict[NodeKey, NodeEntry] = {}
        self.relists = 0
        self.puts = 0
        self.errors: list[str] = []

    @property
    def nodes(self) -> list[str]:
        return sorted(key.node for key in self.seen)

    async def run(self) -> None:
        watch = self.registry.watch(self.region)
        while True:
            try:
                for event in await watch.next():
                    match event:
                        case Relist():
                            self.relists += 1
                            self.seen = {found.key: found for found in event.listing.entries}
                        case Put():
                            self.puts += 1
                            self.seen[event.entry.key] = event.entry
                        case Gone():
                            self.seen.pop(event.key, None)
            except RegistryError as error:
                self.errors.append(error.code)
                await trio.sleep(RETRY_S)


async def control(work: Callable[..., object], *args: object) -> None:
    """Do something to a server without holding up the run."""
    await trio.to_thread.run_sync(work, *args)


def revision(server: Etcd) -> int:
    return int(server.status()["header"]["revision"])
