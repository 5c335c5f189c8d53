"""What flows through a mesh while things go wrong with it: publishers that try again until they are answered, readers that come
back until everything was read. They write down what they did and saw, and judge nothing.

Decides to which node of its region a client turns when one does not answer. A batch whose answer is lost is published again under
the same event ids; the mesh gives it other mesh_ids, which the history tells apart (`doubtful`).
Invariant: an event is in the history before a byte of it is sent; a delivery is in it before it is acknowledged.
Source: docs/clients.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import trio

from mesh.testing.fault_connection import (
    Answer,
    Broken,
    HttpConnection,
    SocketConnection,
    connect,
    open_socket,
)
from mesh.testing.fault_history import Delivered, History, Published, Strike
from mesh.testing.fault_mesh import FaultMesh, MeshNode
from mesh.testing.fault_plan import FaultPlan, Reader, Stream

ANSWER_S: Final = 5.0
"""How long a publisher waits for an answer before it asks another node."""
RETRY_S: Final = 0.1
BEHIND_S: Final = 1.0
"""What a publisher could not send for longer than this is left out, so that a recovered mesh is not flooded."""
SUBSCRIBE_S: Final = 20.0
_BATCH: Final = "application/cloudevents-batch+json"


class _Made(msgspec.Struct):
    mesh_id: str = ""


class _Accepted(msgspec.Struct):
    events: list[_Made] = []


class _EventId(msgspec.Struct):
    id: str = ""


class _Op(msgspec.Struct, gc=False):
    """What a node says on a WebSocket, as far as it matters here."""

    op: str
    mesh_id: str = ""
    redelivered: bool = False
    event: _EventId | None = None
    complete: bool = True
    problem: dict[str, Any] = {}


_accepted: Final = msgspec.json.Decoder(_Accepted).decode
_read_op: Final = msgspec.json.Decoder(_Op).decode


class NotOffered(Exception):
    """The nodes do not have what the plan asks for (501, or a word that they do not know): nothing can be said about it."""


@dataclass
class Clock:
    """Seconds since the load began."""

    began_s: float = 0.0

    def now(self) -> float:
        """Rounded to what a history shows."""
        return round(trio.current_time() - self.began_s, 6)


class Turn:
    """The nodes of a region, one after the other; those that are known to be down are passed over."""

    def __init__(self, nodes: Sequence[MeshNode], first: int) -> None:
        self._nodes = nodes
        self._at = first

    def node(self) -> MeshNode | None:
        """The one whose turn it is, if any serves."""
        for step in range(len(self._nodes)):
            node = self._nodes[(self._at + step) % len(self._nodes)]
            if node.serves:
                self._at += step
                return node
        return None

    def next(self) -> None:
        """Somebody else's turn."""
        self._at += 1


class Publisher:
    """One connection's worth of a stream. Args: number: which of the stream's publishers; it decides its keys and region."""

    def __init__(self, traffic: Traffic, stream: Stream, number: int) -> None:
        self._traffic = traffic
        self._stream = stream
        region = stream.regions[number % len(stream.regions)]
        self._turn = Turn(traffic.mesh.of(region), number // len(stream.regions))
        self._keys = [f"{stream.name}-{key}" for key in range(number, stream.keys, stream.publishers)]
        self._phase = number / stream.publishers  # they do not all send at one moment
        self._counts = dict.fromkeys(self._keys, 0)
        self._made = 0
        self._pad = "x" * max(0, stream.payload_bytes - 20)
        self._connection: HttpConnection | None = None
        self._target = "/v1/events?" + urlencode({"level": stream.level})
        self.left_out = 0
        """Events that were not sent because the mesh took none for longer than BEHIND_S."""

    async def run(self, until_s: float, give_up: trio.Event) -> None:
        """Publish at the stream's rate until `until_s`; what is under way then goes on until `give_up`. Raises: NotOffered."""
        clock, every_s = self._traffic.clock, self._stream.batch * self._stream.publishers / self._stream.rate
        due_s = every_s * self._phase  # since the load began, however late this task is started
        while due_s < until_s - 1e-6:  # what rounding adds up to is no batch more
            await trio.sleep(max(0.0, due_s - clock.now()))
            behind = int((clock.now() - due_s - BEHIND_S) / every_s)
            if behind > 0:
                self.left_out += behind * self._stream.batch
                due_s += behind * every_s
            due_s += every_s
            await self._publish(list(self._make()), give_up)
        if self._connection is not None:
            self._connection.close()

    def _make(self) -> Iterator[int]:
        """The numbers of the next batch's events, written down."""
        published = self._traffic.history.published
        for _ in range(self._stream.batch):
            key = self._keys[self._made % len(self._keys)]
            self._made += 1
            self._counts[key] += 1
            published.append(Published(self._stream.name, key, self._counts[key], self._traffic.clock.now()))
            yield len(published) - 1

    def _body(self, numbers: Sequence[int]) -> bytes:
        """A key stays on one topic, because order is promised within one."""
        published, stream = self._traffic.history.published, self._stream
        events = [
            f'{{"specversion":"1.0","id":"{number}","source":"/faults","type":"faults.event",'
            f'"topic":"faults/{stream.name}/{hash_of(published[number].key) % stream.topics}",'
            f'"partitionkey":"{published[number].key}","data":{{"n":{published[number].n},"pad":"{self._pad}"}}}}'
            for number in numbers
        ]
        return f"[{','.join(events)}]".encode()

    async def _publish(self, numbers: Sequence[int], give_up: trio.Event) -> None:
        """Try until there is an answer that is not "later"."""
        published, clock = self._traffic.history.published, self._traffic.clock
        body = self._body(numbers)
        while True:
            sent_s = clock.now()
            answer = await self._ask(body)
            if answer is None or answer.status in (429, 503):
                if answer is None or b"MESH-E052" in answer.body:
                    for number in numbers:
                        published[number].doubtful = True
                else:
                    self._traffic.later += 1
                self._turn.next()
                if give_up.is_set():
                    for number in numbers:
                        published[number].outcome = "unknown" if answer is None else "refused"
                    return
                await trio.sleep(RETRY_S)
                continue
            if answer.status == 501 or b"MESH-E010" in answer.body:
                raise NotOffered(answer.body.decode("utf-8", "replace")[:300])
            made = _accepted(answer.body).events if answer.status == 202 else []
            for at, number in enumerate(numbers):
                event = published[number]
                event.sent_s, event.answered_s = sent_s, clock.now()
                event.outcome = "accepted" if answer.status == 202 else "refused"
                event.mesh_id = made[at].mesh_id if answer.status == 202 else ""
            return

    async def _ask(self, body: bytes) -> Answer | None:
        """None: there is no answer, and nobody knows what was done with the events."""
        if self._connection is None:
            node = self._turn.node()
            if node is None:
                return Answer(503, b"", b"")
            try:
                self._connection = HttpConnection(await connect(node.events), node.events)
            except Broken:
                return Answer(503, b"", b"")  # nothing was asked: that is no doubt
        try:
            answer = await self._connection.ask("POST", self._target, body, _BATCH, timeout_s=ANSWER_S)
        except Broken:
            answer = None
        if answer is None or answer.status != 202:
            self._connection.close()
            self._connection = None
        return answer


def hash_of(key: str) -> int:
    """The same for everybody, unlike hash()."""
    return int(key.rpartition("-")[2])


class Subscriber:
    """One reader of the plan. `crash` breaks it off before it acknowledges what it reads next."""

    def __init__(self, traffic: Traffic, reader: Reader, number: int) -> None:
        self.reader = reader
        self._traffic = traffic
        self._turn = Turn(traffic.mesh.of(reader.region), number)
        self._acks = traffic.plan.acknowledged and (reader.durable or bool(reader.group))
        self._delivered = traffic.history.delivered.setdefault(reader.name, [])
        self._connection: SocketConnection | None = None
        self._away_s = 0.0
        self.connections = 0
        self.refused = ""
        """Why its last connection ended, or was not made."""
        self.seen: set[str] = set()
        """The mesh_ids that were delivered to it."""

    @property
    def _query(self) -> str:
        query: dict[str, str] = {}
        if self._acks:
            query["acks"] = "explicit"
        if self.reader.durable and self._traffic.plan.acknowledged:
            query |= {"client": self.reader.name, "durable": "true"}
        return f"/v1/ws?{urlencode(query)}" if query else "/v1/ws"

    def crash(self, away_s: float) -> None:
        """Be gone for so long, without a word."""
        self._away_s = away_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until cancelled; started when everything it subscribes to is installed everywhere. Raises: NotOffered."""
        started = False
        while True:
            node = self._turn.node()
            try:
                if node is None:
                    raise Broken("no node of the region serves")
                connection = await open_socket(node.events, self._query)
                self._connection, self.connections = connection, self.connections + 1
                await self._subscribe(connection, wait=not started)
                if not started:
                    started = True
                    task_status.started()
                await self._read(connection)
            except Broken as broken:
                self.refused = str(broken)
                if " 501 " in self.refused[:20] or "MESH-E010" in self.refused:
                    raise NotOffered(self.refused) from None
            finally:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            self._turn.next()
            away_s, self._away_s = self._away_s, 0.0
            await trio.sleep(max(RETRY_S, away_s))

    async def _subscribe(self, connection: SocketConnection, *, wait: bool) -> None:
        """One subscription a stream. wait: until it is installed everywhere. Raises: Broken, NotOffered."""
        streams = {stream.name: stream for stream in self._traffic.plan.streams}
        ops = []
        for sid, name in enumerate(self.reader.streams, 1):
            op: dict[str, Any] = {"op": "subscribe", "id": sid, "sid": sid, "filter": streams[name].filter}
            if self.reader.group:
                op["group"] = self.reader.group
            if wait:
                op |= {"wait": "mesh", "wait_timeout": f"{SUBSCRIBE_S:g}s"}
            ops.append(msgspec.json.encode(op))
        await connection.send(*ops)
        missing = len(ops)
        with trio.move_on_after(2 * SUBSCRIBE_S):
            while missing:
                for text in await connection.receive():
                    op_ = _read_op(text)
                    if op_.op == "error":
                        if op_.problem.get("status") == 501:
                            raise NotOffered(str(op_.problem.get("detail")))
                        raise Broken(str(op_.problem))
                    if op_.op == ("receipt" if wait else "ok"):
                        if not op_.complete:
                            raise Broken("the subscription is not installed everywhere")
                        missing -= 1
                    elif op_.op == "event":
                        await self._take(connection, [op_])
            return
        raise Broken("a subscription was not answered")

    async def _read(self, connection: SocketConnection) -> None:
        while True:
            ops = [_read_op(text) for text in await connection.receive()]
            for op in ops:
                if op.op == "error":
                    self._traffic.history.troubles.append(f"{self.reader.name}: {op.problem}")
            await self._take(connection, [op for op in ops if op.op == "event"])

    async def _take(self, connection: SocketConnection, ops: Sequence[_Op]) -> None:
        """Write down, and acknowledge. Raises: Broken when it crashes here."""
        if not ops:
            return
        at_s = self._traffic.clock.now()
        for op in ops:
            number = int(op.event.id) if op.event is not None and op.event.id.isdigit() else -1
            self._delivered.append(Delivered(number, op.mesh_id, at_s, self.connections, op.redelivered))
            self.seen.add(op.mesh_id)
        if self._away_s:
            raise Broken("crashed")
        if not self._acks:
            return
        if self.reader.acks == "upto":
            ack = {"op": "ack", "mesh_id": ops[-1].mesh_id, "upto": True}
            await connection.send(msgspec.json.encode(ack))
        else:
            await connection.send(*(msgspec.json.encode({"op": "ack", "mesh_id": op.mesh_id}) for op in ops))


class Traffic:
    """All clients of a plan. `history` is what they write down."""

    def __init__(self, plan: FaultPlan, mesh: FaultMesh, history: History) -> None:
        self.plan = plan
        self.mesh = mesh
        self.history = history
        self.clock = Clock(trio.current_time())
        self.later = 0
        """Batches that were answered "later"."""
        self.subscribers = {
            reader.name: Subscriber(self, reader, number) for number, reader in enumerate(plan.readers)
        }
        self.publishers = [
            Publisher(self, stream, number) for stream in plan.streams for number in range(stream.publishers)
        ]

    async def publish(self, give_up: trio.Event) -> None:
        """The load of the plan, from now on; returns when all publishers are done."""
        async with trio.open_nursery() as nursery:
            for publisher in self.publishers:
                nursery.start_soon(publisher.run, self.plan.seconds, give_up)

    def missing(self) -> int:
        """How many events are not yet read by somebody who was promised them. Cost: O(events x readers)."""
        lacking = 0
        for readers, streams in promises(self.plan).items():
            owed = {
                event.mesh_id
                for event in self.history.published
                if event.outcome == "accepted" and event.stream in streams
            }
            for name in readers:
                owed -= self.subscribers[name].seen
            lacking += len(owed)
        return lacking

    def note(self, what: str) -> None:
        """Write into the history what was done just now."""
        self.history.strikes.append(Strike(self.clock.now(), what))


def promises(plan: FaultPlan) -> dict[tuple[str, ...], frozenset[str]]:
    """Who must see every accepted event of which streams: (reader, ...) -> streams; of several readers, a queue group, any one.

    Without faults everybody gets everything. With faults, who is not durable is promised nothing: while it was away, nobody knew
    that it wanted anything. A group without a moment without members is, and that is for the plan to say.
    """
    levels = {stream.name: stream.level for stream in plan.streams}
    found: dict[tuple[str, ...], frozenset[str]] = {}
    groups: dict[str, list[Reader]] = {}
    for reader in plan.readers:
        groups.setdefault(reader.group or f"\n{reader.name}", []).append(reader)
    for members in groups.values():
        kept = all(member.promised for member in members)
        streams = frozenset(
            name
            for name in members[0].streams
            if not plan.faults or (kept and levels[name] == "at-least-once")
        )
        if streams:
            found[tuple(member.name for member in members)] = streams
    return found
