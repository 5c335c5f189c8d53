"""Where nodes find each other: the interface that every kind of registry implements, and the values it keeps.

Decides what an entry may hold, how it is written (JSON that a person can read), who wins when two processes claim a name, and
what a caller may rely on. Never holds subscriptions, is never on the path of an event, and is never needed by a node that
has found its peers: its entries are hints.

| what                  | every kind promises                                                                    |
|-----------------------|----------------------------------------------------------------------------------------|
| a node's entry        | lives while its lease is renewed; ends by `unregister` or with the lease                |
| two entries, one name | the greater (epoch, instance) has it; the smaller one's `register` or `renew` fails    |
| a watch               | every state that lasts is seen; changes in between may be left out; then a Relist says so |
| a region's entry      | stays until it is removed; changed only by who saw the latest (compare and set)        |
| the registry is away  | RegistryUnavailable, from every call; entries outlive it by their leases               |

All calls are async and may take as long as the service takes: callers bound them. A cancelled call may or may not have had
its effect. Source: design page "Routing", The registry.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Final, NewType, Self, TypeAlias, TypeVar

import msgspec

from mesh.model.errors import MeshError
from mesh.model.ids import BadName, NodeKey, check_name

ENTRY_BYTES: Final = 16 * 1024
"""One entry as JSON; what is larger was not written by a node."""
ADDRESSES: Final = 16
ADDRESS_BYTES: Final = 300
TEXT_BYTES: Final = 256
LABELS: Final = 32
LEASE_S: Final = (1.0, 3_600.0)
"""Shortest and longest lease."""
EDIT_ATTEMPTS: Final = 10
IGNORED_KEPT: Final = 100
"""What is no entry and is shown to a person; more is only counted."""
IGNORED_TEXT: Final = 200

Revision = NewType("Revision", str)
"""A point in the registry's history, to go on watching from. Where a service keeps the history every client can read it,
elsewhere only the client that gave it out; for others it is an old one."""

Token = NewType("Token", str)
"""Which version of a region's entry was read; compare and set hands it back."""

Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class RegistryError(MeshError):
    """What can go wrong with a registry. State unaffected, unless a subclass says otherwise."""


class RegistryUnavailable(RegistryError):
    """It does not answer, or its folder is not there: try again later. The call may or may not have had its effect."""

    def __init__(self, where: str, what: str, code: str = "MESH-R001") -> None:
        super().__init__(code, where, what)


class LeaseLost(RegistryError):
    """The lease ran out or another process has the name: register again."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__("MESH-R002", where, what)


class Conflict(RegistryError):
    """Somebody else changed the region's entry first: read it again."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__("MESH-R003", where, what)


class Superseded(RegistryError):
    """A process with a greater (epoch, instance) holds the name."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__("MESH-R004", where, what)


class BadEntry(RegistryError):
    """An entry that the form does not allow. From a caller it is raised; found in a registry it is ignored and counted."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__("MESH-R005", where, what)


class RegistryFull(RegistryError):
    """A limit of the registry is reached."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__("MESH-R007", where, what)


class NodeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A node as it registers itself. addresses: HOST:PORT of its link port. since: when this process started."""

    region: str
    node: str
    instance: str
    epoch: int
    addresses: tuple[str, ...]
    bridge: bool = False
    software: str = ""
    since: Moment

    @property
    def key(self) -> NodeKey:
        return NodeKey(self.region, self.node)

    @property
    def rank(self) -> tuple[int, str]:
        """Of two processes with one name the greater has it."""
        return (self.epoch, self.instance)


class RegionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A region in the directory. endpoints: HOST:PORT of its bridges. fingerprint: of its key, "" where there is none."""

    region: str
    endpoints: tuple[str, ...]
    fingerprint: str = ""
    labels: dict[str, str] = {}


class Lease(msgspec.Struct, frozen=True):
    """Held by who registered: which entry, of which process, and for how long without a renewal."""

    key: NodeKey
    instance: str
    epoch: int
    lease_s: float


class Listing(msgspec.Struct, frozen=True):
    """All live entries, ordered by region and node, and the revision to watch from."""

    revision: Revision
    entries: tuple[NodeEntry, ...]


class Put(msgspec.Struct, frozen=True):
    """An entry is new, or has changed."""

    revision: Revision
    entry: NodeEntry


class Gone(msgspec.Struct, frozen=True):
    """An entry ended. reason: "unregistered", "expired", or "ended" from a kind that cannot tell which."""

    revision: Revision
    key: NodeKey
    reason: str


class Relist(msgspec.Struct, frozen=True):
    """The history between is not there any more: forget what was seen, this is what is."""

    listing: Listing


Event: TypeAlias = Put | Gone | Relist


class FoundRegion(msgspec.Struct, frozen=True):
    """A region's entry with the token that a change of it needs."""

    entry: RegionEntry
    token: Token


