"""A watch on the nodes of a region, or of all, in etcd: one stream that goes on after every interruption.

Decides where to go on: after the last revision seen; from a new list where that is compacted, etcd lost its history, or a change
is larger than what is taken. The stream begins at that revision itself, whose changes are passed over: one that began at the next
could begin at the one that was compacted, and some releases of etcd do not tell what was deleted at just that revision.
A stream that says nothing for `silence_s` is asked for its progress, and given up if it does not answer; it demands a leader, so
that a member that is cut off ends it.
Never decides whether a value is an entry (`layout`).
Invariant: every state that lasts is seen; the revision never passes a change that was not returned.
Source: etcd's "Watch" API page. The answer to a progress request is taken as a sign of life only: in 3.4 before 3.4.25 and 3.5
before 3.5.8 it may be ahead of changes not yet sent (etcd issue 15220).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio
from google.protobuf.message import DecodeError

from registry.base import Event, Gone, NodeEntry, Put, RegistryUnavailable, Relist, Revision, Watch
from registry.etcd import etcd_pb2 as pb
from registry.etcd.connection import Connection
from registry.etcd.verdict import Verdict, judge
from registry.rpc import RpcChannel, RpcError, RpcStream, StatusCode

if TYPE_CHECKING:
    from registry.etcd.client import EtcdRegistry

WATCH = "/etcdserverpb.Watch/Watch"


class Place(NamedTuple):
    """A revision of one etcd."""

    cluster: int
    revision: int

    def __str__(self) -> str:
        return f"{self.cluster:x}.{self.revision}"

    @classmethod
    def read(cls, text: str) -> Place | None:
        """None: not one that was given out here."""
        cluster, _, revision = text.partition(".")
        try:
            found = cls(int(cluster, 16), int(revision))
        except ValueError:
            return None
        return found if str(found) == text and 0 < found.revision < 1 << 62 and found.cluster >= 0 else None


class _Line(NamedTuple):
    channel: RpcChannel
    stream: RpcStream
    endpoint: str


class EtcdWatch(Watch):
    """Made by `EtcdRegistry.watch`."""

    def __init__(
        self, registry: EtcdRegistry, connection: Connection, region: str | None, after: Revision | None
    ) -> None:
        self._registry = registry
        self._connection = connection
        self._region = region
        self._place = Place.read(after) if after else None
        self._era = connection.era
        self._line: _Line | None = None
        self._confirmed = False

    def __del__(self) -> None:
        if self._line is not None:
            self._line.stream.close()

    async def next(self) -> list[Event]:
        tries, renewed = len(self._connection.targets), False
        while True:
            if self._place is None or self._era != self._connection.era:
                return [await self._list()]
            try:
                events = await self._receive(self._place)
            except RegistryUnavailable as error:
                if (
                    error.code in ("MESH-R009", "MESH-R010")
                    and self._connection.settings.user
                    and not renewed
                ):
                    renewed = True  # 3.4 says "permission denied" of a token that ran out
                    continue
                tries -= 1
                if tries <= 0 or error.code != "MESH-R001":
                    raise
            else:
                tries = len(self._connection.targets)
                if events:
                    return events

    async def _list(self) -> Relist:
        self._drop()
        era = self._connection.era
        listing = await self._registry.list(self._region)
        self._era = era
        self._place = Place.read(listing.revision)
        return Relist(listing)

    def _drop(self) -> None:
        if self._line is not None:
            self._line.stream.close()
            self._line = None

    async def _receive(self, place: Place) -> list[Event]:
        """What one message brings; nothing, if that is nothing to tell. Raises: RegistryUnavailable; the stream is closed then."""
        if self._line is None:
            await self._open(place)
        line = self._line
        assert line is not None
        try:
            message = await self._message(line)
            if message.canceled:
                return self._canceled(message)
            self._confirm(message)
        except RpcError as error:
            self._drop()
            if judge(error) in (Verdict.TOO_LARGE, Verdict.COMPACTED):
                self._place = None
                return []
            raise await self._connection.stream_failed(line.channel, line.endpoint, error) from None
        return self._events(message)

    async def _open(self, place: Place) -> None:
        span = self._registry.layout.nodes(self._region)
        endpoint = self._connection.endpoint
        channel, stream = await self._connection.stream(WATCH)
        self._line, self._confirmed = _Line(channel, stream, endpoint), False
        create = pb.WatchCreateRequest(
            key=span.first,
            range_end=span.end,
            start_revision=place.revision,
            progress_notify=True,
            prev_kv=True,
            fragment=True,
        )
        stream.send(pb.WatchRequest(create_request=create).SerializeToString())

    async def _message(self, line: _Line) -> pb.WatchResponse:
        """The next message of a stream that lives. Raises: RpcError."""
        settings = self._connection.settings
        if self._confirmed:
            with trio.move_on_after(settings.silence_s):
                return _decoded(await line.stream.receive())
            ask = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
            self._connection.calls += 1
            line.stream.send(ask.SerializeToString())
        with trio.move_on_after(settings.call_timeout_s):
            return _decoded(await line.stream.receive())
        raise RpcError(StatusCode.DEADLINE_EXCEEDED, "the watch says nothing")

    def _confirm(self, message: pb.WatchResponse) -> None:
        """Begin where we were, or notice that this etcd was never there. Raises: RpcError COMPACTED."""
        assert self._place is not None
        if message.created:
            self._confirmed = True
            place = Place(message.header.cluster_id, message.header.revision)
            if place.cluster != self._place.cluster or place.revision < self._place.revision:
                raise RpcError(StatusCode.OUT_OF_RANGE, "etcd is behind what was seen")

    def _canceled(self, message: pb.WatchResponse) -> list[Event]:
        """etcd will not, or will no longer, watch for us. Raises: RpcError."""
        if message.compact_revision:
            raise RpcError(StatusCode.OUT_OF_RANGE, "revision has been compacted")
        raise RpcError(StatusCode.UNAVAILABLE, message.cancel_reason or "the watch was cancelled")

    def _events(self, message: pb.WatchResponse) -> list[Event]:
        assert self._place is not None
        cluster, revision = self._place.cluster, self._place.revision
        found: list[Event] = []
        for event in message.events:
            if event.kv.mod_revision <= revision:
                continue
            told = self._event(event, Revision(str(Place(cluster, event.kv.mod_revision))))
            if told is not None:
                found.append(told)
        if message.events and not message.fragment:
            revision = max(revision, message.events[-1].kv.mod_revision)
        elif not message.events and not message.created and message.watch_id >= 0:
            revision = max(revision, message.header.revision)  # etcd's own word that all up to here was sent
        self._place = Place(cluster, revision)
        return found

    def _event(self, event: pb.Event, revision: Revision) -> Event | None:
        """What a change means; None: nothing, for who looks at entries."""
        layout, sight = self._registry.layout, self._registry.sight
        key = layout.node_key(event.kv.key)
        before = layout.read_node(event.prev_kv) if event.HasField("prev_kv") else None
        if event.type == pb.Event.PUT:
            after = layout.read_node(event.kv)
            sight.saw(event.kv.key, after if isinstance(after, str) else "", event.kv.value)
            if isinstance(after, NodeEntry):
                return None if before == after else Put(revision, after)
        else:
            sight.gone(event.kv.key)
        # Where etcd no longer knows what was there, it may have been an entry.
        was_there = (before is None and event.kv.version != 1) or isinstance(before, NodeEntry)
        return Gone(revision, key, "ended") if key is not None and was_there else None


def _decoded(raw: bytes) -> pb.WatchResponse:
    try:
        return pb.WatchResponse.FromString(raw)
    except DecodeError:
        raise RpcError(StatusCode.INTERNAL, "an answer that is not etcd's") from None
