"""Nacos servers that speak no gRPC (before 2.0), by HTTP v1 and the `python-nacos` library. Optional: the extra `nacos-v1`.

Decides how `registry.base` is kept without a connection and without pushes; claims, leases' values and the region directory are
those of `registry.nacos`. Use `registry.nacos` for everything newer: Nacos 3.2 has no HTTP v1 any more.

| promise     | how, and how it differs                                                                                  |
|-------------|-----------------------------------------------------------------------------------------------------------|
| a lease     | heart-beats: the server drops an instance that was not renewed; it looks every 5 s, so up to LATE_S late      |
| an entry    | an instance with a made-up address (node and process): v1 tells instances apart by address and port only      |
| a watch     | a look every WATCH_S; nothing is pushed                                                                      |
| the rest    | as `registry.nacos`: 2.3.1 and 3.1.0 (with its compatibility switch) pass the same contract                  |

The library sends user and password as part of every address, so they are in the server's access log; it knows no TLS. It
reconfigures the root logger when it is imported and logs addresses there: both are undone here. It is pinned to 0.1.1, because
comparing configurations and listing services need a method of it that is not public.
Invariant: one thread a call, abandoned when the caller is cancelled; every call has a time-out.
Source: Nacos, "Open API" v1; `registry.base`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final, TypeVar, cast

import msgspec
import trio

from registry.base import (
    FoundRegion,
    Lease,
    LeaseLost,
    Listing,
    NodeEntry,
    RegionEntry,
    Registry,
    RegistryStatistics,
    RegistryUnavailable,
    Revision,
    Superseded,
    Token,
    Watch,
    check_lease,
    check_node,
)
from registry.nacos.claims import RegionClaims
from registry.nacos.directory import REGIONS, Directory
from registry.nacos.instance import Claim, region_of, service_name, write
from registry.nacos.leases import Leases, of_process
from registry.nacos.payload import BadPayload
from registry.nacos.requests import (
    Answer,
    ConfigBatchListenRequest,
    ConfigPublishRequest,
    ConfigQueryRequest,
    Request,
    ServiceInfo,
    from_body,
)
from registry.nacos.settings import NacosSettings
from registry.timeline import Timeline, TimelineWatch

WATCH_S: Final = 2.0
LATE_S: Final = 10.0
SEEN_S: Final = 3.0
SEEN_POLL_S: Final = 0.2
SETTLE_S: Final = 1.2
THREADS: Final = 2
ANSWER_BYTES: Final = 16 * 1024 * 1024
WHERE: Final = "registry.servers"
CONFIGS: Final = "/nacos/v1/cs/configs"
SERVICES: Final = "/nacos/v1/ns/service/list"
BEATS: Final = (
    "preserved.heart.beat.interval",
    "preserved.heart.beat.timeout",
    "preserved.ip.delete.timeout",
)
"""Metadata by which a server learns after how many ms without a beat an instance is ill, and dropped."""

A = TypeVar("A", bound=Answer)
T = TypeVar("T")


class NacosV1Registry(Registry):
    """One client. Raises: RegistryUnavailable (MESH-R001) if the extra is not installed."""

    kind = "nacos-v1"

    def __init__(self, settings: NacosSettings) -> None:
        self.settings = settings
        self._http = _Http(settings)
        self._directory = Directory(settings, self._http)
        self._timeline = Timeline(secrets.token_hex(4))
        self._leases = Leases()
        self._regions: dict[str, RegionClaims] = {}
        self._listed_s = float("-inf")
        self._registering = trio.Lock()

    # -- nodes -----------------------------------------------------------------------------------------------------

    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        check_lease(lease_s)
        check_node(entry)
        key = entry.key
        claim = Claim(entry, lease_s, self._leases.next_change())
        write(claim)
        region = await self._look(key.region)
        await self._settle(region, lambda: not self._greater(region, entry), SETTLE_S)
        if self._greater(region, entry):
            raise Superseded(f"registry entry {key}", "a greater epoch is registered")
        async with self._registering:
            await self._http.call(partial(self._add, claim))
            self._leases.hold(claim, trio.current_time())
        await self._settle(region, lambda: region.seen(key) == claim or self._greater(region, entry), SEEN_S)
        return Lease(key, entry.instance, entry.epoch, lease_s)

    async def renew(self, lease: Lease) -> None:
        now = trio.current_time()
        held, key = self._leases.get(lease, now), lease.key
        region = await self._look(key.region)
        if self._greater(region, held.claim.entry):
            self._leases.drop(key)
            await self._http.call(partial(self._remove, held.claim))
            raise LeaseLost(f"registry entry {key}", "another process has it")
        async with self._registering:
            if self._leases.entry(key) != held.claim:
                raise LeaseLost(f"registry entry {key}", "it was registered anew meanwhile")
            await self._http.call(partial(self._beat, held.claim))
            held.renewed_s = now
        if region.seen(key) != held.claim:
            await self._http.call(partial(self._add, held.claim))
            await self._settle(region, lambda: region.seen(key) == held.claim, SEEN_S)

    async def unregister(self, lease: Lease) -> None:
        claim = self._leases.entry(lease.key)
        if claim is None or not of_process(claim.entry, lease):
            return
        async with self._registering:
            self._leases.drop(lease.key)
            await self._http.call(partial(self._remove, claim))
        region = await self._look(lease.key.region)

        def gone() -> bool:
            seen = region.seen(lease.key)
            return seen is None or not of_process(seen.entry, lease)

        await self._settle(region, gone, SEEN_S)
        if region.seen(lease.key) is None:
            region.forget(lease.key)

    async def list(self, region: str | None = None) -> Listing:
        for name in (region,) if region is not None else await self._services():
            await self._look(name)
        return self._timeline.listing(region)

    def watch(self, region: str | None = None, after: Revision | None = None) -> Watch:
        return TimelineWatch(
            self._timeline, region, after, partial(self._refresh, region), partial(trio.sleep, WATCH_S)
        )

    # -- regions ---------------------------------------------------------------------------------------------------

    async def regions(self) -> tuple[FoundRegion, ...]:
        return await self._directory.regions()

    async def get_region(self, region: str) -> FoundRegion | None:
        return await self._directory.get(region)

    async def put_region(self, entry: RegionEntry, expected: Token | None) -> Token:
        return await self._directory.put(entry, expected)

    async def remove_region(self, region: str, expected: Token) -> None:
        await self._directory.remove(region, expected)

    def statistics(self) -> RegistryStatistics:
        ignored = self._directory.ignored
        for region in self._regions.values():
            ignored.update(region.ignored)
        entries, http = len(self._timeline.entries), self._http
        return RegistryStatistics(
            self.kind, entries, self._directory.count, http.calls, http.failures, dict(sorted(ignored.items())),
            endpoint=http.server,
        )  # fmt: skip

    # -- what is seen ----------------------------------------------------------------------------------------------

    async def _look(self, name: str) -> RegionClaims:
        region = self._regions.get(name)
        if region is None:
            region = self._regions[name] = RegionClaims(name, self._timeline)
        found = await self._http.call(partial(self._listed, service_name(name)))
        try:
            info = from_body(json.dumps(found).encode(), ServiceInfo)
        except BadPayload as error:
            raise RegistryUnavailable(WHERE, f"an answer that cannot be read: {error}") from error
        # The time in the answer is when it was made from a copy, not when the copy was: no order can be told from it.
        info.last_ref_time = 0
        region.apply(info, self._http.generation, self._http.connected_s, trio.current_time())
        return region

    async def _refresh(self, name: str | None) -> None:
        now = trio.current_time()
        if name is not None:
            region = self._regions.get(name)
            if region is None or now >= region.looked_s + WATCH_S or not self._http.well:
                await self._look(name)
        elif now >= self._listed_s + WATCH_S or not self._http.well:
            await self.list()

    async def _settle(self, region: RegionClaims, done: Callable[[], bool], within_s: float) -> None:
        deadline = trio.current_time() + within_s
        while not done() and trio.current_time() < deadline:
            await trio.sleep(SEEN_POLL_S)
            await self._look(region.region)

    def _greater(self, region: RegionClaims, entry: NodeEntry) -> bool:
        other = region.seen(entry.key)
        return other is not None and other.entry.rank > entry.rank

    async def _services(self) -> tuple[str, ...]:
        params = {"pageNo": 1, "pageSize": REGIONS, "groupName": self.settings.group}
        if self.settings.namespace:
            params["namespaceId"] = self.settings.namespace
        found = json.loads(await self._http.call(lambda client: _read(client, SERVICES, params)))
        names = {region_of(str(name)) for name in found.get("doms") or ()}
        regions = tuple(sorted({name for name in names if name is not None}))
        for name in self._regions.keys() - set(regions):
            self._regions[name].apply(
                ServiceInfo(), self._http.generation, self._http.connected_s, trio.current_time()
            )
        self._listed_s = trio.current_time()
        return regions

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _add(self, claim: Claim, client: Any) -> None:
        client.add_naming_instance(**self._place(claim), metadata=self._metadata(claim))

    def _beat(self, claim: Claim, client: Any) -> None:
        client.send_heartbeat(**self._place(claim), metadata=self._metadata(claim))

    def _remove(self, claim: Claim, client: Any) -> None:
        client.remove_naming_instance(**self._place(claim))

    def _listed(self, service: str, client: Any) -> object:
        found: object = client.list_naming_instance(service, group_name=self.settings.group)
        return found

    def _place(self, claim: Claim) -> dict[str, Any]:
        entry = claim.entry
        process = hashlib.sha256(f"{entry.epoch} {entry.instance}".encode()).hexdigest()[:8]
        return {
            "service_name": service_name(entry.region), "ip": f"{entry.node}.{process}", "port": 0,
            "cluster_name": "DEFAULT", "ephemeral": True, "group_name": self.settings.group,
        }  # fmt: skip

    def _metadata(self, claim: Claim) -> dict[str, str]:
        lease_ms = str(round(claim.lease_s * 1_000))
        beats = dict(zip(BEATS, (str(round(claim.lease_s * 1_000 / 3)), lease_ms, lease_ms), strict=True))
        return {name: value or "" for name, value in write(claim).metadata.items()} | beats


class _Http:
    """The library's client in worker threads; to the directory, a session."""

    def __init__(self, settings: NacosSettings) -> None:
        self._module = library()
        servers = ",".join(settings.servers)
        user, password = settings.user or None, settings.password or None
        self._client = self._module.NacosClient(
            servers, namespace=settings.namespace, username=user, password=password
        )
        self._client.set_options(default_timeout=settings.call_timeout_s, no_snapshot=True)
        self._settings = settings
        self._limiter = trio.CapacityLimiter(THREADS)
        self.calls = self.failures = self.generation = 0
        self.well = False
        self.connected_s = float("-inf")

    @property
    def server(self) -> str:
        return ":".join(str(part) for part in self._client.current_server)

    async def call(self, work: Callable[[Any], T]) -> T:
        """Raises: RegistryUnavailable."""
        self.calls += 1
        try:
            result = await trio.to_thread.run_sync(
                work, self._client, abandon_on_cancel=True, limiter=self._limiter
            )
        except (OSError, ValueError, self._module.NacosException) as error:
            self.failures += 1
            self.well = False
            if "privilege" in str(error):
                what = f"{self.server} refuses user {self._settings.user!r}, the password, or what it may do"
                raise RegistryUnavailable("registry.user", what, "MESH-R009") from error
            raise RegistryUnavailable(WHERE, f"{self.server}: {error}"[:500]) from error
        if not self.well:
            self.well = True
            self.generation += 1
            self.connected_s = trio.current_time()
        return result

    async def ask(self, request: Request, kind: type[A], *, again: bool = True) -> A:
        """What the directory asks for. Raises: RegistryUnavailable."""
        answer: dict[str, object] = {}
        match request:
            case ConfigQueryRequest():
                content = await self.call(partial(_config, request))
                answer = {} if content is None else {"content": content, "md5": _md5(content)}
            case ConfigPublishRequest():
                await self.call(partial(_publish, request))
            case ConfigBatchListenRequest():
                answer = {
                    "changedConfigs": [{"dataId": each.data_id} for each in request.config_listen_contexts]
                }
            case _:
                raise TypeError(type(request).__name__)
        return msgspec.convert(answer, kind)


