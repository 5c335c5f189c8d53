"""What a node offers to the protocols its clients speak: HTTP, SSE and WebSocket see this page and nothing behind it.

Decides the values that pass between a client protocol and the node. All calls but the two waiting ones are synchronous,
never block and do no I/O: a protocol calls them from its reader's task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from mesh.model.event import Delivery as Delivery
from mesh.model.event import Event, NewEvent
from mesh.model.ids import MeshId, NodeKey, SessionId
from mesh.model.reasons import Close, Drop
from mesh.model.topic_rules import Level
from mesh.net.tls import Secure


class Wait(StrEnum):
    """How far a subscription must have been installed before its receipt is complete."""

    NODE = "node"
    REGION = "region"
    MESH = "mesh"


class Missing(NamedTuple):
    """A region (or node of the own region, written NODE) that does not hold the interest yet."""

    region: str
    why: str


class Receipt(NamedTuple):
    """Where a subscription's interest is installed. complete: nothing is missing and no time-out struck."""

    installed: tuple[str, ...]
    missing: tuple[Missing, ...]
    complete: bool


class RegionReason(NamedTuple):
    """Why a region does not get an event (`NotDelivered` value), with a detail for a person."""

    region: str
    reason: str
    detail: str = ""


class Outcome(NamedTuple):
    """What became of a published event at this node. Events that went to the same places share one.

    regions: other regions it was sent towards. local: sessions of this REGION's nodes are
    not counted here, only the matching subscriptions' sessions on this node plus the other nodes of the region it was
    sent to (each node counts once). groups: (group, region) assigned. reasons: regions that do not get it although they
    might be expected to (unreachable with kept interest, denied, ...); with nobody interested at all, one entry with
    region "" and reason `no_interest`.
    """

    regions: tuple[str, ...]
    local: int
    groups: tuple[tuple[str, str], ...]
    reasons: tuple[RegionReason, ...]


class Outcomes(NamedTuple):
    """What became of the events of one call. first: the mesh_id of the first one; the seqs of the others follow one by one."""

    first: MeshId
    each: Sequence[Outcome]


class AckLevel(StrEnum):
    """When a publisher of an at-least-once event is answered."""

    ACCEPTED = "accepted"
    """It is on this node's disk."""
    REGION = "region"
    """A node of every region that gets it has it on its disk."""
    DELIVERED = "delivered"
    """Every session that was to get it has acknowledged; durable clients that are away count when it is stored for them."""


class Kept(NamedTuple):
    """Events that this node has taken at least once. ticket: of what must be on the disk before they count as accepted. call: what waits for
    receipts, where some were asked for. Only `Service.kept` looks into these two."""

    outcomes: Outcomes
    ticket: object
    call: object = None


class Sink(Protocol):
    """The sending half of a client connection, as the node sees it."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Queue these. Must not block or raise; over its bound it drops its oldest and calls `Service.count_drop`."""

    def close(self, reason: Close, detail: str) -> None:
        """Tell the client and end the connection soon (drain, or the node stops)."""

    async def room(self) -> None:
        """Wait until little waits for the client, so that a replay may hand over more: it drops nothing, it waits. Returns
        at once where the connection has ended."""


class Replaying(Protocol):
    """A subscription that begins in the node's event log. `find`, then `run`, in one task; both end with the subscription."""

    async def find(self) -> None:
        """Find where it begins. Raises: RefusedError; there is no subscription then."""

    async def run(self) -> None:
        """Hand over what the log holds, and make it an ordinary subscription; returns when it is, or has ended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request: `event` when somebody replied, else `problem` and why.

    problem: "" | "no_responders" | "timeout" | "no_members".
    """

    event: Event | None
    path: tuple[str, ...]
    problem: str
    reasons: tuple[RegionReason, ...]


class RefusedError(Exception):
    """A client asked for what this node refuses. code: an entry of model.errors (MESH-Cnnn); status: HTTP status.

    more: further members of the problem object. headers: of the HTTP answer."""

    def __init__(self, code: str, detail: str, *, status: int = 400) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.more: dict[str, object] = {}
        self.headers: tuple[tuple[str, str], ...] = ()


class Acks(NamedTuple):
    """How a client acknowledges at-least-once events.

    how: "explicit" (an op each), "auto" (by reading), or "standing" (by coming back with the last id, or by staying connected).
    ack_timeout_s, max_deliveries: 0 for the node's own.
    """

    how: str
    ack_timeout_s: float = 0.0
    max_deliveries: int = 0


class Resumed(NamedTuple):
    """A durable client that connected. subscriptions: (sid, filter, group) it has. waiting: events kept for it. created: it is new."""

    session: SessionId
    subscriptions: tuple[tuple[int, str, str], ...]
    waiting: int
    created: bool = False


class DurableItem(NamedTuple):
    """A durable client of this node, as `GET /v1/clients` tells it."""

    client: str
    connected: bool
    subscriptions: int
    waiting: int
    waiting_bytes: int
    unacked: int
    oldest_s: float | None
    away_s: float | None


