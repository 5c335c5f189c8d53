"""What a correct peer never sends in the header of a batch.

Decides from the header, the kind of link and this node's limits alone; the body is not looked at.
Source: design pages "Routing" (Forwarding, Security) and "Wire and speed" (the legs of a batch).
"""

from __future__ import annotations

from typing import Final

from mesh.core.plan import MOST_GROUPS
from mesh.core.session import LinkSession
from mesh.model.ids import NAME_MAX
from mesh.model.limits import Limits
from mesh.wire.frames import BatchHeader, Flag, Leg, LinkKind

TURNED: Final = Flag.CUSTODY | Flag.REDELIVERED
"""A batch in custody whose ways on are all gone turns round, and begins a fresh path, too."""


def batch_problem(session: LinkSession, header: BatchHeader, limits: Limits) -> str:
    """What is wrong with a batch from this link, for a person; "" when nothing is. Cost: 1 us."""
    between = header.leg is Leg.BRIDGE
    if between != (session.kind is LinkKind.BRIDGE):
        return f"a {header.leg.name} batch on a {session.kind.name} link"
    if len(header.regions) > limits.regions or len(header.path) > limits.path_regions:
        return "destination set or path too long"
    if between and (not header.path or header.path[-1] != session.peer_key.region):
        return "the path does not end with the region it came from"
    again = bool(header.flags & Flag.GROUP_ONLY)  # begins a fresh path wherever it was assigned again
    turned = header.flags & TURNED == TURNED
    if between and not again and not turned and header.path[0] != header.region:
        # Who claims the own region as its origin so gets no further than the check for loops.
        return "the path does not begin with the region of the origin"
    if header.flags & Flag.MOVED and (header.leg is not Leg.LOCAL or not header.flags & Flag.CUSTODY):
        return "for clients that moved, and not in custody inside the region"
    if again and header.flags & Flag.TO_NODE:
        return "both for one node and for a queue group"
    if len(header.tried) > limits.tried_regions or len(header.groups) > MOST_GROUPS:
        return "too many groups or tried regions"
    if len(header.groups) * header.count > limits.credit_events:
        return "too many group assignments in one batch"
    if len(header.region) > NAME_MAX or len(header.node) > NAME_MAX or len(header.to_node) > NAME_MAX:
        return "an origin's name is too long"
    if any(len(group) > NAME_MAX or len(filter) > limits.filter_bytes for group, filter, _ in header.groups):
        return "a group's name or filter is too long"
    if header.hops_left < 0 or header.count <= 0 or header.remaining_ms < 0:
        return "a count out of range"
    return ""
