"""Clients of a simulated node: plain sessions, live ones that acknowledge, and durable ones by name.

Decides when a client comes back and when it acknowledges, refuses or forgets an event, by its habit and the world's dice. Decides nothing of delivery.
Invariant: a client acknowledges an event only after it was delivered to it, and only over the connection that brought it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mesh.core.custody.window import AckTerms
from mesh.model.event import Delivery, Event
from mesh.model.ids import NodeKey

if TYPE_CHECKING:
    from mesh.testing.sim_node import SimNode

TERMS: Final = AckTerms(auto=False, ack_timeout_s=3.0, max_deliveries=1_000, window=64)
"""Of clients here: what they refuse again and again is delivered again and again, so that nothing but faults ends an event."""


RECONNECT_S: Final = (0.05, 0.5)
"""A durable client whose node is back connects after so long."""

MeshId = tuple[str, str, int, int]
"""(region, node, epoch, seq) of an event."""


class Delivered(NamedTuple):
    """One event's delivery to a client: when, where, to whom, and what."""

    at: float
    node: NodeKey
    session: int
    mesh_id: MeshId
    event: Event
    delivery: Delivery
    client: str = ""
    """Name of a durable one."""


class Habit(NamedTuple):
    """How clients of a node behave. slowest_s: until an acknowledgement. refuses, forgets: shares of deliveries."""

    slowest_s: float = 0.02
    refuses: float = 0.0
    forgets: float = 0.0

    @property
    def repeats(self) -> bool:
        """Whether such a client makes an event come again though nothing went wrong."""
        return bool(self.refuses or self.forgets)

    def answers(self, dice: random.Random) -> bool | None:
        """True: acknowledges. False: refuses. None: neither."""
        chance = dice.random()
        if chance < self.forgets:
            return None
        return chance >= self.forgets + self.refuses


@dataclass(slots=True, eq=False)
class DurableSim:
    """A durable client as its person sees it: what it subscribed to, whether it wants to be connected, and whether it is. number: its
    session at the node while it is connected. connection: counts its connections. at: the node it is connected to."""

    name: str
    subscriptions: dict[int, tuple[str, str]] = field(default_factory=dict)
    terms: AckTerms = TERMS
    wants: bool = True
    number: int = 0
    connection: int = 0
    at: NodeKey | None = None


