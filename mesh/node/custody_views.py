"""What waits at one node and why, as plain items and figures.

Reads custody's lanes, records and counters; the reasons are those that the decisions left there.
Cost: `spools` adds up what waits, about 0.1 us a record; `reading` and `queue` cost O(destinations).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mesh.core.custody.lane import Lane
from mesh.core.custody.order import Waiting
from mesh.core.custody.record import HELD_BACK, NODE, REGION
from mesh.core.session import LinkSession
from mesh.model.reasons import Hold
from mesh.node.inspect import CustodyReading, Item

if TYPE_CHECKING:
    from mesh.node.runner import Node


class CustodyViews:
    """Views of one node's custody."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def spools(self) -> list[Item]:
        """One item for each destination that this node owes something, and one for what is held back here to keep an order."""
        custody = self._node.machine.custody
        now = trio.current_time()
        found = [
            self._spool(lane, now)
            for _, lane in sorted(custody.departure.lanes.items())
            if lane.waiting or lane.under_way
        ]
        if len(custody.keeping.gate):
            found.append(self._held_back(custody.keeping.gate.waiting(), now))
        return [*found, *self._copies(now)]

    def _held_back(self, waiting: list[Waiting], now: float) -> Item:
        return {
            "id": HELD_BACK,
            "kind": "clients",
            "destination": "here",
            "records": len(waiting),
            "events": len(waiting),
            "bytes": sum([one.size for one in waiting]),
            "oldest_s": round(max(now - one.since for one in waiting), 3),
            "under_way_records": 0,
            "under_way_bytes": 0,
            "why": Hold.ORDER.value,
            "detail": "",
            "node": self._node.key.node,
        }

    def _copies(self, now: float) -> list[Item]:
        """Records that are to have a second copy and have none, and what is kept for other nodes."""
        custody = self._node.machine.custody
        records, events, size, since = custody.copies.alone()
        found = []
        if records:
            mirror = custody.copies.mirror
            why = Hold.COPYING if mirror else Hold.NO_SIBLING
            found.append(self._copy("copies", "copy", mirror, (records, events, size), since, now, why.value))
        for owner, kept in sorted(custody.pairs.mirror.kept.items()):
            size = sum([one.size for one in kept.values()])
            since = min(one.since for one in kept.values())
            found.append(self._copy(f"m/{owner}", "kept-for", owner, (len(kept), None, size), since, now, ""))
        return found

    def _copy(
        self,
        id: str,
        kind: str,
        destination: str,
        sizes: tuple[int, int | None, int],
        since: float | None,
        now: float,
        why: str,
    ) -> Item:
        records, events, size = sizes
        return {
            "id": id,
            "kind": kind,
            "destination": destination,
            "records": records,
            "events": events,
            "bytes": size,
            "oldest_s": None if since is None else round(max(0.0, now - since), 3),
            "under_way_records": 0,
            "under_way_bytes": 0,
            "why": why,
            "detail": "",
            "node": self._node.key.node,
        }

    def _spool(self, lane: Lane, now: float) -> Item:
        held_of = self._node.machine.custody.departure.held.get
        waiting = [held for held in map(held_of, lane.waiting) if held is not None]
        kind = "region" if lane.part.startswith(REGION) else "node"
        return {
            "id": lane.part,
            "kind": kind,
            "destination": lane.part[len(REGION) :],
            "records": len(waiting),
            "events": sum([held.count for held in waiting]),
            "bytes": sum([held.size for held in waiting]),
            "oldest_s": self._oldest_s(lane, now),
            "under_way_records": lane.under_way,
            "under_way_bytes": lane.bytes,
            "why": _why(lane),
            "detail": lane.refusal,
            "node": self._node.key.node,
        }

    def _oldest_s(self, lane: Lane, now: float) -> float | None:
        held = self._node.machine.custody.departure.held.get(lane.waiting[0]) if lane.waiting else None
        return None if held is None else round(max(0.0, now - held.since), 3)

    def queue(self, part: str, now: float) -> Item | None:
        """What waits for one destination, in short; None for nothing."""
        lane = self._node.machine.custody.departure.lanes.get(part)
        if lane is None or not lane.waiting:
            return None
        return {"records": len(lane.waiting), "oldest_s": self._oldest_s(lane, now), "why": _why(lane)}

    def region_queue(self, region: str, now: float) -> Item | None:
        """See `queue`."""
        return self.queue(REGION + region, now)

    def node_queue(self, node: str, now: float) -> Item | None:
        """See `queue`."""
        return self.queue(NODE + node, now)

    def reading(self) -> CustodyReading:
        """Every counter and gauge."""
        machine = self._node.machine
        custody, counts = machine.custody, machine.counters
        under_way: dict[str, int] = {}
        for session in machine.sessions.values():
            size, _ = under_way_of(session)
            if size:
                peer = str(session.peer_key)
                under_way[peer] = under_way.get(peer, 0) + size
        return CustodyReading(
            records=len(custody.departure.held),
            waiting=custody.departure.waiting,
            refused=dict(counts.refused),
            died={reason.value: count for reason, count in counts.dead_letters.items()},
            letters=len(custody.letters),
            letter_bytes=custody.letters.size_bytes,
            under_way_bytes=under_way,
            passed_window=counts.passed_window,
            held_back=len(custody.keeping.gate),
            order_gaps=counts.order_gaps,
            copies_short={reason.value: count for reason, count in counts.copies_short.items()},
            copies_alone=custody.copies.alone()[0],
            copies_kept_bytes=custody.pairs.mirror.size_bytes,
            copies_taken=counts.copies_taken,
        )


def under_way_of(session: LinkSession) -> tuple[int, int]:
    """(bytes, batches) in custody that a link was given and that are not stored at its other end. A record whose parts leave
    together is one batch."""
    shares = session.custody.owed()
    return sum([share.size for share in shares]), len(shares)


def _why(lane: Lane) -> str:
    return lane.held.value if lane.waiting and lane.held is not None else ""
