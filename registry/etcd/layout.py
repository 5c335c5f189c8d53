"""The keys of a mesh in etcd, and what is found under them.

| key                        | value (JSON, written for people too) | lives                                        |
|----------------------------|--------------------------------------|----------------------------------------------|
| `PREFIX/nodes/REGION/NODE` | `registry.base.NodeEntry`            | with the lease of the node that wrote it     |
| `PREFIX/regions/REGION`    | `registry.base.RegionEntry`          | until it is removed                          |

Decides which key and value are an entry. Whatever else stands there is passed over under one of these reasons:
`foreign_key` (no name of a node or region), `too_large`, `no_entry` (not JSON, or not of the form), `wrong_name` (the entry of
another key), `no_lease` (a node's entry that nothing would ever end), `beyond_limit` (was not looked at).
Invariant: what is read here never raises, whatever the bytes are. Source: design page "Routing", The registry.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mesh.model.ids import BadName, NodeKey, check_name
from registry.base import (
    ENTRY_BYTES,
    BadEntry,
    FoundRegion,
    NodeEntry,
    Token,
    node_from_json,
    region_from_json,
)
from registry.etcd import etcd_pb2 as pb

FOREIGN_KEY: Final = "foreign_key"
TOO_LARGE: Final = "too_large"
NO_ENTRY: Final = "no_entry"
WRONG_NAME: Final = "wrong_name"
NO_LEASE: Final = "no_lease"
BEYOND_LIMIT: Final = "beyond_limit"


class Span(NamedTuple):
    """All keys from `first` on, before `end`."""

    first: bytes
    end: bytes


class Layout:
    """Args: prefix: see `EtcdSettings`."""

    def __init__(self, prefix: str) -> None:
        self._nodes = f"{prefix}/nodes/".encode()
        self._regions = f"{prefix}/regions/".encode()

    def nodes(self, region: str | None) -> Span:
        """Of the nodes of a region, or of all."""
        if region is None:
            return _under(self._nodes)
        return _under(self._nodes + check_name(region, "region").encode() + b"/")

    def regions(self) -> Span:
        return _under(self._regions)

    def node(self, key: NodeKey) -> bytes:
        return self._nodes + f"{key.region}/{key.node}".encode()

    def region(self, region: str) -> bytes:
        """Raises: BadName."""
        return self._regions + check_name(region, "region").encode()

    def node_key(self, raw: bytes) -> NodeKey | None:
        """The node that a key names; None: it names none."""
        region, slash, node = raw.removeprefix(self._nodes).partition(b"/")
        if not raw.startswith(self._nodes) or not slash:
            return None
        try:
            return NodeKey(check_name(region.decode(), "region"), check_name(node.decode(), "node"))
        except (BadName, UnicodeDecodeError):
            return None

    def read_node(self, found: pb.KeyValue) -> NodeEntry | str:
        """The entry, or the reason why it is none."""
        key = self.node_key(found.key)
        if key is None:
            return FOREIGN_KEY
        if len(found.value) > ENTRY_BYTES:
            return TOO_LARGE
        try:
            entry = node_from_json(found.value)
        except BadEntry:
            return NO_ENTRY
        if entry.key != key:
            return WRONG_NAME
        return entry if found.lease else NO_LEASE

    def read_region(self, found: pb.KeyValue) -> FoundRegion | str:
        """The entry with its token, or the reason why it is none."""
        name = found.key.removeprefix(self._regions)
        try:
            check_name(name.decode(), "region")
        except (BadName, UnicodeDecodeError):
            return FOREIGN_KEY
        if len(found.value) > ENTRY_BYTES:
            return TOO_LARGE
        try:
            entry = region_from_json(found.value)
        except BadEntry:
            return NO_ENTRY
        if entry.region.encode() != name:
            return WRONG_NAME
        return FoundRegion(entry, Token(str(found.mod_revision)))


def _under(prefix: bytes) -> Span:
    """All keys that begin so: the last byte is a slash, and its successor is no letter of a prefix."""
    return Span(prefix, prefix[:-1] + bytes([prefix[-1] + 1]))
