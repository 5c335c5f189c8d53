"""Every frame that two nodes exchange, as a typed value.

Decides the fields and their order; `codec` turns them into bytes. Control frames are flat MessagePack arrays; the one
data frame is a small header and a body that a transit hop passes on unchanged.
Never decides what a frame means: that is the machine's that receives it.
docs/protocol.md is generated from this module.
Source: design pages "Wire and speed" (rules 1 to 3, 9) and "Routing".
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, TypeAlias

import msgspec

PROTOCOL: Final = 1
"""Version of this page. Two nodes talk only when it is equal; before 1.0 nothing else is promised."""

INFINITY: Final = 0xFFFF_FFFF
"""Metric of a retraction (RFC 8966 section 3.5.1)."""


class _Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base: a flat array on the wire, immutable in memory."""


class LinkKind(IntEnum):
    PEER = 1
    BRIDGE = 2


class MemberState(IntEnum):
    """What a region believes of a member. Order is precedence inside one incarnation."""

    ALIVE = 1
    SUSPECT = 2
    DEAD = 3
    LEFT = 4


# -- session -----------------------------------------------------------------------------------------------------


class Open(_Frame, frozen=True, array_like=True, gc=False):
    """First frame of each end. Anything else first closes the link."""

    protocol: int
    software: str
    region: str
    node: str
    instance: str  # random per process start: tells a restart from a second live process of the same name
    epoch: int
    wall_ms: int
    kind: LinkKind
    expect_region: str  # region the sender was configured to find here, "" for any
    role: str  # transit | peer | stub | dmz as the sender sees this bridge; "" on a peer link
    cost: int  # money cost of the bridge as configured at the sender, added to the metric
    address: str  # where the sender's link port is reached, "" when it only dials out
    credit_bytes: int  # what the other end may send before the first ACK
    credit_events: int


class CloseLink(_Frame, frozen=True, array_like=True, gc=False):
    """Last frame of a link: the reason (model.reasons.Close) and a sentence for a person."""

    reason: str
    detail: str


class Hello(_Frame, frozen=True, array_like=True, gc=False):
    """Sent every hello interval on a bridge; the answer measures the round trip."""

    n: int
    sent_us: int  # sender's monotonic clock


class Heard(_Frame, frozen=True, array_like=True, gc=False):
    """Answer to a Hello: both fields echoed."""

    n: int
    sent_us: int


class Ack(_Frame, frozen=True, array_like=True, gc=False):
    """Cumulative acknowledgement of data batches, and the credit that follows from it.

    Totals count from the start of the link, so that a lost or repeated Ack does no harm.
    """

    batch: int  # every batch up to this number was processed
    credit_bytes: int  # total of body bytes the other end may have sent
    credit_events: int  # total of events the other end may have sent


# -- membership (in one region) ----------------------------------------------------------------------------------


class Member(_Frame, frozen=True, array_like=True, gc=False):
    """One piece of gossip about a member."""

    node: str
    epoch: int
    incarnation: int
    state: MemberState
    addresses: tuple[str, ...] = ()
    software: str = ""
    bridge: bool = False  # has, or accepts, links to other regions
    by: str = ""  # who says so (a suspicion's or a death's accuser)


class Probe(_Frame, frozen=True, array_like=True, gc=False):
    """SWIM ping. `target` guards against a probe that reaches the wrong process."""

    seq: int
    target: str
    gossip: tuple[Member, ...] = ()


class ProbeAck(_Frame, frozen=True, array_like=True, gc=False):
    seq: int
    gossip: tuple[Member, ...] = ()


class ProbeRequest(_Frame, frozen=True, array_like=True, gc=False):
    """Ask the receiver to probe `target` for us and to answer with ProbeAck or ProbeNack of this `seq`."""

    seq: int
    target: str
    gossip: tuple[Member, ...] = ()


class ProbeNack(_Frame, frozen=True, array_like=True, gc=False):
    """The indirect probe failed, but the prober is alive (Lifeguard: feeds the local health)."""

    seq: int
    gossip: tuple[Member, ...] = ()


class Gossip(_Frame, frozen=True, array_like=True, gc=False):
    members: tuple[Member, ...]


class Members(_Frame, frozen=True, array_like=True, gc=False):
    """Whole membership, on joining and for anti-entropy; `reply` asks for the other side's in return."""

    members: tuple[Member, ...]
    reply: bool


# -- versioned tables --------------------------------------------------------------------------------------------


class Scope(IntEnum):
    """Which set of tables a frame speaks of."""

    REGION = 1  # owner: a node of this region. Its interest and the routes it learned
    WORLD = 2  # owner: REGION/BRIDGE. The summary that bridge exports for its region, and the receipts


Position: TypeAlias = tuple[str, int, int]
"""(owner, epoch, n): how far one owner's history is known."""

Entry: TypeAlias = tuple[str, int, bytes | None]
"""(key, n at which it was last written, value as MessagePack bytes or None for a tombstone)."""


class Digest(_Frame, frozen=True, array_like=True, gc=False):
    """What the sender holds. With `positions` None only the root is compared; on a mismatch the whole digest follows."""

    scope: Scope
    root: int
    positions: tuple[Position, ...] | None = None


