"""What a fault run wrote down: every event that was published, every delivery, every fault, for the checker. Plain data.

Decides nothing. Times are seconds since the load began, on the runner's own monotonic clock: one process publishes and reads, so
that they can be compared. Written as JSON, so that a run can be judged again without being repeated.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mesh.testing.fault_plan import FaultPlan

Outcome = Literal["accepted", "refused", "unknown"]


class Published(msgspec.Struct, array_like=True):
    """One event; its place in the history's list is its number, and its CloudEvent id.

    n: which one of its key. sent_s: when the attempt began that was answered last. outcome: `accepted` (202, with `mesh_id`),
    `refused` (an answer that says no), `unknown` (no answer). doubtful: an attempt before ended without an answer, or
    with one that says that nobody knows (MESH-E052), so that the mesh may have it under another mesh_id, too.
    """

    stream: str
    key: str
    n: int
    sent_s: float
    answered_s: float = 0.0
    outcome: Outcome = "unknown"
    mesh_id: str = ""
    doubtful: bool = False


class Delivered(msgspec.Struct, array_like=True):
    """One delivery. number: of the event, -1 when it is none of ours. connection: the reader's, counted from 1."""

    number: int
    mesh_id: str
    at_s: float
    connection: int
    redelivered: bool = False


class Strike(msgspec.Struct, array_like=True):
    """One thing that the runner did, in words."""

    at_s: float
    what: str


class DeadLetter(msgspec.Struct, array_like=True):
    """An event that the mesh gave up, and why."""

    mesh_id: str
    reason: str


class History(msgspec.Struct):
    """One run. delivered: by reader. healed_s: when the last fault was undone. ended_s: when reading stopped. troubles: what the
    nodes did that no fault explains (a process that ended, one that does not start)."""

    plan: FaultPlan
    published: list[Published] = []
    delivered: dict[str, list[Delivered]] = {}
    strikes: list[Strike] = []
    dead_letters: list[DeadLetter] = []
    troubles: list[str] = []
    healed_s: float = 0.0
    ended_s: float = 0.0
    peak_rss_mb: dict[str, float] = {}


def history_json(history: History) -> bytes:
    """A history as `read_history` reads it. Cost: about 1 us an event."""
    return msgspec.json.encode(history)


def read_history(text: bytes) -> History:
    """Raises: ValueError saying what is wrong."""
    try:
        return msgspec.json.decode(text, type=History)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
