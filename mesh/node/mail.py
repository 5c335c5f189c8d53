"""A node's own mail: requests and their replies, notices that nobody was found, and questions between nodes.

Decides what becomes of an event that is addressed to a node and to no topic. Never decides a route (`mesh.core.forwarding`
does), and keeps no time but that of its inboxes.
Invariant: every request ends once: with a reply, with the reasons why there is none, or by its time-out.
Source: design page "Routing", Forwarding (request/reply, `no_responders`).
"""

from __future__ import annotations

from mesh.core.counters import Counters
from mesh.core.forwarding import Forwarder
from mesh.core.inboxes import INBOX, NOTICE, Inboxes, ReplyTo
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Event, NewEvent
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader


class Mail:
    """Args: key: whose mail. forwarder: sends it, and keeps what arrived until `take_in`."""

    def __init__(self, key: NodeKey, forwarder: Forwarder, limits: Limits, counters: Counters) -> None:
        self._key = key
        self._forwarder = forwarder
        self._counters = counters
        self.inboxes = Inboxes(limits)
        self.questions: list[tuple[BatchHeader, Event]] = []
        """Mail that is neither a reply nor a notice."""

    def request(self, event: NewEvent, timeout_s: float, now: float) -> str:
        """Publish a request. Returns the inbox under which it will end. Raises ValueError when too many wait."""
        inbox = self.inboxes.open(timeout_s, now)
        reply_to = ReplyTo(self._key.region, self._key.node, inbox)
        published = self._forwarder.publish([event], (str(reply_to), inbox), now)
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
        return self._forwarder.send_to(reply_to.region, reply_to.node, mail, now)

    def ask(
        self, region: str, node: str, topic: str, data: bytes, extra: tuple[str, ...], now: float
    ) -> Drop | None:
        """Send this node's own mail to another node (`questions` there). Returns why not, or None."""
        return self._forwarder.send_to(region, node, Event(0, topic, "", 0, extra, (), data), now)

    def take_in(self, now: float) -> None:
        """Mail for this node, and news for origins whose event found nobody here."""
        forwarder = self._forwarder
        if forwarder.mail:
            mail, forwarder.mail = forwarder.mail, []
            for header, event in mail:
                self._take_mail(header, event)
        if forwarder.unserved:
            unserved, forwarder.unserved = forwarder.unserved, []
            for header, event, reason, group in unserved:
                self._notice(header, event, reason, group, now)

    def _take_mail(self, header: BatchHeader, event: Event) -> None:
        if event.topic.startswith((INBOX, NOTICE)):
            why = self.inboxes.mail(header, event)
            if why is not None:
                self._counters.drop(why, 1)
        else:
            self.questions.append((header, event))

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
        self._forwarder.send_to(to.region, to.node, notice, now)
