"""Every frame that two nodes exchange, as a typed value.

Decides the fields and their order; `codec` turns them into bytes. Control frames are flat MessagePack arrays; the one
data frame is a small header and a body that a transit hop passes on unchanged.
Never decides what a frame means: that is the machine's that receives it.
The tables of docs/protocol.md are read from this source (tests/protocol_page.py): a class docstring's first sentence is the
frame's meaning, the comment behind a field is the field's, and `# --` lines are the table headings.
Source: design pages "Wire and speed" (rules 1 to 3, 9) and "Routing".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, TypeAlias

import msgspec

PROTOCOL: Final = 1
"""Version of this page. Two nodes talk only when it is equal; before 1.0 nothing else is promised."""

INFINITY: Final = 0xFFFF_FFFF
"""Metric of a retraction (RFC 8966 section 3.5.1)."""


UInt: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""0 to 2^64-1: MessagePack bounds it above, decoding below. No frame carries a negative number."""


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

    protocol: UInt  # PROTOCOL of the sender; unequal closes the link
    software: str  # name and version, for people
    region: str  # the sender's
    node: str  # the sender's
    instance: str  # random per process start: tells a restart from a second live process of the same name
    epoch: UInt  # the sender's process start
    wall_ms: UInt  # the sender's wall clock, to refuse clocks too far apart
    kind: LinkKind  # peer (same region) or bridge
    expect_region: str  # region the sender was configured to find here, "" for any
    role: str  # transit | peer | stub | dmz as the sender sees this bridge; "" on a peer link
    cost: UInt  # money cost of the bridge as configured at the sender, added to the metric
    address: str  # where the sender's link port is reached, "" when it only dials out
    credit_bytes: UInt  # body bytes the other end may send before the first Ack
    credit_events: UInt  # events the other end may send before the first Ack


class CloseLink(_Frame, frozen=True, array_like=True, gc=False):
    """Last frame of a link: why it ends."""

    reason: str  # a value of model.reasons.Close; an unknown one is shown as it came
    detail: str  # a sentence for a person


class Hello(_Frame, frozen=True, array_like=True, gc=False):
    """Sent every hello interval on a bridge; the answer measures the round trip."""

    n: UInt  # counts up on this link
    sent_us: UInt  # sender's monotonic clock


class Heard(_Frame, frozen=True, array_like=True, gc=False):
    """Answer to a Hello: both fields echoed."""

    n: UInt  # echoed
    sent_us: UInt  # echoed


class Ack(_Frame, frozen=True, array_like=True, gc=False):
    """Cumulative acknowledgement of data batches, and the credit that follows from it.

    Totals count from the start of the link, so that a lost or repeated Ack does no harm.
    """

    batch: UInt  # every batch up to this number was processed
    credit_bytes: UInt  # total of body bytes the other end may have sent
    credit_events: UInt  # total of events the other end may have sent


Refused: TypeAlias = tuple[UInt, str, tuple[str, ...]]
"""(batch, why: a value of model.reasons.Refuse, regions of it that were not taken; none named: the whole batch)."""


class CustodyAck(_Frame, frozen=True, array_like=True, gc=False):
    """The sender has stored every batch in custody up to a number, and owes it from here on, but for what it refused."""

    batch: UInt  # every batch with the flag CUSTODY up to this number is stored, or named below
    refused: tuple[Refused, ...] = ()  # not taken, or not for these regions: still owed by the other end


# -- membership (in one region) ----------------------------------------------------------------------------------


class Member(_Frame, frozen=True, array_like=True, gc=False):
    """One piece of gossip about a member."""

    node: str  # the member, by name in this region
    epoch: UInt  # its process start
    incarnation: UInt  # raised by the member alone, to refute
    state: MemberState  # what is believed
    addresses: tuple[str, ...] = ()  # where its link port is reached
    software: str = ""  # name and version, for people
    bridge: bool = False  # has, or accepts, links to other regions
    by: str = ""  # who says so (a suspicion's or a death's accuser)


class Probe(_Frame, frozen=True, array_like=True, gc=False):
    """SWIM ping. `target` guards against a probe that reaches the wrong process."""

    seq: UInt  # the prober's number
    target: str  # node that is meant
    gossip: tuple[Member, ...] = ()  # piggybacked


class ProbeAck(_Frame, frozen=True, array_like=True, gc=False):
    """Answer to a Probe, or to a ProbeRequest whose probe was answered."""

    seq: UInt  # of the Probe or ProbeRequest
    gossip: tuple[Member, ...] = ()  # piggybacked


class ProbeRequest(_Frame, frozen=True, array_like=True, gc=False):
    """Ask the receiver to probe `target` for us and to answer with ProbeAck or ProbeNack of this `seq`."""

    seq: UInt  # the asker's number
    target: str  # node to probe
    gossip: tuple[Member, ...] = ()  # piggybacked


