"""One node of a simulated world: a machine that lives, crashes and returns, with its dialler and its clients.

Carries out what the machine decided, in virtual time; decides nothing of the mesh itself.
Invariant: after every call into the machine its effects are carried out before time moves on.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from federation.core.policy.boundary import Boundary
from federation.core.policy.rule_file import parse
from mesh.core.custody.store import StoreRefusedError
from mesh.core.custody.window import AckTerms
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.core.groups import Assigned
from mesh.core.inboxes import Ended, ReplyTo
from mesh.core.opening import Terms
from mesh.core.plan import Plan
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Event, NewEvent
from mesh.model.ids import NodeKey
from mesh.model.reasons import Drop
from mesh.node.machine import NodeMachine
from mesh.node.settings import NodeSettings
from mesh.testing.network import WALL_S, Connection
from mesh.testing.sim_client import TERMS, DurableSim, Habit, MeshId, SimClients
from mesh.testing.sim_store import SimStore
from mesh.wire import frames as wire
from mesh.wire.frames import Data

if TYPE_CHECKING:
    from mesh.testing.world import World

DIAL_S: Final = (0.2, 2.0)
DRAIN_TELL_S: Final = 0.3
DRAIN_S: Final = 10.0
"""Both as the node on trio has them (`mesh.node.runner`)."""
NOTICES: Final = 10_000
FSYNC_S: Final = 0.003
COMMIT_S: Final = 1.0
"""What nobody waits for is committed after so long, and a commit that failed is tried again."""


class ProcessDied(BaseException):
    """A node's process ended in the middle of what it was doing: its call returns no more. told: see `SimNode.crash`."""

    def __init__(self, node: SimNode, *, told: bool, wiped: bool = False) -> None:
        super().__init__(str(node.key))
        self.node = node
        self.told = told
        self.wiped = wiped


class Taken(NamedTuple):
    """One event that a node took in: when, where, its topic, what the node planned for it and who was to serve its groups."""

    at: float
    node: NodeKey
    mesh_id: MeshId
    topic: str
    plan: Plan
    assigned: tuple[Assigned, ...]
    kept: bool = False
    """At least once."""


