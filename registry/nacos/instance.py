"""A node's entry as an instance of Nacos, in words that a person understands who finds it in the console.

Decides the name of a region's service, the keys of the metadata and which found instances are entries. The instance's own
address is the first of the node's, for whoever looks; Hopmesh reads the metadata only.

| metadata    | of the entry                                            |
|-------------|---------------------------------------------------------|
| region, node, instance, version, bridge | as they are (bridge: true or false) |
| addresses   | HOST:PORT, separated by commas                           |
| epoch, since, lease_s | the process, and for how long it may be unseen |
| change      | counts what this process registered: the latest is right |

Invariant: `read(write(entry))` is the entry. Keys that are not in the table are passed over.
Source: Nacos, `Instance`; its `ParamCheckRule` (at most 1,024 characters of metadata, 128 of an address).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from mesh.model.ids import BadName, check_name
from registry.base import LEASE_S, BadEntry, NodeEntry, check_node
from registry.nacos.payload import BadPayload
from registry.nacos.requests import Instance, from_body

SERVICE_PREFIX: Final = "hopmesh."
METADATA_CHARACTERS: Final = 1_024
NOWHERE: Final = "0.0.0.0"
"""Nacos wants an address of an instance; a node that only dials out has none."""
_HOST_CHARACTERS: Final = 128
READ_KEPT: Final = 4_096
"""Instances of which it is remembered what they say: a large region's, at about 1 KB each."""


class Claim(NamedTuple):
    """An entry as one process claims it. change: of this process's registrations, the greater is newer."""

    entry: NodeEntry
    lease_s: float
    change: int

    @property
    def rank(self) -> tuple[int, str, int]:
        return (*self.entry.rank, self.change)


def service_name(region: str) -> str:
    return SERVICE_PREFIX + region


def region_of(service: str) -> str | None:
    """The region of a service; None if it is not of a mesh. Some versions write GROUP@@NAME."""
    name = service.rpartition("@@")[2]
    try:
        return (
            check_name(name.removeprefix(SERVICE_PREFIX), "region")
            if name.startswith(SERVICE_PREFIX)
            else None
        )
    except BadName:
        return None


def write(claim: Claim) -> Instance:
    """Raises: BadEntry if Nacos would not take it."""
    entry = claim.entry
    where = f"registry entry {entry.key}"
    if any("," in address for address in entry.addresses):
        raise BadEntry(where, "an address with a comma")
    metadata: dict[str, str | None] = {
        "region": entry.region,
        "node": entry.node,
        "addresses": ",".join(entry.addresses),
        "version": entry.software,
        "bridge": str(entry.bridge).lower(),
        "since": entry.since.isoformat(),
        "epoch": str(entry.epoch),
        "instance": entry.instance,
        "lease_s": f"{claim.lease_s:g}",
        "change": str(claim.change),
    }
    size = sum(len(name) + len(value or "") for name, value in metadata.items())
    if size > METADATA_CHARACTERS:
        raise BadEntry(
            where,
            f"{size} characters of metadata; Nacos takes {METADATA_CHARACTERS}: give fewer or shorter addresses",
        )
    ip, port = _place(entry.addresses[0] if entry.addresses else "")
    return Instance(ip=ip, port=port, metadata=metadata, service_name=service_name(entry.region))


def read(raw: msgspec.Raw, region: str) -> Claim | str:
    """What an instance of the region's service claims, or the reason why it is ignored. Never raises.

    Cost: 0.5 us for one that was read lately, as nearly all of a list were: a list comes with every change and renewal.
    """
    return _read(bytes(raw), region)


@lru_cache(maxsize=READ_KEPT)
def _read(raw: bytes, region: str) -> Claim | str:
    try:
        metadata = from_body(raw, Instance).metadata
    except BadPayload:
        return "no_entry"
    if metadata.get("region") is None or metadata.get("node") is None:
        return "not_ours"
    try:
        claim = _claim(metadata)
    except (BadEntry, ValueError, KeyError, OverflowError):
        return "no_entry"
    return claim if claim.entry.region == region else "wrong_region"


def _claim(metadata: Mapping[str, str | None]) -> Claim:
    text = {name: value or "" for name, value in metadata.items()}
    lease_s = float(text["lease_s"])
    if not LEASE_S[0] <= lease_s <= LEASE_S[1] or text["bridge"] not in ("true", "false"):
        raise ValueError("a lease that cannot be")
    entry = NodeEntry(
        region=text["region"],
        node=text["node"],
        instance=text["instance"],
        epoch=int(text["epoch"]),
        addresses=tuple(text["addresses"].split(",")) if text["addresses"] else (),
        bridge=text["bridge"] == "true",
        software=text["version"],
        since=datetime.fromisoformat(text["since"]),
    )
    return Claim(check_node(entry), lease_s, int(text["change"]))


def _place(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT as Nacos takes them."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or len(host) > _HOST_CHARACTERS or not host.isascii() or " " in host:
        host = NOWHERE
    return host, int(port) if port.isdecimal() and port.isascii() and int(port) < 65_536 else 0
