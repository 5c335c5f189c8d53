"""The node as one client may use it: `mesh.node.service.Service`, with every call judged by the client's rights.

Decides, call by call, what is passed on to the node: so HTTP, event streams and WebSockets are judged alike, by one piece of code.
Of a subscription that is allowed in part, the allowed part is made (its filters cut by the rules); of a queue group or a durable
client everything or nothing, because what one member may not see would be lost to the others, and what is kept must not change.
Invariant: no call reaches the node that the rights deny; a denial is counted, audited, and names its rule.
Source: docs/access.md; docs/decisions/0022-access.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from mesh.access.access import Access, Proof
from mesh.access.audit import TOPIC as AUDIT_TOPIC
from mesh.access.audit import Result
from mesh.access.denial import Denied
from mesh.access.guarded_receivers import GuardedReceivers
from mesh.access.held import Held
from mesh.access.principal import Principal, Scope
from mesh.access.rights import PIECES, Cause, Rights
from mesh.access.rule_file import Right
from mesh.access.screen import Screen
from mesh.model.event import Delivery, Event, NewEvent
from mesh.model.ids import MeshId, NodeKey, SessionId
from mesh.model.limits import Limits
from mesh.model.reasons import Close, Drop
from mesh.model.topic import TopicError, parse_share
from mesh.model.topic_rules import Level
from mesh.node.service import (
    AckLevel,
    Answer,
    Kept,
    Outcomes,
    Receipt,
    RefusedError,
    Replaying,
    Service,
    Sink,
    Wait,
)

PORT: Final = "events"
TOPICS_TOLD: Final = 8
"""Topics of one delivery that are named in the audit."""


class Guard:
    """One client connection, or one call, of a principal (a `mesh.node.service.Service`, and a `mesh.access.access.Judged`)."""

    def __init__(
        self,
        service: Service,
        access: Access,
        principal: Principal,
        proof: Proof,
        remote: str,
        limits: Limits,
    ) -> None:
        self.service = service
        self.access = access
        self.principal = principal
        self.proof = proof
        self.remote = remote
        self._limits = limits
        self.rights: Rights = access.rights_of(principal)
        self.use = access.usage.of(principal)
        self.receivers = GuardedReceivers(self)
        self.session: SessionId | None = None
        self.screen: Screen | None = None
        self.client = ""
        """The durable client that it is."""
        self.held: dict[int, Held] = {}
        self.groups: set[int] = set()

    @property
    def key(self) -> NodeKey:
        return self.service.key

    @property
    def draining(self) -> bool:
        return self.service.draining

    # -- what is told --------------------------------------------------------------------------------------------

    def audit(
        self, what: str, where: str, result: Result, *, rule: str = "", code: str = "", detail: str = ""
    ) -> None:
        """One record of this client."""
        self.access.audit.tell(
            what,
            where,
            result,
            who=self.principal.name,
            kind=self.principal.kind.value,
            remote=self.remote,
            port=PORT,
            rule=rule,
            code=code,
            detail=detail,
        )

    def deny(self, what: str, where: str, cause: Cause, detail: str) -> Denied:
        """A denial by the rules, counted and audited; to be raised."""
        self.use.denied += 1
        self.audit(what, where, Result.DENIED, rule=str(cause), code="MESH-E063")
        return Denied("MESH-E063", detail, cause=cause)

    def refuse(self, what: str, where: str, denied: Denied) -> Denied:
        """A refusal for another reason, counted and audited; to be raised."""
        self.audit(what, where, Result.REFUSED, code=denied.code, detail=denied.detail)
        return denied

    # -- sessions ------------------------------------------------------------------------------------------------

    def open_session(self, sink: Sink, *, protocol: str, name: str) -> SessionId:
        """See Service."""
        self.check_connections(protocol)
        screen = self.new_screen(sink)
        session = self.service.open_session(screen, protocol=protocol, name=name)
        self.opened(session, screen, protocol)
        return session

    def check_connections(self, protocol: str) -> None:
        """Raises: Denied MESH-E065."""
        most = self.rights.allowance.connections
        if most is not None and self.use.connections >= most:
            detail = f"{self.principal.name} has {most} connections, as many as it may"
            raise self.refuse("connect", protocol, Denied("MESH-E065", detail))

    def new_screen(self, sink: Sink) -> Screen:
        """What stands before the client's sink."""
        self.screen = Screen(sink, self.rights, self.groups, self)
        return self.screen

    def opened(self, session: SessionId, screen: Screen, protocol: str) -> None:
        """The session is there: from now on it is judged whenever rules change."""
        assert self.session is None, "one session a guard"
        self.session = session
        self.use.connections += 1
        self.access.sessions.add(self)
        self.audit("connect", protocol, Result.ALLOWED)

    def close_session(self, session: SessionId, reason: Close) -> None:
        """See Service."""
        self.service.close_session(session, reason)
        if self.session == session and self in self.access.sessions:
            self.access.sessions.discard(self)
            self.use.connections -= 1
            self.use.subscriptions -= len(self.held)
            self.held.clear()
            self.audit("disconnect", reason.value, Result.DONE)

    # -- publishing ----------------------------------------------------------------------------------------------

    def _check_events(self, events: Sequence[NewEvent], right: Right, what: str) -> None:
        """Raises: Denied MESH-E063, E064. Cost: 0.2 us an event."""
        may = self.rights.may
        for topic in {event.topic for event in events}:
            if not may(right, topic):
                cause = self.rights.cause(right, topic)
                detail = f"{self.principal.name} may not {what} on {topic[:200]}: {cause.told}"
                raise self.deny(what, topic, cause, detail)
        self._check_rate(events, what)

    def _check_rate(self, events: Sequence[NewEvent], what: str) -> None:
        allowance = self.rights.allowance
        size_bytes = sum(len(event.data) for event in events)
        wait_s = self.use.wait_s(len(events), size_bytes, allowance, trio.current_time())
        if wait_s:
            bounds = [
                f"{value:g} {name}/s"
                for name, value in (("events", allowance.events_per_s), ("bytes", allowance.bytes_per_s))
                if value is not None
            ]
            detail = f"{self.principal.name} may publish {' and '.join(bounds)}; try again in {wait_s:.2g} s"
            raise self.refuse(what, "rate", Denied("MESH-E064", detail, retry_s=wait_s))

    def publish(self, events: Sequence[NewEvent]) -> Outcomes:
        """See Service."""
        self._check_events(events, Right.PUBLISH, "publish")
        return self.service.publish(events)

    def level(self, events: Sequence[NewEvent], asked: str) -> Level:
        """See Service."""
        return self.service.level(events, asked)

    def keep(self, events: Sequence[NewEvent], ack: AckLevel) -> Kept:
        """See Service."""
        self._check_events(events, Right.PUBLISH, "publish")
        return self.service.keep(events, ack)

    async def kept(self, kept: Kept, timeout_s: float) -> None:
        """See Service."""
        await self.service.kept(kept, timeout_s)

    async def request(self, event: NewEvent, timeout_s: float) -> Answer:
        """See Service."""
        self._check_events((event,), Right.REQUEST, "request")
        return await self.service.request(event, timeout_s)

    def reply(self, reply_to: str, correlation: str, event: NewEvent) -> Outcomes:
        """See Service. It needs no right: only whoever was shown a request knows where its answer goes, which nobody can guess."""
        self._check_rate((event,), "reply")
        return self.service.reply(reply_to, correlation, event)

    # -- subscribing ---------------------------------------------------------------------------------------------

    def subscribe(self, session: SessionId, sid: int, filter: str, group: str = "") -> None:
        """See Service."""
        held = self._allowed(sid, filter, group)
        done: list[int] = []
        try:
            for number, piece in held.pieces.items():
                self.service.subscribe(session, number, piece, held.group)
                done.append(number)
        except RefusedError:
            for number in done:
                self.service.unsubscribe(session, number)
            raise
        self._hold(sid, held)

    def _hold(self, sid: int, held: Held) -> None:
        if sid not in self.held:
            self.use.subscriptions += 1
        self.held[sid] = held
        if held.group:
            self.groups.add(sid)
        if self.screen is not None and len(held.pieces) > 1:
            self.screen.cut = True

    def _allowed(self, sid: int, filter: str, group: str) -> Held:
        """What may be subscribed to. Raises: Denied; RefusedError MESH-E002 where the filter cannot be read."""
        try:
            shared, plain = parse_share(filter, self._limits)
        except TopicError as error:
            raise RefusedError("MESH-E002", str(error)) from None
        if group and shared and group != shared:
            raise RefusedError("MESH-E002", f"group {group!r} and $share group {shared!r} differ")
        group = group or shared
        most = self.rights.allowance.subscriptions
        if most is not None and sid not in self.held and self.use.subscriptions >= most:
            detail = f"{self.principal.name} has {most} subscriptions, as many as it may"
            raise self.refuse("subscribe", filter, Denied("MESH-E065", detail))
        return self.judged(sid, plain, group)

    def judged(self, sid: int, filter: str, group: str) -> Held:
        """What the rights let through of a subscription. Raises: Denied MESH-E063."""
        right = Right.GROUP if group else Right.SUBSCRIBE
        what = right.value
        part = self.rights.part(right, filter)
        verb = "take part in groups on" if group else "subscribe to"
        if not part.filters:
            detail = f"{self.principal.name} may not {verb} {filter[:200]}: {part.cause.told}"
            raise self.deny(what, filter, part.cause, detail)
        if (group or self.client) and not part.whole:
            may = ", ".join(part.filters[:4])
            kind = "a queue group" if group else "a durable client"
            detail = (
                f"{self.principal.name} may {verb} {filter[:200]} only in part, and {kind} has a filter whole or not at "
                f"all: {part.cause.told}; the part is in: {may[:200]}"
            )
            raise self.deny(what, filter, part.cause, detail)
        if len(part.filters) > PIECES:
            detail = f"the rules cut {filter[:200]} into {len(part.filters)} filters; {PIECES} are the most: ask for less"
            raise self.deny(what, filter, part.cause, detail)
        return Held.of(sid, filter, group, part.filters)

    def unsubscribe(self, session: SessionId, sid: int) -> None:
        """See Service."""
        held = self.forget(sid)
        for number in (sid,) if held is None else held.pieces:
            self.service.unsubscribe(session, number)

    def forget(self, sid: int) -> Held | None:
        """A subscription is no more."""
        held = self.held.pop(sid, None)
        if held is not None:
            self.use.subscriptions -= 1
            self.groups.discard(sid)
        return held

    def replay(
        self, session: SessionId, wanted: Sequence[tuple[int, str]], since: str, group: str = ""
    ) -> Replaying:
        """See Service."""
        pieces: list[tuple[int, str]] = []
        fresh: list[tuple[int, Held]] = []
        for sid, filter in wanted:
            held = self._allowed(sid, filter, group)
            pieces += held.pieces.items()
            fresh.append((sid, held))
        group = fresh[0][1].group if fresh else group  # of one filter, perhaps written $share/GROUP/...
        replaying = self.service.replay(session, pieces, since, group)
        for sid, held in fresh:
            held.replayed = True
            self._hold(sid, held)
        return _Begun(self, replaying, [sid for sid, _ in fresh])

    async def wait_installed(
        self, session: SessionId, sids: Sequence[int], wait: Wait, regions: Sequence[str], timeout_s: float
    ) -> Receipt:
        """See Service."""
        return await self.service.wait_installed(session, sids, wait, regions, timeout_s)

    # -- judged again --------------------------------------------------------------------------------------------

    def judge(self, principal: Principal, rights: Rights) -> None:
        """See Judged."""
        self.principal, self.rights = principal, rights
        if self.screen is None or self.session is None:
            return
        self.screen.rights = rights
        for sid, held in list(self.held.items()):
            try:
                fresh = self.judged(sid, held.filter, held.group)
                moved = held.moved_to(fresh)
                if moved is not None and held.replayed:
                    raise Denied(
                        "MESH-E063", f"what may be seen of {held.filter} changed: begin its replay again"
                    )
                if moved is not None:
                    self._move(sid, held, *moved)
            except RefusedError as refused:
                self.end(f"subscription {sid}: {refused.detail}")
                return
        self.screen.sift()

    def _move(self, sid: int, held: Held, gone: Sequence[int], fresh: dict[int, str]) -> None:
        assert self.session is not None, "it is open"
        for number, piece in fresh.items():
            self.service.subscribe(self.session, number, piece, held.group)
            held.pieces[number] = piece
        for number in gone:
            self.service.unsubscribe(self.session, number)
            del held.pieces[number]
        if self.screen is not None and max(held.pieces) != sid:
            self.screen.cut = True

    def end(self, detail: str) -> None:
        """See Judged."""
        if self.screen is not None and self in self.access.sessions:
            self.audit("session", "", Result.ENDED, code="MESH-E068", detail=detail)
            self.service.count_refusal(PORT, Close.ACCESS_ENDED.value)
            self.screen.close(Close.ACCESS_ENDED, f"MESH-E068 {detail}")
            self.access.sessions.discard(self)
            self.use.connections -= 1
            self.use.subscriptions -= len(self.held)
            self.held.clear()

    def withheld(self, right: Right, delivery: Delivery, events: Sequence[Event]) -> None:
        """See Withheld."""
        self.service.count_drop(Drop.ACCESS_DENY, len(events))
        self.use.denied += len(events)
        for topic in list(dict.fromkeys(event.topic for event in events))[:TOPICS_TOLD]:
            if topic != AUDIT_TOPIC:  # else this record would be the next that is withheld
                self.audit("deliver", topic, Result.DENIED, rule=str(self.rights.cause(right, topic)))
        if delivery.deliveries and self.session is not None:
            ids = [MeshId(*delivery.origin, event.seq) for event in events]
            self.access.settle(self.service.receivers, self.session, ids)

    @property
    def is_operator(self) -> bool:
        """Whether the principal may do everything at the admin port."""
        return Scope.ADMIN in self.rights.scopes

    # -- counting ------------------------------------------------------------------------------------------------

    def count_drop(self, reason: Drop, events: int) -> None:
        """See Service."""
        self.service.count_drop(reason, events)

    def count_refusal(self, port: str, reason: str) -> None:
        """See Service."""
        self.service.count_refusal(port, reason)


class _Begun:
    """A replay (see `mesh.node.service.Replaying`) whose subscriptions are forgotten where it has no beginning."""

    def __init__(self, guard: Guard, replaying: Replaying, sids: Sequence[int]) -> None:
        self._guard = guard
        self._replaying = replaying
        self._sids = sids

    async def find(self) -> None:
        """See Replaying."""
        try:
            await self._replaying.find()
        except RefusedError:
            for sid in self._sids:
                self._guard.forget(sid)
            raise

    async def run(self) -> None:
        """See Replaying."""
        await self._replaying.run()
