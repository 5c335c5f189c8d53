"""News of dead letters, for whoever subscribes to `$mesh/dlq/REASON/TOPIC` inside the region.

Decides what the news says and how much of it there is. Never decides what is a dead letter, and keeps nothing: the news is
at-most-once, the dead letter itself stays until a person decides.
Invariants: news of one is only made while somebody wants it; no dead letter comes of it. Bound: `dead_letters.FRESH` each burst,
the others are one event for each reason, of type `mesh.deadletters`, that tells how many.
Source: design pages "Routing" (Delivery) and "What a person sees" (dlq); CloudEvents 1.0.2 JSON format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from mesh.core.custody.dead_letters import TOPIC, DeadLetters, Fresh
from mesh.core.hop import mesh_id_of
from mesh.core.plan import Plan
from mesh.model.event import Event, NewEvent
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Drop
from mesh.wire.cloudevents import to_structured
from mesh.wire.structured import is_json

ONE_TYPE: Final = "mesh.deadletter"
MANY_TYPE: Final = "mesh.deadletters"
EVENT_BYTES: Final = 256 * 1024
"""A larger event is left out of the news, which has to fit a frame; it is at `/v1/dlq/NODE/LSN`."""
_encode: Final = msgspec.json.Encoder().encode


class DeathNotices:
    """Args: plan_of: where a topic goes from here. announce: publishes at most once.

    Cost: 2 us a dead letter nobody asked for; about 40 us one that somebody wants to hear of.
    """

    def __init__(
        self,
        key: NodeKey,
        letters: DeadLetters,
        *,
        plan_of: Callable[[str], Plan],
        announce: Callable[[Sequence[NewEvent], float], None],
        limits: Limits,
    ) -> None:
        self._key = key
        self._letters = letters
        self._plan_of = plan_of
        self._announce = announce
        self._limits = limits

    def tell(self, now: float) -> None:
        """Publish the news of what died since the last call."""
        letters = self._letters
        if not letters.fresh and not letters.untold:
            return
        fresh, untold = letters.take_fresh()
        news: list[NewEvent] = []
        for one in fresh:
            topic = notice_topic(one.reason, one.event.topic, self._limits)
            if self._is_wanted(topic):
                news.append(NewEvent(topic, "", 0, None, self._one(one)))
        for reason, count in untold.items():
            topic = TOPIC + reason.value
            if self._is_wanted(topic):
                news.append(NewEvent(topic, "", 0, None, self._many(reason, count)))
        if news:
            self._announce(news, now)

    def _is_wanted(self, topic: str) -> bool:
        plan = self._plan_of(topic)
        return bool(plan.local or plan.nodes or plan.groups)

    def _one(self, one: Fresh) -> bytes:
        mesh_id = mesh_id_of(one.header, one.event)
        head = self._head(ONE_TYPE, f"{mesh_id}/{one.lsn or one.part}", mesh_id, one.died_ms)
        event = structured(one.event) if len(one.event.data) <= EVENT_BYTES else None
        data = {
            "reason": one.reason.value,
            "part": one.part,
            "attempts": one.attempts,
            "path": one.header.path,
            "topic": one.event.topic,
            "mesh_id": mesh_id,
            "node": self._key.node,
            "lsn": one.lsn or None,
            "event": event,
        }
        return _encode({**head, "data": data})

    def _many(self, reason: Drop, count: int) -> bytes:
        letters = self._letters
        id = f"{self._key}/{letters.wall_ms()}/{letters.born}/{reason.value}"
        head = self._head(MANY_TYPE, id, reason.value, letters.wall_ms())
        return _encode({**head, "data": {"reason": reason.value, "count": count, "node": self._key.node}})

    def _head(self, type: str, id: str, subject: str, at_ms: int) -> dict[str, object]:
        return {
            "specversion": "1.0",
            "id": id,
            "source": f"mesh://{self._key}",
            "type": type,
            "subject": subject,
            "time": rfc3339(at_ms),
            "datacontenttype": "application/json",
        }


def structured(event: Event) -> msgspec.Raw | None:
    """The event as JSON inside JSON; None for one that another node took in without judging it, and that is none."""
    told = to_structured(event)
    return msgspec.Raw(told) if is_json(told) else None


def rfc3339(wall_ms: int) -> str:
    """A moment of the wall clock, with its milliseconds."""
    at = datetime.fromtimestamp(wall_ms / 1e3, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def notice_topic(reason: Drop, topic: str, limits: Limits) -> str:
    """TOPIC + REASON/ + as many levels of the topic as a topic may have; the whole one is in the data."""
    levels = (TOPIC + reason.value).split("/")
    size = len(TOPIC + reason.value)
    for level in topic.split("/"):
        size += 1 + len(level.encode())
        if len(levels) == limits.topic_levels or size > limits.topic_bytes:
            break
        levels.append(level)
    return "/".join(levels)