class Delta(_Frame, frozen=True, array_like=True, gc=False):
    """Entries of one owner written after `since` and up to `upto`. since = 0 replaces everything held of that owner."""

    scope: Scope
    owner: str
    epoch: int
    since: int
    upto: int
    root: int  # hash over the owner's live entries at `upto`; 0 while a long delta continues in the next frame
    entries: tuple[Entry, ...]


class Pull(_Frame, frozen=True, array_like=True, gc=False):
    """Ask for what the receiver holds beyond these positions (n = 0: everything)."""

    scope: Scope
    positions: tuple[Position, ...]


# -- routes (between regions) ------------------------------------------------------------------------------------


class RouteUpdate(_Frame, frozen=True, array_like=True, gc=False):
    """One source as its sender would reach it. Metric INFINITY is a retraction. Path: nearest region first."""

    region: str
    bridge: str
    epoch: int
    seqno: int
    metric: int
    path: tuple[str, ...]


class Routes(_Frame, frozen=True, array_like=True, gc=False):
    """Route updates; `full` replaces everything learned from this neighbour. Answered with RoutesAck of `n`."""

    n: int
    full: bool
    updates: tuple[RouteUpdate, ...]


class RoutesAck(_Frame, frozen=True, array_like=True, gc=False):
    n: int


class RoutesDigest(_Frame, frozen=True, array_like=True, gc=False):
    """Hash of what the sender has announced on this link, every 30 s; on a mismatch the receiver asks for all."""

    root: int


class RoutesPull(_Frame, frozen=True, array_like=True, gc=False):
    """Send everything you announce to me once more, as `full`."""


class SeqnoRequest(_Frame, frozen=True, array_like=True, gc=False):
    """Ask for a newer seqno of a source (RFC 8966 section 3.8.1.2), passed on along its route while hops are left."""

    region: str
    bridge: str
    epoch: int
    seqno: int
    hops: int


class Held(_Frame, frozen=True, array_like=True, gc=False):
    """Tells a bridge of the own region which summaries this node holds (for receipts). Positions of WORLD owners."""

    positions: tuple[Position, ...]


# -- data --------------------------------------------------------------------------------------------------------


class Leg(IntEnum):
    """How the receiver treats a batch."""

    LOCAL = 1  # in the region: deliver to your sessions, never forward
    TRANSIT = 2  # in the region: send these regions over your own bridge links, never deliver
    BRIDGE = 3  # between regions: deliver here if the own region is in the set, forward the rest


class Flag(IntFlag):
    NONE = 0
    REDELIVERED = 1  # may repeat an earlier delivery
    REDIRECTED = 2  # a bridge without its own route passed this TRANSIT on once
    GROUP_ONLY = 4  # a queue group assigned again: deliver to `groups`, never to plain subscriptions
    TO_NODE = 8  # for one node (`to_node`) of the one region in the set: replies, no_responders, no_members


class BatchHeader(_Frame, frozen=True, array_like=True, gc=False):
    """Header of a data frame: flat, in this order.

    regions: where the batch still has to go. groups: (group, filter, region) that was assigned to that region.
    hops_left: bridge links it may still cross. remaining_ms: time left, a power of two at ingress, 0 for none.
    path: regions it left, oldest first. batch: number on this link. count: events in the body.
    tried: regions in which a GROUP_ONLY batch found no member.
    """

    leg: Leg
    flags: int
    region: str  # origin
    node: str  # origin
    epoch: int  # origin
    regions: tuple[str, ...]
    flow: int
    hops_left: int
    remaining_ms: int
    path: tuple[str, ...]
    batch: int
    count: int
    groups: tuple[tuple[str, str, str], ...] = ()
    to_node: str = ""
    tried: tuple[str, ...] = ()


class Data(_Frame, frozen=True, array_like=True, gc=False):
    """A batch: header and the body's bytes as they came. `codec.decode_body` reads it; a transit hop does not."""

    header: BatchHeader
    body: bytes


Control: TypeAlias = (
    Open
    | CloseLink
    | Hello
    | Heard
    | Ack
    | Probe
    | ProbeAck
    | ProbeRequest
    | ProbeNack
    | Gossip
    | Members
    | Digest
    | Delta
    | Pull
    | Routes
    | RoutesAck
    | RoutesDigest
    | RoutesPull
    | SeqnoRequest
    | Held
)
Frame: TypeAlias = Control | Data

KINDS: Final[dict[int, type[_Frame]]] = {
    0: Data,
    1: Open,
    2: CloseLink,
    3: Hello,
    4: Heard,
    5: Ack,
    16: Probe,
    17: ProbeAck,
    18: ProbeRequest,
    19: ProbeNack,
    20: Gossip,
    21: Members,
    32: Digest,
    33: Delta,
    34: Pull,
    35: Held,
    48: Routes,
    49: RoutesAck,
    50: RoutesDigest,
    51: RoutesPull,
    52: SeqnoRequest,
}
"""The kind byte of each frame on the wire. Numbers are never reused."""
