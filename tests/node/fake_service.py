"""A whole small node behind `mesh.node.service.Service`: one process, real matching, real queue groups, real inboxes.

Used by the tests of the client protocols. Regions other than the own one exist only as what tests put into `regions` (name ->
filters) and `holding` (regions where every interest is installed at once).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import trio

from mesh.core.handover import delivery
from mesh.model.event import Delivery, Event, NewEvent, Told
from mesh.model.ids import MeshId, NodeKey, SessionId
from mesh.model.reasons import Close, Drop, NotDelivered
from mesh.model.topic import TopicError, matches, parse_share
from mesh.model.topic_rules import Level
from mesh.node.service import (
    AckLevel,
    Answer,
    Kept,
    Missing,
    Outcome,
    Outcomes,
    Receipt,
    RefusedError,
    RegionReason,
    Sink,
    Wait,
)


class NoReceivers:
    """Nobody here acknowledges: tests of those that do run a real node."""

    def is_durable(self, session: SessionId) -> bool:
        return False

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        raise AssertionError(f"receivers.{name} was not expected")


class FakeService:
    def __init__(self, region: str = "eu", node: str = "eu-1", *, most_sessions: int = 10_000) -> None:
        self._key = NodeKey(region, node)
        self.epoch = 7
        self.draining = False
        self.most_sessions = most_sessions
        self.sinks: dict[SessionId, Sink] = {}
        self.protocols: dict[SessionId, str] = {}
        self.subscriptions: dict[tuple[SessionId, int], tuple[str, str]] = {}
        self.regions: dict[str, list[str]] = {}
        self.unreachable: dict[str, list[str]] = {}
        self.holding: set[str] = set()
        self.installed_changed = trio.Event()
        self.published: list[NewEvent] = []
        self.replied: list[tuple[str, str, NewEvent]] = []
        self.kept: list[tuple[str, bytes]] = []
        self.replaying: dict[tuple[SessionId, int], FakeReplay] = {}
        self.drops: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.changed = trio.Event()
        self._inboxes: dict[tuple[str, str], tuple[trio.Event, list[Event]]] = {}
        self._next_session = 0
        self._seq = 0
        self._turn: Counter[tuple[str, str]] = Counter()

    @property
    def key(self) -> NodeKey:
        return self._key

    @property
    def receivers(self) -> NoReceivers:
        return NoReceivers()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, condition) -> None:  # type: ignore[no-untyped-def]
        """Wait until `condition()` holds; every change here and every count wakes it."""
        while not condition():
            await self.changed.wait()

    # -- sessions ---------------------------------------------------------------------------------------

    def open_session(self, sink: Sink, *, protocol: str, name: str) -> SessionId:
        if self.draining:
            raise RefusedError("MESH-E016", "the node is leaving", status=503)
        if len(self.sinks) >= self.most_sessions:
            raise RefusedError("MESH-E017", f"{self.most_sessions} connections are open", status=503)
        self._next_session += 1
        session = SessionId(self._next_session)
        self.sinks[session] = sink
        self.protocols[session] = protocol
        self._notify()
        return session

    def close_session(self, session: SessionId, reason: Close) -> None:
        self.sinks.pop(session, None)
        for key in [key for key in self.subscriptions if key[0] == session]:
            del self.subscriptions[key]
        self._notify()

    def drain(self, detail: str = "the node is leaving") -> None:
        self.draining = True
        for sink in list(self.sinks.values()):
            sink.close(Close.DRAINING, detail)

    # -- publish and subscribe --------------------------------------------------------------------------

    def level(self, events: Sequence[NewEvent], asked: str) -> Level:
        return Level(asked or "at-most-once")

    def keep(self, events: Sequence[NewEvent], ack: AckLevel) -> Kept:
        return Kept(self.publish(events), 1)

    async def kept(self, kept: Kept, timeout_s: float) -> None:
        await trio.lowlevel.checkpoint()

    def publish(self, events: Sequence[NewEvent]) -> Outcomes:
        if self.draining:
            raise RefusedError("MESH-E016", "the node is leaving", status=503)
        outcomes = []
        first = self._seq + 1
        waiting: dict[SessionId, list[Delivery]] = {}
        for new in events:
            self.published.append(new)
            outcomes.append(self._publish(new, None, waiting))
        for session, deliveries in waiting.items():
            self.sinks[session].deliver(deliveries)
        self._notify()
        return Outcomes(MeshId(*self._key, self.epoch, first), outcomes)

    def _publish(
        self, new: NewEvent, extra: tuple[str, ...] | None, waiting: dict[SessionId, list[Delivery]]
    ) -> Outcome:
        self._seq += 1
        event = Event(self._seq, new.topic, new.key, new.ttl_ms, extra, new.attributes, new.data)
        matched: dict[SessionId, list[int]] = {}
        groups: dict[tuple[str, str], list[tuple[SessionId, int]]] = {}
        for (session, sid), (group, filter) in self.subscriptions.items():
            if matches(filter, new.topic):
                if group:
                    groups.setdefault((group, filter), []).append((session, sid))
                else:
                    matched.setdefault(session, []).append(sid)
        origin = (self._key.region, self._key.node, self.epoch)
        chosen: list[tuple[SessionId, tuple[int, ...]]] = [(s, tuple(sids)) for s, sids in matched.items()]
        for name, members in groups.items():
            session, sid = members[self._turn[name] % len(members)]
            self._turn[name] += 1
            chosen.append((session, (sid,)))
        shared = [event]
        for session, sids in chosen:
            waiting.setdefault(session, []).append(delivery(shared, sids, origin, ()))
        regions = tuple(
            r for r, filters in self.regions.items() if any(matches(f, new.topic) for f in filters)
        )
        reasons = tuple(
            RegionReason(r, NotDelivered.UNREACHABLE, "no route for 4s")
            for r, filters in self.unreachable.items()
            if any(matches(f, new.topic) for f in filters)
        )
        if not chosen and not regions and not reasons:
            reasons = (RegionReason("", NotDelivered.NO_INTEREST),)
        assigned = tuple((group, self._key.region) for group, _ in groups)
        return Outcome(regions, len(chosen), assigned, reasons)

    def subscribe(self, session: SessionId, sid: int, filter: str, group: str = "") -> None:
        if (session, sid) in self.subscriptions:
            raise RefusedError("MESH-E019", f"sid {sid} is in use on this connection", status=409)
        try:
            shared, plain = parse_share(filter)
        except TopicError as error:
            raise RefusedError("MESH-E002", str(error)) from None
        self.subscriptions[(session, sid)] = (group or shared, plain)
        self._notify()

    def replay(
        self, session: SessionId, wanted: Sequence[tuple[int, str]], since: str, group: str = ""
    ) -> FakeReplay:
        """`kept` is the log: (topic, data), numbered from 1; since is the number to go on behind, or anything for all."""
        if group:
            raise RefusedError("MESH-E034", f"group {group!r} cannot begin in the log")
        for sid, _ in wanted:
            if (session, sid) in self.subscriptions or (session, sid) in self.replaying:
                raise RefusedError("MESH-E019", f"sid {sid} is in use on this connection", status=409)
        replay = FakeReplay(self, session, list(wanted), since)
        self.replaying |= {(session, sid): replay for sid, _ in wanted}
        return replay

    def unsubscribe(self, session: SessionId, sid: int) -> None:
        if self.subscriptions.pop((session, sid), None) is None:
            raise RefusedError("MESH-E020", f"sid {sid} is not subscribed on this connection", status=404)
        self._notify()

    async def wait_installed(
        self, session: SessionId, sids: Sequence[int], wait: Wait, regions: Sequence[str], timeout_s: float
    ) -> Receipt:
        await trio.lowlevel.checkpoint()
        demanded = set(regions) if regions else (set(self.regions) if wait is Wait.MESH else set())
        with trio.move_on_after(timeout_s):
            while demanded - self.holding:
                await self.installed_changed.wait()
        left = sorted(demanded - self.holding)
        missing = tuple(Missing(region, "no_route") for region in left)
        return Receipt((self._key.region, *sorted(demanded & self.holding)), missing, not missing)

    def install(self, region: str) -> None:
        self.holding.add(region)
        self.installed_changed.set()
        self.installed_changed = trio.Event()

    # -- request and reply ------------------------------------------------------------------------------

    async def request(self, event: NewEvent, timeout_s: float) -> Answer:
        await trio.lowlevel.checkpoint()
        if self.draining:
            raise RefusedError("MESH-E016", "the node is leaving", status=503)
        inbox, correlation = f"{self._key}/i{self._seq + 1}", f"c{self._seq + 1}"
        waiting: dict[SessionId, list[Delivery]] = {}
        outcome = self._publish(event, (inbox, correlation), waiting)
        if not waiting:
            return Answer(None, (), "no_responders", outcome.reasons)
        arrived, replies = trio.Event(), list[Event]()
        self._inboxes[(inbox, correlation)] = (arrived, replies)
        for session, deliveries in waiting.items():
            self.sinks[session].deliver(deliveries)
        self._notify()
        with trio.move_on_after(timeout_s):
            await arrived.wait()
        del self._inboxes[(inbox, correlation)]
        if replies:
            return Answer(replies[0], ("us",), "", ())
        return Answer(None, (), "timeout", ())

    def reply(self, reply_to: str, correlation: str, event: NewEvent) -> Outcomes:
        if reply_to.count("/") != 2:
            raise RefusedError("MESH-E028", f"reply_to {reply_to!r}: expected REGION/NODE/INBOX")
        if not reply_to.startswith(f"{self._key}/"):
            raise RefusedError("MESH-E029", f"no route to {reply_to.split('/')[0]}", status=503)
        self.replied.append((reply_to, correlation, event))
        self._seq += 1
        found = self._inboxes.get((reply_to, correlation))
        if found is None:
            self.count_drop(Drop.UNKNOWN_INBOX, 1)
        else:
            found[1].append(
                Event(self._seq, event.topic, event.key, 0, ("", correlation), event.attributes, event.data)
            )
            found[0].set()
        self._notify()
        return Outcomes(MeshId(*self._key, self.epoch, self._seq), [Outcome((), 1, (), ())])

    # -- counters ---------------------------------------------------------------------------------------

    def count_drop(self, reason: Drop, events: int) -> None:
        self.drops[reason] += events
        self._notify()

    def count_refusal(self, port: str, reason: str) -> None:
        self.refusals[(port, reason)] += 1
        self._notify()


class FakeReplay:
    """What `FakeService.replay` hands out: one event a step, and room before each."""

    def __init__(
        self, service: FakeService, session: SessionId, wanted: list[tuple[int, str]], since: str
    ) -> None:
        self._service = service
        self._session = session
        self._wanted = wanted
        self._since = since

    async def find(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._since.startswith("gone"):
            self._end()
            raise RefusedError(
                "MESH-E033", f"{self._since} is not in the log; the oldest one is 1", status=410
            )

    def _end(self) -> None:
        for sid, _ in self._wanted:
            self._service.replaying.pop((self._session, sid), None)

    async def run(self) -> None:
        service = self._service
        sink = service.sinks[self._session]
        first = int(self._since) if self._since.isdigit() else 0
        replayed = 0
        for seq, (topic, data) in enumerate(service.kept, start=1):
            sids = tuple(sid for sid, filter in self._wanted if matches(filter, topic))
            if seq <= first or not sids:
                continue
            await sink.room()
            event = Event(seq, topic, "", 0, None, None, data)
            origin = (service.key.region, service.key.node, service.epoch)
            sink.deliver([delivery([event], sids, origin, ())._replace(replayed=True)])
            replayed += 1
            if topic == "gap":
                sink.deliver([_told(sids, Told("gap", {"reason": "stopped", "since": None}))])
        await sink.room()
        sink.deliver([_told((self._wanted[0][0],), Told("live", {"replayed": replayed}))])
        self._end()
        for sid, filter in self._wanted:
            service.subscribe(self._session, sid, filter)


def _told(sids: tuple[int, ...], told: Told) -> Delivery:
    return delivery([], sids, ("", "", 0), ())._replace(replayed=True, told=told)
