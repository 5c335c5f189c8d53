"""What a node tells its operators: views of its own state, and the same asked of every member over the mesh's links.

Reads the machines and prints the reasons they stored; decides and recomputes nothing.
Questions travel as the mesh's own mail: topic `$mesh/ask/WHAT`, answered to the asker's inbox.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from federation.core.route_views import RouteState
from mesh.core.effects import Notify
from mesh.core.inboxes import ReplyTo
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Event, NewEvent
from mesh.model.ids import BadName, NodeKey
from mesh.node.feed import Feed, Watch
from mesh.node.inspect import (
    AuditReading,
    Counters,
    Item,
    JournalReading,
    MissingNode,
    RegionAnswer,
    Security,
    What,
)
from mesh.node.letters import ACTS, Act, Letters
from mesh.node.policy_views import PolicyViews
from mesh.node.registry_views import RegistryViews
from mesh.node.service import RefusedError
from mesh.node.views import Views
from mesh.wire.frames import BatchHeader

if TYPE_CHECKING:
    from mesh.node.runner import Node

log = structlog.get_logger("inspection")

ASK: Final = "$mesh/ask/"
ANSWER_BYTES: Final = 900_000
"""A compressed answer must fit a frame; a larger one is refused by the answering node, which says so."""
UNPACKED_BYTES: Final = 64 << 20
"""What an answer may unpack to: more was not made by a node."""


class Inspection:
    """Inspect of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._views = Views(node)
        self._feed = Feed()
        self._policy = PolicyViews(node)
        self.dead_letters = Letters(node)
        self.journal: Callable[[], JournalReading | None] = lambda: None
        """Set by mesh.app: the journal's state and figures."""
        self.audit: Callable[[], AuditReading | None] = lambda: None
        """Set by mesh.admitted where an audit is kept."""
        self.config_items: Callable[[], list[Item]] = list
        """Set by mesh.app: the configuration with the origin of each value."""
        self.security: Security | None = None
        """Set by mesh.app: the node's certificates."""
        self.registry = RegistryViews(node.key)
        """Set by mesh.app when there is a registry."""

    @property
    def key(self) -> NodeKey:
        return self._node.key

    @property
    def draining(self) -> bool:
        return self._node.draining

    def view(self, what: What, query: bytes = b"") -> list[Item]:
        """See Inspect. Raises: ValueError on a query that cannot be read."""
        if what is What.DEAD_LETTERS:
            return self.dead_letters.page(query)
        if what is What.CONFIG:
            return [{**item, "node": self.key.node} for item in self.config_items()]
        if what is What.POLICY:
            return self._policy.rules()
        if what is What.POLICY_WITHHELD:
            return self._policy.withheld()
        if what is What.POLICY_DENIALS:
            return self._policy.denials()
        if what in (What.NODES, What.SELF) and self.security is not None:
            own = {"security": self.security.item()}
            return [{**item, **(own if item["id"] == self.key.node else {})} for item in self._views.of(what)]
        if what is What.REGISTRY:
            return self.registry.status()
        if what is What.REGISTRY_ENTRIES:
            return self.registry.entries()
        if what is What.REGISTRY_DIFF:
            return self.registry.diff()
        return self._views.of(what)

    def policy_test(self, question: Mapping[str, object]) -> Item:
        """See Inspect."""
        return self._policy.test(question)

    def policy_preview(self, text: bytes, name: str) -> Item:
        """See Inspect."""
        return self._policy.preview(text, name)

    def counters(self) -> Counters:
        """See Inspect."""
        found = self._views.counters(watch_lost=self._feed.lost)
        custody = found.custody._replace(journal=self.journal())
        security = self.security
        return replace(
            found,
            registries=self.registry.counters(),
            custody=custody,
            audit=self.audit(),
            certificates=security.expires_in_s() if security is not None else {},
            exposed=security.exposed() if security is not None else {},
        )

    async def letters(self, node: str, act: Act, lsns: Sequence[int], timeout_s: float) -> list[Item]:
        """See Inspect."""
        return await self.dead_letters.act(node, act, lsns, timeout_s)

    def store_moved(self) -> None:
        """The journal committed, or its state changed."""
        self.dead_letters.store_moved()

    def watch_routes(self) -> AbstractAsyncContextManager[Watch]:
        """See Inspect."""
        return self._feed.watch()

    def request_leave(self) -> None:
        """See Inspect."""
        self._node.leave()

    def ready(self) -> tuple[bool, str]:
        """See Inspect."""
        if self.draining:
            return False, "draining"
        return True, ""

    def count_refusal(self, port: str, reason: str) -> None:
        """See Inspect."""
        self._node.count_refusal(port, reason)

    def notified(self, notify: Notify) -> None:
        """A machine noticed something: route changes go to those who watch."""
        if notify.what.startswith("route_") and self._feed:
            change = {"route_selected": "added", "route_lost": "removed"}.get(notify.what, "changed")
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            routes = [item for item in self._views.of(What.ROUTES) if item["region"] == notify.about]
            item: Item = next(
                (item for item in routes if item["state"] == RouteState.SELECTED),
                {"region": notify.about, "node": self.key.node, "state": "infeasible"},
            )
            told: Item = {"reason": notify.reason, "detail": notify.detail} if change == "removed" else {}
            self._feed.publish({**item, **told, "change": change, "at": at})

    def close(self) -> None:
        """The node stops: end every watch."""
        self._feed.close()

    # -- asking the region ---------------------------------------------------------------------------------------

    async def ask_region(self, what: What, timeout_s: float, query: bytes = b"") -> RegionAnswer:
        """See Inspect."""
        machine = self._node.machine
        now = trio.current_time()
        answered: dict[str, list[Item]] = {}
        missing: list[MissingNode] = []
        async with trio.open_nursery() as nursery:
            for name, member in sorted(machine.control.membership.members().items()):
                if name == self.key.node or not member.live:
                    continue  # the dead and the left are shown by those who live; they owe no answer
                state = f"{member.state.name.lower()} {max(0.0, now - member.since):.0f}s"
                if name not in machine.links.peers:
                    missing.append(MissingNode(name, state if not state.startswith("alive") else "no link"))
                else:
                    nursery.start_soon(self._ask, name, what, query, timeout_s, state, answered, missing)
            await trio.lowlevel.checkpoint()
        return RegionAnswer(answered, sorted(missing))

    async def _ask(
        self,
        name: str,
        what: What,
        query: bytes,
        timeout_s: float,
        state: str,
        answered: dict[str, list[Item]],
        missing: list[MissingNode],
    ) -> None:
        try:
            event = await self._node.clients.requests.question(name, ASK + what.value, timeout_s, query)
        except RefusedError as error:
            missing.append(MissingNode(name, error.detail))
            return
        if event is None:
            missing.append(MissingNode(name, "timeout" if state.startswith("alive") else state))
            return
        try:
            answered[name] = msgspec.json.decode(_unpack(event.data), type=list[Item])
        except (msgspec.DecodeError, zlib.error, ValueError, RecursionError):
            missing.append(
                MissingNode(name, event.data[:200].decode("utf-8", "replace") or "unreadable answer")
            )

    def answer(self, questions: Iterable[tuple[BatchHeader, Event]]) -> None:
        """Answer other nodes' questions. Only members of the own region are answered."""
        for header, event in questions:
            if header.region != self.key.region or event.extra is None:
                continue
            if event.topic.startswith(ACTS):
                if not self.dead_letters.asked(event):
                    log.info("question not understood", topic=event.topic[:80], node=header.node)
                continue
            try:
                to = ReplyTo.parse(event.extra[EXTRA_REPLY_TO])
                what = What(event.topic.removeprefix(ASK))
                found = self.view(what, event.data)
            except (BadName, ValueError, RecursionError):
                log.info("question not understood", topic=event.topic[:80], node=header.node)
                continue
            data = zlib.compress(msgspec.json.encode(found), 1)
            if len(data) > ANSWER_BYTES:
                data = b"too much for one answer: ask this node directly"
            reply = NewEvent("", "", 0, (), data)
            self._node.machine.reply(to, event.extra[EXTRA_CORRELATION], reply, trio.current_time())
            self._node.after_call()


def _unpack(data: bytes) -> bytes:
    """Raises: zlib.error, ValueError when it is not all there or unpacks to more than UNPACKED_BYTES."""
    unpacking = zlib.decompressobj()
    found = unpacking.decompress(data, UNPACKED_BYTES)
    if not unpacking.eof:
        raise ValueError("cut short, or too much")
    return found
