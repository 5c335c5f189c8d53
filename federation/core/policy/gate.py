"""The one hop that decodes bodies: what of a batch may cross one link, and in which form.

Decides event by event, for every destination, by the link's rulebook; what did not cross is told with its rule. Never queues, sends
or stores; whoever asks does.
Invariants: a batch in which nothing is denied or changed comes out with the very bytes it had; nothing comes out that a rule denies,
however its events came into the batch; receipts are not asked for across a gate.
Source: design pages "Routing" (Boundary) and "Wire and speed" (rule 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

from msgspec.structs import replace

from federation.core.policy.audit import Audit
from federation.core.policy.passages import GroupNames, Requests
from federation.core.policy.rewriting import CannotCross, Rewriting
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Decision, Denial, Direction
from mesh.core.custody.order import BEFORE
from mesh.core.hop import mesh_id_of
from mesh.core.inboxes import INBOX, NOTICE
from mesh.core.passage import Denied, Judged, Piece
from mesh.model.event import EXTRA_REPLY_TO, Event
from mesh.model.ids import NodeKey
from mesh.model.reasons import PolicyReason
from mesh.wire.codec import BodyError, decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag

_RECEIPTS = Flag.RECEIPT | Flag.RECEIPT_DELIVERED
SAMPLED = 16
"""Events of a batch that are remembered for previews."""
_topic = attrgetter("topic")
_extra = attrgetter("extra")
_BY_DEFAULT = Decision(False, PolicyReason.NO_REQUEST)


class Way(NamedTuple):
    """One direction of a gate."""

    book: Rulebook
    names: GroupNames


class Gate:
    """Args: peer: at the other end. region: this node's. export, import_: the two directions. rewriting: of the policy. requests: shared by all links.
    tell: hears every denial.

    Cost: decoding a batch, 0.06 us an event, and its decisions; encoding it again where something was denied or changed.
    """

    def __init__(
        self,
        peer: NodeKey,
        region: str,
        *,
        export: Way,
        import_: Way,
        rewriting: Rewriting,
        requests: Requests,
        audit: Audit,
    ) -> None:
        self._peer = str(peer)
        self._region = region
        self._ways = {Direction.EXPORT: export, Direction.IMPORT: import_}
        self._rewriting = rewriting
        self._requests = requests
        self._audit = audit
        self.recent: Callable[[Direction, str, Event], None] | None = None
        """Hears what was judged, before it is changed: a sample for previews."""

    def outward(self, header: BatchHeader, body: bytes, now: float) -> Judged:
        """What of a batch may leave over this link. See `mesh.core.passage`."""
        return self._judge(Direction.EXPORT, header, body, now)

    def inward(self, header: BatchHeader, body: bytes, now: float) -> Judged:
        """What of a batch may come in over this link."""
        return self._judge(Direction.IMPORT, header, body, now)

    def _judge(self, direction: Direction, header: BatchHeader, body: bytes, now: float) -> Judged:
        try:
            events = decode_body(body, header.count)
        except BodyError:
            return Judged([], [], malformed=True)
        book = self._ways[direction].book
        if direction is Direction.IMPORT and header.region == self._region:
            # A path begins anew where a batch in custody turns round, so that the path alone does not show who published it.
            forged = [Decision(False, PolicyReason.OWN_ORIGIN)] * len(events)
            return self._sorted(direction, header, body, events, {header.regions: forged}, now)
        if header.flags & Flag.TO_NODE:
            decisions = [self._mail(direction, header, event, now) for event in events]
            return self._sorted(direction, header, body, events, {header.regions: decisions}, now)
        if self.recent is not None:
            for event in events[:SAMPLED]:
                self.recent(direction, header.region, event)
        if (
            not header.groups
            and not header.flags & _RECEIPTS
            and self._crosses_whole(book, direction, events, now)
        ):
            return Judged([Piece(header, body, header, body)], [])
        regions = header.regions
        sets = [(region,) for region in regions] if book.scoped and len(regions) > 1 else [regions]
        judged = {
            some: [book.decide(event, header.region, some[0], now) for event in events] for some in sets
        }
        return self._sorted(direction, header, body, events, judged, now)

    def _crosses_whole(
        self, book: Rulebook, direction: Direction, events: Sequence[Event], now: float
    ) -> bool:
        """Whether all of a batch crosses unchanged by its topics alone: the common case, a tenth of the cost of one by one."""
        if any(extra is not None and len(extra) > BEFORE for extra in map(_extra, events)):
            return False  # ordered: what they say of other regions stays here
        topics = Counter(map(_topic, events))
        decisions: list[tuple[Decision, int]] = []
        for topic, count in topics.items():
            decision = book.whole(topic)
            if (
                decision is None
                or not decision.allowed
                or (decision.rule is not None and decision.rule.changes)
            ):
                return False
            decisions.append((decision, count))
        for decision, count in decisions:
            book.count(decision, count)
        if any(map(_extra, events)):
            self._note_requests(direction, events, now)
        return True

    def _mail(self, direction: Direction, header: BatchHeader, event: Event, now: float) -> Decision:
        """A reply, or the news that nobody was found: only against a live request that crossed the other way."""
        if len(header.regions) != 1:
            return _BY_DEFAULT
        for prefix in (INBOX, NOTICE):
            if event.topic.startswith(prefix):
                reply_to = f"{header.regions[0]}/{header.to_node}/{event.topic[len(prefix) :]}"
                if self._requests.answers(direction, reply_to, now, ends=prefix == INBOX):
                    return Decision(True, PolicyReason.RULE)
                return _BY_DEFAULT
        return Decision(False, PolicyReason.RESERVED_TOPIC)

    def _sorted(
        self,
        direction: Direction,
        header: BatchHeader,
        body: bytes,
        events: list[Event],
        judged: dict[tuple[str, ...], list[Decision]],
        now: float,
    ) -> Judged:
        """Pieces of what crosses, one for regions that get the same, and what is denied."""
        found = Judged([], [])
        count = self._ways[direction].book.count
        for regions, decisions in judged.items():
            groups, unknown = self._groups(direction, header, regions)
            only_group = bool(header.flags & Flag.GROUP_ONLY)
            plain: list[Event] = []
            crossing: list[Event] = []
            for event, decision in zip(events, decisions, strict=True):
                if unknown and only_group:
                    decision = Decision(False, PolicyReason.UNKNOWN_GROUP)
                changed = event
                if decision.allowed and decision.rule is not None:
                    try:
                        changed = self._rewriting.of(event, decision.rule)
                    except CannotCross as error:
                        decision = Decision(False, error.reason, decision.rule)
                count(decision)
                if decision.allowed:
                    plain.append(event)
                    crossing.append(_for_regions(changed, regions))
                    continue
                self._deny(direction, header, event, regions, decision, now)
                found.denied.append(Denied(event, regions))
            if crossing:
                self._note_requests(direction, crossing, now)
                piece = self._piece(header, body, events, regions, groups, plain, crossing)
                found.pieces.append(piece)
        return found

    def _piece(
        self,
        header: BatchHeader,
        body: bytes,
        events: list[Event],
        regions: tuple[str, ...],
        groups: tuple[tuple[str, str, str], ...],
        plain: list[Event],
        crossing: list[Event],
    ) -> Piece:
        plain_header = header
        if regions != header.regions or len(plain) != header.count:
            mine = tuple(group for group in header.groups if group[2] in regions)
            plain_header = replace(header, regions=regions, count=len(plain), groups=mine)
        plain_body = body if len(plain) == len(events) else encode_body(plain)
        unchanged = all(one is other for one, other in zip(plain, crossing, strict=True))
        crossing_body = plain_body if unchanged else encode_body(crossing)
        flags = plain_header.flags & ~_RECEIPTS
        crossing_header = plain_header
        if flags != plain_header.flags or groups != plain_header.groups:
            crossing_header = replace(plain_header, flags=flags, groups=groups)
        return Piece(crossing_header, crossing_body, plain_header, plain_body)

    def _groups(
        self, direction: Direction, header: BatchHeader, regions: tuple[str, ...]
    ) -> tuple[tuple[tuple[str, str, str], ...], bool]:
        """The group assignments as the other side knows them, and whether one of them is not known there."""
        if not header.groups:
            return (), False
        book, names = self._ways[direction]
        mine = [group for group in header.groups if group[2] in regions]
        if book.passes_all:
            return tuple(mine), False
        told: list[tuple[str, str, str]] = []
        for group, filter, region in mine:
            after = names.after(region, group, filter)
            if after is not None:
                told.append((group, after, region))
        return tuple(told), len(told) < len(mine)

    def _note_requests(self, direction: Direction, events: Sequence[Event], now: float) -> None:
        for event in events:
            if event.extra is not None and event.extra[EXTRA_REPLY_TO]:
                self._requests.crossed(direction, event.extra[EXTRA_REPLY_TO], now)

    def _deny(
        self,
        direction: Direction,
        header: BatchHeader,
        event: Event,
        regions: tuple[str, ...],
        decision: Decision,
        now: float,
    ) -> None:
        rule = decision.rule
        self._audit.add(
            Denial(
                now,
                direction,
                self._peer,
                mesh_id_of(header, event),
                event.topic,
                regions,
                decision.reason,
                "" if rule is None else rule.text,
                decision.where,
            )
        )


def _for_regions(event: Event, regions: tuple[str, ...]) -> Event:
    """An event of an ordered topic says what came before it in each of its regions: those that it does not go to are nobody's business."""
    extra = event.extra
    if extra is None or len(extra) <= BEFORE:
        return event
    said = " ".join(word for word in extra[BEFORE].split(" ") if word.partition("=")[0] in regions)
    return (
        event
        if said == extra[BEFORE]
        else event._replace(extra=(*extra[:BEFORE], said, *extra[BEFORE + 1 :]))
    )
