"""One node's decisions, whole: sessions, control plane and data plane composed into one sans-IO machine.

The trio shell (`mesh.node.runner`) and the simulator (`mesh.testing.sim`) run exactly this. Decides which links may stay
(names, duplicates, who may dial in) and the order in which the machines hear of things. Time and bytes come from outside.
Invariant: a link is in `links` exactly while its session is open.
Source: design pages "Architecture" (Sans-IO machines) and "Routing" (Identity, Membership, Between regions).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.core.counters import Counters
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.core.forwarding import Forwarder
from mesh.core.inboxes import INBOX, NOTICE, Ended, Inboxes, ReplyTo
from mesh.core.ingress import Published
from mesh.core.interest import Destinations, InterestIndex
from mesh.core.plan import MOST_GROUPS, Links, Planner
from mesh.core.session import Flow, Identity, LinkSession, Queued, SessionState, Terms
from mesh.core.subscriptions import SubscriptionIndex
from mesh.model.dice import Dice
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Delivery, Event, NewEvent
from mesh.model.ids import NAME_MAX, NodeKey, Version
from mesh.model.reasons import Close, Drop
from mesh.node.admission import Admission, Verdict
from mesh.node.control import ControlPlane
from mesh.node.settings import NodeSettings
from mesh.wire import frames as wire
from mesh.wire.frames import BatchHeader, Data, LinkKind

HOUSEKEEPING_S = 60.0
_BROKEN = frozenset({Close.LINK_LOST, Close.PEER_CLOSED, Close.HELLO_TIMEOUT})
"""A link that ended so says nothing about why: its member may be gone."""


class NodeMachine:
    """Args:
        settings: who this is. dice: its only source of chance. now: monotonic seconds.
    Results to take after each call: `drain()` (effects, Send and CloseLink name links by number), `take_deliveries()`,
    `take_ready()` (links with batches to `pull`), `take_ended()` (requests), `take_questions()` (mail from other nodes).
    Raises: KeyError or ValueError on misuse by the caller; never for what a peer sent.
    """

    def __init__(self, settings: NodeSettings, dice: Dice, now: float) -> None:
        self.settings = settings
        self.key = NodeKey(settings.region, settings.node)
        self.identity = Identity(
            settings.region,
            settings.node,
            settings.instance,
            settings.epoch,
            settings.software,
            settings.address,
        )
        self.counters = Counters()
        self.sessions: dict[int, LinkSession] = {}
        self.links = Links()
        self.destinations = Destinations()
        self.interest = InterestIndex()
        self.subscriptions = SubscriptionIndex()
        self.control = ControlPlane(
            settings,
            dice,
            links=self.links,
            destinations=self.destinations,
            interest=self.interest,
            now=now,
        )
        self.planner = Planner(
            settings.region,
            settings.node,
            destinations=self.destinations,
            interest=self.interest,
            subscriptions=self.subscriptions,
            links=self.links,
            fib=lambda: self.control.routes.fib,
            exits=self.control.routes.exits,
        )
        self.forwarder = Forwarder(
            settings.region,
            settings.node,
            settings.epoch,
            planner=self.planner,
            sessions=self.sessions,
            limits=settings.limits,
            counters=self.counters,
        )
        self.inboxes = Inboxes(settings.limits)
        self.admission = Admission(settings, self.sessions, self.links, self.control.membership)
        self.totals = Flow()
        """What links that are gone carried."""
        self._questions: list[tuple[BatchHeader, Event]] = []
        self._effects: list[Effect] = []
        self._next_link = 0
        self._session_deadline = float("inf")
        self._control_deadline: float | None = None
        """Of the control plane; None: ask it. Batches do not move it, and asking costs as much as passing one on."""
        self._housekeeping_at = now + HOUSEKEEPING_S

    @property
    def draining(self) -> bool:
        """Leaving: nothing new is taken in."""
        return self.admission.draining

    # -- links ---------------------------------------------------------------------------------------------------

    def link_connected(self, *, dialled: bool, terms: Terms, wall_ms: int, now: float) -> int:
        """A transport connected: begin a session and return its link number."""
        self._next_link += 1
        link = self._next_link
        session = LinkSession(
            link,
            dialled=dialled,
            local=self.identity,
            terms=terms,
            limits=self.settings.limits,
            wall_ms=wall_ms,
            now=now,
        )
        self.sessions[link] = session
        self._after_session(session, now)
        return link

    def link_lost(self, link: int, reason: Close, detail: str, now: float) -> None:
        """The transport ended. Idempotent: a link this machine closed itself is already gone."""
        session = self.sessions.get(link)
        if session is not None:
            self._gone(session, reason, detail, now)
            self._settle(now)

    def receive(self, link: int, frames: Iterable[wire.Frame], now: float) -> None:
        """A burst of frames from one link, in order. Batches that this makes wait in the links until pulled."""
        session = self.sessions.get(link)
        if session is None:
            return
        only_data = True
        for frame in frames:
            if isinstance(frame, Data):
                self._receive_data(session, frame, now)
            else:
                only_data = False
                self._receive_control(session, frame, now)
            if session.state is SessionState.CLOSED:
                break
        if only_data and session.is_open:
            # Batches change no table and no route: what they leave behind is mail, and the session's acknowledgement.
            if session.kind is LinkKind.PEER:
                self.control.membership.heard(session.peer_key.node, now)
            self._after_session(session, now)
            self._take_in(now)
            return
        self._after_session(session, now)
        self._settle(now)

    def _receive_data(self, session: LinkSession, frame: Data, now: float) -> None:
        header = frame.header
        if not session.received(header, len(frame.body), now):
            return
        problem = self._batch_problem(session, header)
        if problem:
            session.refuse(Close.PROTOCOL_ERROR, problem)
        else:
            self.forwarder.receive(session, header, frame.body, now)

    def _batch_problem(self, session: LinkSession, header: BatchHeader) -> str:
        """What a correct peer never sends, or ""."""
        limits = self.settings.limits
        between = header.leg is wire.Leg.BRIDGE
        if between != (session.kind is LinkKind.BRIDGE):
            return f"a {header.leg.name} batch on a {session.kind.name} link"
        if len(header.regions) > limits.regions or len(header.path) > limits.path_regions:
            return "destination set or path too long"
        if between and (not header.path or header.path[-1] != session.peer_key.region):
            return "the path does not end with the region it came from"
        again = bool(
            header.flags & wire.Flag.GROUP_ONLY
        )  # begins a fresh path wherever it was assigned again
        if between and not again and header.path[0] != header.region:
            # Who claims the own region as its origin so gets no further than the check for loops.
            return "the path does not begin with the region of the origin"
        if again and header.flags & wire.Flag.TO_NODE:
            return "both for one node and for a queue group"
        if len(header.tried) > limits.tried_regions or len(header.groups) > MOST_GROUPS:
            return "too many groups or tried regions"
        if len(header.groups) * header.count > limits.credit_events:
            return "too many group assignments in one batch"
        if len(header.region) > NAME_MAX or len(header.node) > NAME_MAX:
            return "an origin's name is too long"
        if any(
            len(group) > NAME_MAX or len(filter) > limits.filter_bytes for group, filter, _ in header.groups
        ):
            return "a group's name or filter is too long"
        if header.hops_left < 0 or header.count <= 0 or header.remaining_ms < 0:
            return "a count out of range"
        return ""

    def _receive_control(self, session: LinkSession, frame: wire.Frame, now: float) -> None:
        measured = session.rtt_ms is not None
        if not session.receive(frame, now):
            self.control.receive(session, frame, now)
            return
        if (
            isinstance(frame, wire.Open)
            and session.peer is not None
            and session.state is SessionState.OPENING
        ):
            self._judge(session, now)
        elif isinstance(frame, wire.CloseLink):
            self._gone(session, _close_reason(frame.reason), frame.detail, now, by_peer=True)
        elif isinstance(frame, wire.Heard) and session.rtt_ms is not None and session.kind is LinkKind.BRIDGE:
            if measured:
                self.control.routes.neighbour_rtt(session.link, session.rtt_ms, now)
            else:
                self.links.bridges[session.link] = session.peer_key.region
                self.control.bridge_opened(session, now)

    def _after_session(self, session: LinkSession, now: float) -> None:
        """Carry out what a session decided, and remember its deadline."""
        effects = session.drain()
        if effects:
            self._effects.extend(effects)
            for effect in effects:
                if isinstance(effect, CloseLink):
                    self._gone(session, effect.reason, effect.detail, now)
        deadline = session.next_deadline()
        if deadline is not None and deadline < self._session_deadline:
            self._session_deadline = deadline

    # -- admission -----------------------------------------------------------------------------------------------

    def _judge(self, session: LinkSession, now: float) -> None:
        """The peer's Open is in order by itself: carry out what admission says of it."""
        self._carry_out(self.admission.judge(session, now), now)

    def _carry_out(self, verdict: Verdict, now: float) -> None:
        for refused, reason, detail in verdict.refused:
            refused.refuse(reason, detail)
            self._after_session(refused, now)
        if verdict.asked is not None:
            verdict.asked.ask_alive(now)
            self._after_session(verdict.asked, now)
        if verdict.accepted is not None:
            self._accept(verdict.accepted, now)
            self._after_session(verdict.accepted, now)

    def _accept(self, session: LinkSession, now: float) -> None:
        peer = session.peer
        assert peer is not None
        terms = None if session.dialled else self.settings.bridges.get(peer.region, Terms())
        session.accept(now, terms)
        if session.kind is LinkKind.PEER:
            self.links.peers[peer.node] = session.link
            self.control.peer_opened(session, now)
        self._effects.append(Notify("link_opened", str(session.peer_key), "", "", {"link": session.link}))

    def _gone(
        self, session: LinkSession, reason: Close, detail: str, now: float, *, by_peer: bool = False
    ) -> None:
        """A session ended, for whatever reason: out of every table, what it queued goes elsewhere or is counted."""
        if self.sessions.pop(session.link, None) is None:
            return
        self.totals.add(session.flow)
        was_open = session.state is SessionState.OPEN or self._is_linked(session)
        session.state = SessionState.CLOSED
        self.admission.gone(session)
        about = str(session.peer_key) if session.peer is not None else f"link {session.link}"
        data: dict[str, object] = {"link": session.link, "by_peer": by_peer, "was_open": was_open}
        self._effects.append(Notify("link_closed", about, reason, detail, data))
        if not was_open:
            return
        key = session.peer_key
        if self.links.peers.get(key.node) == session.link and key.region == self.key.region:
            del self.links.peers[key.node]
            self.control.peer_closed(key.node, session.link, now, said_why=reason not in _BROKEN)
        elif self.links.bridges.pop(session.link, None) is not None:
            self.control.bridge_closed(session.link, now)
        self._plans_changed(now)
        self.forwarder.link_gone(session, now)

    def _is_linked(self, session: LinkSession) -> bool:
        if session.peer is None:
            return False
        return session.link in self.links.bridges or self.links.peers.get(session.peer.node) == session.link

    def _plans_changed(self, now: float) -> None:
        self._control_deadline = None
        self.control.settle(now)
        self.control.changed = False
        self.forwarder.invalidate(now)

    # -- clients -------------------------------------------------------------------------------------------------

    def publish(self, events: Sequence[NewEvent], now: float) -> Published:
        """Take events in. Topics must be checked. Raises ValueError while draining."""
        if self.draining:
            raise ValueError("draining")
        return self.forwarder.publish(events, None, now)

    def subscribe(self, session: int, sid: int, filter: str, group: str, now: float) -> None:
        """Add a client's subscription. The filter must be checked. Raises ValueError when the sid is taken."""
        for change in self.subscriptions.subscribe(session, sid, filter, group):
            self.control.interest_changed(*change, now)
        self.control.changed = True
        self._settle(now)

    def unsubscribe(self, session: int, sid: int, now: float) -> None:
        """Remove a client's subscription. Raises KeyError when there is none."""
        for change in self.subscriptions.unsubscribe(session, sid):
            self.control.interest_changed(*change, now)
        self.control.changed = True
        self._settle(now)

    def drop_session(self, session: int, now: float) -> None:
        """A client went away. Idempotent."""
        for change in self.subscriptions.drop_session(session):
            self.control.interest_changed(*change, now)
        self.control.changed = True
        self._settle(now)

    def start_wait(self, now: float) -> Version:
        """A client waits for a receipt: the version of this node's table that has to be installed. Pair with stop_wait."""
        wanted = self.control.start_wait(now)
        self._settle(now)
        return wanted

    def stop_wait(self, now: float) -> None:
        """Pair of start_wait."""
        self.control.stop_wait(now)
        self._settle(now)

    def request(self, event: NewEvent, timeout_s: float, now: float) -> str:
        """Publish a request. Returns the inbox under which it will end (`take_ended`). Raises ValueError when too many wait."""
        if self.draining:
            raise ValueError("draining")
        inbox = self.inboxes.open(timeout_s, now)
        reply_to = ReplyTo(self.key.region, self.key.node, inbox)
        published = self.forwarder.publish([event], (str(reply_to), inbox), now)
        [plan] = published.plans
        assigned = published.assigned.get(0, ())
        places = {f"r/{region}" for region in plan.regions} | {f"n/{node}" for node in plan.nodes}
        places |= {f"g/{a.group}/{a.filter}" for a in assigned}
        if plan.local:
            places.add("local")
        reasons = [
            (u.region if not u.node else f"{u.region}/{u.node}", u.reason.value) for u in plan.unreached
        ]
        served = {(a.group, a.filter) for a in assigned}
        reasons += [("/".join(group), Drop.NO_MEMBERS.value) for group in plan.groups if group not in served]
        self.inboxes.sent(inbox, places, reasons)
        return inbox

    def reply(self, reply_to: ReplyTo, correlation: str, event: NewEvent, now: float) -> Drop | None:
        """Send a reply towards a waiting request. Returns why not, or None."""
        mail = Event(
            0,
            INBOX + reply_to.inbox,
            event.key,
            event.ttl_ms,
            ("", correlation),
            event.attributes,
            event.data,
        )
        why = self.forwarder.send_to(reply_to.region, reply_to.node, mail, now)
        self._settle(now)
        return why

    def ask(
        self, region: str, node: str, topic: str, data: bytes, extra: tuple[str, ...], now: float
    ) -> Drop | None:
        """Send this node's own mail to another node (`take_questions` there). Returns why not, or None."""
        why = self.forwarder.send_to(region, node, Event(0, topic, "", 0, extra, (), data), now)
        self._settle(now)
        return why

    # -- results -------------------------------------------------------------------------------------------------

    def take_deliveries(self) -> dict[int, list[Delivery]]:
        """Deliveries by client session since the last call."""
        return self.forwarder.deliverer.handover.take()

    def take_ready(self) -> set[int]:
        """Links that have batches to pull."""
        ready = self.forwarder.ready
        if ready:
            self.forwarder.ready = set()
        return ready

    def take_ended(self) -> list[Ended]:
        """Requests that ended."""
        ended, self.inboxes.ended = self.inboxes.ended, []
        return ended

    def take_questions(self) -> list[tuple[BatchHeader, Event]]:
        """Mail for this node that is neither a reply nor a notice."""
        questions, self._questions = self._questions, []
        return questions

    def pull(self, link: int, now: float) -> Queued | None:
        """The next batch for a link that may be sent now; expired ones are counted on the way."""
        session = self.sessions.get(link)
        while session is not None:
            item = session.pull(now)
            if item is None or item.header.remaining_ms >= 0:
                return item
            self.counters.drop(Drop.EXPIRED, item.weight)
        return None

    def drain(self) -> list[Effect]:
        """Effects since the last call; names of members are translated, frames for links that are gone vanish with them."""
        effects, self._effects = self._effects, []
        if self.control.effects:
            effects += self.control.effects
            self.control.effects = []
        resolved: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Notify):
                resolved.append(effect)
                continue
            link = self.links.peers.get(effect.to) if isinstance(effect.to, str) else effect.to
            if link is None:
                continue
            if isinstance(effect, Send):
                resolved.append(Send(link, effect.frame) if link != effect.to else effect)
            else:
                resolved.append(CloseLink(link, effect.reason, effect.detail))
        return resolved

    # -- time ----------------------------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """What was waiting to be read has been read: open batches go to their links."""
        self.forwarder.flush(now)

    def next_deadline(self) -> float:
        control = self._control_deadline
        if control is None:
            control = self._control_deadline = min(
                self.control.next_deadline(), self.admission.next_deadline(), self._housekeeping_at
            )
        due = min(control, self._session_deadline)
        for at in (self.inboxes.next_deadline(), self.control.membership.next_deadline()):
            if at is not None and at < due:
                due = at
        return due

    def handle_deadline(self, now: float) -> None:
        """Do what is due, in every machine."""
        if now >= self._session_deadline:
            self._session_deadline = float("inf")
            for session in list(self.sessions.values()):
                session.handle_deadline(now)
                self._after_session(session, now)
        for verdict in self.admission.handle_deadline(now):
            self._carry_out(verdict, now)
        self.control.handle_deadline(now)
        self.inboxes.handle_deadline(now)
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self.forwarder.deliverer.dedupe.expire(now)
        self._settle(now)

    def _take_in(self, now: float) -> None:
        """Mail for this node, and news for origins whose event found nobody here."""
        forwarder = self.forwarder
        if forwarder.mail:
            mail, forwarder.mail = forwarder.mail, []
            for header, event in mail:
                self._take_mail(header, event)
        if forwarder.unserved:
            unserved, forwarder.unserved = forwarder.unserved, []
            for header, event, reason, group in unserved:
                self._notice(header, event, reason, group, now)

    def _settle(self, now: float) -> None:
        """After every burst with control frames, and every call: mail, notices, tables, plans."""
        self._take_in(now)
        forwarder = self.forwarder
        self._control_deadline = None
        self.control.settle(now)
        for effect in self.control.effects:
            if isinstance(effect, CloseLink):
                link = self.links.peers.get(effect.to) if isinstance(effect.to, str) else effect.to
                session = self.sessions.get(link) if link is not None else None
                if session is not None:
                    session.state = SessionState.CLOSED
                    self._effects.append(CloseLink(session.link, effect.reason, effect.detail))
                    self._gone(session, effect.reason, effect.detail, now)
        self.control.effects, kept = [], [e for e in self.control.effects if not isinstance(e, CloseLink)]
        self._effects.extend(kept)
        if self.control.changed:
            self.control.changed = False
            forwarder.invalidate(now)

    def _take_mail(self, header: BatchHeader, event: Event) -> None:
        if event.topic.startswith((INBOX, NOTICE)):
            why = self.inboxes.mail(header, event)
            if why is not None:
                self.counters.drop(why, 1)
        else:
            self._questions.append((header, event))

    def _notice(self, header: BatchHeader, event: Event, reason: Drop, group: str, now: float) -> None:
        """Tell the origin that its request, or its group's event, found nobody here."""
        reply_to = event.extra[EXTRA_REPLY_TO] if event.extra is not None else ""
        if not reply_to:
            return
        try:
            to = ReplyTo.parse(reply_to)
        except ValueError:
            return
        assert event.extra is not None
        correlation = event.extra[EXTRA_CORRELATION]
        notice = Event(0, NOTICE + to.inbox, group, 0, ("", correlation), (), reason.encode())
        self.forwarder.send_to(to.region, to.node, notice, now)

    # -- leaving -------------------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """Begin to leave: nothing new is taken in, routes are withdrawn, the region is told. Queues still empty."""
        self.admission.draining = True
        self.forwarder.flush(now)
        self.control.leave(now)
        self._settle(now)

    def close_links(self, now: float) -> None:
        """End of leaving: close every link with `draining`."""
        for session in list(self.sessions.values()):
            session.refuse(Close.DRAINING, "this node leaves")
            self._after_session(session, now)

    @property
    def queued_bytes(self) -> int:
        """What still waits in links, for a drain to watch."""
        return sum(session.queued_bytes for session in self.sessions.values())


def _close_reason(text: str) -> Close:
    """The reason a peer named, or PEER_CLOSED for one this release does not know."""
    try:
        return Close(text)
    except ValueError:
        return Close.PEER_CLOSED
