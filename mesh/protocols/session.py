"""What waits for one client: its share of the node's deliveries, bounded, and the answers to its own calls.

Decides which event a client that does not read loses (its oldest, counted as slow_consumer) and in which order waiting things
go out: answers before events, and a goodbye last. Never renders an event and never writes: one writer task per client takes
everything that waits in one go.
Invariant: handed in = taken + dropped + waiting; waiting events and bytes never exceed the limits.
Source: design pages "Wire and speed" (rules 4 to 6) and "Architecture" (bounded queues with a stated policy).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

from mesh.model.event import Delivery, queue_bytes
from mesh.model.limits import Limits
from mesh.model.reasons import Close, Drop

_ANSWERS_BYTES: Final = 1 << 20  # answers waiting beyond this: the client's next call is not read
_BUSY_S: Final = 0.0005  # deliveries closer together than this share a write
TAKE_EVENTS: Final = 512  # what one write carries at most: what still waits can still be dropped
TAKE_BYTES: Final = 256 * 1024
AHEAD_EVENTS: Final = 1_024  # a replay hands over more when less than this waits
AHEAD_BYTES: Final = 512 * 1024


class Goodbye(NamedTuple):
    """Why the node ends the connection."""

    reason: Close
    detail: str


class SessionStatistics(NamedTuple):
    """taken: events handed to the writer. dropped: lost to the bounds. waiting, waiting_bytes: now in the queue."""

    taken: int
    dropped: int
    waiting: int
    waiting_bytes: int


class Waiting(NamedTuple):
    """What a writer takes at once. goodbye: to be said behind it. last: nothing follows."""

    answers: list[bytes]
    deliveries: list[Delivery]
    goodbye: Goodbye | None
    last: bool


class ClientSession:
    """The sending half of one client connection (a `mesh.node.service.Sink`).

    Keeps: at most `limits.session_queue_events` events of `limits.session_queue_bytes`. Cost: O(1) a delivery, whatever it holds;
    one wake-up of the writer for all that came in the meantime.
    """

    def __init__(
        self, limits: Limits, count_drop: Callable[[Drop, int], None], *, credit: int | None = None
    ) -> None:
        """Args: credit: how many events may go out before more is granted; None is unlimited."""
        self.credit = credit
        self.send_now: Callable[[], bool] | None = None
        """Takes and writes what waits, from the task that delivers, while the writer is idle; False: the writer must go on.
        At low load this saves a wake-up; deliveries close together are left to the writer, which writes them as one."""
        self.written: Callable[[list[Delivery]], None] | None = None
        """Told of what the writer takes of events that wait for an acknowledgement."""
        self._failure: Exception | None = None
        self._idle = False
        self._sent_at = float("-inf")
        self._most_events = limits.session_queue_events
        self._close_timeout_s = limits.close_timeout_s
        self._most_bytes = limits.session_queue_bytes
        self._count_drop = count_drop
        self._queue: deque[Delivery] = deque()
        self._events = 0
        self._bytes = 0
        self._answers: list[bytes] = []
        self._answer_bytes = 0
        self._goodbye: Goodbye | None = None
        self._last_words = False
        self._gone_by = float("inf")  # when a connection that is being closed is cut off
        self._sending: trio.CancelScope | None = None
        self._ended = False
        self._work = trio.Event()
        self._answers_taken = trio.Event()
        self._events_taken: trio.Event | None = None  # a replay waits for room
        self._taken = 0
        self._dropped = 0

    # -- towards the node -------------------------------------------------------------------------------

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Queue events for the client; over a bound its oldest ones go. Never blocks, never raises.

        Events that wait for an acknowledgement are not counted and never dropped: who sends them keeps their number small.
        """
        events = sum([len(delivery.events) for delivery in deliveries if not delivery.deliveries])
        if self._ended or self._last_words or self._goodbye is not None:
            if events:
                self._count_drop(Drop.SESSION_CLOSED, events)
            return
        self._queue.extend(deliveries)
        self._events += events
        self._bytes += sum([delivery.size_bytes for delivery in deliveries if not delivery.deliveries])
        if self._bytes > self._most_bytes or self._events > self._most_events:
            self._drop_oldest()
        if self._idle and self.send_now is not None and self.credit != 0:
            now = trio.current_time()
            if now - self._sent_at > _BUSY_S:
                self._sent_at = now
                try:
                    if self.send_now():
                        return
                except Exception as error:  # not the deliverer's mistake: the writer's task raises it
                    self._failure = error
        self._work.set()

    def close(self, reason: Close, detail: str) -> None:
        """Let what waits go out, then say goodbye, all within `limits.close_timeout_s`. The first reason stays.

        Whose access ended gets nothing that waits: it may be what is no longer allowed."""
        if self._goodbye is None:
            if reason is Close.ACCESS_ENDED:
                self._forget_queue()
            self._goodbye = Goodbye(reason, detail)
            self._hurry()

    def sift(self, shown: Callable[[Delivery], Delivery | None]) -> None:
        """Look again at what waits: `shown` returns what may go out of a delivery, and counts the rest."""
        kept = [delivery for one in self._queue if (delivery := shown(one)) is not None]
        self._queue = deque(kept)
        counted = [delivery for delivery in kept if not delivery.deliveries]
        left = sum(len(delivery.events) for delivery in counted)
        self._dropped += self._events - left
        self._events = left
        self._bytes = sum(delivery.size_bytes for delivery in counted)
        self._wake_replays()

    def _hurry(self) -> None:
        self._gone_by = trio.current_time() + self._close_timeout_s
        if self._sending is not None:
            self._sending.deadline = min(self._sending.deadline, self._gone_by)
        self._work.set()

    async def room(self) -> None:
        """See Sink. Half of the session's own bounds at most."""
        await trio.lowlevel.checkpoint()
        events, size = min(AHEAD_EVENTS, self._most_events // 2), min(AHEAD_BYTES, self._most_bytes // 2)
        while (self._events > events or self._bytes > size) and not self._ended:
            if self._events_taken is None:
                self._events_taken = trio.Event()
            await self._events_taken.wait()

    def _drop_oldest(self) -> None:
        dropped = 0
        kept: list[Delivery] = []  # what is owed until it is acknowledged, and what a replay says, stay
        while self._queue:
            if self._queue[0].deliveries or self._queue[0].told is not None:
                kept.append(self._queue.popleft())
                continue
            over = self._over(self._queue[0])
            if not over:
                break
            self._take_first(over)
            dropped += over
        self._queue.extendleft(reversed(kept))
        self._dropped += dropped
        self._count_drop(Drop.SLOW_CONSUMER, dropped)

    def _over(self, oldest: Delivery) -> int:
        """How many events of the oldest delivery must go for the bounds to be kept; 0: they are kept."""
        excess_bytes = self._bytes - self._most_bytes
        most = len(oldest.events)
        count = max(0, min(self._events - self._most_events, most))
        if oldest.size_bytes <= excess_bytes:
            return most
        freed = queue_bytes(oldest.events[:count])
        while freed < excess_bytes:
            freed += queue_bytes(oldest.events[count : count + 1])
            count += 1
        return count

    def _take_first(self, most: int) -> Delivery:
        """The first delivery out of the queue, or its first `most` events where it has more."""
        first = self._queue.popleft()
        if len(first.events) > most:
            taken = first.events[:most]
            size = queue_bytes(taken)
            rest = first._replace(events=first.events[most:], size_bytes=first.size_bytes - size)
            self._queue.appendleft(rest)
            first = first._replace(events=taken, size_bytes=size)
        if not first.deliveries:
            self._events -= len(first.events)
            self._bytes -= first.size_bytes
        return first

    # -- towards the client's own calls -----------------------------------------------------------------

    def answer(self, rendered: bytes) -> None:
        """Queue the rendered answer to a call; it overtakes events. `room_for_answers` bounds them."""
        if not self._ended:
            self._answers.append(rendered)
            self._answer_bytes += len(rendered)
            self._work.set()

    def put_back(self, unsent: bytes) -> None:
        """What a write left unsent: it goes out first. b"" lets the writer look after what it holds itself."""
        self._answers.insert(0, unsent)
        self._answer_bytes += len(unsent)
        self._work.set()

    def hang_up(self, last_words: bytes) -> None:
        """Send the answers that wait and these last words, no event any more, within `limits.close_timeout_s`."""
        self.answer(last_words)
        self._last_words = True
        self._forget_queue()
        self._hurry()

    async def room_for_answers(self) -> None:
        """Wait while the client leaves too many answers unread: its next call is not read before."""
        while self._answer_bytes > _ANSWERS_BYTES and not self._ended:
            self._answers_taken = trio.Event()
            await self._answers_taken.wait()

    def grant(self, events: int) -> None:
        """Add credit; the first grant ends the unlimited mode."""
        self.credit = events if self.credit is None else self.credit + events
        self._work.set()

    def unlimited(self) -> None:
        """Let events go out without credit from now on."""
        self.credit = None
        self._work.set()

    # -- towards the writer -----------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether `take` would return anything."""
        return bool(
            self._answers
            or (self._queue and self.credit != 0)
            or self._goodbye is not None
            or self._last_words
            or self._ended
            or self._failure is not None
        )

    async def work(self) -> None:
        """Wait until something can go out. One writer only. Raises: what `send_now` raised while somebody delivered."""
        while not self.has_work():
            self._work = trio.Event()
            self._idle = True
            try:
                await self._work.wait()
            finally:
                self._idle = False
        if self._failure is not None:
            raise self._failure

    def take(self) -> Waiting:
        """Everything that may go out now, up to TAKE_EVENTS and TAKE_BYTES of events.

        A goodbye comes with the last of what may be sent; events without credit are then dropped as session_closed.
        """
        answers, self._answers = self._answers, []
        self._answer_bytes = 0
        self._answers_taken.set()
        deliveries = self._take_events()
        goodbye = self._goodbye
        if goodbye is not None and self._queue:
            if self.credit != 0:
                goodbye = None
            else:
                self._forget_queue()
        if self._last_words:
            return Waiting(answers, [], None, True)
        return Waiting(answers, deliveries, goodbye, goodbye is not None)

    @contextmanager
    def bounded_send(self, most_s: float) -> Iterator[trio.CancelScope]:
        """Around a write: it may take `most_s`, or what a closing connection has left. Its `cancelled_caught` tells that the
        client did not read in time."""
        with trio.CancelScope(deadline=min(trio.current_time() + most_s, self._gone_by)) as scope:
            self._sending = scope
            try:
                yield scope
            finally:
                self._sending = None

    def _take_events(self) -> list[Delivery]:
        """Whole deliveries, for clients share what is rendered of one; a part of one only where credit or a bound asks for it."""
        queue = self._queue
        most = TAKE_EVENTS if self.credit is None else min(TAKE_EVENTS, self.credit)
        taken: list[Delivery] = []
        events = size = 0
        while queue and events < most and size < TAKE_BYTES:
            room = most - events
            if taken and self.credit is None and len(queue[0].events) > room:
                break
            delivery = self._take_first(room)
            events += len(delivery.events)
            size += delivery.size_bytes
            taken.append(delivery)
        if self.credit is not None:
            self.credit -= events
        self._taken += events
        if self.written is not None:
            owed = [delivery for delivery in taken if delivery.deliveries]
            if owed:
                self.written(owed)
        self._wake_replays()
        return taken

    def _wake_replays(self) -> None:
        if self._events_taken is not None:
            self._events_taken.set()
            self._events_taken = None

    def end(self) -> None:
        """The connection is gone: what waits is dropped as session_closed, and nothing more is taken in. Idempotent."""
        self._ended = True
        self._answers = []
        self._answer_bytes = 0
        self._forget_queue()
        self._wake_replays()
        self._work.set()
        self._answers_taken.set()

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    def _forget_queue(self) -> None:
        if self._events:
            self._count_drop(Drop.SESSION_CLOSED, self._events)
            self._dropped += self._events
        self._queue.clear()
        self._events = self._bytes = 0

    def statistics(self) -> SessionStatistics:
        """Counts since the connection began."""
        return SessionStatistics(self._taken, self._dropped, self._events, self._bytes)