class ProbeNack(_Frame, frozen=True, array_like=True, gc=False):
    """The indirect probe failed, but the prober is alive (Lifeguard: feeds the local health)."""

    seq: UInt  # of the ProbeRequest
    gossip: tuple[Member, ...] = ()  # piggybacked


class Gossip(_Frame, frozen=True, array_like=True, gc=False):
    """News of members that no probe was there to carry."""

    members: tuple[Member, ...]  # what changed


class Members(_Frame, frozen=True, array_like=True, gc=False):
    """Membership for anti-entropy: a comparison of roots, the whole list where they differ, or the rest in return."""

    members: tuple[Member, ...]  # with a root: the sender at most; else whom it knows, the dead included
    reply: bool  # send what I lack
    root: UInt = 0  # hash over the sender's live members; unequal: answer with all. 0: this is a list


# -- versioned tables --------------------------------------------------------------------------------------------


class Scope(IntEnum):
    """Which set of tables a frame speaks of."""

    REGION = 1  # owner: a node of this region. Its interest and the routes it learned
    WORLD = 2  # owner: REGION/BRIDGE. The summary that bridge exports for its region, what it tells of regions beyond a boundary, and the receipts; or REGION/BRIDGE>REGION/BRIDGE, what one bridge tells another over a link with rules


Position: TypeAlias = tuple[str, UInt, UInt]
"""(owner, epoch, n): how far one owner's history is known."""

Entry: TypeAlias = tuple[str, UInt, bytes | None]
"""(key, n at which it was last written, value as MessagePack bytes or None for a tombstone)."""


class Digest(_Frame, frozen=True, array_like=True, gc=False):
    """What the sender holds. Without `positions` only the root is compared; on a mismatch the whole digest follows."""

    scope: Scope  # which tables
    root: UInt  # hash over all positions
    positions: tuple[Position, ...] | None = None  # the whole digest; nil: only the root


class Delta(_Frame, frozen=True, array_like=True, gc=False):
    """Entries of one owner written after `since` and up to `upto`. since = 0 replaces everything held of that owner."""

    scope: Scope  # which tables
    owner: str  # whose history
    epoch: UInt  # the owner's
    since: UInt  # the receiver must hold the history up to here; 0: replace everything
    upto: UInt  # the receiver holds it up to here afterwards
    root: UInt  # hash over the live entries at `upto`; 0 while a long delta continues in the next frame
    entries: tuple[Entry, ...]  # in the order they were written


class Pull(_Frame, frozen=True, array_like=True, gc=False):
    """Ask for what the receiver holds beyond these positions (n = 0: everything)."""

    scope: Scope  # which tables
    positions: tuple[Position, ...]  # what the sender holds of the owners it asks for


# -- routes (between regions) ------------------------------------------------------------------------------------


class RouteUpdate(_Frame, frozen=True, array_like=True, gc=False):
    """One source as its sender would reach it. Metric INFINITY is a retraction. Path: nearest region first."""

    region: str  # of the source
    bridge: str  # the source: a bridge of that region
    epoch: UInt  # the source's process start
    seqno: UInt  # raised by the source alone
    metric: UInt  # as the sender would reach it; INFINITY retracts
    path: tuple[str, ...]  # regions, nearest first


class Routes(_Frame, frozen=True, array_like=True, gc=False):
    """Route updates; `full` replaces everything learned from this neighbour. Answered with RoutesAck of `n`."""

    n: UInt  # counts up on this link
    full: bool  # replaces everything learned on this link
    updates: tuple[RouteUpdate, ...]  # one for each source


class RoutesAck(_Frame, frozen=True, array_like=True, gc=False):
    """A Routes frame was taken in."""

    n: UInt  # of the Routes frame


class RoutesDigest(_Frame, frozen=True, array_like=True, gc=False):
    """Hash of what the sender has announced on this link, every 30 s; on a mismatch the receiver asks for all."""

    root: UInt  # hash over the announced updates


class RoutesPull(_Frame, frozen=True, array_like=True, gc=False):
    """Send everything you announce to me once more, as `full`."""


class SeqnoRequest(_Frame, frozen=True, array_like=True, gc=False):
    """Ask for a newer seqno of a source (RFC 8966 section 3.8.1.2), passed on along its route while hops are left."""

    region: str  # of the source
    bridge: str  # the source
    epoch: UInt  # of the source
    seqno: UInt  # the smallest that helps
    hops: UInt  # how much further it may be passed on


class Held(_Frame, frozen=True, array_like=True, gc=False):
    """Tells a bridge of the own region which summaries this node holds (for receipts)."""

    positions: tuple[Position, ...]  # of WORLD owners


# -- second copies (in one region) -------------------------------------------------------------------------------

RecordId: TypeAlias = tuple[UInt, UInt]
"""(epoch of the process that stored it, its number in that node's journal): a record of the owner."""


