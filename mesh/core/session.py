"""One link's session: the opening exchange, signs of life, the round trip, and the flow of batches in both directions.

Decides whether the other end may stay (version, region, clock, epoch), when a silent bridge is dead, which batch may be
sent now (credit) and which is dropped when none may (oldest first, counted). Never decides where a batch goes.

States: OPENING -> OPEN -> CLOSED. The dialling end sends its Open at once; the accepting end answers with its own after it
has checked the first one, so that a stranger learns nothing. Any frame but Open or CloseLink before that closes the link.

Invariant: published on this link = acknowledged + unknown (in flight when the link died) + queued + dropped, in events.
Source: design pages "Routing" (Identity, Between regions, Delivery) and "Wire and speed" (rules 1, 4).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from mesh.core.effects import CloseLink, Effect, Send
from mesh.core.entrusted import Entrusted, Queued
from mesh.core.opening import Identity, Terms, open_problem, said_first
from mesh.core.passage import Passage
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire import frames as wire
from mesh.wire.frames import Ack, BatchHeader, CustodyAck, Heard, Hello, LinkKind, Open, Refused


class SessionState(StrEnum):
    """Where a link's session stands. Shown by `mesh links list` and docs/protocol.md."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


STATES: dict[SessionState, str] = {
    SessionState.OPENING: "connected; waiting for the other end's Open. Other frames close the link (unexpected_frame); "
    "none within the open time-out closes it (open_timeout)",
    SessionState.OPEN: "both Opens were accepted: control and data flow, a bridge says Hello every interval and is dead "
    "after 3.5 of them without any frame (hello_timeout)",
    SessionState.CLOSED: "a CloseLink was sent or received, or the connection is gone; unacknowledged events are counted "
    "link_down_unknown",
}


@dataclass(slots=True)
class Flow:
    """Plain counters of one link, read at scrape time."""

    batches_out: int = 0
    events_out: int = 0
    bytes_out: int = 0
    batches_in: int = 0
    events_in: int = 0
    bytes_in: int = 0
    dropped_no_credit: int = 0

    def add(self, other: Flow) -> None:
        """Add another link's counts to these."""
        self.batches_out += other.batches_out
        self.events_out += other.events_out
        self.bytes_out += other.bytes_out
        self.batches_in += other.batches_in
        self.events_in += other.events_in
        self.bytes_in += other.bytes_in
        self.dropped_no_credit += other.dropped_no_credit


