"""The region directory in Nacos's configuration service: one configuration a region, and an index of their names.

Decides how a change becomes a compare and set. Nacos compares the md5 of what a configuration holds (`casMd5`); that alone is
not enough, and this module makes up for it:
- 2.3 says "published" to the loser too (seen on 2.3.1 with its own database; 3.1 tells the truth). So each content names its
  last WRITES writes; who finds its own among them has won.
- A comparison with a configuration that is not there creates it. So a removed region leaves a content that says so, and what
  was never there is compared with a md5 that nothing has.
- Servers read from a copy that follows the database by 30 to 80 ms (seen). So a writer waits until it sees its change or another.

| configuration       | content                                                                          |
|---------------------|----------------------------------------------------------------------------------|
| hopmesh.region.NAME | the region's entry with `revision`, `changed` (UTC), `writes`; or `removed: true` |
| hopmesh.regions     | the names of all regions, likewise                                                |

A region's token is the md5 of its content. A content that somebody else wrote and is no entry counts as none: it is ignored
with a reason, and whoever puts the region's entry replaces it.
Listing is one question a time whether something changed (`ConfigBatchListenRequest`), and one read for each that did.
Invariant: two writers that saw one token are never both told that they won.
Source: `registry.base`; Nacos, `ConfigPublishRequest.casMd5`, `ConfigOperationService`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec
import trio

from mesh.model.ids import BadName, check_name
from registry.base import (
    BadEntry,
    Conflict,
    FoundRegion,
    Ignored,
    Moment,
    RegionEntry,
    RegistryFull,
    RegistryUnavailable,
    Token,
    check_region,
    decode_json,
    shown,
    to_json,
)
from registry.nacos.requests import (
    BUSY,
    Answer,
    ConfigBatchListenAnswer,
    ConfigBatchListenRequest,
    ConfigListenContext,
    ConfigPublishRequest,
    ConfigQueryAnswer,
    ConfigQueryRequest,
    Request,
)
from registry.nacos.settings import NacosSettings

REGION_PREFIX: Final = "hopmesh.region."
INDEX: Final = "hopmesh.regions"
REGIONS: Final = 1_024
WRITES: Final = 16
"""A writer that does not find its change finds it among so many later ones."""
NOTHING: Final = "0" * 32
"""The md5 of no content."""
SEEN_S: Final = 3.0
SEEN_POLL_S: Final = 0.03
INDEX_ATTEMPTS: Final = 30
FORGET_AFTER: Final = timedelta(hours=1)
"""A removed region's name may leave a full index after this."""
INDEX_BYTES: Final = 256 * 1024

A = TypeVar("A", bound=Answer)


class Ask(Protocol):
    """What the directory needs of a session."""

    async def ask(self, request: Request, kind: type[A], *, again: bool = True) -> A: ...


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    """What every content of ours has."""

    revision: int = 0
    changed: Moment | None = None
    writes: tuple[str, ...] = ()
    removed: bool = False


class _Region(RegionEntry, frozen=True, kw_only=True):
    revision: int
    changed: Moment
    writes: tuple[str, ...]


class _Removed(msgspec.Struct, frozen=True, kw_only=True):
    region: str
    removed: bool
    revision: int
    changed: Moment
    writes: tuple[str, ...]


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    regions: tuple[str, ...]
    revision: int
    changed: Moment
    writes: tuple[str, ...]


class _Content(NamedTuple):
    """A configuration as it was read. md5: NOTHING where there is none."""

    md5: str
    raw: bytes
    written: _Written


_ABSENT: Final = _Content(NOTHING, b"", _Written())
_written_decoder = msgspec.json.Decoder(_Written)
_region_decoder = msgspec.json.Decoder(RegionEntry)
_index_decoder = msgspec.json.Decoder(_Index)


