"""Nacos as a registry: what `registry.base` promises, from ephemeral instances and configurations.

Decides what of it is kept how.

| promise           | how                                                                                             |
|-------------------|-------------------------------------------------------------------------------------------------|
| an entry          | an instance of the service `hopmesh.REGION`, carried by this client's connection, done again on each new one |
| it ends           | when it is unregistered; when it was not renewed (this client takes it out); with the connection |
| one name          | claims stand side by side, readers take the greatest; a smaller one's owner takes its own out     |
| a change is seen  | after `register` and `unregister` by every client of the same server; Nacos shows it 0.5 s late   |
| a watch           | pushes, and a look every RELIST_S[0] to RELIST_S[1] (more entries, fewer looks) where one was lost |
| a revision        | known to the client that gave it out only: Nacos keeps no history                                |

Requests of an idle node: one look a renewal, one a relist. With a lease of 30 s and a watched region of up to 30 entries: 22 a
minute; of 300 entries: 4 a minute.
Two processes that register one name at the same moment may both be told that they have it, until the smaller one renews or is
told of the other: 1 s as a rule.
Invariant: what this connection carries in Nacos is what `_leases` says, or `_carried.publish` is still to come.
Source: design page "Routing", The registry; Nacos, `NamingGrpcClientProxy`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio

from mesh.model.ids import NodeKey
from registry.base import (
    IGNORED_KEPT,
    FoundRegion,
    Ignored,
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
)
from registry.nacos.carried import Carried
from registry.nacos.claims import ENTRIES, RegionClaims
from registry.nacos.directory import REGIONS, Directory
from registry.nacos.instance import Claim, region_of, service_name, write
from registry.nacos.leases import Leases, of_process
from registry.nacos.requests import (
    ServiceAnswer,
    ServiceInfo,
    ServiceListAnswer,
    ServiceListRequest,
)
from registry.nacos.session import Session
from registry.nacos.settings import NacosSettings
from registry.timeline import Timeline, TimelineWatch

RELIST_S: Final = (3.0, 30.0)
RELIST_ENTRY_S: Final = 0.1
"""A region's relist takes so much longer for each of its entries: what is asked for stays below 10 entries a second."""
SEEN_S: Final = 3.0
"""`register` and `unregister` wait so long for Nacos to show what was done."""
SEEN_POLL_S: Final = 0.15
SETTLE_S: Final = 1.2
"""Nacos may show so long what has ended: a greater entry is looked at again before it is in the way."""
PAGE: Final = 200

log = structlog.get_logger("registry")


