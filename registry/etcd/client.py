"""A registry in etcd: one client, for one mesh under one prefix. Keys and values: `registry.etcd.layout`.

Decides who holds a name: etcd compares (a transaction on the key's revision), this client judges (the greater (epoch, instance)
wins). A lease of etcd carries a node's entry; whoever takes a name over revokes the lease of the process before.
A renewal is two calls: the lease is kept alive, and the key is looked at, so that an entry that somebody deleted or took is
noticed within a third of a lease.

Requests: six for each lease time, three a minute of a quiet watch, and what the caller lists: with a lease of 10 s about 41 a
minute. etcd keeps no lease shorter than 1.5 times its election timeout (2 s by default) and lets one run on for up to a second,
or for its whole time anew after a change of its leader.

Invariant: a region's entry is written only over the revision that the caller saw. Source: `registry.base`; etcd's API pages.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import trio

from mesh.model.ids import NodeKey
from registry.base import (
    EDIT_ATTEMPTS,
    IGNORED_KEPT,
    Conflict,
    FoundRegion,
    Ignored,
    Lease,
    LeaseLost,
    Listing,
    NodeEntry,
    RegionEntry,
    Registry,
    RegistryError,
    RegistryStatistics,
    RegistryUnavailable,
    Revision,
    Superseded,
    Token,
    Watch,
    check_lease,
    check_node,
    check_region,
    to_json,
)
from registry.etcd import etcd_pb2 as pb
from registry.etcd.connection import Connection
from registry.etcd.layout import TOO_LARGE, Layout
from registry.etcd.reading import RANGE, read_span
from registry.etcd.settings import EtcdSettings
from registry.etcd.sight import ENTRY, Sight
from registry.etcd.watch import EtcdWatch, Place
from registry.rpc import RpcError

TXN: Final = "/etcdserverpb.KV/Txn"
GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"


class _Held(NamedTuple):
    rank: tuple[int, str]
    lease: int
    renewed_s: float


class EtcdRegistry(Registry):
    """One client of an etcd. Use it in one trio run and close it (`aclose`, or `async with`): it holds a connection and threads.

    Args: settings: see `EtcdSettings`: endpoints, prefix, user and password, paths of TLS files, timeouts. Nothing is connected
    or read before the first call. Another configuration is another client: close this one after the new one registered.
    """

    kind = "etcd"

    def __init__(self, settings: EtcdSettings) -> None:
        self.layout = Layout(settings.prefix)
        self.sight = Sight()
        self._regions = Sight()
        self._connection = Connection(settings)
        self._held: dict[NodeKey, _Held] = {}

    # -- nodes -------------------------------------------------------------------------------------------------

    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        check_lease(lease_s)
        check_node(entry)
        key, granted = self.layout.node(entry.key), 0
        for _ in range(EDIT_ATTEMPTS):
            found = await self._get(key)
            old = None if found is None else self.layout.read_node(found)
            if isinstance(old, NodeEntry) and old.rank > entry.rank:
                if granted:
                    await self._revoke(granted)
                raise Superseded(f"registry entry {entry.key}", f"epoch {old.epoch} is registered")
            # If what follows fails, the lease ends by itself.
            granted = granted or await self._grant(lease_s)
            if await self._put(key, found, to_json(entry), granted):
                self._held[entry.key] = _Held(entry.rank, granted, trio.current_time())
                if found is not None and found.lease not in (0, granted):
                    await self._revoke(found.lease)
                return Lease(entry.key, entry.instance, entry.epoch, lease_s)
        raise RegistryUnavailable(f"registry entry {entry.key}", "others write it all the time")

    async def renew(self, lease: Lease) -> None:
        where, held = f"registry entry {lease.key}", self._held.get(lease.key)
        if held is None or held.rank != (lease.epoch, lease.instance):
            raise LeaseLost(where, "this process does not hold it")
        now = trio.current_time()
        # The method streams; one request and one answer are a whole stream, and need no thread.
        request = pb.LeaseKeepAliveRequest(ID=held.lease)
        kept = await self._connection.call(KEEP_ALIVE, request, pb.LeaseKeepAliveResponse)
        if kept.TTL <= 0:
            self._lose(lease.key, held)
            if now - held.renewed_s < lease.lease_s:
                self._connection.history_is_lost()
                raise LeaseLost(where, "etcd does not know its lease any more")
            raise LeaseLost(where, "it was not renewed in time")
        found = await self._get(self.layout.node(lease.key), keys_only=True)
        if found is None or found.lease != held.lease:
            self._lose(lease.key, held)
            await self._revoke(held.lease)
            raise LeaseLost(where, "its key is gone" if found is None else "another process has it")
        if self._held.get(lease.key) == held:
            self._held[lease.key] = held._replace(renewed_s=now)

    async def unregister(self, lease: Lease) -> None:
        held = self._held.get(lease.key)
        if held is None or held.rank != (lease.epoch, lease.instance):
            # Perhaps registered by a client before this one.
            found = await self._get(self.layout.node(lease.key))
            entry = None if found is None else self.layout.read_node(found)
            if (
                found is None
                or not isinstance(entry, NodeEntry)
                or entry.rank != (lease.epoch, lease.instance)
            ):
                return
            held = _Held(entry.rank, found.lease, 0.0)
        # Ends the key too, if it still hangs on this lease.
        await self._revoke(held.lease, best_effort=False)
        self._lose(lease.key, held)

    async def list(self, region: str | None = None) -> Listing:
        span = self.layout.nodes(region)
        found = await read_span(self._connection, span)
        read = [(value.key, self.layout.read_node(value)) for value in found.values]
        seen = {key: entry if isinstance(entry, str) else ENTRY for key, entry in read}
        self.sight.listed(span, seen | dict.fromkeys(found.too_large, TOO_LARGE), found.left, found.texts())
        entries = sorted((e for _, e in read if isinstance(e, NodeEntry)), key=lambda entry: entry.key)
        return Listing(Revision(str(Place(found.cluster, found.revision))), tuple(entries))

    def watch(self, region: str | None = None, after: Revision | None = None) -> Watch:
        return EtcdWatch(self, self._connection, region, after)

    # -- regions -----------------------------------------------------------------------------------------------

    async def regions(self) -> tuple[FoundRegion, ...]:
        span = self.layout.regions()
        found = await read_span(self._connection, span)
        read = [(value.key, self.layout.read_region(value)) for value in found.values]
        seen = {key: region if isinstance(region, str) else ENTRY for key, region in read}
        self._regions.listed(
            span, seen | dict.fromkeys(found.too_large, TOO_LARGE), found.left, found.texts()
        )
        regions = (region for _, region in read if not isinstance(region, str))
        return tuple(sorted(regions, key=lambda region: region.entry.region))

    async def get_region(self, region: str) -> FoundRegion | None:
        _, found = await self._region(region)
        return found

    async def put_region(self, entry: RegionEntry, expected: Token | None) -> Token:
        check_region(entry)
        value, found = await self._region(entry.region)
        self._compare(entry.region, found, expected)
        key = self.layout.region(entry.region)
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=to_json(entry)))
        # What is no entry is written over.
        answer = await self._transact(key, 0 if value is None else value.mod_revision, put)
        if not answer.succeeded:
            raise Conflict(f"registry region {entry.region}", "somebody else was faster")
        return Token(str(answer.header.revision))

    async def remove_region(self, region: str, expected: Token) -> None:
        value, found = await self._region(region)
        self._compare(region, found, expected)
        assert value is not None
        key = self.layout.region(region)
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
        if not (await self._transact(key, value.mod_revision, delete)).succeeded:
            raise Conflict(f"registry region {region}", "somebody else was faster")

    def statistics(self) -> RegistryStatistics:
        connection = self._connection
        ignored = dict(self.sight.ignored)
        for reason, count in self._regions.ignored.items():
            ignored[reason] = ignored.get(reason, 0) + count
        return RegistryStatistics(
            self.kind,
            self.sight.entries,
            self._regions.entries,
            connection.calls,
            connection.failures,
            dict(sorted(ignored.items())),
            connection.endpoint,
        )

    def ignored(self) -> tuple[Ignored, ...]:
        found = [*self.sight.strange(), *self._regions.strange()]
        return tuple(sorted(found, key=lambda one: one.key)[:IGNORED_KEPT])

    async def aclose(self) -> None:
        await self._connection.aclose()

    # -- calls -------------------------------------------------------------------------------------------------

    async def _get(self, key: bytes, *, keys_only: bool = False) -> pb.KeyValue | None:
        request = pb.RangeRequest(key=key, limit=1, keys_only=keys_only)
        answer = await self._call_range(request)
        return answer.kvs[0] if answer.kvs else None

    async def _call_range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """A value that is too large is no entry: its key alone is asked for then."""
        try:
            return await self._connection.call(RANGE, request, pb.RangeResponse)
        except RpcError:
            request.keys_only = True
            return await self._connection.call(RANGE, request, pb.RangeResponse)

    async def _region(self, region: str) -> tuple[pb.KeyValue | None, FoundRegion | None]:
        """What stands under a region's key, and the entry if it is one."""
        value = await self._get(self.layout.region(region))
        if value is None:
            self._regions.gone(self.layout.region(region))
            return None, None
        found = self.layout.read_region(value)
        self._regions.saw(value.key, found if isinstance(found, str) else ENTRY, value.value)
        return value, None if isinstance(found, str) else found

    def _compare(self, region: str, found: FoundRegion | None, expected: Token | None) -> None:
        if (None if found is None else found.token) != expected:
            raise Conflict(f"registry region {region}", "somebody else changed it")

    async def _put(self, key: bytes, found: pb.KeyValue | None, value: bytes, lease: int) -> bool:
        """Put it if the key is as it was found. It may be made twice: who finds their own entry there writes it again."""
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
        revision = 0 if found is None else found.mod_revision
        return (await self._transact(key, revision, put, again=True)).succeeded

    async def _transact(
        self, key: bytes, revision: int, then: pb.RequestOp, *, again: bool = False
    ) -> pb.TxnResponse:
        """Do it if the key was last changed at `revision` (0: is not there)."""
        compare = pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision)
        request = pb.TxnRequest(compare=[compare], success=[then])
        return await self._connection.call(TXN, request, pb.TxnResponse, again=again)

    async def _grant(self, lease_s: float) -> int:
        request = pb.LeaseGrantRequest(TTL=math.ceil(lease_s))
        return (await self._connection.call(GRANT, request, pb.LeaseGrantResponse)).ID

    async def _revoke(self, lease: int, *, best_effort: bool = True) -> None:
        """End a lease and what hangs on it. It would end by itself, so that some callers do not care."""
        try:
            await self._connection.call(REVOKE, pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse)
        except RpcError:
            pass  # it has ended
        except RegistryError:
            if not best_effort:
                raise

    def _lose(self, key: NodeKey, held: _Held) -> None:
        if self._held.get(key) == held:
            del self._held[key]
