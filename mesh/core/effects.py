"""What a machine wants done: the closed union of effects that a driver carries out, in order.

A machine collects effects while it receives or handles a deadline; its caller drains them. `Send.to` is a LinkId where
the machine knows links (sessions, routes) and a NodeKey's node name where it knows members (membership, tables): the
composed machine translates names into links, so that no inner machine needs both.
Source: design page "Architecture", Sans-IO machines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from mesh.model.reasons import Close
from mesh.wire.frames import Control


@dataclass(frozen=True, slots=True)
class Send:
    """Put a control frame on the control lane of a link (int) or of the link to a member (str)."""

    to: int | str
    frame: Control


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Tell the other end why, then close the link (int) or the link to a member (str)."""

    to: int | str
    reason: Close
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Notify:
    """Something an operator may want to know, or another machine must: logged, counted, and shown by `--watch`.

    what: a stable lower-case name such as "member_alive" or "route_selected". about: the node, region or link it
    concerns. reason: the value of the reason enum of the decision. detail: figures for a person.
    """

    what: str
    about: str
    reason: str = ""
    detail: str = ""
    data: dict[str, object] = field(default_factory=dict)


Effect: TypeAlias = Send | CloseLink | Notify
"""Deliveries and stores are not here: deliveries are made in batches by the forwarder (mesh.core.forwarding), and there
is no store yet."""
