"""What a region knows of a member, and the numbers by which it is judged.

Decides which of two words about one member is the newer one, and the fingerprint of a member in the root that two nodes
compare. Never keeps state: `roster` does.
Invariant: of two words about one member exactly one supersedes, unless they are equal; so all nodes that heard the same
words, in any order and any number of times, believe the same.
Source: design page "Routing", Identity and restart, and Membership; SWIM (Das, Gupta, Motivala 2002) section 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from mesh.model.reasons import MemberReason
from mesh.wire.frames import Member, MemberState

PROVISIONAL: Final = -1
"""Incarnation of a member known only by its link: any word of its own supersedes it, and it is never passed on."""


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Every number of the membership machine. Defaults are the design's.

    Raises ValueError for numbers that cannot work together; nothing is built then.
    """

    # probes
    probe_interval_s: float = 1.0  # one member probed each; smaller: faster detection, more frames
    probe_timeout_s: float = (
        0.5  # then others are asked; must be below the interval, above the slowest round trip
    )
    indirect: int = 3  # members asked to probe in our place
    nack_share: float = (
        0.6  # of (interval - timeout) a helper waits before it says no; the rest is the way back
    )
    relays: int = 256  # probes made for others at one time; more: answered with a nack at once
    link_grace_s: float = 5.0  # a member just learned of may take so long to link before its absence counts
    # gossip
    gossip_interval_s: float = 0.2
    gossip_fanout: int = 3
    gossip_members: int = 64  # words in one Gossip frame
    piggyback_members: int = 8  # words on a probe or its answer
    retransmit_mult: int = 4  # times ceil(log10(N + 1)) sends of each word
    # suspicion
    suspicion_mult: float = 2.0  # shortest suspicion: this times max(1, log10 N) probe intervals
    suspicion_max_s: float = 30.0  # longest, while nobody confirms
    confirmations: int = (
        3  # accusers beyond the first that shorten it to the shortest; 0: always the shortest
    )
    # local health (Lifeguard)
    health_max: int = 8  # a node in trouble probes up to (1 + this) times slower; 0 turns it off
    health_bad: int = 4  # from here on it accuses nobody
    buddy: bool = True  # tell a suspect at once, whenever something is sent to it
    nacks: bool = True  # helpers say when they failed
    late_s: float = (
        0.5  # woken so much after a deadline: this process stood still, what it missed proves nothing
    )
    slack_s: float = 0.05  # a verdict due while woken so late is put off once, until waiting frames were read
    # anti-entropy
    sync_interval_s: float = 5.0  # roots compared with one random member
    sync_soon_s: float = 1.0  # after a new link
    list_gap_s: float = 0.02  # between two lists given out; asked for more often: refused, counted
    list_members: int = 512  # members in one frame of a list
    # the dead
    close_dead_s: float = 2.0  # a dead member's open link is closed unless it refuted by then
    dead_keep_s: float = 900.0  # dead and left members are remembered at least so long
    announce_s: float = 86_400.0  # the dead are redialled and told so long
    dead_max: int = 256  # remembered beyond dead_keep_s; the oldest are forgotten first
    # bounds on what peers say
    max_members: int = 4_096  # members and dead together; more: refused, counted
    max_hints: int = 4_096
    hint_keep_s: float = 180.0  # a hint nobody repeats is dropped
    max_addresses: int = 8
    address_bytes: int = 256
    software_bytes: int = 128
    incarnation_jump: int = 1 << 20  # a word that jumps further is refused, counted

    def __post_init__(self) -> None:
        if not 0 < self.probe_timeout_s < self.probe_interval_s:
            raise ValueError("probe_timeout_s must be above 0 and below probe_interval_s")
        if self.gossip_interval_s <= 0 or self.sync_interval_s <= 0:
            raise ValueError("gossip_interval_s and sync_interval_s must be above 0")
        if (
            self.gossip_fanout < 1
            or self.gossip_members < 1
            or self.retransmit_mult < 1
            or self.list_members < 1
        ):
            raise ValueError(
                "gossip_fanout, gossip_members, retransmit_mult and list_members must be at least 1"
            )
        if self.suspicion_mult <= 0 or self.suspicion_max_s <= 0:
            raise ValueError("suspicion_mult and suspicion_max_s must be above 0")
        if min(self.indirect, self.confirmations, self.health_max, self.piggyback_members) < 0:
            raise ValueError("indirect, confirmations, health_max and piggyback_members must not be negative")

    def suspicion_min_s(self, live: int) -> float:
        """The shortest suspicion in a region of `live` members: long enough for a refutation to reach everybody."""
        return self.suspicion_mult * max(1.0, math.log10(max(1, live))) * self.probe_interval_s

    def transmits(self, live: int) -> int:
        """How often one node sends a word on: enough for all of `live` members with high probability."""
        return self.retransmit_mult * math.ceil(math.log10(live + 1))


