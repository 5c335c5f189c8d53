"""What both ends of a link say first, and whether the other end's may be accepted.

Decides from the Open frame and this end's knowledge of itself alone; what other links there are is `mesh.node.admission`'s to know.
Never closes a link: it says why one is to be closed.
Source: design page "Routing" (Identity and restart, Between regions).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mesh.model.ids import BadName, NodeKey, check_name
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire.frames import PROTOCOL, LinkKind, Open

DAY_S: Final = 86_400
ROLES: Final = ("transit", "peer", "stub", "dmz")


class Identity(NamedTuple):
    """What this process tells about itself in every Open."""

    region: str
    node: str
    instance: str
    epoch: int
    software: str
    address: str


class Terms(NamedTuple):
    """How this end sees a link. expect_region "" accepts any. role and cost apply to bridges."""

    expect_region: str = ""
    role: str = "transit"
    cost: int = 0


def said_first(me: Identity, terms: Terms, kind: LinkKind, credit: tuple[int, int], wall_ms: int) -> Open:
    """This end's Open. credit: (bytes, events) that the other end may send before it hears more."""
    return Open(
        protocol=PROTOCOL,
        software=me.software,
        region=me.region,
        node=me.node,
        instance=me.instance,
        epoch=me.epoch,
        wall_ms=wall_ms,
        kind=kind,
        expect_region=terms.expect_region,
        role=terms.role,
        cost=terms.cost,
        address=me.address,
        credit_bytes=credit[0],
        credit_events=credit[1],
    )


def open_problem(
    frame: Open, me: Identity, terms: Terms, limits: Limits, wall_ms: int, certified: NodeKey | None = None
) -> tuple[Close, str] | None:
    """Why the other end's Open cannot be accepted: a reason and a sentence for a person. wall_ms: the wall clock here. certified: who
    the other end's certificate names; None without TLS."""
    if frame.protocol != PROTOCOL:
        return (
            Close.VERSION_MISMATCH,
            f"protocol {frame.protocol} here meets {PROTOCOL}: run the same release",
        )
    try:
        check_name(frame.region, "region")
        check_name(frame.node, "node")
    except BadName as error:
        return Close.MALFORMED, str(error)
    if certified is not None and certified != (frame.region, frame.node):
        says = NodeKey(frame.region, frame.node)
        return Close.NAME_NOT_CERTIFIED, f"its certificate is for {certified}, and it says to be {says}"
    if frame.role not in ROLES or frame.cost < 0 or frame.credit_bytes < 0 or frame.credit_events < 0:
        return Close.MALFORMED, "role, cost or credit out of range"
    if frame.instance == me.instance:
        return Close.SELF_LINK, "the address leads back to this node"
    if terms.expect_region not in ("", frame.region):
        return Close.REGION_MISMATCH, f"expected region {terms.expect_region}, found {frame.region}"
    if frame.expect_region not in ("", me.region):
        return Close.REGION_MISMATCH, f"expected region {frame.expect_region}, found {me.region}"
    skew_ms = abs(frame.wall_ms - wall_ms)
    if skew_ms > limits.clock_skew_s * 1e3:
        return Close.CLOCK_SKEW, f"wall clocks are {skew_ms / 1e3:.0f} s apart"
    if frame.epoch > wall_ms / 1e3 + DAY_S:
        return Close.EPOCH_AHEAD, f"epoch {frame.epoch} lies more than a day ahead"
    return None