class Copy(_Frame, frozen=True, array_like=True, gc=False):
    """Keep this record for me, and say so when it is on your disk: you take it over when I am gone."""

    id: RecordId  # the sender's record
    parts: tuple[str, ...]  # what the sender owes of it
    head: bytes  # the record's head as stored
    body: bytes  # the record's body as stored


class CopyAck(_Frame, frozen=True, array_like=True, gc=False):
    """What has become of Copy frames."""

    kept: tuple[RecordId, ...]  # on the disk here
    refused: tuple[tuple[RecordId, str], ...] = ()  # not taken, with a value of model.reasons.Refuse


class CopiesHeld(_Frame, frozen=True, array_like=True, gc=False):
    """First on a link, by a node that keeps something for the other end: what. Answered with CopiesOwed."""

    ids: tuple[RecordId, ...]  # records of the receiver


class CopiesOwed(_Frame, frozen=True, array_like=True, gc=False):
    """How matters stand with records that the receiver keeps for the sender."""

    owed: tuple[tuple[RecordId, tuple[str, ...]], ...]  # the parts still open; none: drop the record
    journal: UInt  # epoch in which the sender's journal began; what is of earlier ones is the receiver's


class CopiedClient(_Frame, frozen=True, array_like=True, gc=False):
    """A durable client of the sender, for the receiver to take over when the sender is gone."""

    journal: UInt  # epoch in which the sender's journal began
    name: str  # the client; "": forget all of this journal
    value: bytes | None = None  # its settings and subscriptions; nil: forget it


# -- data --------------------------------------------------------------------------------------------------------


class Leg(IntEnum):
    """How the receiver treats a batch."""

    LOCAL = 1  # in the region: deliver to your sessions, never forward
    TRANSIT = 2  # in the region: send these regions over your own bridge links, never deliver
    BRIDGE = 3  # between regions: deliver here if the own region is in the set, forward the rest


class Flag(IntEnum):
    # Bits, and yet no IntFlag: its operators cost a microsecond each, and every hop asks for three of them.
    NONE = 0
    REDELIVERED = 1  # may repeat an earlier delivery
    REDIRECTED = 2  # a bridge without its own route passed this TRANSIT on once
    GROUP_ONLY = 4  # a queue group assigned again: deliver to `groups`, never to plain subscriptions
    TO_NODE = 8  # for one node (`to_node`) of the one region in the set: replies, no_responders, no_members
    CUSTODY = 16  # at least once: the sender owes it until the receiver says that it has stored it
    RECEIPT = 32  # in custody: tell the origin when the region has stored it
    RECEIPT_DELIVERED = 64  # in custody: and when its subscribers have acknowledged it
    COPIES = 128  # in custody: each node that stores it has a second one of its region store it, too, and only then says so
    MOVED = 256  # in custody, LOCAL: for durable clients that the receiver took over from `to_node`, and for nobody else


class BatchHeader(_Frame, frozen=True, array_like=True, gc=False):
    """Header of a data frame: flat, in this order."""

    leg: Leg  # how the receiver treats the batch
    flags: UInt  # Flag bits
    region: str  # origin
    node: str  # origin
    epoch: UInt  # origin
    regions: tuple[str, ...]  # where the batch still has to go
    flow: UInt  # 0, or hash(key) mod 8 where equal-cost routes exist
    hops_left: UInt  # bridge links it may still cross
    remaining_ms: UInt  # time left, a power of two rounded up at ingress, 0 for none
    path: tuple[str, ...]  # regions it left, oldest first
    batch: UInt  # number on this link
    count: UInt  # events in the body
    groups: tuple[tuple[str, str, str], ...] = ()  # (group, filter, region); with MOVED ("", client, region)
    to_node: str = ""  # TO_NODE: the node of the one region in the set; MOVED: whose clients they were
    tried: tuple[str, ...] = ()  # regions in which a GROUP_ONLY batch found no member


class Data(_Frame, frozen=True, array_like=True, gc=False):
    """A batch: header and the body's bytes as they came. `codec.decode_body` reads it; a transit hop does not."""

    header: BatchHeader  # see BatchHeader
    body: bytes  # the events, see Batches


Control: TypeAlias = (
    Open
    | CloseLink
    | Hello
    | Heard
    | Ack
    | CustodyAck
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
    | Copy
    | CopyAck
    | CopiesHeld
    | CopiesOwed
    | CopiedClient
)
Frame: TypeAlias = Control | Data

KINDS: Final[dict[int, type[_Frame]]] = {
    0: Data,
    1: Open,
    2: CloseLink,
    3: Hello,
    4: Heard,
    5: Ack,
    6: CustodyAck,
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
    64: Copy,
    65: CopyAck,
    66: CopiesHeld,
    67: CopiesOwed,
    68: CopiedClient,
}
"""The kind byte of each frame on the wire. Numbers are never reused."""