@dataclass(frozen=True, slots=True)
class MemberView:
    """What this node believes of one member. Never changes: a new belief is a new view.

    since: monotonic time at which state or epoch took this value here. reason: why it did. by: who accused or
    declared, "" while alive. incarnation: PROVISIONAL until the member's own word was heard.
    """

    node: str
    epoch: int
    incarnation: int
    state: MemberState
    addresses: tuple[str, ...]
    software: str
    bridge: bool
    since: float
    reason: MemberReason
    by: str = ""

    @classmethod
    def of(cls, word: Member, state: MemberState, since: float, reason: MemberReason) -> MemberView:
        """A word as it is believed: in `state`, which may be milder than what the word says."""
        return cls(
            word.node,
            word.epoch,
            word.incarnation,
            state,
            word.addresses,
            word.software,
            word.bridge,
            since,
            reason,
            "" if state is MemberState.ALIVE else word.by,
        )

    @property
    def live(self) -> bool:
        """Alive or suspect: still counted upon."""
        return self.state <= MemberState.SUSPECT

    @property
    def order(self) -> tuple[int, int, int]:
        """The greater word supersedes the smaller one."""
        return (self.epoch, self.incarnation, self.state)

    def mark(self) -> int:
        """Fingerprint in the root. Suspicion is left out: it passes, and gossip carries it fast enough."""
        return mark(self.node, self.epoch, self.incarnation)

    def word(self) -> Member:
        """This view as gossip."""
        return Member(
            self.node,
            self.epoch,
            self.incarnation,
            self.state,
            self.addresses,
            self.software,
            self.bridge,
            self.by,
        )


@lru_cache(maxsize=16_384)
def mark(node: str, epoch: int, incarnation: int) -> int:
    """64 bits that stand for one member's word: the same on every node, whatever the process."""
    return int.from_bytes(blake2b(f"{node}/{epoch}/{incarnation}".encode(), digest_size=8).digest(), "big")


class Due(IntEnum):
    """What a deadline of the membership machine is for."""

    PROBE = 1  # pick the next member and probe it
    DIRECT = 2  # no answer in time: ask helpers
    VERDICT = 3  # a probe's time is over
    RELAY = 4  # a probe made for another: say no now
    RELAY_END = 5  # and forget it
    GOSSIP = 6
    SYNC = 7
    SUSPICION = 8
    CLOSE_DEAD = 9


@dataclass(frozen=True, slots=True)
class MembershipStatistics:
    """Counters since the start and sizes now. Times and rates are the reader's to work out."""

    live: int
    suspects: int
    gone: int
    links: int
    hints: int
    health: int
    rumors: int
    probes: int
    probe_failures: int
    indirect_probes: int
    relays: int
    late_answers: int
    withheld: int  # accusations not made because the own health was bad
    suspicions: int
    confirmations: int
    spared: int  # suspicions that ran out although the member had been heard meanwhile: told again, not dead
    deaths: int
    refutations: int
    stalls: int
    gossip_frames: int
    syncs: int
    lists: int
    refused: Mapping[str, int]