class SimNode:
    """Args: bridges: terms of each region this node has a `[[bridge]]` for."""

    def __init__(
        self, world: World, key: NodeKey, place: tuple[float, float], bridges: dict[str, Terms]
    ) -> None:
        self.world = world
        self.key = key
        self.place = place
        self.bridges = bridges
        self.epoch = 0
        self.skew_s = 0.0
        """How far its wall clock is off."""
        self.clock_begun_s = 0.0
        self.clock_rate = 1.0
        """Its monotonic clock: what it showed at virtual time 0, and its seconds in each second. Change it only while down."""
        self.slow_s = 0.0
        """Every burst waits so long before this node looks at it, and deadlines strike so late."""
        self.busy_until = 0.0
        self.lost_disk = False
        self.began_at = float("-inf")
        """When its first process since it lost its disk started."""
        self.up = False
        self.generation = 0
        self.began_at = 0.0
        """When this process began."""
        """Counts its processes."""
        self.connections: dict[int, Connection] = {}
        self.targets: list[tuple[NodeKey, Terms]] = []
        """Nodes this one dials, and how: its seeds and its bridges."""
        self.ended: list[Ended] = []
        self.notices: list[tuple[float, Notify]] = []
        self.subscriptions: dict[tuple[int, int], tuple[str, str]] = {}
        """What clients asked for: (session, sid) -> (filter, group). Asked again after a restart."""
        self.asked: dict[tuple[int, int], tuple[str, str]] = {}
        """The same with what was given up since."""
        self.policy: str | None = None
        """The text of its policy file, None for none."""
        self.keys: dict[str, bytes] = {}
        self.replies = False
        """Whether its clients answer requests."""
        self._dialling: dict[NodeKey, float] = {}
        self._armed = float("inf")
        self._now = 0.0
        self.machine: NodeMachine
        self.store = SimStore(lambda: int((WALL_S + self.world.now + self.skew_s) * 1e3))
        """Its disk: what outlives its processes."""
        self.store.step = self.step
        self.terms: dict[int, AckTerms] = {}
        """Live sessions that acknowledge."""
        self.durable: dict[str, DurableSim] = {}
        self.guests: dict[str, DurableSim] = {}
        """Durable clients of other nodes that are connected here, as this is their home by now."""
        self.habit = Habit()
        self.clients = SimClients(self)
        self._commit_armed = False
        self.fsync_s = FSYNC_S
        self.accepted: list[tuple[float, MeshId]] = []
        """Events published at least once here, and when their publisher was told so."""
        self._unaccepted: list[tuple[int, list[MeshId]]] = []

    @property
    def now(self) -> float:
        """What this node's monotonic clock shows: machines never see virtual time itself. Never goes back."""
        self._now = max(self._now, self.clock_begun_s + self.world.now * self.clock_rate)
        return self._now

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start again as a new process."""
        world = self.world
        assert not self.up
        self.epoch = max(self.epoch + 1, int(WALL_S + world.now + self.skew_s))
        settings = NodeSettings(
            region=self.key.region,
            node=self.key.node,
            instance=f"{self.key}#{self.epoch}",
            epoch=self.epoch,
            software="simulated",
            address=str(self.key),
            bridges=self.bridges,
            limits=world.limits,
        )
        if world.merge_budget is not None:
            settings = replace(settings, merge_budget=world.merge_budget)
        self._now = 0.0
        if self.lost_disk:
            self.lost_disk, self.began_at = False, world.now
        dice = random.Random(world.dice.getrandbits(64))
        self.machine = NodeMachine(
            settings, dice, self.now, store=self.store, rules=world.rules, boundary=self._boundary(dice)
        )
        self.generation += 1
        self.began_at = world.now
        self._commit_armed = False
        self.machine.recover(int((WALL_S + world.now + self.skew_s) * 1e3), self.now)
        self.up = True
        self._armed = float("inf")
        self.busy_until = 0.0
        self._dialling.clear()
        self.connections.clear()
        self.clients.return_()
        self.after()
        self._dial(self.generation)

    def _boundary(self, dice: random.Random) -> Boundary:
        rules = None if self.policy is None else parse(self.policy, "policy.rules")
        return Boundary(self.key.region, self.world.limits, rules, self.keys, lambda: dice.randbytes(12))

    def change_policy(self, text: str) -> None:
        """Other rules hold from now on, as after a reload."""
        self.policy = text
        if self.up:
            self.machine.boundary.replace(parse(text, "policy.rules"), self.keys)
            self.machine.rules_changed(self.now)
            self.after()

    def crash(self, *, told: bool = True, wiped: bool = False) -> None:
        """The process ends at once. told: kill -9, the others see FIN or RST; otherwise the power went. wiped: its disk is gone, too."""
        self.up = False
        self._bury()
        if wiped:
            self.store.wipe()
            self.lost_disk = True
        else:
            self.store.crash(self.world.dice)
        self.clients.cut()
        self._unaccepted.clear()
        for connection in list(self.connections.values()):
            self.world.sever(connection, told=told, drains=told)

    def _bury(self) -> None:
        """What dies with the process is remembered by the world: its counters, and what it held for others."""
        buried = self.world.buried
        for reason, events in self.machine.counters.drops.items():
            buried[reason] = buried.get(reason, 0) + events
        self.world.short += sum(self.machine.counters.copies_short.values())
        for session in self.machine.sessions.values():
            held = session.unacked_weight + sum(item.weight for item in session.queue)
            buried[Drop.SHUTDOWN] = buried.get(Drop.SHUTDOWN, 0) + held

    def leave(self) -> None:
        """Say that it leaves; nothing ends yet."""
        self.machine.leave(self.now)
        self.after()

    def terminate(self) -> None:
        """SIGTERM: it leaves, lets its queues empty, closes its links, and is gone."""
        self.leave()
        generation, latest = self.generation, self.world.now + DRAIN_S
        self.world.at(self.world.now + DRAIN_TELL_S, lambda: self._drained(generation, latest))

    def _drained(self, generation: int, latest: float) -> None:
        if not self.up or generation != self.generation:
            return
        if self.machine.queued_bytes and self.world.now < latest:
            self.world.at(self.world.now + 0.02, lambda: self._drained(generation, latest))
            return
        self.machine.close_links(self.now)
        self.after()
        self.crash()

    @property
    def serves(self) -> bool:
        """Whether it takes clients' calls: up and not leaving."""
        return self.up and not self.machine.draining

    # -- clients -------------------------------------------------------------------------------------------------

    def subscribe(self, session: int, sid: int, filter: str, group: str = "") -> None:
        """A session subscribes, now and in each process to come."""
        self.clients.subscribe(session, sid, filter, group)

    def unsubscribe(self, session: int, sid: int) -> None:
        self.clients.unsubscribe(session, sid)

    def acknowledging(self, session: int, terms: AckTerms = TERMS) -> None:
        """A live session acknowledges from now on, in each process."""
        self.clients.acknowledging(session, terms)

    def join(self, name: str, *subscriptions: tuple[str, str]) -> DurableSim:
        """A durable client whose home this is; (filter, group) of each subscription. It connects, and again after each restart."""
        return self.clients.join(name, *subscriptions)

    def publish(self, *topics: str, key: str = "", data: bytes = b"x", ttl_ms: int = 0) -> list[MeshId]:
        """Publish one event per topic in one burst; returns their mesh_ids."""
        events = [NewEvent(topic, key, ttl_ms, None, data) for topic in topics]
        world = self.world
        ids: list[MeshId] = []
        first, plans, assigned = self.machine.publish(events, self.now)
        for at, topic in enumerate(topics):
            mesh_id = (self.key.region, self.key.node, self.epoch, first + at)
            ids.append(mesh_id)
            world.taken.append(Taken(world.now, self.key, mesh_id, topic, plans[at], assigned.get(at, ())))
        self.machine.flush(self.now)
        self.after()
        return ids

    def publish_kept(self, *topics: str, key: str = "", data: bytes = b"x", ttl_ms: int = 0) -> list[MeshId]:
        """Publish at least once, one event per topic; they appear in `accepted` when the publisher is told so.

        Raises: StoreRefusedError."""
        events = [NewEvent(topic, key, ttl_ms, None, data) for topic in topics]
        (first, plans, assigned), ticket, _ = self.machine.publish_kept(events, self.now)
        self.machine.flush(self.now)
        if ticket.refused is not None:
            raise StoreRefusedError(ticket.refused)
        world = self.world
        ids = [(self.key.region, self.key.node, self.epoch, first + at) for at in range(len(topics))]
        for at, topic in enumerate(topics):
            world.taken.append(
                Taken(world.now, self.key, ids[at], topic, plans[at], assigned.get(at, ()), kept=True)
            )
        self.step("before answering")
        self._unaccepted.append((ticket.lsn or 0, ids))
        self.after()
        return ids

    def _commit(self) -> None:
        """What the journal's flusher does: one commit after the other while somebody waits for one."""
        generation, world, store = self.generation, self.world, self.store
        store.begin()

        def done() -> None:
            if self.up and generation == self.generation:
                store.finish()
                self.machine.stored(self.now)
                self.after()

        world.at(world.now + self.fsync_s * world.dice.uniform(0.3, 3.0), done)

    def _commit_soon(self) -> None:
        """As the flusher: at once where somebody waits, else after a while; a broken disk is tried again after a while."""
        store = self.store
        if not store.dirty:
            return
        if store.urgent and store.fault is None:
            self._commit()
        elif not self._commit_armed:
            self._commit_armed = True
            generation, world = self.generation, self.world

            def later() -> None:
                if self.up and generation == self.generation:
                    self._commit_armed = False
                    if store.dirty:
                        self._commit()

            world.at(world.now + COMMIT_S, later)

    def step(self, what: str) -> None:
        """A moment of the custody protocol: a process may die here."""
        if self.world.on_step is not None:
            self.world.on_step(self, what)

    def request(self, topic: str, timeout_s: float) -> str:
        """Send a request; its end appears in `ended`."""
        inbox = self.machine.request(NewEvent(topic, "", 0, (), b"?"), timeout_s, self.now)
        self.machine.flush(self.now)
        self.after()
        return inbox

    # -- the driver's part ---------------------------------------------------------------------------------------

    def after(self) -> None:
        """Carry out what the machine decided."""
        world, machine = self.world, self.machine
        asked: list[Event] = []
        while True:
            self._transmit(machine.drain())
            self._pull()
            if not self.clients.deliver(asked):
                break
        while self._unaccepted and self._unaccepted[0][0] <= self.machine.custody.store.synced:
            self.step("before accepted")
            self.accepted += [(world.now, mesh_id) for mesh_id in self._unaccepted.pop(0)[1]]
            self.step("after accepted")
        self._commit_soon()
        self.ended += machine.take_ended()
        machine.take_questions()
        deadline = min(machine.next_deadline(), machine.custody.consumers.next_deadline())
        if deadline < self._armed:
            self._armed = deadline
            generation = self.generation
            at = max((deadline - self.clock_begun_s) / self.clock_rate, world.now) + self.slow_s
            world.at(at, lambda: self._strike(generation, deadline))
        world.settled(self)
        if asked:
            self._reply(asked)

    def _transmit(self, effects: list[Effect]) -> None:
        world = self.world
        for effect in effects:
            if isinstance(effect, Send):
                connection = self.connections.get(int(effect.to))
                if connection is not None:
                    taken = isinstance(effect.frame, wire.CustodyAck)
                    if taken:
                        self.step("before custody ack")
                    world.transmit(self, connection, effect.frame)
                    if taken:
                        self.step("after custody ack")
            elif isinstance(effect, CloseLink):
                connection = self.connections.get(int(effect.to))
                if connection is not None:
                    world.transmit(self, connection, wire.CloseLink(effect.reason.value, effect.detail))
                    world.sever(connection, told=True)
            else:
                if effect.what == "client_moved":
                    self.clients.moved(effect.about)
                if len(self.notices) < NOTICES:
                    self.notices.append((world.now, effect))
                world.noticed(self, effect)

    def _pull(self) -> None:
        world, machine = self.world, self.machine
        for link in sorted(machine.take_ready()):
            connection = self.connections.get(link)
            while connection is not None and (item := machine.pull(link, self.now)) is not None:
                if item.share is not None:
                    self.step("before send")
                world.carried(self, connection, item.header, item.body)
                world.transmit(self, connection, Data(item.header, item.body))
                if item.share is not None:
                    self.step("after send")

    def _reply(self, asked: list[Event]) -> None:
        for event in asked:
            assert event.extra is not None
            to = ReplyTo.parse(event.extra[EXTRA_REPLY_TO])
            reply = NewEvent(event.topic, "", 0, (), b"!")
            self.machine.reply(to, event.extra[EXTRA_CORRELATION], reply, self.now)
        self.machine.flush(self.now)
        self.after()

    def _strike(self, generation: int, deadline: float) -> None:
        if not self.up or generation != self.generation or deadline != self._armed:
            return
        self._armed = float("inf")
        self._now = max(self._now, deadline)  # what rounding took away
        self.machine.handle_deadline(self.now)
        consumers = self.machine.custody.consumers
        if self.now >= consumers.next_deadline():
            for change in consumers.handle_deadline(self.now):
                self.machine.control.interest_changed(*change, self.now)
        self.after()

    def received(self, link: int, frames: list[wire.Frame]) -> None:
        """A burst arrived."""
        if self.up and link in self.connections:
            custody = any(
                isinstance(frame, Data) and frame.header.flags & wire.Flag.CUSTODY for frame in frames
            )
            if custody:
                self.step("before receiving")
            self.machine.receive(link, frames, self.now)
            # Acknowledged batches may have given credit for what waits.
            if any(isinstance(frame, wire.Ack) for frame in frames):
                self.machine.forwarder.ready.add(link)
            self.after()

    def _dial(self, generation: int) -> None:
        """Look who should be linked and is not; look again soon."""
        if not self.up or generation != self.generation:
            return
        world, machine = self.world, self.machine
        if not machine.draining:
            linked = {session.peer_key for session in machine.sessions.values() if session.is_open}
            wanted = list(self.targets)
            own = self.key.region
            for want in machine.control.membership.wanted_links(self.now):
                wanted.append((NodeKey(own, want.node), Terms(expect_region=own)))
            for key, terms in wanted:
                if key != self.key and key not in linked and self._dialling.get(key, 0.0) <= world.now:
                    self._dialling[key] = world.now + world.dice.uniform(0.5, 1.0)
                    world.dial(self, key, terms)
        world.at(world.now + world.dice.uniform(*DIAL_S) / 2, lambda: self._dial(generation))