class SimClients:
    """The clients of one node: `SimNode` keeps who they are, over all its processes."""

    def __init__(self, node: SimNode) -> None:
        self.node = node

    def return_(self) -> None:
        """A new process runs: everybody comes back, durable ones a little later."""
        node = self.node
        for session, terms in node.terms.items():
            node.machine.custody.consumers.open(session, terms)
        for (session, sid), (filter, group) in node.subscriptions.items():
            self._subscribe(session, sid, filter, group)
        for client in node.durable.values():
            if not node.world.moves:
                client.number = 0
            if not client.number:
                self._connect_later(client)

    def subscribe(self, session: int, sid: int, filter: str, group: str = "") -> None:
        self.node.subscriptions[session, sid] = self.node.asked[session, sid] = (filter, group)
        if self.node.up:
            self._subscribe(session, sid, filter, group)
            self.node.after()

    def _subscribe(self, session: int, sid: int, filter: str, group: str) -> None:
        self.node.machine.subscribe(session, sid, filter, group, self.node.now)
        self.node.machine.custody.consumers.subscribed(session, sid, filter, group, self.node.now)

    def unsubscribe(self, session: int, sid: int) -> None:
        filter, group = self.node.subscriptions.pop((session, sid))
        if self.node.up:
            self.node.machine.unsubscribe(session, sid, self.node.now)
            held = (group, filter) if group else filter
            self.node.machine.custody.consumers.unsubscribed(session, sid, held, self.node.now)
            self.node.after()

    def acknowledging(self, session: int, terms: AckTerms = TERMS) -> None:
        """A live session acknowledges from now on, in each process."""
        self.node.terms[session] = terms
        if self.node.up:
            self.node.machine.custody.consumers.open(session, terms)

    def join(self, name: str, *subscriptions: tuple[str, str]) -> DurableSim:
        """A durable client whose home this is; (filter, group) of each subscription. It connects, and again after each restart."""
        client = self.node.durable[name] = DurableSim(name, dict(enumerate(subscriptions, 1)))
        self.node.world.joined[name] = self.node.key
        if self.node.up:
            self.connect(client)
        return client

    def _connect_later(self, client: DurableSim) -> None:
        generation, world = self.node.generation, self.node.world

        def connect() -> None:
            if world.moves:
                self._connect_somewhere(client)
            elif self.node.up and generation == self.node.generation and client.wants and not client.number:
                self.connect(client)

        world.at(world.now + world.dice.uniform(*RECONNECT_S), connect)

    def _connect_somewhere(self, client: DurableSim) -> None:
        """The client asks its node, or another one of the region where that is down, which sends it to its home; it asks again where
        that is down."""
        if not client.wants or client.number:
            return
        world, region = self.node.world, self.node.key.region
        asked = [self.node, *(one for one in world.live_nodes() if one.key.region == region)]
        first = next((one for one in asked if one.serves), None)
        home = None if first is None else first.clients.home_of(client.name)
        if home is None:
            self._connect_later(client)
            return
        if home.key != world.joined[client.name]:
            home.guests[client.name] = client
        home.clients.connect(client)

    def home_of(self, name: str) -> SimNode | None:
        """Where this node sends a durable client: here, to its home, or nowhere (None) while that is down."""
        found = self.node.machine.home_of(name)
        if found is None:
            return self.node
        other, _, alive = found
        home = self.node.world.nodes[NodeKey(self.node.key.region, other)]
        if not alive or not home.up:
            return None
        return home if home.machine.home_of(name) is None else None

    def moved(self, name: str) -> None:
        """The node said that a client is at home elsewhere by now: its connection is over."""
        client = self.node.durable.get(name) or self.node.guests.pop(name, None)
        if client is not None and client.at == self.node.key:
            client.number, client.at = 0, None
            self._connect_later(client)

    def cut(self) -> None:
        """The process ended, and all connections with it."""
        clients = [*self.node.durable.values(), *self.node.guests.values()]
        self.node.guests.clear()
        for client in clients:
            if self.node.world.moves and client.at == self.node.key:
                client.number, client.at = 0, None
                self._connect_later(client)

    def connect(self, client: DurableSim) -> None:
        """The client connects and says again what it subscribes to."""
        client.wants = True
        client.at = self.node.key
        machine = self.node.machine
        client.number = machine.custody.consumers.connect(client.name, client.terms, self.node.now).number
        client.connection += 1
        held = machine.subscriptions.of_session(client.number)
        for sid, (filter, group) in client.subscriptions.items():
            if sid not in held:
                self._subscribe(client.number, sid, filter, group)
        self.node.after()

    def disconnect(self, client: DurableSim) -> None:
        """The client's connection ends; the client stays."""
        client.wants = False
        number, client.number = client.number, 0
        if self.node.up and number:
            self.node.machine.custody.consumers.disconnect(number, self.node.now)
            self.node.after()

    def deliver(self, asked: list[Event]) -> bool:
        """Hand over to clients. True: some of them acknowledge, so that there may be more."""
        world, machine = self.node.world, self.node.machine
        consumers = machine.custody.consumers
        here = (*self.node.durable.values(), *self.node.guests.values())
        names = {client.number: client for client in here if client.number and client.at == self.node.key}
        again = False
        for taken in (machine.take_deliveries(), consumers.take_deliveries()):
            for session, deliveries in taken.items():
                client = names.get(session)
                owed = [delivery for delivery in deliveries if delivery.deliveries]
                if owed:
                    self.node.step("before delivery")
                for delivery in deliveries:
                    for event in delivery.events:
                        mesh_id = (*delivery.origin, event.seq)
                        name = "" if client is None else client.name
                        world.delivered.append(
                            Delivered(world.now, self.node.key, session, mesh_id, event, delivery, name)
                        )
                        if self.node.replies and event.extra is not None:
                            asked.append(event)
                if owed:
                    again = True
                    self.node.step("after delivery")
                    consumers.written(session, owed, self.node.now)
                    if client is not None or session in self.node.terms:
                        for delivery in owed:
                            self._answer_later(session, client, delivery)
        return again

    def _answer_later(self, session: int, client: DurableSim | None, delivery: Delivery) -> None:
        """A client looks at what it got."""
        world = self.node.world
        answer = self.node.habit.answers(world.dice)
        if answer is None:
            return
        generation = self.node.generation
        connection = 0 if client is None else client.connection
        ids = [(*delivery.origin, event.seq) for event in delivery.events]

        def look() -> None:
            if not self.node.up or generation != self.node.generation:
                return
            if client is not None and (client.connection != connection or not client.number):
                return
            consumers = self.node.machine.custody.consumers
            if answer:
                consumers.ack(session, ids, self.node.now)
            else:
                for id in ids:
                    consumers.nack(session, id, self.node.now)
            self.node.after()

        world.at(world.now + world.dice.uniform(0.0, self.node.habit.slowest_s), look)
