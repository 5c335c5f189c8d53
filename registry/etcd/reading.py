"""Reading all keys of a span, page by page at one revision, with a bound on keys and bytes.

Decides how much is asked for at once: a page that is too large is asked for again in a smaller one, and a single value that
nobody can take is passed over. Never decides what a key means.

| bound          | policy                                                                     |
|----------------|----------------------------------------------------------------------------|
| KEYS, BYTES    | what lies beyond is not read; the answer says how many keys that were      |
| PAGE           | keys of one call, fewer where values are large                             |

Cost: one call for each PAGE keys. Source: etcd's "etcd API" page, range requests.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from registry.base import RegistryUnavailable
from registry.etcd import etcd_pb2 as pb
from registry.etcd.connection import Connection
from registry.etcd.layout import Span
from registry.etcd.verdict import Verdict, judge
from registry.rpc import RpcError

RANGE: Final = "/etcdserverpb.KV/Range"
PAGE: Final = 1_000
KEYS: Final = 50_000
BYTES: Final = 64 << 20
RESTARTS: Final = 3


class Found(NamedTuple):
    """What a span held. too_large: keys whose value was not taken. left: keys beyond the bounds."""

    revision: int
    cluster: int
    values: list[pb.KeyValue]
    too_large: list[bytes]
    left: int

    def texts(self) -> dict[bytes, bytes]:
        """Values by key."""
        return {value.key: value.value for value in self.values}


async def read_span(connection: Connection, span: Span) -> Found:
    """Read it. Raises: RegistryUnavailable."""
    for _ in range(RESTARTS):
        try:
            return await _read(connection, span)
        except RpcError as error:
            if judge(error) is not Verdict.COMPACTED:
                raise
    raise RegistryUnavailable(
        f"registry etcd {connection.endpoint}", "its history is compacted faster than it can be read"
    )


async def _read(connection: Connection, span: Span) -> Found:
    """Raises: RpcError COMPACTED: the revision of the first page is gone."""
    found = Found(0, 0, [], [], 0)
    first, page, size = span.first, PAGE, 0
    while True:
        request = pb.RangeRequest(key=first, range_end=span.end, limit=page, revision=found.revision)
        try:
            answer = await connection.call(RANGE, request, pb.RangeResponse)
        except RpcError as error:
            if judge(error) is not Verdict.TOO_LARGE:
                raise
            if page > 1:
                page = max(1, page // 8)
                continue
            request.keys_only = True
            answer = await connection.call(RANGE, request, pb.RangeResponse)
            found.too_large.extend(value.key for value in answer.kvs)
        else:
            found.values.extend(answer.kvs)
            size += sum(len(value.value) for value in answer.kvs)
        if not found.revision:
            found = found._replace(revision=answer.header.revision, cluster=answer.header.cluster_id)
        if not answer.more or not answer.kvs:
            return found
        if len(found.values) + len(found.too_large) >= KEYS or size >= BYTES:
            return found._replace(left=max(0, answer.count - len(answer.kvs)))
        first = answer.kvs[-1].key + b"\0"
        page = min(PAGE, page * 2)
