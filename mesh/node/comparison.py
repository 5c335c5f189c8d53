"""What the registry and gossip say of each node of a region, side by side, and who is right.

Decides the verdict on every node that either of them knows, from the registry's last listing, the members as this node
believes them to be, and how dialling went. Views, commands and the API print it; nothing works it out again. Never asks the
registry, never dials, and changes nothing: a verdict is for a person.
Invariant: every name that either side knows has exactly one verdict.
Source: design page "Routing", The registry (entries are hints; membership is the truth about who is alive).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.core.members import MemberView
from mesh.model.reasons import Right, Verdict
from mesh.wire.frames import MemberState
from registry.base import NodeEntry

FRESH_S: Final = 5.0
"""An entry or a member that is known for less is given the time to appear on the other side."""
CLOCKS_S: Final = 35.0
"""An entry that stays for a lease and so much more is being renewed: kinds that compare clocks allow 30 s for them."""
GONE: Final = (MemberState.DEAD, MemberState.LEFT)

RIGHT: Final[Mapping[Verdict, Right]] = {
    Verdict.BOTH: Right.BOTH,
    Verdict.JOINING: Right.REGISTRY,
    Verdict.STALE_ENTRY: Right.GOSSIP,
    Verdict.LEFT_BEHIND: Right.GOSSIP,
    Verdict.UNREACHABLE: Right.REGISTRY,
    Verdict.REGISTERING: Right.GOSSIP,
    Verdict.UNREGISTERED: Right.GOSSIP,
    Verdict.REGISTRY_AWAY: Right.GOSSIP,
    Verdict.RESTARTED: Right.REGISTRY,
    Verdict.OLDER_ENTRY: Right.GOSSIP,
    Verdict.NAME_CONFLICT: Right.NOBODY,
    Verdict.ADDRESS_DIFFERS: Right.GOSSIP,
}
"""Whose word holds under each verdict."""


class Leased(NamedTuple):
    """An entry in the registry's last listing. since: when this process was first seen there."""

    entry: NodeEntry
    since: float


class Tried(NamedTuple):
    """How the last attempt to dial a node ended, and when. problem: "" when a link opened."""

    at: float
    problem: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict rests on, at one moment. Times are monotonic seconds of one clock.

    leased: the last listing. listed_at: when it was confirmed last, None for never. available: whether the registry answers.
    members: as this node believes. instances: of the processes at the other end of links, and the own one. tried: dialling.
    lease_s: how long entries live that are not renewed.
    """

    leased: Mapping[str, Leased]
    listed_at: float | None
    available: bool
    members: Mapping[str, MemberView]
    instances: Mapping[str, str]
    tried: Mapping[str, Tried]
    lease_s: float
    now: float


class Compared(NamedTuple):
    """One node. leased, member: what each side says, None for nothing. detail: figures for a person."""

    node: str
    leased: Leased | None
    member: MemberView | None
    verdict: Verdict
    detail: str

    @property
    def right(self) -> Right:
        return RIGHT[self.verdict]


def compare(evidence: Evidence) -> list[Compared]:
    """Every node that either side knows, by name. The dead and the left that nobody leases are no difference: left out.

    Cost: O(entries + members).
    """
    found = []
    for node in sorted(evidence.leased.keys() | evidence.members.keys()):
        leased, member = evidence.leased.get(node), evidence.members.get(node)
        if leased is not None:
            verdict, detail = _leased(evidence, node, leased, member)
        elif member is not None and member.state not in GONE:
            verdict, detail = _not_leased(evidence, member)
        else:
            continue
        found.append(Compared(node, leased, member, verdict, detail))
    return found


def _leased(evidence: Evidence, node: str, leased: Leased, member: MemberView | None) -> tuple[Verdict, str]:
    entry = leased.entry
    if member is None or (member.state in GONE and entry.epoch > member.epoch):
        return _not_joined(evidence, node, leased)
    if entry.epoch < member.epoch:
        return Verdict.OLDER_ENTRY, f"epoch {entry.epoch} is leased, {member.epoch} runs"
    if entry.epoch > member.epoch:
        return Verdict.RESTARTED, f"epoch {entry.epoch} is leased, gossip still has {member.epoch}"
    instance = evidence.instances.get(node, "")
    if instance and instance != entry.instance:
        return Verdict.NAME_CONFLICT, f"instance {entry.instance} is leased, {instance} is linked here"
    if member.state is MemberState.LEFT:
        return Verdict.LEFT_BEHIND, "it left; its lease runs out"
    if member.state is MemberState.DEAD:
        return _silent(evidence, node, member.since)
    if entry.addresses and member.addresses and not set(entry.addresses) & set(member.addresses):
        return Verdict.ADDRESS_DIFFERS, f"leased at {entry.addresses[0]}, runs at {member.addresses[0]}"
    return Verdict.BOTH, _age_of_listing(evidence)


def _not_joined(evidence: Evidence, node: str, leased: Leased) -> tuple[Verdict, str]:
    """A leased process that gossip does not know: it has just come, it is gone, or it cannot be reached from here."""
    if not leased.entry.addresses:
        return Verdict.UNREACHABLE, "it tells no address: it has to dial"
    tried = evidence.tried.get(node)
    if tried is None or not tried.problem or evidence.now - leased.since < FRESH_S:
        return Verdict.JOINING, _attempt(evidence, node) or "announced to; not dialled yet"
    return _silent(evidence, node, leased.since)


def _silent(evidence: Evidence, node: str, since: float) -> tuple[Verdict, str]:
    """A leased process that does not answer since `since`: crashed, unless it still renews its lease."""
    attempt = _attempt(evidence, node) or "not dialled yet"
    if evidence.available and evidence.now - since > evidence.lease_s + CLOCKS_S:
        return Verdict.UNREACHABLE, f"it renews its lease, but no link to it opens; {attempt}"
    return Verdict.STALE_ENTRY, f"announced to again; {attempt}"


def _not_leased(evidence: Evidence, member: MemberView) -> tuple[Verdict, str]:
    """A live member that is not in the registry: shown, never killed."""
    if evidence.listed_at is None or not evidence.available:
        return Verdict.REGISTRY_AWAY, _age_of_listing(evidence)
    if evidence.now - member.since < FRESH_S:
        return Verdict.REGISTERING, "it joined just now"
    return Verdict.UNREGISTERED, "no entry; a node that starts may not find it"


def _age_of_listing(evidence: Evidence) -> str:
    if evidence.listed_at is None:
        return "the registry was never read"
    if not evidence.available:
        return f"the registry was read {evidence.now - evidence.listed_at:.0f}s ago"
    return ""


def _attempt(evidence: Evidence, node: str) -> str:
    tried = evidence.tried.get(node)
    if tried is None:
        return ""
    ago = f"{max(0.0, evidence.now - tried.at):.0f}s ago"
    return f"last tried {ago}: {tried.problem}" if tried.problem else f"linked {ago}"
