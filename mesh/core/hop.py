"""What a hop does to a batch's header, and what an event's exact deadline says.

Decides what a header carries on when its batch arrives and when it leaves. Keeps nothing and counts nothing.
Invariant: hops left and remaining time only ever become less on the way.
Source: design page "Routing", Forwarding and Delivery (deadlines travel as remaining time).
"""

from __future__ import annotations

from msgspec.structs import replace

from mesh.core.plan import Part
from mesh.model.event import Event
from mesh.wire.codec import remaining_bucket
from mesh.wire.frames import BatchHeader, Flag, Leg


def arrived(header: BatchHeader, rtt_ms: float, hop_limit: int) -> BatchHeader:
    """Take half the round trip off the remaining time (-1 when none is left), and bound the hops a peer grants."""
    if header.remaining_ms:
        left = header.remaining_ms - int(rtt_ms / 2)
        header = replace(header, remaining_ms=left if left > 0 else -1)
    if header.hops_left > hop_limit:
        header = replace(header, hops_left=hop_limit)
    return header


def aged(header: BatchHeader, held_ms: float) -> BatchHeader:
    """A header with the time it was held taken off (1 ms is left at least); a clock that went back gives nothing away."""
    if not header.remaining_ms:
        return header
    return replace(header, remaining_ms=max(1, header.remaining_ms - max(0, int(held_ms))))


def left_ms(header: BatchHeader, event: Event) -> int:
    """What is left of an event's exact deadline: what the header lost of its bucket on the way is the time that passed."""
    return event.deadline_ms - (remaining_bucket(event.deadline_ms) - header.remaining_ms)


def leaving(header: BatchHeader, part: Part, region: str) -> BatchHeader | None:
    """The header for one part as it leaves a region; None when its hops are used up (the caller counts the drop)."""
    groups = tuple(group for group in header.groups if group[2] in part.regions)
    if part.leg is not Leg.BRIDGE:
        return replace(header, leg=part.leg, regions=part.regions, groups=groups)
    if header.hops_left <= 0:
        return None
    return replace(
        header,
        leg=Leg.BRIDGE,
        regions=part.regions,
        groups=groups,
        hops_left=header.hops_left - 1,
        path=(*header.path, region),
        flags=header.flags & ~Flag.REDIRECTED,
    )


def expired(header: BatchHeader, event: Event) -> bool:
    """Whether the exact deadline has passed."""
    return left_ms(header, event) <= 0


def mesh_id_of(header: BatchHeader, event: Event) -> str:
    """REGION/NODE/EPOCH/SEQ."""
    return f"{header.region}/{header.node}/{header.epoch}/{event.seq}"
