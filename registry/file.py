"""A registry in a folder that processes or machines share: no service, one file for each node.

Decides which entries are live and who holds a name. Files are read and written by `registry.folder`, in a worker thread, one
call for a whole scan, so that a slow or hanging share never holds up the node.

A lease is a time stamp and a renewal number in the node's file. A reader takes an entry for live
- at first sight, while its stamp is not older than the lease and `skew_s` (30 s by default): clocks may differ by so much;
- later, while its renewal number goes on changing within the lease by the reader's own monotonic clock, whatever the stamps
  say. Clocks that differ by more than `skew_s` only make a node visible with its next renewal, a third of a lease later.
A dead node's entry therefore ends one lease after it was last seen to change, and at the latest one lease and `skew_s` after
its last renewal by a reader that just came.

Watching is looking every `interval_s` (1 s by default): one directory read, a stat for each file, a read for each renewed one.
100 nodes with leases of 10 s: about 100 stats and 30 small reads a second, 0.5 % of a core. Over NFS a change is seen when the
client's attribute cache lets it through (3 s by default).

Two processes that register one name at the same moment may both believe for one renewal that they hold it: then the greater
(epoch, instance) writes over the other, which loses its lease. Region entries are compared and set without such a window.

Invariant: what is no entry is never acted on: it is counted once and passed over.
Source: design page "Routing", The registry; C. Gray and D. Cheriton, "Leases" (SOSP 1989), on clocks that differ.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, cast

import msgspec
import trio

from mesh.model.ids import NodeKey, check_name
from registry import folder
from registry.base import (
    IGNORED_KEPT,
    LEASE_S,
    BadEntry,
    Conflict,
    FoundRegion,
    Ignored,
    Lease,
    LeaseLost,
    Listing,
    Moment,
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
    decode_json,
    region_from_json,
    shown,
    to_json,
)
from registry.timeline import Timeline, TimelineWatch

INTERVAL_S: Final = 1.0
SKEW_S: Final = 30.0
SWEEP_AGE_S: Final = 3_600.0
"""The file of a node whose lease ended so long ago is removed by whoever sees it."""
THREADS: Final = 2
"""Worker threads of one client: a share that hangs takes no more of them."""
REMOVED: Final = b'{"removed": true}\n'
"""The last version of a region's entry that was removed: its numbers go on from there."""

T = TypeVar("T")
InThread = Callable[[Callable[[], object]], Awaitable[object]]


class Record(NodeEntry, frozen=True, kw_only=True):
    """What a node's file holds: its entry, and its lease. renewal: one more with each write."""

    renewed: Moment
    renewal: int
    lease_s: float

    def entry(self) -> NodeEntry:
        return NodeEntry(**{name: getattr(self, name) for name in NodeEntry.__struct_fields__})


class _Seen(NamedTuple):
    """A node's file as this client knows it, on its own monotonic clock.

    record, entry: None where the file is no entry. since_s: when this renewal was first seen. looked_s: when it was last looked at.
    proven: the renewal before was seen too, not longer ago than the lease: the node lives, whatever its clock says.
    """

    signature: folder.Signature
    record: Record | None
    entry: NodeEntry | None
    since_s: float
    looked_s: float
    proven: bool


