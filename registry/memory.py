"""A registry inside one process: for tests, simulations and the demo in one process.

Decides nothing of its own: it is the interface in its plainest form, with leases on trio's clock. A `MemoryStore` is the
service, each node has a `MemoryRegistry` as its client. The service can be slow or away, as tests wish.
Source: `registry.base`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import trio

from mesh.model.ids import NodeKey
from registry.base import (
    Conflict,
    FoundRegion,
    Lease,
    LeaseLost,
    Listing,
    NodeEntry,
    RegionEntry,
    Registry,
    RegistryFull,
    RegistryStatistics,
    RegistryUnavailable,
    Revision,
    Superseded,
    Token,
    Watch,
    check_lease,
    check_node,
    check_region,
)
from registry.timeline import Timeline, TimelineWatch

ENTRIES: Final = 10_000
REGIONS: Final = 1_024


class _Held(NamedTuple):
    entry: NodeEntry
    until: float


class MemoryStore:
    """The service behind the clients. delay_s: how long every call takes."""

    def __init__(self) -> None:
        self.available = True
        self.delay_s = 0.0
        self.timeline = Timeline("memory")
        """Shared by all clients: a revision that one got, another can go on from."""
        self.held: dict[NodeKey, _Held] = {}
        self.regions: dict[str, FoundRegion] = {}
        self.writes = 0
        self._changed = trio.Event()

    def expire(self) -> None:
        """End the entries whose lease ran out."""
        now = trio.current_time()
        for key in [key for key, held in self.held.items() if held.until <= now]:
            del self.held[key]
            self.timeline.end(key, "expired")
            self.changed()

    def switch(self, available: bool) -> None:
        """Turn the service off or on; whoever watches notices."""
        self.available = available
        self.changed()

    def changed(self) -> None:
        """Wake every watch."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        """Until something changes or the next lease ends."""
        changed = self._changed
        with trio.move_on_at(min((held.until for held in self.held.values()), default=float("inf"))):
            await changed.wait()


class MemoryRegistry(Registry):
    """One client of a `MemoryStore`."""

    kind = "memory"

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._calls = 0
        self._failures = 0

    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        check_lease(lease_s)
        check_node(entry)
        await self._call()
        store = self._store
        held = store.held.get(entry.key)
        if held is not None and held.entry.rank > entry.rank:
            raise Superseded(f"registry entry {entry.key}", f"epoch {held.entry.epoch} is registered")
        if held is None and len(store.held) >= ENTRIES:
            raise RegistryFull("registry", f"it holds {ENTRIES} entries")
        store.held[entry.key] = _Held(entry, trio.current_time() + lease_s)
        if store.timeline.put(entry):
            store.changed()
        return Lease(entry.key, entry.instance, entry.epoch, lease_s)

    async def renew(self, lease: Lease) -> None:
        await self._call()
        held = self._store.held.get(lease.key)
        if held is None or held.entry.rank != (lease.epoch, lease.instance):
            raise LeaseLost(
                f"registry entry {lease.key}", "it ran out" if held is None else "another process has it"
            )
        self._store.held[lease.key] = _Held(held.entry, trio.current_time() + lease.lease_s)

    async def unregister(self, lease: Lease) -> None:
        await self._call()
        held = self._store.held.get(lease.key)
        if held is not None and held.entry.rank == (lease.epoch, lease.instance):
            del self._store.held[lease.key]
            self._store.timeline.end(lease.key, "unregistered")
            self._store.changed()

    async def list(self, region: str | None = None) -> Listing:
        await self._call()
        return self._store.timeline.listing(region)

    def watch(self, region: str | None = None, after: Revision | None = None) -> Watch:
        return TimelineWatch(self._store.timeline, region, after, self._call, self._store.wait)

    async def regions(self) -> tuple[FoundRegion, ...]:
        await self._call()
        return tuple(self._store.regions[name] for name in sorted(self._store.regions))

    async def get_region(self, region: str) -> FoundRegion | None:
        await self._call()
        return self._store.regions.get(region)

    async def put_region(self, entry: RegionEntry, expected: Token | None) -> Token:
        check_region(entry)
        await self._call()
        self._compare(entry.region, expected)
        if expected is None and len(self._store.regions) >= REGIONS:
            raise RegistryFull("registry", f"its directory holds {REGIONS} regions")
        self._store.writes += 1
        token = Token(str(self._store.writes))
        self._store.regions[entry.region] = FoundRegion(entry, token)
        return token

    async def remove_region(self, region: str, expected: Token) -> None:
        await self._call()
        self._compare(region, expected)
        del self._store.regions[region]

    def statistics(self) -> RegistryStatistics:
        entries, regions = len(self._store.held), len(self._store.regions)
        return RegistryStatistics(self.kind, entries, regions, self._calls, self._failures, {}, "memory")

    async def _call(self) -> None:
        """What every call passes: the way to the service, and its clock."""
        self._calls += 1
        await trio.sleep(self._store.delay_s)
        if not self._store.available:
            self._failures += 1
            raise RegistryUnavailable("registry", "the service in memory is switched off")
        self._store.expire()

    def _compare(self, region: str, expected: Token | None) -> None:
        found = self._store.regions.get(region)
        if (None if found is None else found.token) != expected:
            raise Conflict(f"registry region {region}", "somebody else changed it")