def _config(request: ConfigQueryRequest, client: Any) -> str | None:
    found: str | None = client.get_config(
        request.data_id, request.group, no_snapshot=True, use_failover=False
    )
    return found


def _publish(request: ConfigPublishRequest, client: Any) -> None:
    form = {"dataId": request.data_id, "group": request.group, "content": request.content, "type": "json"}
    if request.tenant:
        form["tenant"] = request.tenant
    _read(client, CONFIGS, form=form, headers={"casMd5": request.cas_md5}, method="POST")


def _read(
    client: Any,
    path: str,
    params: dict[str, Any] | None = None,
    form: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    method: str = "GET",
) -> bytes:
    with client._do_sync_req(path, headers, params, form, client.default_timeout, method) as answer:
        return cast(bytes, answer.read(ANSWER_BYTES))


def _md5(content: str) -> str:
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()


def library() -> ModuleType:
    """python-nacos, with the root logger as it was. Raises: RegistryUnavailable."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import nacos
        import nacos.client
    except ImportError as error:
        what = "kind nacos-v1 needs python-nacos: install hopmesh[nacos-v1]"
        raise RegistryUnavailable("registry.kind", what) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    if not hasattr(nacos, "NacosClient"):
        what = "kind nacos-v1 needs python-nacos, and another package has its name: remove nacos-sdk-python"
        raise RegistryUnavailable("registry.kind", what)
    own = logging.getLogger("nacos")
    own.propagate = False
    own.handlers[:] = [logging.NullHandler()]
    nacos.client.logger = own
    return cast(ModuleType, nacos)