class NacosRegistry(Registry):
    """One client of a Nacos. It begins with the first call, in that call's trio run; `aclose` ends it."""

    kind = "nacos"

    def __init__(self, settings: NacosSettings) -> None:
        self.settings = settings
        self._session = Session(settings, self._redo, self._pushed, self._wake)
        self._directory = Directory(settings, self._session)
        self._timeline = Timeline(secrets.token_hex(4))
        self._leases = Leases()
        self._regions: dict[str, RegionClaims] = {}
        self._carried = Carried(settings, self._session, self._leases)
        self._listed_s = float("-inf")
        self._foreign = 0
        self._woken = trio.Event()
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None
        self._closed = False

    # -- nodes -----------------------------------------------------------------------------------------------------

    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        check_lease(lease_s)
        check_node(entry)
        self._begin()
        key = entry.key
        claim = Claim(entry, lease_s, self._leases.next_change())
        write(claim)  # refuses what Nacos would refuse, before anything is changed
        region = await self._look(key.region)
        await self._settle(region, lambda: not self._greater(region, entry), SETTLE_S)
        if self._greater(region, entry):
            other = region.seen(key)
            epoch = 0 if other is None else other.entry.epoch
            raise Superseded(f"registry entry {key}", f"epoch {epoch} is registered")
        if region.seen(key) is None and len(region) >= ENTRIES:
            raise RegistryFull("registry", f"the service {service_name(key.region)} has {ENTRIES} instances")
        before = self._leases.hold(claim, trio.current_time())
        try:
            await self._carried.publish(key.region)
        except BaseException:
            self._leases.put_back(key, before)
            raise
        await self._settle(region, lambda: region.seen(key) == claim or self._greater(region, entry), SEEN_S)
        self._leases.begin(claim, trio.current_time())  # what Nacos took to show it is not the caller's time
        return Lease(key, entry.instance, entry.epoch, lease_s)

    async def renew(self, lease: Lease) -> None:
        self._begin()
        now = trio.current_time()
        held = self._leases.get(lease, now)
        key, claim = lease.key, held.claim
        region = await self._look(key.region)
        if self._greater(region, claim.entry):
            await self._withdraw(key)
            raise LeaseLost(f"registry entry {key}", "another process has it")
        if self._leases.entry(key) != claim:
            raise LeaseLost(f"registry entry {key}", "it was registered anew meanwhile")
        held.renewed_s, held.shown = now, True
        if region.seen(key) != claim:
            self._carried.doubt(key.region)
            await self._carried.publish(key.region)
            await self._settle(region, lambda: region.seen(key) == claim, SEEN_S)

    async def unregister(self, lease: Lease) -> None:
        self._begin()
        claim, key = self._leases.entry(lease.key), lease.key
        if claim is None or not of_process(claim.entry, lease):
            return
        self._leases.drop(key)
        await self._carried.publish(key.region)
        region = self._region(key.region)

        def gone() -> bool:
            seen = region.seen(key)
            return seen is None or not of_process(seen.entry, lease)

        await self._look(key.region)
        await self._settle(region, gone, SEEN_S)
        if gone() and region.seen(key) is None:
            region.forget(key)

    async def list(self, region: str | None = None) -> Listing:
        self._begin()
        for name in (region,) if region is not None else await self._services():
            await self._look(name)
        return self._timeline.listing(region)

    def watch(self, region: str | None = None, after: Revision | None = None) -> Watch:
        refresh, wait = partial(self._refresh, region), partial(self._wait, region)
        return TimelineWatch(self._timeline, region, after, refresh, wait)

    # -- regions ---------------------------------------------------------------------------------------------------

    async def regions(self) -> tuple[FoundRegion, ...]:
        self._begin()
        return await self._directory.regions()

    async def get_region(self, region: str) -> FoundRegion | None:
        self._begin()
        return await self._directory.get(region)

    async def put_region(self, entry: RegionEntry, expected: Token | None) -> Token:
        self._begin()
        return await self._directory.put(entry, expected)

    async def remove_region(self, region: str, expected: Token) -> None:
        self._begin()
        await self._directory.remove(region, expected)

    def statistics(self) -> RegistryStatistics:
        ignored = self._directory.ignored
        for region in self._regions.values():
            ignored.update(region.ignored)
        if self._foreign:
            ignored["bad_region_name"] = self._foreign
        session, entries = self._session, len(self._timeline.entries)
        return RegistryStatistics(
            self.kind,
            entries,
            self._directory.count,
            session.calls,
            session.failures,
            dict(sorted(ignored.items())),
            endpoint=session.server,
        )

    @property
    def connection_id(self) -> str:
        """What the server calls this client's connection in its own lists, or ""."""
        return self._session.connection_id

    def ignored(self) -> tuple[Ignored, ...]:
        found = [
            one for region in self._regions.values() for one in region.strange
        ] + self._directory.strange()
        return tuple(sorted(found, key=lambda one: (one.key, one.value))[:IGNORED_KEPT])

    # -- its own tasks ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start keeping a connection, with the first call. A task of the run itself: it needs no nursery, and no call waits."""
        if self._closed:
            raise RegistryUnavailable("registry", "this client was closed")
        if self._ended is None:
            self._ended = trio.Event()
            trio.lowlevel.spawn_system_task(self._keep, self._ended, name="nacos registry")

    async def aclose(self) -> None:
        """End the connection, and with it what it carried."""
        self._closed = True
        self._scope.cancel()
        if self._ended is not None:
            await self._ended.wait()

    async def _keep(self, ended: trio.Event) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._session.run, name="nacos session")
                    nursery.start_soon(self._expire, name="nacos leases")
        except Exception as error:  # a task of the run must not raise: it would end the node
            log.exception("the registry client failed", error=repr(error))
            self._closed = True
        finally:
            ended.set()

    async def _expire(self) -> None:
        """Take out what was not renewed in time."""
        late = set[str]()
        while True:
            late |= self._leases.expire(trio.current_time())
            for region in sorted(late):
                try:
                    await self._carried.publish(region)
                except RegistryUnavailable:
                    await trio.sleep(
                        SEEN_POLL_S
                    )  # what ended with the connection needs no taking out; else again
                else:
                    late.discard(region)
            if not late:
                due_s = min(self._leases.next_s(), trio.current_time() + 1.0)
                await trio.sleep_until(due_s)

    # -- what is seen ----------------------------------------------------------------------------------------------

    def _region(self, name: str) -> RegionClaims:
        region = self._regions.get(name)
        if region is None:
            region = self._regions[name] = RegionClaims(name, self._timeline)
        return region

    def _apply(self, region: RegionClaims, info: ServiceInfo | None) -> None:
        session = self._session
        region.apply(info or ServiceInfo(), session.generation, session.connected_s, trio.current_time())
        self._wake()

    def _pushed(self, info: ServiceInfo) -> None:
        name = region_of(info.name or "")
        if name is not None and name in self._regions and info.group_name in (None, self.settings.group):
            self._apply(self._regions[name], info)

    async def _look(self, name: str) -> RegionClaims:
        """Ask for a region's instances now."""
        region = self._region(name)
        self._apply(region, (await self._session.ask(self._carried.query(name), ServiceAnswer)).service_info)
        return region

    async def _settle(self, region: RegionClaims, done: Callable[[], bool], within_s: float) -> None:
        """Look until Nacos shows something, for a bounded time."""
        deadline = trio.current_time() + within_s
        while not done() and trio.current_time() < deadline:
            await trio.sleep(SEEN_POLL_S)
            await self._look(region.region)

    def _greater(self, region: RegionClaims, entry: NodeEntry) -> bool:
        """Whether another process has the name."""
        other = region.seen(entry.key)
        return other is not None and other.entry.rank > entry.rank

    async def _services(self) -> tuple[str, ...]:
        """Regions that have a service."""
        found, page = set[str](), 1
        self._foreign = 0
        while page * PAGE <= 2 * REGIONS:
            request = ServiceListRequest(**self._carried.place(""), page_no=page, page_size=PAGE)
            names = (await self._session.ask(request, ServiceListAnswer)).service_names or []
            regions = {region_of(name) for name in names}
            self._foreign += sum(region_of(name) is None for name in names)
            found |= {name for name in regions if name is not None}
            if len(names) < PAGE:
                break
            page += 1
        for name in self._regions.keys() - found:
            self._apply(self._regions[name], None)
        self._listed_s = trio.current_time()
        return tuple(sorted(found)[:REGIONS])

    async def _refresh(self, name: str | None) -> None:
        """For a watch: subscribe, and look where a push may have been lost."""
        self._begin()
        await self._session.ready()
        if name is not None:
            await self._refresh_region(name)
            return
        if trio.current_time() >= self._listed_s + RELIST_S[0]:
            for each in await self._services():
                await self._refresh_region(each)

    async def _refresh_region(self, name: str) -> None:
        region = self._region(name)
        if not region.subscribed:
            self._apply(
                region,
                (await self._session.ask(self._carried.subscription(name), ServiceAnswer)).service_info,
            )
            region.subscribed = True
        elif trio.current_time() >= self._due_s(region):
            await self._look(name)

    def _due_s(self, region: RegionClaims) -> float:
        every_s = min(max(RELIST_S[0], RELIST_ENTRY_S * len(region)), RELIST_S[1])
        return region.looked_s + every_s

    async def _wait(self, name: str | None) -> None:
        woken = self._woken
        due_s = self._due_s(self._region(name)) if name is not None else self._listed_s + RELIST_S[0]
        with trio.move_on_at(due_s):
            await woken.wait()

    def _wake(self) -> None:
        self._woken.set()
        self._woken = trio.Event()

    async def _withdraw(self, key: NodeKey) -> None:
        """Another process has the name: take our claim out, now or when the server is back."""
        self._leases.drop(key)
        try:
            await self._carried.publish(key.region)
        except RegistryUnavailable:
            self._carried.doubt(key.region)

    async def _redo(self) -> None:
        """A new connection carries nothing: register and subscribe again."""
        await self._carried.redo()
        for name, region in sorted(self._regions.items()):
            if region.subscribed:
                answer = await self._session.ask_now(self._carried.subscription(name), ServiceAnswer)
                self._apply(region, answer.service_info)