class LinkSession:
    """The machine of one link.

    Args:
        link: this process's number of the link.
        dialled: whether this end dialled.
        local: what to say in our Open.
        terms: what we expect; an accepting end may replace it with `accept_terms` once the peer's region is known.
        wall_ms: wall clock when the session began, milliseconds; only compared with the peer's. certified: who its
            certificate names; None without one.
    Cost: O(1) per frame and batch.
    Raises: ValueError on misuse. Garbage from the peer becomes a CloseLink effect: link dead, node unaffected.
    """

    def __init__(
        self,
        link: int,
        *,
        dialled: bool,
        local: Identity,
        terms: Terms,
        limits: Limits,
        wall_ms: int,
        now: float,
        certified: NodeKey | None = None,
    ) -> None:
        self.link = link
        self.certified = certified
        self.dialled = dialled
        self.local = local
        self.terms = terms
        self.limits = limits
        self.state = SessionState.OPENING
        self.peer: Open | None = None
        self.rtt_ms: float | None = None
        self.opened_at = now
        self.flow = Flow()
        self.queue: deque[Queued] = deque()
        self.queued_bytes = 0
        self.unacked: deque[tuple[int, int]] = deque()  # (batch, weight)
        self.unacked_weight = 0
        self.passage: Passage | None = None
        """The rules of a bridge link; None: everything may cross, and nothing is decoded."""
        self.custody = Entrusted()
        """Batches in custody, which share the credit with the others, and are told apart from them in all else."""
        self._custody_next = False
        self._wall_ms = wall_ms
        self._started = now
        self._effects: list[Effect] = []
        self._deadline: float | None = now + limits.open_timeout_s
        self._last_heard = now
        self._hello_at: float | None = None
        self._hello_n = 0
        self._sent_batch = 0
        self._acked_batch = 0
        self._may_bytes = 0  # totals granted by the peer
        self._may_events = 0
        self._in_batch = 0
        self._granted_bytes = limits.credit_bytes  # totals we granted
        self._granted_events = limits.credit_events
        self._ack_at: float | None = None
        self._acked_in = 0
        if dialled:
            self._send_open()

    # -- identity ------------------------------------------------------------------------------------------------

    @property
    def peer_key(self) -> NodeKey:
        """Who is at the other end. Only after its Open arrived."""
        assert self.peer is not None
        return NodeKey(self.peer.region, self.peer.node)

    @property
    def kind(self) -> LinkKind:
        """PEER inside a region, BRIDGE between two. Only after the peer's Open arrived."""
        assert self.peer is not None
        return LinkKind.PEER if self.peer.region == self.local.region else LinkKind.BRIDGE

    @property
    def is_open(self) -> bool:
        return self.state is SessionState.OPEN

    def _send_open(self) -> None:
        kind = LinkKind.BRIDGE if self.terms.expect_region not in ("", self.local.region) else LinkKind.PEER
        if self.peer is not None:
            kind = self.kind
        credit = self._granted_bytes, self._granted_events
        self._effects.append(Send(self.link, said_first(self.local, self.terms, kind, credit, self._wall_ms)))

    # -- frames --------------------------------------------------------------------------------------------------

    def receive(self, frame: wire.Frame, now: float) -> bool:
        """Take a frame. Returns True when the frame is of the session itself, False when its room is elsewhere.

        The caller checks `state` afterwards: OPENING with `peer` set means the peer's Open was found in order and waits
        for `accept` (the caller knows about other links); CLOSED means a CloseLink effect was made.
        """
        self._last_heard = now
        match frame:
            case Open():
                self._receive_open(frame)
                return True
            case wire.CloseLink():
                if self.state is not SessionState.CLOSED:
                    self.state = SessionState.CLOSED
                    self._deadline = None
                return True
            case _ if self.state is not SessionState.OPEN:
                if self.state is SessionState.OPENING:
                    self.refuse(Close.UNEXPECTED_FRAME, f"{type(frame).__name__} before Open")
                return True
            case Hello():
                self._effects.append(Send(self.link, Heard(frame.n, frame.sent_us)))
                return True
            case Heard():
                sample_ms = now * 1e3 - frame.sent_us / 1e3
                if 0 <= sample_ms < 600_000 and frame.n <= self._hello_n:
                    self.rtt_ms = sample_ms
                return True
            case Ack():
                self._receive_ack(frame)
                return True
            case CustodyAck():
                self._receive_custody_ack(frame)
                return True
            case _:
                return False

    def _receive_open(self, frame: Open) -> None:
        if self.peer is not None:
            self.refuse(Close.UNEXPECTED_FRAME, "a second Open")
            return
        problem = open_problem(frame, self.local, self.terms, self.limits, self._wall_ms, self.certified)
        if problem is not None:
            self.refuse(*problem)
            return
        self.peer = frame

    def accept(self, now: float, terms: Terms | None = None) -> None:
        """The caller found nothing against the peer: open the session. The accepting end answers with its Open."""
        assert self.peer is not None
        assert self.state is SessionState.OPENING
        if terms is not None:
            self.terms = terms
        if not self.dialled:
            self._send_open()
        self.state = SessionState.OPEN
        self.opened_at = now
        self._may_bytes = self.peer.credit_bytes
        self._may_events = self.peer.credit_events
        self._say_hello(now)
        self._rearm()

    def refuse(self, reason: Close, detail: str) -> None:
        """Close the link with a reason. Idempotent."""
        if self.state is SessionState.CLOSED:
            return
        self.state = SessionState.CLOSED
        self._deadline = None
        self._effects.append(CloseLink(self.link, reason, detail))

    def _say_hello(self, now: float) -> None:
        self._hello_n += 1
        self._effects.append(Send(self.link, Hello(self._hello_n, int(now * 1e6))))
        if self.kind is LinkKind.BRIDGE:
            self._hello_at = now + self.limits.hello_interval_s

    def ask_alive(self, now: float) -> None:
        """Send one Hello now: the caller wants to know whether this peer still answers (`last_heard` will tell)."""
        if self.is_open:
            self._hello_n += 1
            self._effects.append(Send(self.link, Hello(self._hello_n, int(now * 1e6))))

    @property
    def last_heard(self) -> float:
        return self._last_heard

    # -- sending batches -----------------------------------------------------------------------------------------

    def fits(self, count: int, size_bytes: int) -> bool:
        """Whether a batch can ever be sent: the peer never grants more at once than it said when the link opened. One that does not
        fit would wait at the head of the queue for ever, and all others behind it."""
        peer = self.peer
        return peer is None or (size_bytes <= peer.credit_bytes and count <= peer.credit_events)

    def offer(
        self, header: BatchHeader, body: bytes, now: float, plain: tuple[BatchHeader, bytes] | None = None
    ) -> int:
        """Queue a batch. Returns the weight dropped to make room: the oldest go first (no_credit), never this one.

        The bound is `limits.data_queue_bytes` of bodies.
        """
        self.queue.append(Queued(header, body, now, None, plain))
        self.queued_bytes += len(body)
        dropped = 0
        while self.queued_bytes > self.limits.data_queue_bytes and len(self.queue) > 1:
            old = self.queue.popleft()
            self.queued_bytes -= len(old.body)
            dropped += old.weight
        self.flow.dropped_no_credit += dropped
        return dropped

    @property
    def congested(self) -> bool:
        """Whether batches wait for credit: a queue group prefers other members then."""
        return bool(self.queue) and not self._has_credit(self.queue[0])

    @property
    def credit_left(self) -> int:
        """Body bytes the peer still lets us send."""
        return max(0, self._may_bytes - self.flow.bytes_out)

    def _has_credit(self, item: Queued) -> bool:
        flow = self.flow
        return (
            flow.bytes_out + len(item.body) <= self._may_bytes
            and flow.events_out + item.header.count <= self._may_events
            and len(self.unacked)
            < self.limits.credit_events  # whatever is granted, by one who never acknowledges
        )

    def pull(self, now: float) -> Queued | None:
        """The next batch that may be sent now, numbered, with the time it waited here taken off its remaining time.

        None when nothing waits or the peer granted no more. Expired batches are returned with remaining_ms = -1: the
        caller counts them and pulls again. Cost: O(1).
        """
        queue, entrusted = self.queue, self.custody.waiting
        if entrusted and (self._custody_next or not queue):
            queue = entrusted
        if not queue or self.state is not SessionState.OPEN or not self._has_credit(queue[0]):
            return None
        item = queue.popleft()
        if item.share is None:
            self.queued_bytes -= len(item.body)
        # Turn by turn: a spool that is released starves nothing, and nothing starves it.
        self._custody_next = item.share is None
        header = item.header
        remaining = header.remaining_ms
        if remaining:
            remaining -= int((now - item.since) * 1e3)
            if remaining <= 0:
                return item._replace(header=msgspec.structs.replace(header, remaining_ms=-1))
        self._sent_batch += 1
        flow = self.flow
        flow.batches_out += 1
        flow.events_out += header.count
        flow.bytes_out += len(item.body)
        share = item.share
        if share is None:
            weight = item.weight
            self.unacked_weight += weight
        else:
            weight = 0  # nothing of it is lost when the link dies
            self.custody.sent(self._sent_batch, share, now)
        self.unacked.append((self._sent_batch, weight))
        header = msgspec.structs.replace(header, batch=self._sent_batch, remaining_ms=remaining)
        return Queued(header, item.body, item.since, share)

    def _receive_ack(self, ack: Ack) -> None:
        if ack.batch > self._sent_batch:
            self.refuse(Close.PROTOCOL_ERROR, f"acknowledged batch {ack.batch}, sent {self._sent_batch}")
            return
        while self.unacked and self.unacked[0][0] <= ack.batch:
            self.unacked_weight -= self.unacked.popleft()[1]
        self._acked_batch = max(self._acked_batch, ack.batch)
        self._may_bytes = max(self._may_bytes, ack.credit_bytes)
        self._may_events = max(self._may_events, ack.credit_events)

    def _receive_custody_ack(self, ack: CustodyAck) -> None:
        if ack.batch > self._sent_batch:
            self.refuse(Close.PROTOCOL_ERROR, f"has custody of batch {ack.batch}, sent {self._sent_batch}")
            return
        self.custody.acknowledged(ack)

    def custody_taken(self, batch: int, refused: tuple[Refused, ...]) -> None:
        """Tell the other end that its batches up to this number are stored here, but for the refused ones."""
        if self.is_open:
            self._effects.append(Send(self.link, CustodyAck(batch, refused)))

    # -- receiving batches ---------------------------------------------------------------------------------------

    def received(self, header: BatchHeader, size: int, now: float) -> bool:
        """Count a batch that arrived and was processed. Returns False for one that must be ignored (link closing).

        A number that does not follow closes the link: links are streams, so a gap is a bug of the peer.
        """
        self._last_heard = now
        if self.state is not SessionState.OPEN:
            if self.state is SessionState.OPENING:
                self.refuse(Close.UNEXPECTED_FRAME, "Data before Open")
            return False
        if header.batch != self._in_batch + 1:
            self.refuse(Close.PROTOCOL_ERROR, f"batch {header.batch} after {self._in_batch}")
            return False
        flow = self.flow
        self._in_batch = header.batch
        flow.batches_in += 1
        flow.events_in += header.count
        flow.bytes_in += size
        if flow.bytes_in > self._granted_bytes or flow.events_in > self._granted_events:
            self.refuse(Close.LIMIT, "sent more than was granted")
            return False
        limits = self.limits
        if (
            self._in_batch - self._acked_in >= limits.ack_batches
            or (self._granted_bytes - flow.bytes_in) * 2 < limits.credit_bytes
            or (self._granted_events - flow.events_in) * 2 < limits.credit_events
        ):
            self._send_ack()
        elif self._ack_at is None:
            self._ack_at = now + limits.ack_interval_s
            if self._deadline is None or self._ack_at < self._deadline:
                self._deadline = self._ack_at
        return True

    def _send_ack(self) -> None:
        self._ack_at = None
        self._acked_in = self._in_batch
        self._granted_bytes = self.flow.bytes_in + self.limits.credit_bytes
        self._granted_events = self.flow.events_in + self.limits.credit_events
        self._effects.append(Send(self.link, Ack(self._in_batch, self._granted_bytes, self._granted_events)))
        self._rearm()

    # -- time ----------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """Acknowledge, say hello, or give up on a silent peer, as far as due."""
        if self._deadline is None or now < self._deadline:
            return
        if self.state is SessionState.OPENING:
            self.refuse(Close.OPEN_TIMEOUT, f"no Open within {self.limits.open_timeout_s:g} s")
            return
        if self._ack_at is not None and now >= self._ack_at:
            self._send_ack()
        if self._hello_at is not None:
            if now >= self._silence_ends:
                self.refuse(Close.HELLO_TIMEOUT, f"silent for {now - self._last_heard:.1f} s")
                return
            if now >= self._hello_at:
                self._say_hello(now)
        self._rearm()

    @property
    def _silence_ends(self) -> float:
        """When a silent peer is given up. One sum for deadline and verdict: two of them may differ by a rounding error."""
        return self._last_heard + self.limits.hello_missed * self.limits.hello_interval_s

    def _rearm(self) -> None:
        due = [at for at in (self._ack_at, self._hello_at) if at is not None]
        if self._hello_at is not None:
            due.append(self._silence_ends)
        self._deadline = min(due) if due else None

    def drain(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects
