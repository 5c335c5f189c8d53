"""What the ops of the WebSocket subprotocol mesh.v1.json do: everything a client does on one connection.

Decides what each op must carry and what it is answered; an error is answered and the connection goes on. Never touches a
socket. Publishes that arrive together are handed to the node together.
Invariant: ops take effect in the order they came; each gets one `ok` or one `error` (a publish with ack "none" only an
`error`, a request a `reply` or an `error`, an `ack` or `nack` only where it has an id), and a subscribe with `wait` also one
`receipt`.
Source: design page "What a person sees", Publishing and subscribing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Final, assert_never

import msgspec

from mesh.model.event import Delivery
from mesh.model.ids import MeshId, SessionId
from mesh.model.limits import Limits
from mesh.model.topic_rules import Level
from mesh.node.service import AckLevel, Kept, RefusedError, Replaying, Service, Wait
from mesh.protocols.ops import (
    SID_MAX,
    Ack,
    BadOp,
    Credit,
    Id,
    Nack,
    Op,
    Ping,
    Publish,
    Reply,
    Request,
    Subscribe,
    Unsubscribe,
    read_op,
)
from mesh.protocols.parameters import ACK_TIMEOUT_S, LONGEST_LIFE_S, check_choice, check_duration_s
from mesh.protocols.problem import Problem, problem_object
from mesh.protocols.publishing import (
    REPLY_TOPIC,
    Envelope,
    Taken,
    check_ack,
    outcome_objects,
    take_all,
    take_structured,
    ttl_ms,
    unanswered,
)
from mesh.protocols.receiving import read_mesh_id
from mesh.protocols.render import Renderer
from mesh.protocols.session import ClientSession
from mesh.protocols.subscribing import check_regions, receipt_object
from mesh.protocols.websocket_frames import text_frame
from mesh.wire.cloudevents import to_structured

_encode: Final = msgspec.json.encode


class OpsApplication:
    """One client's ops (a `mesh.protocols.websocket.Application`).

    start: runs a coroutine function with the connection's life. acknowledges: `ack` and `nack` mean something here. Keeps: at most
    `limits.session_calls` calls that wait, and `session_subscriptions` answers that wait for the disk.
    """

    def __init__(
        self,
        service: Service,
        session: ClientSession,
        number: SessionId,
        renderer: Renderer,
        limits: Limits,
        start: Callable[..., None],
        *,
        acknowledges: bool = False,
    ) -> None:
        self._service = service
        self._acknowledges = acknowledges
        self._session = session
        self._number = number
        self._limits = limits
        self._start = start
        self._waiting = 0
        self._unnoted: list[tuple[Id, dict[str, object], Callable[[], None]]] = []
        """Answers of a durable client that wait until what they say is on the disk."""
        self._publishes: list[tuple[Publish, list[Taken]]] = []
        self._acks: list[tuple[Ack, MeshId]] = []
        self.render: Callable[[Sequence[Delivery]], bytes] = renderer.op_frames

    def receive(self, texts: Sequence[bytes]) -> None:
        """Do the ops, in order. Answers go through the session. Cost: about 6 us for a publish of one event."""
        for text in texts:
            try:
                op = read_op(text)
            except BadOp as bad:
                self._flush()
                self._refuse(bad.op_id, bad.problem)
                continue
            try:
                if isinstance(op, Publish):
                    self._publishes.append((op, self._take(op)))
                elif isinstance(op, Ack):
                    self._acks.append((op, self._id_of(op)))
                else:
                    self._flush()
                    self._do(op)
            except RefusedError as refused:
                self._flush()
                self._refuse(op.id, refused)
        self._flush()

    def _id_of(self, op: Ack | Nack) -> MeshId:
        if not self._acknowledges:
            detail = f"{op.__struct_config__.tag}: this connection acknowledges nothing; open it with acks=explicit"
            raise Problem("MESH-E011", detail, where="op")
        return read_mesh_id(op.mesh_id, "mesh_id")

    def _do(self, op: Op) -> None:
        match op:
            case Subscribe():
                self._subscribe(op)
            case Unsubscribe():
                self._check_notes()
                self._service.unsubscribe(self._number, op.sid)
                self._answer_noted(op.id, {"sid": op.sid})
            case Request():
                self._request(op)
            case Reply():
                envelope = Envelope(op.topic or REPLY_TOPIC)
                taken = take_structured(bytes(op.event), envelope, self._limits, reserved=True)
                self._service.reply(op.reply_to, op.correlation, taken.event)
                self._ok(op.id, {})
            case Credit():
                if not 0 <= op.events <= SID_MAX:
                    raise Problem("MESH-E011", f"events: {op.events} is no number of events", where="events")
                self._session.grant(op.events)
                self._ok(op.id, {"credit": self._session.credit})
            case Ping():
                self._ok(op.id, {})
            case Nack():
                known = self._service.receivers.nack(self._number, self._id_of(op))
                if op.id is not None:
                    self._ok(op.id, {"refused": int(known)})
            case Publish() | Ack():
                raise AssertionError("these are collected by receive")
            case _:
                assert_never(op)

    # -- publish ----------------------------------------------------------------------------------------

    def _take(self, op: Publish) -> list[Taken]:
        check_choice("ack", op.ack, ("accepted", "none", "region", "delivered"))
        check_choice("level", op.level, ("", "at-most-once", "at-least-once"))
        deadline_s = check_duration_s("deadline", op.deadline, LONGEST_LIFE_S)
        envelope = Envelope(op.topic, op.key, ttl_ms(deadline_s))
        single = bytes(op.event)
        if bool(single) == (op.events is not None):
            raise Problem("MESH-E022", "publish carries either 'event' or 'events'", where="event")
        if op.events is None:
            return [take_structured(single, envelope, self._limits)]
        return take_all([bytes(piece) for piece in op.events], envelope, self._limits)

    def _flush(self) -> None:
        """Do what was collected: acknowledge; then publish, with one call to the node for all at most once; and answer each op."""
        if self._acks:
            self._flush_acks()
        if not self._publishes:
            return
        collected, self._publishes = self._publishes, []
        publishes: list[tuple[Publish, list[Taken]]] = []
        for op, some in collected:
            level = self._service.level([one.event for one in some], op.level)
            if level is Level.AT_MOST_ONCE:
                try:
                    check_ack(level, op.ack)
                    publishes.append((op, some))
                except RefusedError as refused:
                    self._refuse(op.id, refused)
                continue
            self._publish(publishes)
            publishes = []
            try:
                self._keep(op, some)
            except RefusedError as refused:
                self._refuse(op.id, refused)
        self._publish(publishes)

    def _keep(self, op: Publish, some: list[Taken]) -> None:
        """At least once: taken now, in order; answered when it is acknowledged as far as was asked for."""
        self._check_room()
        asked = op.ack if op.ack in (AckLevel.REGION, AckLevel.DELIVERED) else AckLevel.ACCEPTED
        kept = self._service.keep([one.event for one in some], AckLevel(asked))
        self._start_waiting(self._send_kept, op, some, kept)

    async def _send_kept(self, op: Publish, some: list[Taken], kept: Kept) -> None:
        life_s = some[0].event.ttl_ms / 1e3 if some else 0.0
        try:
            await self._service.kept(kept, life_s or ACK_TIMEOUT_S)
        except RefusedError as refused:
            self._refuse(op.id, refused)
            return
        if op.ack != "none":
            found = outcome_objects(some, kept.outcomes)
            self._ok(op.id, {"accepted": len(some), "events": found})

    def _publish(self, publishes: list[tuple[Publish, list[Taken]]]) -> None:
        if not publishes:
            return
        events = [taken.event for _, some in publishes for taken in some]
        try:
            outcomes = self._service.publish(events)
        except RefusedError as refused:
            if len(publishes) == 1:
                self._refuse(publishes[0][0].id, refused)
                return
            for one in publishes:  # what is wrong with one of them is not the others' fault
                self._publish([one])
            return
        first = 0
        for op, some in publishes:
            last = first + len(some)
            if op.ack != "none":
                found = outcome_objects(some, outcomes, first)
                self._ok(op.id, {"accepted": len(some), "events": found})
            first = last

    def _flush_acks(self) -> None:
        """Only who gave its op an id is answered: one acknowledgement for each event is enough traffic."""
        acks, self._acks = self._acks, []
        for (up_to, answered), some in groupby(acks, lambda one: (one[0].upto, one[0].id is not None)):
            if not answered:
                self._service.receivers.ack(self._number, [id for _, id in some], up_to=up_to)
                continue
            for op, id in some:
                self._ok(op.id, {"acked": self._service.receivers.ack(self._number, [id], up_to=up_to)})

    # -- subscribe --------------------------------------------------------------------------------------

    def _subscribe(self, op: Subscribe) -> None:
        if not 0 <= op.sid <= SID_MAX:
            raise Problem("MESH-E011", f"sid: use a number from 0 to {SID_MAX}", where="sid")
        timeout_s = check_duration_s("wait_timeout", op.wait_timeout, self._limits.request_wait_s)
        regions = check_regions(op.regions)
        waits = op.wait is not None or bool(regions)
        if waits or op.since:
            self._check_room()
        if op.since:
            replaying = self._service.replay(self._number, [(op.sid, op.filter)], op.since, op.group)
            self._start_waiting(self._replay, op, replaying, regions, timeout_s)
            return
        self._check_notes()
        self._service.subscribe(self._number, op.sid, op.filter, op.group)

        def wait() -> None:
            if waits:
                self._start_waiting(self._send_receipt, op, regions, timeout_s)

        self._answer_noted(op.id, {"sid": op.sid}, wait)

    def _check_notes(self) -> None:
        if len(self._unnoted) >= self._limits.session_subscriptions:
            raise Problem("MESH-E030", f"{len(self._unnoted)} calls of this connection wait for the disk")

    def _answer_noted(
        self, op_id: Id, found: dict[str, object], then: Callable[[], None] = lambda: None
    ) -> None:
        """Say `ok`, and go on: to a durable client when it is on the disk, so that no crash takes it back."""
        if not self._service.receivers.is_durable(self._number):
            self._ok(op_id, found)
            then()
            return
        self._unnoted.append((op_id, found, then))
        if len(self._unnoted) == 1:
            self._start(self._send_noted)

    async def _send_noted(self) -> None:
        while self._unnoted:
            some = tuple(self._unnoted)
            refused: RefusedError | None = None
            try:
                await self._service.receivers.noted()
            except RefusedError as error:
                refused = error
            del self._unnoted[: len(some)]
            for op_id, found, then in some:
                if refused is not None:
                    self._refuse(op_id, refused)
                    continue
                self._ok(op_id, found)
                then()

    async def _replay(
        self, op: Subscribe, replaying: Replaying, regions: Sequence[str], timeout_s: float
    ) -> None:
        """Answered when its beginning was found: ops behind it may be answered before."""
        try:
            await replaying.find()
        except RefusedError as refused:
            self._refuse(op.id, refused)
            return
        self._ok(op.id, {"sid": op.sid})
        if op.wait is not None or regions:
            self._start_waiting(self._send_receipt, op, regions, timeout_s)
        await replaying.run()

    async def _send_receipt(self, op: Subscribe, regions: Sequence[str], timeout_s: float) -> None:
        wait = op.wait or Wait.MESH
        try:
            receipt = await self._service.wait_installed(self._number, [op.sid], wait, regions, timeout_s)
        except RefusedError as refused:
            self._refuse(op.id, refused)
            return
        self._send("receipt", op.id, {"sid": op.sid, **receipt_object(receipt)})

    # -- request ----------------------------------------------------------------------------------------

    def _request(self, op: Request) -> None:
        timeout_s = check_duration_s("timeout", op.timeout, self._limits.request_wait_s)
        envelope = Envelope(op.topic, op.key, ttl_ms(timeout_s))
        taken = take_structured(bytes(op.event), envelope, self._limits)
        self._check_room()
        self._start_waiting(self._send_reply, op, taken, timeout_s)

    async def _send_reply(self, op: Request, taken: Taken, timeout_s: float) -> None:
        try:
            answer = await self._service.request(taken.event, timeout_s)
            if answer.event is None:
                raise unanswered(answer, taken.event.topic, timeout_s)
        except RefusedError as refused:
            self._refuse(op.id, refused)
            return
        self._session.answer(
            text_frame(
                b'{"op":"reply",%b"path":%b,"event":%b}'
                % (_id_field(op.id), _encode(answer.path), to_structured(answer.event))
            )
        )

    # -- answers ----------------------------------------------------------------------------------------

    def _check_room(self) -> None:
        most = self._limits.session_calls
        if self._waiting >= most:
            raise Problem("MESH-E030", f"{most} calls of this connection wait already")

    def _start_waiting(self, call: Callable[..., Awaitable[None]], *args: object) -> None:
        self._waiting += 1
        self._start(self._wait_for, call, *args)

    async def _wait_for(self, call: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await call(*args)
        finally:
            self._waiting -= 1

    def _ok(self, op_id: Id, found: dict[str, object]) -> None:
        self._send("ok", op_id, found)

    def _refuse(self, op_id: Id, refused: RefusedError) -> None:
        self._service.count_refusal("events", refused.code)
        self._send("error", op_id, {"problem": problem_object(refused)})

    def _send(self, op: str, op_id: Id, found: dict[str, object]) -> None:
        head: dict[str, object] = {"op": op} if op_id is None else {"op": op, "id": op_id}
        self._session.answer(text_frame(_encode(head | found)))


def _id_field(op_id: Id) -> bytes:
    return b'"id":%b,' % _encode(op_id) if op_id is not None else b""
