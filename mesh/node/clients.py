"""The node as client protocols see it: `mesh.node.service.Service` over the machine.

Decides nothing about events; keeps client sessions, waiting requests and waiting receipts, and turns the machine's answers
into the values of the service page.
Invariant: a session is known to the machine exactly while it is in `sessions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING

import trio

from federation.core.receipts import Status
from mesh.core.custody.custody import DISK_FAILS
from mesh.core.custody.intake import Ticket
from mesh.core.custody.receipts import Awaited
from mesh.core.custody.store import StoreRefusedError
from mesh.core.inboxes import ReplyTo
from mesh.core.plan import Plan
from mesh.model.event import Delivery, NewEvent
from mesh.model.ids import BadName, MeshId, NodeKey, SessionId, Version
from mesh.model.reasons import Close, Drop, NotDelivered, Refuse
from mesh.model.topic import TopicError, check_group, parse_share
from mesh.model.topic_rules import Level
from mesh.net.tls import Secure
from mesh.node.event_log import EventLog
from mesh.node.publish_answers import PublishAnswers
from mesh.node.receivers import NodeReceivers
from mesh.node.replays import ReplayRun, read_start
from mesh.node.requests import Requests
from mesh.node.service import (
    AckLevel,
    Answer,
    Kept,
    Missing,
    Outcome,
    Outcomes,
    Receipt,
    RefusedError,
    Sink,
    Wait,
)
from mesh.wire.frames import Flag

if TYPE_CHECKING:
    from mesh.node.runner import Node

STORED_S = 30.0
"""A disk that needs longer than this to store an event has not taken it, as far as its publisher is told."""
_FLAGS = {
    AckLevel.ACCEPTED: 0,
    AckLevel.REGION: int(Flag.RECEIPT),
    AckLevel.DELIVERED: Flag.RECEIPT | Flag.RECEIPT_DELIVERED,
}
_key = attrgetter("key")


@dataclass(slots=True)
class Session:
    """One client connection. since: RFC 3339, for views; opened: monotonic seconds."""

    sink: Sink
    protocol: str
    name: str
    since: str
    opened: float


def _not_kept(reason: Refuse) -> RefusedError:
    why = {
        Refuse.STARTING: "this node has just started and does not know yet who wants what",
        Refuse.NO_JOURNAL: "this node keeps no journal",
        Refuse.SPOOL_FULL: "as much waits under its [[topic]] as may (spool), and the rule says block",
    }
    return RefusedError("MESH-E050", why.get(reason, f"the journal says {reason.value}"), status=503)


def _in_doubt(reason: Refuse) -> RefusedError:
    """Events that were taken in, and sent on perhaps, but are not on the disk."""
    why = "the disk takes too long" if reason is Refuse.TIMEOUT else f"the journal says {reason.value}"
    return RefusedError("MESH-E052", why, status=503)


class Clients:
    """Service of one node. Not safe to call from other threads."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._machine = node.machine
        self.sessions: dict[int, Session] = {}
        self.receivers = NodeReceivers(node, self)
        self.home_secure: Callable[[NodeKey], Secure | None] = lambda key: None
        """Set by mesh.app where clients' ports are inside TLS: how another node's is dialled."""
        self._next = 0
        self.requests = Requests(node)
        self._answers = PublishAnswers(node.key.region)
        self._receipts = trio.Event()
        self._moved = trio.lowlevel.ParkingLot()
        self.log: EventLog | None = None
        """Set by mesh.app when [[topic]] retain keeps anything."""
        self._replays: dict[tuple[int, int], ReplayRun] = {}
        """Subscriptions that are not live yet, by (session, sid)."""

    @property
    def key(self) -> NodeKey:
        return self._node.key

    @property
    def draining(self) -> bool:
        return self._node.draining

    # -- sessions ------------------------------------------------------------------------------------------------

    def open_session(self, sink: Sink, *, protocol: str, name: str) -> SessionId:
        """See Service. Raises RefusedError when the node drains or has too many clients."""
        self.check_room()
        return self.open_own(sink, protocol=protocol, name=name)

    def open_own(self, sink: Sink, *, protocol: str, name: str) -> SessionId:
        """A session of the node itself: no limit keeps it out."""
        self._next += 1
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.sessions[self._next] = Session(sink, protocol, name, since, trio.current_time())
        return SessionId(self._next)

    def check_room(self) -> None:
        """Whether one more client may connect. Raises RefusedError when the node drains or has too many."""
        self._check_draining()
        limits = self._node.settings.limits
        if len(self.sessions) >= limits.client_connections:
            raise RefusedError("MESH-E017", f"{limits.client_connections} clients are connected", status=503)

    def close_session(self, session: SessionId, reason: Close) -> None:
        """See Service."""
        if self.sessions.pop(session, None) is None:
            return
        for replay in [run for (number, _), run in self._replays.items() if number == session]:
            replay.cancel()
        if not self.receivers.closed(session):
            self._machine.drop_session(session, trio.current_time())
            self._node.after_call()

    def close_all(self, reason: Close, detail: str) -> None:
        """Tell every client; their connections end by themselves."""
        for session in list(self.sessions.values()):
            session.sink.close(reason, detail)

    def deliver(self, deliveries: Mapping[int, Sequence[Delivery]]) -> None:
        """Hand deliveries to their connections; for one that just closed they are counted."""
        for number, batch in deliveries.items():
            session = self.sessions.get(number if number > 0 else self.receivers.connection_of(number))
            if session is not None:
                session.sink.deliver(batch)
                continue
            # Of what waits for an acknowledgement the consumers know: it is not lost.
            events = sum(len(one.events) for one in batch if not one.deliveries)
            self.count_drop(Drop.SESSION_CLOSED if number > 0 else Drop.CLIENT_AWAY, events)

    # -- publishing ----------------------------------------------------------------------------------------------

    def _check_draining(self) -> None:
        if self._node.draining:
            raise RefusedError("MESH-E016", "this node is leaving the mesh", status=503)

    def _check_key(self, key: str, what: str = "the ordering key") -> None:
        """Keys and correlations travel beside the event: what is not bounded here fits no link's credit, and stops it.

        Cost: 0.1 us.
        """
        most = self._node.settings.limits.key_bytes
        if len(key) > most or (not key.isascii() and len(key.encode("utf-8", "surrogatepass")) > most):
            raise RefusedError(
                "MESH-E007", f"{what} has {len(key)} characters; {most} bytes are allowed", status=413
            )

    def publish(self, events: Sequence[NewEvent]) -> Outcomes:
        """See Service."""
        self._check_draining()
        for key in filter(None, map(_key, events)):
            self._check_key(key)
        first, plans, assigned = self._machine.publish(events, trio.current_time())
        self._node.flush_soon()
        self._hand_over()
        if plans and plans.count(plans[0]) == len(plans):
            each: list[Outcome] = [plans[0].told or self._answers.alone(plans[0])] * len(plans)
        else:
            each = [plan.told or self._answers.alone(plan) for plan in plans]
        for at, chosen in assigned.items():
            if chosen:
                each[at] = self._answers.of(plans[at], chosen)
        return Outcomes(self._mesh_id(first), each)

    def level(self, events: Sequence[NewEvent], asked: str) -> Level:
        """See Service."""
        if asked:
            return Level(asked)
        rules = self._machine.rules
        if rules and any(rules.of(event.topic).level is Level.AT_LEAST_ONCE for event in events):
            return Level.AT_LEAST_ONCE
        return Level.AT_MOST_ONCE

    def keep(self, events: Sequence[NewEvent], ack: AckLevel) -> Kept:
        """See Service."""
        self._check_draining()
        for key in filter(None, map(_key, events)):
            self._check_key(key)
        try:
            published, ticket, call = self._machine.publish_kept(events, trio.current_time(), _FLAGS[ack])
        except StoreRefusedError as refused:
            raise _not_kept(refused.reason) from None
        self._node.flush_soon()
        first, plans, assigned = published
        if plans and not assigned and plans.count(plans[0]) == len(plans):
            each: list[Outcome] = [self._kept_outcome(plans[0])] * len(plans)
        else:
            each = [
                self._answers.of(plan, assigned[at], kept=True)
                if at in assigned
                else self._kept_outcome(plan)
                for at, plan in enumerate(plans)
            ]
        return Kept(Outcomes(self._mesh_id(first), each), ticket, call)

    def _kept_outcome(self, plan: Plan) -> Outcome:
        """Of an event without a group: whoever is out of reach has it kept."""
        if plan.unreached:
            return self._answers.of(plan, (), kept=True)
        return plan.told or self._answers.alone(plan)

    async def kept(self, kept: Kept, timeout_s: float) -> None:
        """See Service."""
        store, ticket, call = self._machine.custody.store, kept.ticket, kept.call
        assert isinstance(ticket, Ticket)
        assert call is None or isinstance(call, Awaited)
        begun = trio.current_time()
        try:
            # What is on the disk is accepted, whatever its deadline.
            with trio.move_on_at(begun + max(timeout_s, STORED_S)):
                while ticket.lsn is None or store.synced < ticket.lsn:
                    why = ticket.refused or store.refusal(0)
                    if why is not None and (ticket.refused or why in DISK_FAILS):
                        raise _in_doubt(why)
                    await self._moved.park()
            if call is not None:
                with trio.move_on_at(begun + timeout_s):
                    while not call.acknowledgement().complete:
                        await self._moved.park()
        finally:
            if call is not None:
                self._machine.custody.receipts.close(call)
        if ticket.refused is not None:
            raise _in_doubt(ticket.refused)
        if ticket.lsn is None or store.synced < ticket.lsn:
            raise _in_doubt(Refuse.TIMEOUT)
        if call is not None and not call.acknowledgement().complete:
            raise self._unacknowledged(call, timeout_s)

    def _unacknowledged(self, call: Awaited, timeout_s: float) -> RefusedError:
        missing = self._machine.custody.missing(call)
        who = "; ".join(f"{region}: {reason} ({detail})" for region, reason, detail in missing[:8])
        return RefusedError("MESH-E051", f"within {timeout_s:g} s not everybody answered: {who}", status=504)

    async def moved(self) -> None:
        """Wait until `kept_moved`."""
        await self._moved.park()

    def kept_moved(self) -> None:
        """The journal committed, its state changed, or receipts came: whoever waits for one of them looks again."""
        self._moved.unpark_all()

    def _mesh_id(self, seq: int) -> MeshId:
        return MeshId(self.key.region, self.key.node, self._machine.settings.epoch, seq)

    def _hand_over(self) -> None:
        deliveries = self._machine.take_deliveries()
        if deliveries:
            self.deliver(deliveries)

    # -- subscribing ---------------------------------------------------------------------------------------------

    def subscribe(self, session: SessionId, sid: int, filter: str, group: str = "") -> None:
        """See Service."""
        self._check_session(session)
        group, filter = self._checked(filter, group)
        number = self.receivers.number_of(session)
        held = self._machine.subscriptions.of_session(number)
        if number < 0 and held.get(sid) == ((group, filter) if group else filter):
            return  # a durable client says again what is kept of it
        self._check_sid(session, sid)
        self.add_subscription(session, sid, filter, group)
        self._node.after_call()

    def add_subscription(self, session: SessionId, sid: int, filter: str, group: str = "") -> None:
        """As subscribe, for what was checked; the caller calls `after_call`. Raises: RefusedError."""
        number = self.receivers.number_of(session)
        try:
            self._machine.subscribe(number, sid, filter, group, trio.current_time())
        except ValueError as error:
            raise RefusedError("MESH-E019", str(error), status=409) from None
        except StoreRefusedError as refused:
            raise self.receivers.not_noted(refused.reason) from None

    def _check_session(self, session: SessionId) -> None:
        self._check_draining()
        if session not in self.sessions:
            raise RefusedError("MESH-E011", "this session is closed", status=400)

    def _check_sid(self, session: SessionId, sid: int) -> None:
        """Whether the session may have this subscription."""
        limits = self._node.settings.limits
        if len(self._machine.subscriptions.of_session(session)) >= limits.session_subscriptions:
            raise RefusedError(
                "MESH-E018", f"one client may have {limits.session_subscriptions} subscriptions", status=429
            )
        if self._machine.subscriptions.statistics().subscriptions >= limits.node_subscriptions:
            detail = f"all clients of this node have {limits.node_subscriptions} subscriptions"
            raise RefusedError("MESH-E018", detail, status=503)
        if (session, sid) in self._replays:
            raise RefusedError("MESH-E019", f"sid {sid} is in use by a replay", status=409)

    def _checked(self, filter: str, group: str) -> tuple[str, str]:
        """(group, filter), both checked; a filter may be `$share/GROUP/FILTER`. Raises: RefusedError."""
        try:
            shared, filter = parse_share(filter, self._node.settings.limits)
            if group and shared and shared != group:
                raise RefusedError("MESH-E002", f"group {group!r} and $share group {shared!r} differ")
            group = shared or group
            if group:
                check_group(group)
        except TopicError as error:
            raise RefusedError("MESH-E002", str(error)) from None
        return group, filter

    def replay(
        self, session: SessionId, wanted: Sequence[tuple[int, str]], since: str, group: str = ""
    ) -> ReplayRun:
        """See Service."""
        self._check_session(session)
        checked: list[tuple[int, str]] = []
        for sid, filter in wanted:
            shared, filter = self._checked(filter, group)
            if shared:
                raise RefusedError(
                    "MESH-E034", f"group {shared!r} of filter {filter!r} cannot begin in the log"
                )
            self._check_sid(session, sid)
            if sid in self._machine.subscriptions.of_session(session):
                raise RefusedError("MESH-E019", f"session {session}: sid {sid} is in use", status=409)
            if self.log is None or not self.log.rules.retains(filter):
                kept = ", ".join(rule.filter for rule in self.log.rules.retained) if self.log else "nothing"
                raise RefusedError(
                    "MESH-E032", f"{filter}: {self.key} does not keep it (kept here: {kept})", status=404
                )
            checked.append((sid, filter))
        assert self.log is not None, "wanted is not empty"
        start = read_start(since, self.log.now_ms())
        most = self._node.settings.limits.replays
        if len(set(self._replays.values())) >= most:
            raise RefusedError("MESH-E036", f"{most} replays are under way", status=503)
        run = ReplayRun(self, self.log, session, tuple(checked), start)
        self._replays |= {(session, sid): run for sid, _ in checked}
        return run

    def replay_ended(self, run: ReplayRun) -> None:
        """Its subscriptions are live, or gone. Idempotent."""
        for sid, _ in run.wanted:
            if self._replays.get((run.session, sid)) is run:
                del self._replays[run.session, sid]

    def after_call(self) -> None:
        """To be called after `add_subscription`."""
        self._node.after_call()

    def unsubscribe(self, session: SessionId, sid: int) -> None:
        """See Service."""
        replay = self._replays.get((session, sid))
        if replay is not None:
            replay.cancel()
            return
        try:
            self._machine.unsubscribe(self.receivers.number_of(session), sid, trio.current_time())
        except KeyError:
            raise RefusedError("MESH-E020", f"there is no subscription {sid}", status=404) from None
        self._node.after_call()

    async def wait_installed(
        self, session: SessionId, sids: Sequence[int], wait: Wait, regions: Sequence[str], timeout_s: float
    ) -> Receipt:
        """See Service. The whole session's interest is waited for: it is one table."""
        if wait is Wait.NODE and not regions:
            await trio.lowlevel.checkpoint()
            return Receipt((self.key.node,), (), True)
        control = self._machine.control
        if regions:
            demanded = set(regions) - {self.key.region}
        else:
            demanded = set(control.routes.fib) if wait is Wait.MESH else set()
        wanted = self._machine.start_wait(trio.current_time())
        self._node.after_call()
        try:
            with trio.move_on_after(timeout_s):
                while True:
                    receipt = self._receipt(wanted, demanded, named=bool(regions))
                    if receipt.complete or self._all_unreachable(receipt, named=bool(regions)):
                        return receipt
                    await self._receipts.wait()
            return self._receipt(wanted, demanded, named=bool(regions))
        finally:
            self._machine.stop_wait(trio.current_time())
            self._node.after_call()

    def _receipt(self, wanted: Version, demanded: Iterable[str], *, named: bool) -> Receipt:
        """The state now. Regions are listed when some are demanded, else the nodes of the own region."""
        control = self._machine.control
        near = control.receipts.in_region(wanted, control.live_members())
        demanded = set(demanded)
        far = control.receipts.in_mesh(wanted, demanded, control.routes.fib) if demanded else Status((), ())
        missing = tuple(Missing(name, why) for name, why in (*near.missing, *far.missing))
        installed = far.installed if demanded or named else near.installed
        if (demanded or named) and not near.missing:
            installed = tuple(sorted((*installed, self.key.region)))
        return Receipt(installed, missing, not missing)

    def _all_unreachable(self, receipt: Receipt, *, named: bool) -> bool:
        """Regions nobody named that lost their route will not answer: say so now instead of at the time-out."""
        return not named and all(why == NotDelivered.NO_ROUTE.value for _, why in receipt.missing)

    def receipts_changed(self) -> None:
        """Tables moved: whoever waits looks again."""
        self._receipts.set()
        self._receipts = trio.Event()

    # -- request and reply ---------------------------------------------------------------------------------------

    async def request(self, event: NewEvent, timeout_s: float) -> Answer:
        """See Service."""
        self._check_draining()
        self._check_key(event.key)
        return await self.requests.request(event, timeout_s)

    def reply(self, reply_to: str, correlation: str, event: NewEvent) -> Outcomes:
        """See Service."""
        try:
            to = ReplyTo.parse(reply_to)
        except BadName as error:
            raise RefusedError("MESH-E028", str(error)) from None
        self._check_key(correlation, "the correlation")
        self._check_key(event.key)
        why = self._machine.reply(to, correlation, event, trio.current_time())
        self._node.flush_soon()
        self._node.after_call()
        if why is not None:
            raise RefusedError("MESH-E029", f"no way back to {to.region}/{to.node}: {why.value}", status=503)
        here = to.region == self.key.region
        outcome = Outcome(() if here else (to.region,), int(here), (), ())
        return Outcomes(self._mesh_id(self._machine.forwarder.ingress.seq), [outcome])

    # -- counting ------------------------------------------------------------------------------------------------

    def count_drop(self, reason: Drop, events: int) -> None:
        """See Service."""
        self._machine.counters.drop(reason, events)

    def count_refusal(self, port: str, reason: str) -> None:
        """See Service."""
        self._node.count_refusal(port, reason)