class FileRegistry(Registry):
    """One client of a folder.

    Args: path: the folder; made if it is not there. interval_s: how often a watch looks. skew_s: how far clocks may differ.
    wall: seconds since 1970. in_thread: runs blocking work (tests run it in place).
    """

    kind = "file"

    def __init__(
        self,
        path: Path,
        *,
        interval_s: float = INTERVAL_S,
        skew_s: float = SKEW_S,
        wall: Callable[[], float] = time.time,
        in_thread: InThread | None = None,
    ) -> None:
        self.path = path
        self.interval_s = interval_s
        self.skew_s = skew_s
        self._wall = wall
        self._in_thread = in_thread or partial(_in_worker_thread, trio.CapacityLimiter(THREADS))
        self._ready = False
        self._timeline = Timeline(os.urandom(4).hex())
        self._seen: dict[NodeKey, _Seen] = {}
        self._held: dict[NodeKey, tuple[Record, float]] = {}
        self._looked_s: dict[str | None, float] = {}
        self._looking = trio.Lock()
        self._counts: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._left_out: dict[str | None, dict[str, int]] = {}
        self._strange: dict[NodeKey, Ignored] = {}
        self._strange_names: dict[str | None, list[tuple[str, str]]] = {}

    # -- nodes -------------------------------------------------------------------------------------------------

    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        check_lease(lease_s)
        check_node(entry)
        key = entry.key
        async with self._looking:
            found = await self._look(key)
            self._learn(key, found)
            seen = self._seen.get(key)
            old = None if seen is None else seen.record
            if old is not None and seen is not None and self._is_live(seen) and old.rank > entry.rank:
                raise Superseded(f"registry entry {key}", f"epoch {old.epoch} is registered")
            renewal = 1 if old is None else old.renewal + 1
            await self._write(entry, lease_s, renewal)
        return Lease(key, entry.instance, entry.epoch, lease_s)

    async def renew(self, lease: Lease) -> None:
        key, where = lease.key, f"registry entry {lease.key}"
        async with self._looking:
            record, renewed_s = self._held.get(key, (None, 0.0))
            if record is None or record.rank != (lease.epoch, lease.instance):
                raise LeaseLost(where, "this process does not hold it")
            if trio.current_time() - renewed_s >= lease.lease_s:
                del self._held[key]
                raise LeaseLost(where, "it was not renewed in time")
            found = await self._look(key)
            self._learn(key, found)
            other = None if key not in self._seen else self._seen[key].record
            if found is None or (other is not None and other.rank > record.rank):
                del self._held[key]
                raise LeaseLost(where, "its file is gone" if found is None else "another process has it")
            renewal = max(record.renewal, 0 if other is None else other.renewal) + 1
            await self._write(record.entry(), lease.lease_s, renewal)

    async def unregister(self, lease: Lease) -> None:
        key = lease.key
        async with self._looking:
            self._held.pop(key, None)
            found = await self._look(key)
            self._learn(key, found)
            seen = self._seen.get(key)
            if (
                seen is not None
                and seen.record is not None
                and seen.record.rank == (lease.epoch, lease.instance)
            ):
                await self._work(partial(folder.remove, folder.node_path(self.path, key)))
                self._learn(key, None)
            self._settle(key)

    async def list(self, region: str | None = None) -> Listing:
        await self._refresh(region, max_age_s=0.0)
        return self._timeline.listing(region)

    def watch(self, region: str | None = None, after: Revision | None = None) -> Watch:
        refresh = partial(self._refresh, region, max_age_s=self.interval_s)
        wait = partial(trio.sleep, self.interval_s)
        return TimelineWatch(self._timeline, region, after, refresh, wait)

    # -- regions -----------------------------------------------------------------------------------------------

    async def regions(self) -> tuple[FoundRegion, ...]:
        def work() -> list[tuple[str, folder.Versions]]:
            return [(name, folder.versions(self.path, name)) for name in folder.region_names(self.path)]

        found = [self._newest(name, versions) for name, versions in await self._work(work)]
        self._counts["regions"] = sum(region is not None for region in found)
        return tuple(region for region in found if region is not None)

    async def get_region(self, region: str) -> FoundRegion | None:
        check_name(region, "region")
        return self._newest(region, await self._work(partial(folder.versions, self.path, region)))

    async def put_region(self, entry: RegionEntry, expected: Token | None) -> Token:
        check_region(entry)
        return await self._set_region(entry.region, to_json(entry), expected)

    async def remove_region(self, region: str, expected: Token) -> None:
        await self._set_region(region, REMOVED, expected)

    async def _set_region(self, region: str, raw: bytes, expected: Token | None) -> Token:
        check_name(region, "region")
        versions = await self._work(partial(folder.versions, self.path, region))
        found = self._newest(region, versions)
        if (None if found is None else found.token) != expected:
            raise Conflict(f"registry region {region}", "somebody else changed it")
        number = versions.highest + 1
        if number > folder.VERSION_MAX:
            raise RegistryFull(
                f"registry region {region}", "it has no version number left: remove its folder"
            )
        if not await self._work(partial(folder.create_version, self.path, region, number, raw)):
            raise Conflict(f"registry region {region}", "somebody else was faster")
        return Token(str(number))

    def _newest(self, region: str, versions: folder.Versions) -> FoundRegion | None:
        """The newest version that is an entry; None if that is a removal, or there is none."""
        for number, raw in versions.files:
            if raw == REMOVED:
                return None
            try:
                entry = region_from_json(raw)
            except BadEntry:
                continue
            if entry.region == region:
                return FoundRegion(entry, Token(str(number)))
        return None

    def statistics(self) -> RegistryStatistics:
        ignored = self._ignored.copy()
        for left_out in self._left_out.values():
            ignored.update(left_out)
        entries, regions = len(self._timeline.entries), self._counts["regions"]
        calls, failures = self._counts["calls"], self._counts["failures"]
        return RegistryStatistics(
            self.kind, entries, regions, calls, failures, dict(sorted(ignored.items())), str(self.path)
        )

    def ignored(self) -> tuple[Ignored, ...]:
        names = {pair for pairs in self._strange_names.values() for pair in pairs}
        found = [
            *self._strange.values(),
            *(Ignored(shown(os.fsencode(path)), reason, "") for path, reason in names),
        ]
        return tuple(sorted(found, key=lambda one: one.key)[:IGNORED_KEPT])

    # -- what is live ------------------------------------------------------------------------------------------

    async def _refresh(self, region: str | None, max_age_s: float) -> None:
        """Bring the timeline up to date for a region, or for all, unless that was done in the last `max_age_s`."""
        async with self._looking:
            now = trio.current_time()
            looked_s = max(self._looked_s.get(region, float("-inf")), self._looked_s.get(None, float("-inf")))
            if now - looked_s < max_age_s:
                return
            known = {key: seen.signature for key, seen in self._seen.items() if region in (None, key.region)}
            found = await self._work(partial(folder.scan, self.path, region, known, self._wall()))
            for key in sorted(known.keys() | found.files.keys()):
                self._learn(key, found.files.get(key))
                self._settle(key)
            self._left_out = {} if region is None else self._left_out
            self._left_out[region] = found.left_out
            self._strange_names = {} if region is None else self._strange_names
            self._strange_names[region] = found.strange
            self._looked_s[region] = now
            await self._sweep(region)

    def _learn(self, key: NodeKey, found: folder.Found | None) -> None:
        """Take in what a look at a node's file showed; None: it is not there."""
        now, before = trio.current_time(), self._seen.get(key)
        if found is None:
            self._seen.pop(key, None)
            self._strange.pop(key, None)
            return
        if before is not None and before.signature == found.signature:
            self._seen[key] = before._replace(looked_s=now)
            return
        record, reason = None, found.reason
        if not reason:
            try:
                record = _record_from_json(found.raw)
                reason = "" if record.key == key else "wrong_name"
            except BadEntry:
                reason = "no_entry"
        self._strange.pop(key, None)
        if reason:
            self._ignored[reason] += 1
            if len(self._strange) < IGNORED_KEPT:
                value = shown(found.raw) if found.raw else f"({found.signature[1]} bytes)"
                self._strange[key] = Ignored(f"nodes/{key.region}/{key.node}.json", reason, value)
            self._seen[key] = _Seen(found.signature, None, None, now, now, False)
            return
        assert record is not None
        proven = before is not None and before.record is not None and now - before.looked_s <= record.lease_s
        if (
            before is not None and before.record == record
        ):  # written anew by a copy of the folder, not by the node
            self._seen[key] = before._replace(signature=found.signature, looked_s=now)
        else:
            self._seen[key] = _Seen(found.signature, record, record.entry(), now, now, proven)

    def _is_live(self, seen: _Seen) -> bool:
        record = seen.record
        if record is None or trio.current_time() - seen.since_s >= record.lease_s:
            return False
        return seen.proven or self._wall() <= record.renewed.timestamp() + record.lease_s + self.skew_s

    def _settle(self, key: NodeKey) -> None:
        """Put into the timeline what is known of a node."""
        seen = self._seen.get(key)
        if seen is not None and seen.entry is not None and self._is_live(seen):
            self._timeline.put(seen.entry)
        else:
            self._timeline.end(key, "unregistered" if seen is None else "expired")

    async def _sweep(self, region: str | None) -> None:
        """Remove files of nodes that ended long ago: names that are made anew at each start would pile up."""
        now, wall = trio.current_time(), self._wall()
        old = [
            (key, seen.signature)
            for key, seen in self._seen.items()
            if seen.record is not None
            and region in (None, key.region)
            and now - seen.since_s > seen.record.lease_s + self.skew_s
            and wall > seen.record.renewed.timestamp() + SWEEP_AGE_S
        ]
        if old:

            def work() -> None:
                for key, signature in old:
                    folder.remove(folder.node_path(self.path, key), signature)

            await self._work(work)
            for key, _ in old:
                self._learn(key, None)

    # -- files -------------------------------------------------------------------------------------------------

    async def _write(self, entry: NodeEntry, lease_s: float, renewal: int) -> None:
        """Write a node's own file, and know it as others will."""
        renewed = datetime.fromtimestamp(self._wall(), UTC)
        fields = {name: getattr(entry, name) for name in NodeEntry.__struct_fields__}
        record = Record(**fields, renewed=renewed, renewal=renewal, lease_s=lease_s)
        now, key = trio.current_time(), entry.key
        signature = await self._work(
            partial(folder.replace, folder.node_path(self.path, key), to_json(record))
        )
        self._held[key] = (record, now)
        self._seen[key] = _Seen(signature, record, entry, now, now, True)
        self._settle(key)

    async def _look(self, key: NodeKey) -> folder.Found | None:
        """Look at one node's file now. Its not being there means nothing unless the folder is."""

        def work() -> folder.Found | None:
            os.stat(self.path)
            return folder.look(folder.node_path(self.path, key))

        return await self._work(work)

    async def _work(self, work: Callable[[], T]) -> T:
        """Run blocking work in a thread, on a folder that is there. Raises: RegistryUnavailable."""
        self._counts["calls"] += 1
        try:
            if not self._ready:
                await self._in_thread(partial(os.makedirs, self.path, exist_ok=True))
                self._ready = True
            result = await self._in_thread(work)
        except OSError as error:
            self._counts["failures"] += 1
            unusable = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
            what = f"folder {self.path}: {error.strerror or error} ({error.filename or self.path})"
            raise RegistryUnavailable(
                "registry.path", what, "MESH-R006" if unusable else "MESH-R001"
            ) from error
        return cast(T, result)


_record_decoder = msgspec.json.Decoder(Record)


def _record_from_json(raw: bytes) -> Record:
    """Read a node's file. Raises: BadEntry, whatever the bytes are."""
    record = decode_json(raw, _record_decoder)
    check_node(record)
    if not LEASE_S[0] <= record.lease_s <= LEASE_S[1] or not 0 < record.renewal < 1 << 53:
        raise BadEntry(f"registry entry {record.key}", "a lease that cannot be")
    if record.renewed.utcoffset() != timedelta(0):
        raise BadEntry(f"registry entry {record.key}", "renewed must be in UTC")
    return record


async def _in_worker_thread(limiter: trio.CapacityLimiter, work: Callable[[], object]) -> object:
    """Abandoned when cancelled: every write is a rename, a link or nothing."""
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
