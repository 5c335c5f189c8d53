"""One node's decisions, whole: sessions, control plane and data plane composed into one sans-IO machine.

The trio shell (`mesh.node.runner`) and the simulator (`mesh.testing.sim`) run exactly this. Decides which links may stay
(names, duplicates, who may dial in) and the order in which the machines hear of things. Time and bytes come from outside.
Invariant: a link is in `links` exactly while its session is open.
Source: design pages "Architecture" (Sans-IO machines) and "Routing" (Identity, Membership, Between regions).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from federation.core.policy.boundary import Boundary
from mesh.core.counters import Counters
from mesh.core.custody import pairs
from mesh.core.custody.consumers import Connected
from mesh.core.custody.custody import Custody
from mesh.core.custody.death_notices import DeathNotices
from mesh.core.custody.intake import Ticket
from mesh.core.custody.receipts import Awaited
from mesh.core.custody.records import EventId
from mesh.core.custody.reissue import Reissue, Replay
from mesh.core.custody.store import NoStore, Store, StoreRefusedError
from mesh.core.custody.window import AckTerms
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.core.entrusted import Queued
from mesh.core.forwarding import Forwarder
from mesh.core.inboxes import Ended, ReplyTo
from mesh.core.ingress import Published
from mesh.core.interest import Destinations, InterestIndex
from mesh.core.opening import Identity, Terms
from mesh.core.passage import Passage
from mesh.core.plan import Links, Planner
from mesh.core.session import Flow, LinkSession, SessionState
from mesh.core.subscriptions import SubscriptionIndex, Transition
from mesh.model.dice import Dice
from mesh.model.event import Delivery, Event, NewEvent
from mesh.model.ids import NodeKey, Version
from mesh.model.reasons import Close, Drop
from mesh.model.topic_rules import TopicRules
from mesh.node.admission import Admission, Verdict
from mesh.node.batch_rules import batch_problem
from mesh.node.control import ControlPlane
from mesh.node.informed import Informed
from mesh.node.mail import Mail
from mesh.node.settings import NodeSettings
from mesh.wire import frames as wire
from mesh.wire.frames import BatchHeader, Data, Flag, LinkKind

HOUSEKEEPING_S = 60.0
_OF_BATCHES = (wire.Ack, wire.CustodyAck, *pairs.FRAMES)
_BROKEN = frozenset({Close.LINK_LOST, Close.PEER_CLOSED, Close.HELLO_TIMEOUT})
"""A link that ended so says nothing about why: its member may be gone."""


class NodeMachine:
    """Args:
        settings: who this is. dice: its only source of chance. now: monotonic seconds. store: the journal; without one nothing is
            taken at least once. rules: what `[[topic]]` says. boundary: what may cross to other regions; None: no rules.
    Results to take after each call: `drain()` (effects, Send and CloseLink name links by number), `take_deliveries()`,
    `take_ready()` (links with batches to `pull`), `take_ended()` (requests), `take_questions()` (mail from other nodes).
    Raises: KeyError or ValueError on misuse by the caller; never for what a peer sent.
    """

    def __init__(
        self,
        settings: NodeSettings,
        dice: Dice,
        now: float,
        *,
        store: Store | None = None,
        rules: TopicRules | None = None,
        boundary: Boundary | None = None,
    ) -> None:
        self.settings = settings
        self.boundary = boundary or Boundary(settings.region, settings.limits)
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
            boundary=self.boundary,
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
        self.rules = rules or TopicRules()
        self.custody = Custody(
            NoStore() if store is None else store,
            self.forwarder,
            self.rules,
            now,
            dice=dice,
            limits=settings.limits,
            counters=self.counters,
        )
        self.informed = Informed(self.custody.store, self.control, now, alone=settings.alone)
        self.custody.arrival.informed = self.custody.intake.informed = self.informed
        self.consumers = self.custody.consumers
        for change in self.consumers.restore(now):
            self.control.interest_changed(*change, now)
        self._tell_of_clients(now)
        self.notices = DeathNotices(
            self.key,
            self.custody.letters,
            plan_of=self.forwarder.plans.of,
            announce=self._announce,
            limits=settings.limits,
        )
        self.reissue = Reissue(
            self.custody.letters, self.custody.store, self.forwarder.plans.of, self._publish_now
        )
        self.control.hears_members = self.informed.hears_members
        self._entangle(now)
        self.mail = Mail(self.key, self.forwarder, settings.limits, self.counters)
        self.inboxes = self.mail.inboxes
        self.admission = Admission(settings, self.sessions, self.links, self.control.membership)
        self.totals = Flow()
        """What links that are gone carried."""
        self.copies_moved = False
        """More counts as stored, without a commit, since somebody cleared this."""
        self._effects: list[Effect] = []
        self._next_link = 0
        self._session_deadline = float("inf")
        self._control_deadline: float | None = None
        """Of the control plane; None: ask it. Batches do not move it, and asking costs as much as passing one on."""
        self._housekeeping_at = now + HOUSEKEEPING_S

    def _entangle(self, now: float) -> None:
        """What custody asks of the control plane."""
        control, custody = self.control, self.custody
        custody.is_live = lambda node: node in control.live_members()
        custody.pairs.informed, custody.pairs.keeps = self.informed, control.keeps
        custody.pairs.mirror.away_since = lambda node: self._away_since(node, now)
        succession = custody.pairs.succession
        succession.heir, succession.home, succession.is_live = control.heir, control.home, custody.is_live
        succession.restored()
        for former in succession.taken:
            control.taken_changed(former, True, now)

    def _away_since(self, node: str, started: float) -> float | None:
        """Since when a member is dead or has left, or was never heard of; None for one that is there."""
        if node in self.links.peers:
            return None
        view = self.control.membership.members().get(node)
        if view is None:
            return started
        return None if view.live else max(view.since, started)

    @property
    def draining(self) -> bool:
        """Leaving: nothing new is taken in."""
        return self.admission.draining

    # -- links ---------------------------------------------------------------------------------------------------

    def link_connected(
        self, *, dialled: bool, terms: Terms, wall_ms: int, now: float, certified: NodeKey | None = None
    ) -> int:
        """A transport connected: begin a session and return its link number. certified: who its certificate says is there."""
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
            certified=certified,
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
                only_data = only_data and isinstance(frame, _OF_BATCHES)
                self._receive_control(session, frame, now)
            if session.state is SessionState.CLOSED:
                break
        if only_data and session.is_open:
            # Batches and their acknowledgements change no table and no route: what they leave behind is mail, and the session's own
            # acknowledgement.
            if session.kind is LinkKind.PEER:
                self.control.membership.heard(session.peer_key.node, now)
            self.custody.acknowledge(now)
            self._after_session(session, now)
            self._copies_moved(now)
            self.mail.take_in(now)
            self.notices.tell(now)
            return
        self._after_session(session, now)
        self._settle(now)

    def _receive_data(self, session: LinkSession, frame: Data, now: float) -> None:
        header = frame.header
        if not session.received(header, len(frame.body), now):
            return
        problem = batch_problem(session, header, self.settings.limits)
        if problem:
            session.refuse(Close.PROTOCOL_ERROR, problem)
        elif header.flags & Flag.CUSTODY:
            self.custody.receive(session, header, frame.body, now)
        elif session.passage is not None:
            self._receive_inward(session, session.passage, frame, now)
        else:
            self.forwarder.receive(session, header, frame.body, now)

    def _receive_inward(self, session: LinkSession, passage: Passage, frame: Data, now: float) -> None:
        """A batch at a boundary with rules: what may come in goes on as it comes in, the rest is counted."""
        judged = passage.inward(frame.header, frame.body, now)
        if judged.malformed:
            self.counters.drop(Drop.MALFORMED, frame.header.count)
        if judged.denied:
            self.counters.drop(Drop.POLICY_DENY, judged.denied_weight)
        for piece in judged.pieces:
            self.forwarder.receive(session, piece.header, piece.body, now)

    def _receive_control(self, session: LinkSession, frame: wire.Frame, now: float) -> None:
        measured = session.rtt_ms is not None
        if not session.receive(frame, now):
            if isinstance(frame, pairs.FRAMES) and session.kind is LinkKind.PEER:
                problem = self.custody.pairs.receive(session.peer_key.node, frame, now)
                if problem:
                    session.refuse(Close.PROTOCOL_ERROR, problem)
            else:
                self.control.receive(session, frame, now)
            return
        if (
            isinstance(frame, wire.Open)
            and session.peer is not None
            and session.state is SessionState.OPENING
        ):
            self._judge(session, now)
        elif isinstance(frame, wire.CustodyAck):
            self.custody.told(session, now)
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
            self.custody.pairs.peer_opened(peer.node, now)
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
        self.custody.link_gone(session, now)
        self.custody.pairs.links_changed(now)
        self._copies_moved(now)

    def _is_linked(self, session: LinkSession) -> bool:
        if session.peer is None:
            return False
        return session.link in self.links.bridges or self.links.peers.get(session.peer.node) == session.link

    def _plans_changed(self, now: float) -> None:
        self._control_deadline = None
        self.control.settle(now)
        self.control.changed = False
        self.forwarder.invalidate(now)

    def rules_changed(self, now: float) -> None:
        """The boundary's rules were replaced: routes, interest, and what waits in links are judged by the new ones."""
        bridges = [session for session in self.sessions.values() if session.link in self.links.bridges]
        self.control.rules_changed(bridges, now)
        for session in bridges:
            self.forwarder.passage_changed(session, now)
            self.custody.departure.passage_changed(session, now)
        self._settle(now)

    # -- clients -------------------------------------------------------------------------------------------------

    def publish(self, events: Sequence[NewEvent], now: float) -> Published:
        """Take events in. Topics must be checked. Raises ValueError while draining."""
        if self.draining:
            raise ValueError("draining")
        return self.forwarder.publish(events, None, now)

    def publish_kept(
        self, events: Sequence[NewEvent], now: float, flags: int = 0
    ) -> tuple[Published, Ticket, Awaited | None]:
        """Take events in at least once. Returns what became of them, a ticket that tells with the next `flush` which record must be synced
        before they count as accepted, and the call that waits for receipts if flags ask for some (close it in `custody.receipts`).

        Raises: StoreRefusedError: the journal cannot take them, nothing happened. ValueError while draining.
        """
        if self.draining:
            raise ValueError("draining")
        return self.custody.publish(events, now, flags)

    def replay(self, lsn: int, now: float) -> Replay:
        """Publish a dead letter again. It is gone when the record that this returns is synced."""
        return self.reissue.replay(lsn, now)

    def _publish_now(self, events: Sequence[NewEvent], now: float) -> tuple[Published, int]:
        """As `publish_kept`, stored before it returns. Raises: StoreRefusedError, then too; ValueError."""
        published, ticket, _ = self.publish_kept(events, now)
        self.flush(now)
        if ticket.refused is not None:
            raise StoreRefusedError(ticket.refused)
        return published, ticket.lsn or 0

    def _announce(self, events: Sequence[NewEvent], now: float) -> None:
        """Publish what the mesh itself has to say: no client's event, so that it does not count as taken in."""
        self.forwarder.publish(events, None, now)
        self.counters.published -= len(events)
        self.forwarder.flush(now)

    def stored(self, now: float) -> None:
        """The journal committed: tell those who wait for it."""
        self.reissue.synced()
        self.custody.store_moved(now)
        for session in list(self.sessions.values()):
            self._after_session(session, now)

    def _copies_moved(self, now: float) -> None:
        """A second copy is there, or is not waited for any longer: whoever waited for it is told, as after a commit."""
        if self.custody.copies.take_moved():
            self.copies_moved = True
            self.stored(now)

    def recover(self, wall_ms: int, now: float) -> int:
        """Take up what an earlier process left in the journal. Before any link. Returns the number of records."""
        return self.custody.recover(wall_ms, now)

    def subscribe(self, session: int, sid: int, filter: str, group: str, now: float) -> None:
        """Add a client's subscription. The filter must be checked. Raises: ValueError when the sid is taken; StoreRefusedError: a
        durable client's cannot be noted. State unaffected."""
        if sid not in self.subscriptions.of_session(session):
            self.consumers.subscribing(session, sid, filter, group)
        for change in self.subscriptions.subscribe(session, sid, filter, group):
            self.control.interest_changed(*change, now)
        self.control.changed = True
        self.consumers.subscribed(session, sid, filter, group, now)
        self._tell_of_clients(now)
        self._settle(now)

    def keep_log(self, session: int) -> None:
        """This session is the node's event log: what it subscribes to from now on is wanted as by a durable client, and of what is
        delivered at least once a part is kept until `custody.log.done`."""
        self.consumers.log_session = session

    def unsubscribe(self, session: int, sid: int, now: float) -> None:
        """Remove a client's subscription. Raises KeyError when there is none."""
        held = self.subscriptions.of_session(session).get(sid, "")
        for change in self.subscriptions.unsubscribe(session, sid):
            self.control.interest_changed(*change, now)
        self.control.changed = True
        self.consumers.unsubscribed(session, sid, held, now)
        self._tell_of_clients(now)
        self._settle(now)

    def drop_session(self, session: int, now: float) -> None:
        """A live client went away. Idempotent."""
        held = tuple(self.subscriptions.of_session(session).values())
        for change in self.subscriptions.drop_session(session):
            self.control.interest_changed(*change, now)
        self.control.changed = True
        self._settle(now)
        self.consumers.disconnect(session, now, held)

    def connect_client(
        self, name: str, terms: AckTerms, now: float, resume_after: EventId | None = None
    ) -> Connected:
        """A durable client connected. Raises: as `Consumers.admit`."""
        connected = self.consumers.connect(name, terms, now, resume_after)
        self._tell_of_clients(now)
        self._settle(now)
        return connected

    def home_of(self, client: str) -> tuple[str, str, bool] | None:
        """(node, address of its events port, whether it is alive) of the other node that keeps a durable client; None: this one
        does, or nobody yet. Cost: O(members)."""
        pairs = self.custody.pairs
        if self.consumers.durable.of_name(client) is not None and client not in pairs.succession.leaving:
            return None
        for node, address in self.control.homes(client):
            return node, address, node in self.control.live_members()
        node = pairs.mirror.home_of(client) or pairs.succession.leaving.get(client, "")
        return (node, "", False) if node else None

    def remove_client(self, name: str, now: float) -> None:
        """A durable client is no more. Raises KeyError when there is none."""
        self._interest_changed(self.consumers.remove(name, now), now)
        self.custody.pairs.succession.removed(name)

    def _tell_of_clients(self, now: float) -> None:
        """Durable clients came or went, or what they want: the region has to know what outlives this process, and where they are."""
        kept, clients = self.consumers.take_news()
        for change in kept:
            self.control.kept_changed(*change, now)
        for name, here in clients.items():
            self.control.client_changed(name, here, now)

    def _interest_changed(self, changes: Iterable[Transition], now: float) -> None:
        for change in changes:
            self.control.interest_changed(*change, now)
            self.control.changed = True
        self._tell_of_clients(now)
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
        return self.mail.request(event, timeout_s, now)

    def reply(self, reply_to: ReplyTo, correlation: str, event: NewEvent, now: float) -> Drop | None:
        """Send a reply towards a waiting request. Returns why not, or None."""
        why = self.mail.reply(reply_to, correlation, event, now)
        self._settle(now)
        return why

    def ask(
        self, region: str, node: str, topic: str, data: bytes, extra: tuple[str, ...], now: float
    ) -> Drop | None:
        """Send this node's own mail to another node (`take_questions` there). Returns why not, or None."""
        why = self.mail.ask(region, node, topic, data, extra, now)
        self._settle(now)
        return why

    # -- results -------------------------------------------------------------------------------------------------

    def take_deliveries(self) -> dict[int, list[Delivery]]:
        """Deliveries by client session since the last call."""
        deliveries = self.forwarder.deliverer.handover.take()
        for session, owed in self.consumers.take_deliveries().items():
            deliveries.setdefault(session, []).extend(owed)
        return deliveries

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
        questions, self.mail.questions = self.mail.questions, []
        return questions

    def pull(self, link: int, now: float) -> Queued | None:
        """The next batch for a link that may be sent now; expired ones are counted on the way."""
        session = self.sessions.get(link)
        while session is not None:
            item = session.pull(now)
            if item is None or item.header.remaining_ms >= 0:
                return item
            if item.share is None:
                self.counters.drop(Drop.EXPIRED, item.weight)
            else:
                self.custody.departure.expired(item.share, now)
        return None

    def drain(self) -> list[Effect]:
        """Effects since the last call; names of members are translated, frames for links that are gone vanish with them."""
        effects, self._effects = self._effects, []
        if self.custody.pairs.effects:
            effects += self.custody.pairs.effects
            self.custody.pairs.effects.clear()
        if self.control.effects:
            effects += self.control.effects
            self.control.effects.clear()
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
        """What was waiting to be read has been read: open batches go to their links, open records into the journal."""
        self.forwarder.flush(now)
        self.custody.flush(now)
        self.notices.tell(now)
        self.mail.take_in(now)

    def next_deadline(self) -> float:
        control = self._control_deadline
        if control is None:
            control = self._control_deadline = min(
                self.control.next_deadline(), self.admission.next_deadline(), self._housekeeping_at
            )
        due = min(control, self._session_deadline)
        for at in (
            self.inboxes.next_deadline(),
            self.control.membership.next_deadline(),
            self.custody.next_deadline(),
            self.custody.pairs.next_deadline(),
            self.consumers.next_deadline(),
        ):
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
        due = self.custody.next_deadline()
        if due is not None and now >= due:
            self.custody.handle_deadline(now)
        due = self.custody.pairs.next_deadline()
        if due is not None and now >= due:
            self._pairs_due(now)
        if now >= self.consumers.next_deadline():
            self._interest_changed(self.consumers.handle_deadline(now), now)
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_S
            self.forwarder.deliverer.dedupe.expire(now)
            self.custody.keeping.dedupe.expire(now)
            self._remember(now)
        self._settle(now)

    def _pairs_due(self, now: float) -> None:
        """Clients that moved here: their interest first, then that they are here."""
        self._interest_changed(self.custody.pairs.handle_deadline(now), now)
        for former, here in self.custody.pairs.take_marks():
            self.control.taken_changed(former, here, now)
        self._copies_moved(now)

    def _settle(self, now: float) -> None:
        """After every burst with control frames, and every call: mail, notices, tables, plans."""
        self.mail.take_in(now)
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
        self._effects += [effect for effect in self.control.effects if not isinstance(effect, CloseLink)]
        self.control.effects.clear()
        if self.control.changed:
            self.control.changed = False
            forwarder.invalidate(now)
            self.custody.ways_changed(now)
            self.custody.pairs.links_changed(now)
            self._remember(now)
            for client in self.custody.pairs.succession.look(self.control.take_rivals(), now):
                home = self.custody.pairs.succession.leaving[client]
                self._effects.append(Notify("client_moved", client, "", f"kept at node {home} by now"))
        for node in self.control.take_gone():
            self.custody.member_gone(node, now)
        self.notices.tell(now)

    def _remember(self, now: float) -> None:
        """For the next start: what others want is noted soon after it changed."""
        self._housekeeping_at = min(self._housekeeping_at, self.informed.remember(now))
        self._control_deadline = None

    # -- leaving -------------------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """Begin to leave: nothing new is taken in, routes are withdrawn, the region is told. Queues still empty."""
        self.admission.draining = True
        self.custody.arrival.draining = self.custody.pairs.mirror.draining = True
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
