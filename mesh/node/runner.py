"""The trio shell of one node: feeds its machine with frames and time, and carries out what the machine decided.

Decides nothing about members, routes or events. One nursery owns the node; each link runs as a task of its own that the
node survives. All calls into the machine are synchronous, so no two of them overlap.
Invariant: after every call into the machine `_after` has run before the next await: effects leave in the order in which they were decided.
Source: design pages "Architecture" (Sans-IO machines) and "Wire and speed" (rules 4 and 7).
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog
import trio

from federation.core.policy.boundary import Boundary
from federation.core.policy.rule_file import RuleFile
from mesh.core.custody.store import Store
from mesh.core.effects import CloseLink, Notify, Send
from mesh.core.opening import DAY_S, Terms
from mesh.model.dice import Dice
from mesh.model.errors import MeshError, close_code
from mesh.model.ids import NodeKey
from mesh.model.reasons import Close
from mesh.model.topic_rules import TopicRules
from mesh.net.link import Link
from mesh.net.tls import Secure
from mesh.net.transport import Transport
from mesh.node.clients import Clients
from mesh.node.dialler import Dialler
from mesh.node.inspection import Inspection
from mesh.node.machine import NodeMachine
from mesh.node.settings import NodeSettings
from mesh.wire.codec import encode_data
from mesh.wire.frames import Control, Frame

log = structlog.get_logger("node")

DRAIN_S = 10.0
"""SIGTERM: leave is told, queues empty, at most so long."""
DRAIN_TELL_S = 0.3
"""What a leave and its withdrawn routes need to be on the wire everywhere in the region."""
_QUIET = {"link_opened", "link_closed"}

_OFFENCES = frozenset(
    {
        Close.MALFORMED,
        Close.UNEXPECTED_FRAME,
        Close.FRAME_TOO_LARGE,
        Close.LIMIT,
        Close.PROTOCOL_ERROR,
        Close.SLOW_CONSUMER,
    }
)
"""Rules a peer broke on an open link: counted as refusals, too."""

FATAL = frozenset({Close.NAME_IN_USE, Close.OLD_EPOCH})
"""Refusals after which this process must not go on: another one is this node."""


class Node:
    """One node. `run` serves until cancelled or left; `attach` gives it a connected transport.

    Args:
        settings: who this is. dice: chance for its machines. wall_s: wall clock, only told to peers and compared. store: the journal;
            whoever drives it calls `stored`. rules: of topics. secure: this node's certificates; None: its links are in clear text.
            boundary: of links to other regions.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        dice: Dice | None = None,
        wall_s: Callable[[], float] = time.time,
        store: Store | None = None,
        rules: TopicRules | None = None,
        secure: Secure | None = None,
        boundary: Boundary | None = None,
    ) -> None:
        self.settings = settings
        self.secure = secure
        self.key = NodeKey(settings.region, settings.node)
        self.dice = dice or random.Random()
        now = trio.current_time()
        self.machine = NodeMachine(settings, self.dice, now, store=store, rules=rules, boundary=boundary)
        self.machine.recover(int(wall_s() * 1e3), now)
        self.machine.custody.letters.wall_ms = lambda: int(wall_s() * 1e3)
        self.machine.inboxes.secret = secrets.token_bytes(16)
        self.links: dict[int, Link] = {}
        self.refusals: dict[tuple[str, str], int] = {}
        self.started_wall_s = wall_s()
        self.started = trio.current_time()
        self.failure: MeshError | None = None
        self.stopped = trio.Event()
        self.links_changed = trio.Event()
        self.dialler = Dialler(self)
        self.clients = Clients(self)
        self.inspection = Inspection(self)
        self._bytes_in = 0  # of links that are gone
        self._bytes_out = 0
        self._wall_s = wall_s
        self._rearm = trio.Event()
        self._armed = float("-inf")
        self._flush = trio.Event()
        self._leave = trio.Event()
        self._scope = trio.CancelScope()
        self.on_drain: list[Callable[[], object]] = []
        """Called when draining begins: ports stop accepting."""
        self._when_open: dict[int, Callable[[], object]] = {}
        self._closed: dict[int, tuple[Close, str, NodeKey | None]] = {}

    @property
    def draining(self) -> bool:
        return self.machine.draining

    def count_refusal(self, port: str, reason: str) -> None:
        """Count a refused or broken connection under its port and a short stable reason."""
        self.refusals[port, reason] = self.refusals.get((port, reason), 0) + 1

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run timers and flushes until `leave` has finished. Raises MeshError when this process must not go on."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_time, name="node timer")
                nursery.start_soon(self._keep_epochs, name="node epochs")
                nursery.start_soon(self._keep_flushing, name="node flush")
                task_status.started()
                await self._leave.wait()
                if self.failure is None:
                    await self._drain()
                nursery.cancel_scope.cancel()
        self.stopped.set()
        if self.failure is not None:
            raise self.failure

    def leave(self) -> None:
        """Begin to drain and leave (SIGTERM, `mesh node leave`). Idempotent."""
        self._leave.set()

    def stop_now(self) -> None:
        """End `run` without emptying anything (a second signal)."""
        self._scope.cancel()

    async def _drain(self) -> None:
        """Tell the region and the clients, let queues empty, close the links: at most DRAIN_S."""
        log.info("draining", links=len(self.links))
        with trio.move_on_after(DRAIN_S):
            self.machine.leave(trio.current_time())
            self.clients.close_all(Close.DRAINING, "this node leaves")
            for drained in self.on_drain:
                drained()
            self._after()
            await trio.sleep(DRAIN_TELL_S)
            while self._busy():  # noqa: ASYNC110
                await trio.sleep(0.02)
        self.machine.close_links(trio.current_time())
        self._after()
        with trio.move_on_after(1.0):
            while self.links:
                await self.links_changed.wait()

    def _busy(self) -> bool:
        """Whether something still waits to be sent."""
        waiting = any(link.statistics().control_queued for link in self.links.values())
        return waiting or self.machine.queued_bytes > 0

    async def _keep_epochs(self) -> None:
        """An epoch in gossip may lie one day ahead of this machine's clock."""
        while True:
            self.machine.control.membership.limit_epochs(int(self._wall_s()) + DAY_S)
            await trio.sleep(DAY_S / 24)

    async def _keep_time(self) -> None:
        while True:
            self._armed = self.machine.next_deadline()
            self._rearm = trio.Event()
            if self._armed > trio.current_time():
                with trio.move_on_at(self._armed):
                    await self._rearm.wait()
            else:
                await trio.lowlevel.checkpoint()
            now = trio.current_time()
            if now >= self._armed:
                self.machine.handle_deadline(now)
                self._after()

    async def _keep_flushing(self) -> None:
        while True:
            await self._flush.wait()
            self._flush = trio.Event()
            self.machine.flush(trio.current_time())
            self._after()
            intake = self.machine.custody.intake
            if intake.answered:
                intake.answered = False
                self.clients.kept_moved()

    def flush_soon(self) -> None:
        """Events were published: flush when every task that is ready now has had its turn, so that they share batches."""
        self._flush.set()

    # -- links ---------------------------------------------------------------------------------------------------

    async def attach(
        self,
        transport: Transport,
        *,
        dialled: bool,
        terms: Terms,
        when_open: Callable[[], object] | None = None,
    ) -> tuple[Close, str, NodeKey | None]:
        """Run a link over a connected transport until it ends. Returns why, and who was there if it got so far.

        Args: when_open: called once when the opening exchange is done.
        """
        now = trio.current_time()
        certificate = transport.certificate
        certified = certificate.node if certificate is not None else None
        assert self.secure is None or certified is not None, "whoever connects inside TLS has shown who it is"
        number = self.machine.link_connected(
            dialled=dialled, terms=terms, wall_ms=int(self._wall_s() * 1e3), now=now, certified=certified
        )
        link = Link(number, transport, self, self.settings.limits, accepted=not dialled)
        self.links[number] = link
        if when_open is not None:
            self._when_open[number] = when_open
        try:
            self._after()
            await link.run()
        finally:
            self.links.pop(number, None)
            self._when_open.pop(number, None)
            statistics = link.statistics()
            self._bytes_in += statistics.bytes_in
            self._bytes_out += statistics.bytes_out
            self.machine.link_lost(number, Close.LINK_LOST, "the connection ended", trio.current_time())
            self._after()
            self._wake_for_links()  # a drain waits for the last one
        return self._closed.pop(number, (Close.LINK_LOST, "the connection ended", None))

    def received(self, link: int, frames: list[Frame]) -> None:
        """LinkHost: a burst of frames."""
        self.machine.receive(link, frames, trio.current_time())
        self._after()

    def stored(self) -> None:
        """The journal committed, or its state changed."""
        self.machine.stored(trio.current_time())
        self._after()
        self.clients.kept_moved()
        self.inspection.store_moved()

    def pull_data(self, link: int) -> bytes | None:
        """LinkHost: the next data frame to send."""
        item = self.machine.pull(link, trio.current_time())
        return None if item is None else encode_data(item.header, item.body)

    def link_lost(self, link: int, reason: Close, detail: str) -> None:
        """LinkHost: the connection ended."""
        self.machine.link_lost(link, reason, detail, trio.current_time())
        self._after()

    @property
    def bytes_in(self) -> int:
        """Bytes received over all links so far."""
        return self._bytes_in + sum(link.statistics().bytes_in for link in self.links.values())

    @property
    def bytes_out(self) -> int:
        """Bytes sent over all links so far."""
        return self._bytes_out + sum(link.statistics().bytes_out for link in self.links.values())

    # -- effects -------------------------------------------------------------------------------------------------

    def after_call(self) -> None:
        """To be called after every direct call of the machine (by Clients and Inspection)."""
        self._after()

    def _after(self) -> None:
        machine = self.machine
        frames: dict[int, list[Control]] = {}
        closing: list[CloseLink] = []
        for effect in machine.drain():
            if isinstance(effect, Send):
                frames.setdefault(int(effect.to), []).append(effect.frame)
            elif isinstance(effect, CloseLink):
                closing.append(effect)
            else:
                self._notified(effect)
        for number, batch in frames.items():
            link = self.links.get(number)
            if link is not None:
                link.send_many(batch)
        for close in closing:
            link = self.links.get(int(close.to))
            if link is not None:
                link.close(close.reason, close.detail)
        for number in machine.take_ready():
            link = self.links.get(number)
            if link is not None:
                link.data_ready()
        deliveries = machine.take_deliveries()
        if deliveries:
            self.clients.deliver(deliveries)
        if machine.custody.log.waiting and self.clients.log is not None:
            self.clients.log.keep(machine.custody.log.take())
        if machine.inboxes.ended:
            self.clients.requests.ended(machine.take_ended())
        questions = machine.take_questions()
        if questions:
            self.inspection.answer(questions)
        if machine.copies_moved:
            machine.copies_moved = False
            self.clients.kept_moved()
            self.inspection.store_moved()
        if machine.custody.receipts.changed:
            machine.custody.receipts.changed = False
            self.clients.kept_moved()
        if machine.control.receipts.changed:
            machine.control.receipts.changed = False
            self.clients.receipts_changed()
        if machine.next_deadline() < self._armed:
            self._rearm.set()

    def replace_policy(self, rule_file: RuleFile, keys: Mapping[str, bytes]) -> None:
        """Other rules hold from now on, for routes, interest and what waits in links. Raises: ValueError without a policy file."""
        self.machine.boundary.replace(rule_file, keys)
        self.machine.rules_changed(trio.current_time())
        self._after()

    def _wake_for_links(self) -> None:
        self.links_changed.set()
        self.links_changed = trio.Event()

    def _notified(self, notify: Notify) -> None:
        if notify.what in _QUIET:
            self._wake_for_links()
        if notify.what == "link_closed":
            self._link_closed(notify)
        elif notify.what == "link_opened":
            when_open = self._when_open.pop(int(str(notify.data["link"])), None)
            if when_open is not None:
                when_open()
        elif notify.what == "client_moved":
            self.clients.receivers.moved(notify.about, notify.detail)
        self.inspection.notified(notify)
        level = log.debug if notify.what in ("route_changed", "bad_entry") else log.info
        if notify.reason == Close.NAME_NOT_CERTIFIED and not notify.data.get("by_peer"):
            level = partial(log.warning, code=close_code(Close.NAME_NOT_CERTIFIED))
        level(notify.what, about=notify.about, reason=notify.reason, detail=notify.detail)

    def _link_closed(self, notify: Notify) -> None:
        number = int(str(notify.data.get("link", 0)))
        reason = Close(notify.reason)
        key = None if notify.about.startswith("link ") else NodeKey.parse(notify.about)
        if number in self.links:
            self._closed[number] = (reason, notify.detail, key)
        if not notify.data.get("was_open") or (reason in _OFFENCES and not notify.data.get("by_peer")):
            self.count_refusal("link", reason.value)
        if notify.data.get("by_peer") and reason in FATAL:
            self.fail(MeshError(close_code(reason), f"{self.key}", notify.detail))

    def fail(self, error: MeshError) -> None:
        """This process must not go on: `run` raises the first such error."""
        if self.failure is None:
            self.failure = error
        self._leave.set()