class Directory:
    """The regions as one client sees them. Args: ask: where to."""

    def __init__(self, settings: NacosSettings, ask: Ask) -> None:
        self._group = settings.group
        self._tenant = settings.namespace
        self._ask = ask
        self._read: dict[str, _Content] = {}
        self._ignored: dict[str, str] = {}
        self.count = 0

    @property
    def ignored(self) -> Counter[str]:
        """What is no entry, by reason."""
        return Counter(self._ignored.values())

    def strange(self) -> list[Ignored]:
        """The same, for a person."""
        raw = {data_id: content.raw for data_id, content in self._read.items()}
        return [Ignored(name, reason, shown(raw.get(name, b""))) for name, reason in self._ignored.items()]

    async def regions(self) -> tuple[FoundRegion, ...]:
        """All regions, ordered by name. Raises: RegistryUnavailable."""
        index = await self._look(INDEX)
        names = self._names(index)
        await self._refresh([REGION_PREFIX + name for name in names])
        found = [self._found(name, self._read.get(REGION_PREFIX + name, _ABSENT)) for name in names]
        self.count = sum(region is not None for region in found)
        return tuple(region for region in found if region is not None)

    async def get(self, region: str) -> FoundRegion | None:
        """Raises: BadName, RegistryUnavailable."""
        check_name(region, "region")
        return self._found(region, await self._look(REGION_PREFIX + region))

    async def put(self, entry: RegionEntry, expected: Token | None) -> Token:
        """Raises: Conflict, BadEntry, RegistryFull, RegistryUnavailable."""
        check_region(entry)
        await self._list(entry.region)
        before = await self._compared(entry.region, expected)
        fields = {name: getattr(entry, name) for name in RegionEntry.__struct_fields__}
        write, revision, changed, writes = _next(before)
        content = _Region(**fields, revision=revision, changed=changed, writes=writes)
        token = await self._publish(REGION_PREFIX + entry.region, before, to_json(content), write)
        await self._list(entry.region)  # it may have been swept from a full index meanwhile
        return Token(token)

    async def remove(self, region: str, expected: Token) -> None:
        """Raises: BadName, Conflict, RegistryUnavailable."""
        check_name(region, "region")
        before = await self._compared(region, expected)
        write, revision, changed, writes = _next(before)
        content = _Removed(region=region, removed=True, revision=revision, changed=changed, writes=writes)
        await self._publish(REGION_PREFIX + region, before, to_json(content), write)

    # -- contents ------------------------------------------------------------------------------------------------

    def _found(self, region: str, content: _Content) -> FoundRegion | None:
        data_id = REGION_PREFIX + region
        self._ignored.pop(data_id, None)
        if content.md5 == NOTHING or content.written.removed:
            return None
        try:
            entry = check_region(decode_json(content.raw, _region_decoder))
        except BadEntry:
            self._ignored[data_id] = "no_region"
            return None
        if entry.region != region:
            self._ignored[data_id] = "wrong_region"
            return None
        return FoundRegion(entry, Token(content.md5))

    async def _compared(self, region: str, expected: Token | None) -> _Content:
        """What is there now, if it is what the caller saw. Raises: Conflict."""
        content = await self._look(REGION_PREFIX + region)
        found = self._found(region, content)
        if (None if found is None else found.token) != expected:
            raise Conflict(f"registry region {region}", "somebody else changed it")
        return content

    async def _look(self, data_id: str) -> _Content:
        """Read a configuration now."""
        request = ConfigQueryRequest(data_id=data_id, group=self._group, tenant=self._tenant)
        answer = await self._ask.ask(request, ConfigQueryAnswer)
        deadline = trio.current_time() + SEEN_S
        while answer.error_code == BUSY:
            if trio.current_time() >= deadline:
                raise RegistryUnavailable(
                    "registry.servers", f"{data_id}: it is being written for {SEEN_S:.0f} s"
                )
            await trio.sleep(SEEN_POLL_S)
            answer = await self._ask.ask(request, ConfigQueryAnswer)
        content = _ABSENT
        if answer.content:
            raw = answer.content.encode("utf-8", "surrogatepass")
            content = _Content(answer.md5 or _md5(raw), raw, _written(raw))
        if len(self._read) > 2 * REGIONS:
            self._read.clear()
        self._read[data_id] = content
        return content

    async def _refresh(self, data_ids: list[str]) -> None:
        """Bring what was read up to date: one question, and one read for each that changed."""
        known = [data_id for data_id in data_ids if data_id in self._read]
        changed = set(data_ids) - set(known)
        if known:
            contexts = [self._context(data_id) for data_id in known]
            request = ConfigBatchListenRequest(config_listen_contexts=contexts)
            answer = await self._ask.ask(request, ConfigBatchListenAnswer)
            changed |= {context.data_id for context in answer.changed_configs or ()} & set(known)
        for data_id in sorted(changed):
            await self._look(data_id)

    def _context(self, data_id: str) -> ConfigListenContext:
        md5 = self._read[data_id].md5
        return ConfigListenContext(
            data_id=data_id, group=self._group, tenant=self._tenant, md5="" if md5 == NOTHING else md5
        )

    async def _publish(self, data_id: str, before: _Content, raw: bytes, write: str) -> str:
        """Put a content in the place of what was read before, and wait until it is seen. Returns its md5.

        Raises: Conflict, RegistryUnavailable (it may have been written).
        """
        request = ConfigPublishRequest(
            data_id=data_id,
            group=self._group,
            tenant=self._tenant,
            content=raw.decode(),
            cas_md5=before.md5,
            addition_map={"type": "json", "appName": "hopmesh", "desc": "Written by Hopmesh."},
        )
        refusal: RegistryUnavailable | None = None
        try:
            await self._ask.ask(request, Answer, again=False)
        except RegistryUnavailable as error:
            if error.code != "MESH-R001":
                raise
            refusal = error  # the loser's answer on 3.x, or the end of a connection: what is there tells
        deadline = trio.current_time() + SEEN_S
        while True:
            now = await self._look(data_id)
            if now.md5 != before.md5:
                break
            if trio.current_time() >= deadline:
                what = f"{data_id}: published, and not seen after {SEEN_S:.0f} s"
                raise refusal or RegistryUnavailable("registry.servers", what)
            await trio.sleep(SEEN_POLL_S)
        if write not in now.written.writes:
            raise Conflict(f"registry configuration {data_id}", "somebody else was faster")
        return _md5(raw)

    # -- the index -----------------------------------------------------------------------------------------------

    def _names(self, index: _Content) -> tuple[str, ...]:
        """Names of regions, in order; what is no name is passed over."""
        self._ignored.pop(INDEX, None)
        if index.md5 == NOTHING:
            return ()
        try:
            if len(index.raw) > INDEX_BYTES:
                raise BadEntry(INDEX, "too large")
            names = {check_name(name, "region") for name in _index_decoder.decode(index.raw).regions}
        except (BadEntry, BadName, msgspec.MsgspecError, ValueError, RecursionError):
            self._ignored[INDEX] = "no_index"
            return ()
        return tuple(sorted(names)[:REGIONS])

    async def _list(self, region: str) -> None:
        """Put a name into the index. Raises: RegistryFull, RegistryUnavailable."""
        for _ in range(INDEX_ATTEMPTS):
            index = await self._look(INDEX)
            names = self._names(index)
            if region in names:
                return
            if len(names) >= REGIONS:
                names = await self._swept(names)
            write, revision, changed, writes = _next(index)
            content = _Index(
                regions=tuple(sorted({*names, region})), revision=revision, changed=changed, writes=writes
            )
            try:
                await self._publish(INDEX, index, to_json(content), write)
            except Conflict:
                continue
            return
        raise RegistryUnavailable("registry.servers", f"{INDEX}: too many write it at the same time")

    async def _swept(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The names without those that were removed long ago. Raises: RegistryFull."""
        await self._refresh([REGION_PREFIX + name for name in names])
        limit, left = datetime.now(UTC) - FORGET_AFTER, list[str]()
        for name in names:
            written = self._read.get(REGION_PREFIX + name, _ABSENT).written
            if not (written.removed and written.changed is not None and written.changed < limit):
                left.append(name)
        if len(left) >= REGIONS:
            raise RegistryFull("registry", f"its directory holds {REGIONS} regions")
        return tuple(left)


def _next(before: _Content) -> tuple[str, int, datetime, tuple[str, ...]]:
    """A new write's own name, its revision, its time, and the last writes with it."""
    write = secrets.token_hex(6)
    writes = (*before.written.writes, write)[-WRITES:]
    return write, before.written.revision + 1, datetime.now(UTC), writes


def _written(raw: bytes) -> _Written:
    try:
        return _written_decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _Written()


def _md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()