class Home(NamedTuple):
    """The node that keeps a durable client. address: of its events port. alive: whether its region believes that it runs. secure:
    how that port is dialled inside TLS; None: in clear text."""

    node: str
    address: str
    alive: bool
    secure: Secure | None = None


class Receivers(Protocol):
    """Clients that acknowledge what they get, and those that are kept while they are away."""

    def connect(
        self, sink: Sink, *, protocol: str, client: str, acks: Acks, resume_after: MeshId | None = None
    ) -> Resumed:
        """Register a connection of a durable client, made when it is new. An older connection is closed (taken_over).
        resume_after: the last event the client says it has. Raises RefusedError (drain, limits, name, no room for its note)."""

    def is_durable(self, session: SessionId) -> bool:
        """Whether this connection speaks for a durable client."""

    async def noted(self) -> None:
        """Wait until all that durable clients changed until now is on the disk: only then they may be told. Raises: RefusedError
        (MESH-E044): it is not, or nobody can say."""

    def acknowledge(self, session: SessionId, acks: Acks) -> None:
        """A live session will acknowledge."""

    def ack(self, session: SessionId, ids: Sequence[MeshId], *, up_to: bool = False) -> int:
        """Events arrived. up_to: and all that were sent before them. Returns how many were waited for."""

    def nack(self, session: SessionId, mesh_id: MeshId) -> bool:
        """Deliver it again, later. False: it was not waited for."""

    def written(self, session: SessionId, deliveries: Sequence[Delivery]) -> None:
        """A writer took deliveries that wait for an acknowledgement (`deliveries` above 0)."""

    def remove(self, client: str) -> None:
        """A durable client is no more, with what waited for it. Raises RefusedError (MESH-E040)."""

    def clients(self) -> list[DurableItem]:
        """Durable clients of this node, by name."""

    def home(self, client: str) -> Home | None:
        """The other node of the region that keeps this client; None: this one does, or nobody yet."""


class Service(Protocol):
    """The node, for client protocols."""

    @property
    def key(self) -> NodeKey: ...

    @property
    def draining(self) -> bool: ...

    @property
    def receivers(self) -> Receivers: ...

    def open_session(self, sink: Sink, *, protocol: str, name: str) -> SessionId:
        """Register a client connection. protocol: "http" | "sse" | "ws" | "ws-cloudevents" | "inproc". Raises RefusedError (limits)."""

    def close_session(self, session: SessionId, reason: Close) -> None:
        """Forget the session and every subscription of it. Idempotent."""

    def publish(self, events: Sequence[NewEvent]) -> Outcomes:
        """Take events in, in order: match, number and queue each one. Topics must have been checked with
        model.topic.check_topic by the caller. Raises RefusedError while draining."""

    def level(self, events: Sequence[NewEvent], asked: str) -> Level:
        """The level of a call's events: what the publisher asked for, else the highest that a `[[topic]]` rule gives one of them."""

    def keep(self, events: Sequence[NewEvent], ack: AckLevel) -> Kept:
        """Take events in at least once, in order; `kept` says when they are accepted. Raises RefusedError: nothing was taken."""

    async def kept(self, kept: Kept, timeout_s: float) -> None:
        """Wait until events are acknowledged as far as was asked for. Raises RefusedError: not in time, or the disk failed; they are
        delivered all the same, as far as that is possible."""

    def subscribe(self, session: SessionId, sid: int, filter: str, group: str = "") -> None:
        """Add a subscription under the session's own number `sid`. `filter` may be `$share/GROUP/FILTER`. Raises RefusedError
        (bad filter, sid in use, too many)."""

    def replay(
        self, session: SessionId, wanted: Sequence[tuple[int, str]], since: str, group: str = ""
    ) -> Replaying:
        """Subscribe to (sid, filter) beginning in the event log. since: a duration back from now, an RFC 3339 time, or a mesh_id
        after which to go on. Replayed events are marked; a `Told` "live" ends the replay. Raises: RefusedError."""

    def unsubscribe(self, session: SessionId, sid: int) -> None:
        """Remove it. Raises RefusedError if unknown."""

    async def wait_installed(
        self, session: SessionId, sids: Sequence[int], wait: Wait, regions: Sequence[str], timeout_s: float
    ) -> Receipt:
        """Wait until the interest of these subscriptions is installed as far as `wait` says (routing.md, Receipts).
        regions: these and no others are demanded, also ones that are not known yet. Returns complete=False on time-out."""

    async def request(self, event: NewEvent, timeout_s: float) -> Answer:
        """Publish with a routable inbox and wait for the first reply, or for the news that nobody can."""

    def reply(self, reply_to: str, correlation: str, event: NewEvent) -> Outcomes:
        """Send a reply towards REGION/NODE/INBOX. Raises RefusedError (malformed reply_to, or no route, with the reason)."""

    def count_drop(self, reason: Drop, events: int) -> None:
        """Count drops that a protocol made itself."""

    def count_refusal(self, port: str, reason: str) -> None:
        """Count a refused or broken client connection or request under a short stable reason."""
