"""Whoever waits at this node for an answer: clients that sent a request, and the node itself that asked another one.

Decides nothing: the machine says how a request ended (`mesh.core.inboxes`), and this wakes who waits for it.
Invariant: an inbox is here exactly while a task waits for it, also when that task is cancelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from mesh.core.inboxes import Ended, ReplyTo
from mesh.model.event import Event, NewEvent
from mesh.model.reasons import NotDelivered
from mesh.node.service import Answer, RefusedError, RegionReason

if TYPE_CHECKING:
    from mesh.node.runner import Node


class Requests:
    """Args: node: whose machine sends. Bound: `limits.pending_requests`, which the machine keeps."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._machine = node.machine
        self._waiting: dict[str, tuple[trio.Event, list[Ended]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def request(self, event: NewEvent, timeout_s: float) -> Answer:
        """See Service, for what was checked. Raises: RefusedError when too many wait."""
        try:
            inbox = self._machine.request(event, timeout_s, trio.current_time())
        except ValueError as error:
            raise RefusedError("MESH-E030", str(error), status=503) from None
        self._node.flush_soon()
        end = await self._end_of(inbox)
        reasons = tuple(RegionReason(place, reason) for place, reason in end.reasons)
        if end.event is None and end.problem == "no_responders" and not reasons:
            reasons = (
                RegionReason(
                    "", NotDelivered.NO_INTEREST.value, "nobody in the mesh subscribes to this topic"
                ),
            )
        return Answer(end.event, end.path, end.problem, reasons)

    async def question(self, node: str, topic: str, timeout_s: float, data: bytes = b"") -> Event | None:
        """Ask another node of the region; None when no answer came in time. Raises: RefusedError when too many wait."""
        now = trio.current_time()
        key, inboxes = self._node.key, self._machine.inboxes
        if inboxes.full:
            raise RefusedError("MESH-E030", "too many requests wait for a reply", status=503)
        inbox = inboxes.open(timeout_s, now)
        reply_to = ReplyTo(key.region, key.node, inbox)
        inboxes.sent(inbox, {f"n/{node}"}, ())
        if self._machine.ask(key.region, node, topic, data, (str(reply_to), inbox), now) is not None:
            inboxes.abandon(inbox)
            return None
        return (await self._end_of(inbox)).event

    async def _end_of(self, inbox: str) -> Ended:
        """How it ended. It is waited for before anybody is told what the machine has, which may be the end already."""
        ended: list[Ended] = []
        done = trio.Event()
        self._waiting[inbox] = (done, ended)
        try:
            self._node.after_call()
            await done.wait()
        finally:
            del self._waiting[inbox]
            self._machine.inboxes.abandon(inbox)
        return ended[0]

    def ended(self, ended: Iterable[Ended]) -> None:
        """Wake the requesters."""
        for end in ended:
            waiting = self._waiting.get(end.inbox)
            if waiting is not None:
                waiting[1].append(end)
                waiting[0].set()