class Ignored(msgspec.Struct, frozen=True):
    """What was found where an entry should be, and is none: for a person. key: its place in the service. value: its beginning,
    at most IGNORED_TEXT characters, printable."""

    key: str
    reason: str
    value: str


class RegistryStatistics(msgspec.Struct, frozen=True):
    """For `mesh registry status`. ignored: what was found and is no entry, by reason. calls, failures: of this client.
    endpoint: of several servers the one in use, or the folder."""

    kind: str
    entries: int
    regions: int
    calls: int
    failures: int
    ignored: dict[str, int]
    endpoint: str = ""


class Watch(abc.ABC):
    """Changes of a region's entries (or of all regions'), in order. One reader at a time; nothing to close."""

    @abc.abstractmethod
    async def next(self) -> list[Event]:
        """Wait for changes; returns at least one. Raises: RegistryUnavailable, at once and every time while it lasts: the
        caller waits before it calls again. The watch then goes on and loses nothing that lasts; nor does cancelling it."""


class Registry(abc.ABC):
    """One client of a registry. Safe to use from several tasks of one trio run."""

    kind: str

    @abc.abstractmethod
    async def register(self, entry: NodeEntry, lease_s: float) -> Lease:
        """Put a node's entry in, or a changed one of the same process in its place, for `lease_s` seconds.

        An entry of a process with a smaller (epoch, instance) is replaced at once, one whose lease ran out in any case.
        Raises: Superseded, BadEntry, RegistryFull, RegistryUnavailable.
        """

    @abc.abstractmethod
    async def renew(self, lease: Lease) -> None:
        """Start the lease's time anew; to be called about every third of it. Raises: LeaseLost, RegistryUnavailable."""

    @abc.abstractmethod
    async def unregister(self, lease: Lease) -> None:
        """Take the entry out if it is still this process's; otherwise nothing. Raises: RegistryUnavailable."""

    @abc.abstractmethod
    async def list(self, region: str | None = None) -> Listing:
        """Live entries of a region, or of all. Raises: RegistryUnavailable."""

    @abc.abstractmethod
    def watch(self, region: str | None = None, after: Revision | None = None) -> Watch:
        """Watch from `after` on. None, or a revision that is too old or unknown here: the first event is a Relist."""

    @abc.abstractmethod
    async def regions(self) -> tuple[FoundRegion, ...]:
        """The region directory, ordered by name. Raises: RegistryUnavailable."""

    @abc.abstractmethod
    async def get_region(self, region: str) -> FoundRegion | None:
        """One region's entry. Raises: BadName, RegistryUnavailable."""

    @abc.abstractmethod
    async def put_region(self, entry: RegionEntry, expected: Token | None) -> Token:
        """Compare and set: write the entry if `expected` is the token of what is there now (None: nothing is).

        Raises: Conflict, BadEntry, RegistryFull, RegistryUnavailable (it may have been written: read again).
        """

    @abc.abstractmethod
    async def remove_region(self, region: str, expected: Token) -> None:
        """Compare and remove. Raises: Conflict, RegistryUnavailable."""

    @abc.abstractmethod
    def statistics(self) -> RegistryStatistics:
        """What this client saw last, and its counts. Cost: O(1), no I/O."""

    def ignored(self) -> tuple[Ignored, ...]:
        """What this client found last and passed over, at most IGNORED_KEPT, ordered by key. No I/O."""
        return ()

    async def aclose(self) -> None:  # noqa: B027 - most kinds have nothing to close
        """Give back connections and threads, whatever the service does. No call and no watch after it.
        Entries stay for their leases, except with Nacos, where they end with the connection: register with the next client first."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def edit_region(
    registry: Registry, region: str, change: Callable[[RegionEntry | None], RegionEntry | None]
) -> RegionEntry | None:
    """Read, change and write a region's entry until nobody was faster.

    Args: change: what to make of the entry found (None: there is none); it returns None to remove it, or the same to leave it.
    Returns: what is there now. Raises: Conflict after EDIT_ATTEMPTS, and what the registry raises.
    """
    for attempt in range(EDIT_ATTEMPTS):
        found = await registry.get_region(region)
        before = None if found is None else found.entry
        after = change(before)
        if after == before:
            return before
        try:
            if after is not None:
                await registry.put_region(after, None if found is None else found.token)
            elif found is not None:
                await registry.remove_region(region, found.token)
        except Conflict:
            if attempt == EDIT_ATTEMPTS - 1:
                raise
        else:
            return after
    raise AssertionError("unreachable: the last attempt returns or raises")


# -- JSON ------------------------------------------------------------------------------------------------------------


def check_node(entry: NodeEntry) -> NodeEntry:
    """Return an entry that is within the form and its limits. Raises: BadEntry."""
    where = f"registry entry {entry.region[:TEXT_BYTES]}/{entry.node[:TEXT_BYTES]}"
    try:
        check_name(entry.region, "region")
        check_name(entry.node, "node")
    except BadName as error:
        raise BadEntry(where, str(error)) from error
    if not 0 < len(entry.instance) <= 64 or not entry.instance.isascii() or not entry.instance.isprintable():
        raise BadEntry(where, "instance must have 1 to 64 printable ASCII characters")
    if not 0 < entry.epoch < 1 << 53:
        raise BadEntry(where, f"epoch {entry.epoch} is not between 1 and 2^53")
    _check_texts(where, (entry.software,), TEXT_BYTES, "software")
    _check_addresses(where, entry.addresses)
    if entry.since.utcoffset() != timedelta(0):
        raise BadEntry(where, "since must be in UTC")
    return entry


def check_region(entry: RegionEntry) -> RegionEntry:
    """Return an entry that is within the form and its limits. Raises: BadEntry."""
    where = f"registry region {entry.region[:TEXT_BYTES]}"
    try:
        check_name(entry.region, "region")
    except BadName as error:
        raise BadEntry(where, str(error)) from error
    _check_addresses(where, entry.endpoints)
    _check_texts(where, (entry.fingerprint,), TEXT_BYTES, "fingerprint")
    if len(entry.labels) > LABELS:
        raise BadEntry(where, f"{len(entry.labels)} labels; allowed are {LABELS}")
    _check_texts(where, (*entry.labels, *entry.labels.values()), TEXT_BYTES, "labels")
    return entry


def to_json(value: msgspec.Struct) -> bytes:
    """Indented JSON with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def node_from_json(raw: bytes) -> NodeEntry:
    """Read an entry; unknown fields are passed over. Raises: BadEntry, whatever the bytes are."""
    return check_node(decode_json(raw, _node_decoder))


