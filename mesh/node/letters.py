"""Dead letters as operators see and treat them: of this node, and of any node of the region through it.

Decides the fields of an item, and passes what is to be done with a dead letter to the node that holds it. Never decides whether one
may be published again (`mesh.core.custody.reissue` does).
Requests travel as the mesh's own mail: topic `$mesh/letters/ACT`, answered to the asker's inbox; a replay is answered when it is on
the disk. Bound: WAITING answers wait for the disk; beyond that who asked is told that it is not in time.
Source: design page "What a person sees" (dlq).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import trio

from mesh.core.custody.dead_letters import DeadLetter
from mesh.core.custody.death_notices import rfc3339, structured
from mesh.core.custody.reissue import Replay
from mesh.core.inboxes import ReplyTo
from mesh.model.errors import MeshError
from mesh.model.event import EXTRA_CORRELATION, EXTRA_REPLY_TO, Event, NewEvent
from mesh.model.ids import BadName
from mesh.model.reasons import NoReplay, Refuse
from mesh.node.inspect import Item
from mesh.node.service import RefusedError

if TYPE_CHECKING:
    from mesh.node.runner import Node

ACTS: Final = "$mesh/letters/"
PAGE: Final = 1_000
"""Dead letters in one answer of one node."""
AT_ONCE: Final = 500
"""Dead letters that one call may name."""
WAITING: Final = 1_000
_MOST_BYTES: Final = 4 << 20


class Act(StrEnum):
    """What can be done with dead letters that are named."""

    SHOW = "show"
    REPLAY = "replay"
    DROP = "drop"


class Query(msgspec.Struct, omit_defaults=True):
    """Which dead letters a list is about. node, after: begin after this one; nodes whose name comes before have been read."""

    topic: str = ""
    reason: str = ""
    part: str = ""
    node: str = ""
    after: int = 0
    limit: int = PAGE


class _Owing(NamedTuple):
    """An answer that waits for the disk."""

    record: int
    give: Callable[[], None]


_query: Final = msgspec.json.Decoder(Query).decode
_numbers: Final = msgspec.json.Decoder(list[int]).decode
_items: Final = msgspec.json.Decoder(list[Item]).decode
_encode: Final = msgspec.json.encode


class Letters:
    """Dead letters of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._owing: list[_Owing] = []

    # -- looking -----------------------------------------------------------------------------------------------------

    def page(self, query: bytes) -> list[Item]:
        """One item: `letters`, and `more`, the number after which the next page begins. Raises: ValueError on a bad query."""
        wanted = _query(query) if query else Query()
        node = self._node
        name = node.key.node
        if name < wanted.node:
            return [{"letters": [], "more": None}]
        after = wanted.after if name == wanted.node else 0
        found = node.machine.custody.letters.page(
            after,
            max(1, min(wanted.limit, PAGE)),
            reason=wanted.reason,
            topic=wanted.topic,
            part=wanted.part,
        )
        return [{"letters": [self._item(letter) for letter in found.letters], "more": found.more}]

    def _item(self, letter: DeadLetter) -> Item:
        now_ms = self._node.machine.custody.letters.wall_ms()
        regions = [part[2:] for part in letter.part.split(",") if part.startswith("r/")]
        return {
            "id": f"{self._node.key.node}/{letter.lsn}",
            "lsn": letter.lsn,
            "topic": letter.event.topic,
            "reason": letter.reason,
            "part": letter.part,
            "region": regions[0] if len(regions) == 1 else regions or None,
            "attempts": letter.attempts,
            "path": list(letter.path),
            "mesh_id": letter.mesh_id,
            "first_seen": rfc3339(letter.seen_ms) if letter.seen_ms else None,
            "died_at": rfc3339(letter.died_ms),
            "age_s": max(0.0, round((now_ms - letter.died_ms) / 1e3, 3)),
            "bytes": len(letter.event.data),
            "replaying": letter.lsn in self._node.machine.reissue.under_way,
            "node": self._node.key.node,
        }

    def _show(self, lsn: int) -> Item:
        letter = self._node.machine.custody.letters.get(lsn)
        if letter is None:
            return self._refused(lsn, NoReplay.UNKNOWN)
        return {**self._item(letter), "key": letter.event.key, "event": structured(letter.event)}

    # -- doing -------------------------------------------------------------------------------------------------------

    async def act(self, node: str, act: Act, lsns: Sequence[int], timeout_s: float) -> list[Item]:
        """Show, replay or drop dead letters, at whichever node of the region they are: one item for each, in order. An item with
        `why` says that nothing was done (a NoReplay or Refuse value).

        Raises: MeshError MESH-A005 when the node is no member; MESH-A012 when it does not say in time: it may be done all the same.
        """
        mine = self._node.key.node
        if node == mine:
            items, record = self._do(act, lsns)
            if not await self._synced(record, timeout_s):
                raise MeshError("MESH-A012", node, "it is published again, but not on the disk in time")
            return items
        if node not in self._node.machine.control.membership.members():
            raise MeshError("MESH-A005", "node", f"no member {node!r}")
        try:
            event = await self._node.clients.requests.question(
                node, ACTS + act.value, timeout_s, _encode(list(lsns))
            )
        except RefusedError as error:
            raise MeshError("MESH-A019", node, error.detail) from None
        if event is None:
            raise MeshError(
                "MESH-A012", node, f"it did not say in time whether it has done so ({act.value}): look again"
            )
        try:
            return _items(zlib.decompressobj().decompress(event.data, _MOST_BYTES))
        except (msgspec.DecodeError, zlib.error, RecursionError):
            raise MeshError("MESH-A010", node, "its answer cannot be read") from None

    def _do(self, act: Act, lsns: Sequence[int]) -> tuple[list[Item], int]:
        """Do it here. Returns the items and the record that must be synced before they are true."""
        record = 0
        items: list[Item] = []
        now = trio.current_time()
        machine = self._node.machine
        for lsn in lsns:
            match act:
                case Act.SHOW:
                    items.append(self._show(lsn))
                case Act.DROP:
                    if lsn in machine.reissue.under_way:
                        items.append(self._refused(lsn, NoReplay.UNDER_WAY))
                    elif machine.custody.letters.drop(lsn):
                        items.append(self._said(lsn))
                    else:
                        items.append(self._refused(lsn, NoReplay.UNKNOWN))
                case Act.REPLAY:
                    replay = machine.replay(lsn, now)
                    items.append(self._replayed(replay))
                    record = max(record, replay.record)
        if act is Act.REPLAY:
            self._node.after_call()
        return items, record

    def _said(self, lsn: int) -> Item:
        return {"id": f"{self._node.key.node}/{lsn}", "lsn": lsn, "node": self._node.key.node, "why": ""}

    def _refused(self, lsn: int, why: NoReplay | Refuse) -> Item:
        return {**self._said(lsn), "why": why.value}

    def _replayed(self, replay: Replay) -> Item:
        if replay.why is not None:
            return self._refused(replay.lsn, replay.why)
        machine = self._node.machine
        mesh_id = f"{machine.key}/{machine.settings.epoch}/{replay.seq}"
        return {**self._said(replay.lsn), "mesh_id": mesh_id, "again": replay.again}

    # -- the disk ----------------------------------------------------------------------------------------------------

    async def _synced(self, record: int, timeout_s: float) -> bool:
        """Until the record is on disk; False when it is not in time."""
        done = trio.Event()
        if not self._when_synced(record, done.set):
            return False
        with trio.move_on_after(timeout_s):
            await done.wait()
        return done.is_set()

    def _when_synced(self, record: int, give: Callable[[], None]) -> bool:
        """Call `give` once the record is on disk, at once where it is. False: too many wait."""
        if record <= self._node.machine.custody.store.synced:
            give()
            return True
        if len(self._owing) >= WAITING:
            return False
        self._owing.append(_Owing(record, give))
        return True

    def store_moved(self) -> None:
        """The journal committed: whoever waits for it is answered."""
        if not self._owing:
            return
        synced = self._node.machine.custody.store.synced
        due = [owing for owing in self._owing if owing.record <= synced]
        self._owing = [owing for owing in self._owing if owing.record > synced]
        for owing in due:
            owing.give()

    # -- asked by other nodes ----------------------------------------------------------------------------------------

    def asked(self, event: Event) -> bool:
        """Another node of the region passes on what its operator wants. False: it cannot be read."""
        assert event.extra is not None
        try:
            act = Act(event.topic.removeprefix(ACTS))
            lsns = _numbers(event.data)
            to = ReplyTo.parse(event.extra[EXTRA_REPLY_TO])
        except (BadName, ValueError, RecursionError):
            return False
        items, record = self._do(act, lsns[:AT_ONCE])
        reply = NewEvent("", "", 0, (), zlib.compress(_encode(items), 1))
        correlation = event.extra[EXTRA_CORRELATION]

        def give() -> None:
            self._node.machine.reply(to, correlation, reply, trio.current_time())
            self._node.after_call()

        self._when_synced(record, give)
        return True
