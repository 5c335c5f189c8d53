"""Requests that wait for a reply, and the mail that ends the waiting.

Decides the inbox names, which request a piece of mail belongs to, and when a request is known to have no responders:
when every place it was sent to has answered that nobody is there. Never routes.
Invariant: each request ends exactly once: first reply, no_responders, no_members, or time-out.
Bound: `limits.pending_requests` at once; a request waits at most `limits.request_wait_s`.
Source: design page "Routing", Forwarding (Request/reply).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heappop, heappush
from typing import NamedTuple

from mesh.model.event import EXTRA_CORRELATION, Event
from mesh.model.ids import BadName, NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.frames import BatchHeader

INBOX = "$mesh/inbox/"
"""Topic prefix of a reply: the inbox name follows."""
NOTICE = "$mesh/notice/"
"""Topic prefix of the news that one place had nobody: `data` is the reason, `key` the group it concerns or ""."""


class ReplyTo(NamedTuple):
    """REGION/NODE/INBOX, as it travels in a request."""

    region: str
    node: str
    inbox: str

    def __str__(self) -> str:
        return f"{self.region}/{self.node}/{self.inbox}"

    @classmethod
    def parse(cls, text: str) -> ReplyTo:
        """Raises BadName."""
        parts = text.split("/")
        if len(parts) != 3 or not parts[2].isalnum() or len(parts[2]) > 32:
            raise BadName(f"reply address {text!r}: expected REGION/NODE/INBOX as it came with the request")
        key = NodeKey.parse("/".join(parts[:2]))
        return cls(key.region, key.node, parts[2])


class Ended(NamedTuple):
    """A request that ended: with a reply (`event`), or with a `problem` and (place, reason) pairs."""

    inbox: str
    event: Event | None
    path: tuple[str, ...]
    problem: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Waiting:
    """An open request. outstanding: places that may still answer: "local", "n/NODE", "r/REGION", "g/GROUP/FILTER"."""

    correlation: str
    deadline: float
    outstanding: set[str]
    reasons: list[tuple[str, str]] = field(default_factory=list)


class Inboxes:
    """Open requests of this node. Cost: O(1) each; time-outs from a heap."""

    def __init__(self, limits: Limits) -> None:
        self.secret = b""
        """Set once by the shell, from the system's chance: whoever did not get a request cannot guess its inbox."""
        self._limits = limits
        self._waiting: dict[str, Waiting] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._count = 0
        self.ended: list[Ended] = []

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self._limits.pending_requests

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, timeout_s: float, now: float) -> str:
        """A new inbox. Call `sent` once it is known where the request went. Raises ValueError when full."""
        if self.full:
            raise ValueError("too many requests wait for a reply")
        self._count += 1
        proof = blake2b(b"%d" % self._count, key=self.secret, digest_size=8).hexdigest()
        inbox = f"{self._count:x}x{proof}"
        deadline = now + min(timeout_s, self._limits.request_wait_s)
        self._waiting[inbox] = Waiting(inbox, deadline, {"unsent"})
        heappush(self._deadlines, (deadline, inbox))
        return inbox

    def sent(self, inbox: str, places: Iterable[str], reasons: Iterable[tuple[str, str]]) -> None:
        """The request went to these places; with none it ends at once as no_responders with the reasons."""
        waiting = self._waiting[inbox]
        waiting.outstanding = set(places)
        waiting.reasons.extend(reasons)
        self._check(inbox, waiting)

    def mail(self, header: BatchHeader, event: Event) -> Drop | None:
        """Take a reply or a notice. Returns the reason when nobody waits for it."""
        if event.topic.startswith(INBOX):
            inbox = event.topic[len(INBOX) :]
            waiting = self._waiting.get(inbox)
            if (
                waiting is None
                or event.extra is None
                or event.extra[EXTRA_CORRELATION] != waiting.correlation
            ):
                return Drop.UNKNOWN_INBOX
            self._end(inbox, Ended(inbox, event, header.path, "", ()))
            return None
        inbox = event.topic[len(NOTICE) :]
        waiting = self._waiting.get(inbox)
        if waiting is None:
            return Drop.UNKNOWN_INBOX
        place = f"g/{event.key}" if event.key else f"r/{header.region}"
        if place not in waiting.outstanding:
            place = f"n/{header.node}"
        reason = event.data[:64].decode("ascii", "replace")
        waiting.outstanding.discard(place)
        waiting.reasons.append((event.key or header.region, reason))
        self._check(inbox, waiting)
        return None

    def _check(self, inbox: str, waiting: Waiting) -> None:
        if waiting.outstanding:
            return
        members = any(reason == Drop.NO_MEMBERS for _, reason in waiting.reasons)
        problem = "no_members" if members else "no_responders"
        self._end(inbox, Ended(inbox, None, (), problem, tuple(waiting.reasons)))

    def _end(self, inbox: str, ended: Ended) -> None:
        del self._waiting[inbox]
        self.ended.append(ended)

    def abandon(self, inbox: str) -> None:
        """The requester gave up. Idempotent."""
        self._waiting.pop(inbox, None)

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def handle_deadline(self, now: float) -> None:
        """End the requests whose time is up."""
        while self._deadlines and self._deadlines[0][0] <= now:
            inbox = heappop(self._deadlines)[1]
            waiting = self._waiting.get(inbox)
            if waiting is not None:
                self._end(inbox, Ended(inbox, None, (), "timeout", tuple(waiting.reasons)))