def region_from_json(raw: bytes) -> RegionEntry:
    """Read a region's entry; unknown fields are passed over. Raises: BadEntry, whatever the bytes are."""
    return check_region(decode_json(raw, _region_decoder))


def shown(raw: bytes) -> str:
    """The beginning of a value that somebody else wrote, as one printable line."""
    text = raw[: 4 * IGNORED_TEXT].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:IGNORED_TEXT]


def check_lease(lease_s: float) -> float:
    """Return a lease time that every kind can keep. Raises: ValueError."""
    if not LEASE_S[0] <= lease_s <= LEASE_S[1]:
        raise ValueError(
            f"a lease of {lease_s} s: between {LEASE_S[0]:.0f} and {LEASE_S[1]:.0f} s are possible"
        )
    return lease_s


T = TypeVar("T")
_node_decoder = msgspec.json.Decoder(NodeEntry)
_region_decoder = msgspec.json.Decoder(RegionEntry)


def decode_json(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode what somebody else wrote. Raises: BadEntry, whatever the bytes are."""
    if len(raw) > ENTRY_BYTES:
        raise BadEntry("registry", f"an entry of more than {ENTRY_BYTES} bytes")
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadEntry("registry", f"an entry that cannot be read: {error}") from error


def _check_addresses(where: str, addresses: tuple[str, ...]) -> None:
    if len(addresses) > ADDRESSES:
        raise BadEntry(where, f"{len(addresses)} addresses; allowed are {ADDRESSES}")
    _check_texts(where, addresses, ADDRESS_BYTES, "addresses")
    if not all(addresses):
        raise BadEntry(where, "an empty address")


def _check_texts(where: str, texts: tuple[str, ...], most: int, field: str) -> None:
    for text in texts:
        if len(text.encode("utf-8", "surrogatepass")) > most or not text.isprintable():
            raise BadEntry(
                where, f"{field}: {text[:40]!r} is longer than {most} bytes or has control characters"
            )
