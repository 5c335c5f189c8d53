"""Judges what a fault run wrote down: what was lost, duplicated, reordered, late or given up. Pure functions over a history.

| violation    | an event ...                                                                                              |
|--------------|-----------------------------------------------------------------------------------------------------------|
| `lost`       | was accepted, is not a dead letter, and a reader that was promised it never saw it                         |
| `late`       | came to such a reader longer than `heal_s` after the last fault                                            |
| `duplicated` | came twice to a reader or a queue group under one mesh_id, and not marked as redelivered, within WINDOW_S; |
|              | a reader that is not durable is another subscriber with each connection, so that only one counts           |
| `reordered`  | of an ordered stream came first after a later one of its (origin, key); of other streams this is counted   |
| `stray`      | was never published, or came under a mesh_id that nobody can have given it                                 |
| `memory`     | (a node) used more than `rss_mb`                                                                           |
| `trouble`    | (a node) ended by itself, did not start, wrote a traceback, or refused what it should not                  |

Never looks at nodes. Invariant: delivered = first + redelivered + duplicated, for each reader.
Source: design page "Routing", Properties (P4, P5, P6) and Delivery (order per origin and key).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from mesh.testing.fault_history import Delivered, History, Published
from mesh.testing.fault_traffic import promises

WINDOW_S: Final = 600.0
"""A copy that comes later than this is outside of the dedupe window."""
SHOWN: Final = 5
"""Of each kind of violation so many are told one by one."""


class Violation(msgspec.Struct, frozen=True):
    """One promise that was not kept. reader: "" where it is none's."""

    kind: str
    reader: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}{f' ({self.reader})' if self.reader else ''}: {self.detail}"


class ReaderFigures(msgspec.Struct):
    """What one reader, or one queue group ("worker-1+worker-2"), saw. promised: events that it had to see. missed: events that it
    did not see and was not promised. copies: deliveries under another mesh_id than the accepted one, of events whose publisher
    had to ask again. latencies are those of first deliveries, in milliseconds from the accepted attempt's begin."""

    reader: str
    promised: int = 0
    delivered: int = 0
    first: int = 0
    lost: int = 0
    missed: int = 0
    dead: int = 0
    redelivered: int = 0
    duplicated: int = 0
    reordered: int = 0
    late: int = 0
    copies: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


class Verdict(msgspec.Struct):
    """What a run comes to. settled_s: from the last fault's end to the last first delivery to somebody who was promised it."""

    seed: int
    events: int
    accepted: int
    refused: int
    unknown: int
    doubtful: int
    dead_letters: int
    settled_s: float
    readers: list[ReaderFigures]
    violations: list[Violation]

    def total(self, what: str) -> int:
        """Sum of a figure over all readers."""
        return sum(getattr(reader, what) for reader in self.readers)

    @property
    def kinds(self) -> dict[str, int]:
        """How many violations of each kind."""
        found: dict[str, int] = defaultdict(int)
        for violation in self.violations:
            found[violation.kind] += 1
        return dict(found)


def check(history: History) -> Verdict:
    """Judge a run. Cost: about 3 us a delivery."""
    plan, published = history.plan, history.published
    promised = promises(plan)
    violations = [Violation("trouble", "", what) for what in history.troubles]
    violations += [
        Violation("memory", "", f"{node} used {used:.0f} MB, more than {plan.rss_mb:g}")
        for node, used in history.peak_rss_mb.items()
        if used > plan.rss_mb
    ]
    settled_s = 0.0
    figures = []
    for readers in _together(history):
        judged = _Reading(history, readers, promised.get(readers, frozenset()))
        figures.append(judged.figures())
        violations += judged.violations
        settled_s = max(settled_s, judged.last_s - history.healed_s)
    outcomes = [event.outcome for event in published]
    return Verdict(
        seed=plan.seed,
        events=len(published),
        accepted=outcomes.count("accepted"),
        refused=outcomes.count("refused"),
        unknown=outcomes.count("unknown"),
        doubtful=sum(event.doubtful for event in published),
        dead_letters=len(history.dead_letters),
        settled_s=round(max(0.0, settled_s), 3),
        readers=figures,
        violations=violations,
    )


def _together(history: History) -> Iterator[tuple[str, ...]]:
    """Readers one by one, but the members of a queue group as one."""
    groups: dict[str, list[str]] = {}
    for reader in history.plan.readers:
        groups.setdefault(reader.group or f"\n{reader.name}", []).append(reader.name)
    for members in groups.values():
        yield tuple(members)


class _Reading:
    """Everything that one reader (or group) saw, in the order of arrival."""

    def __init__(self, history: History, readers: tuple[str, ...], promised: frozenset[str]) -> None:
        self._history = history
        self._name = "+".join(readers)
        self._promised = promised
        self._is_group = len(readers) > 1 or any(
            r.group for r in history.plan.readers if r.name == readers[0]
        )
        self._streams = {
            name for reader in history.plan.readers if reader.name in readers for name in reader.streams
        }
        self._durable = all(r.durable for r in history.plan.readers if r.name in readers)
        self._ordered = {stream.name for stream in history.plan.streams if stream.ordered}
        self._deliveries: list[Delivered] = sorted(
            (one for name in readers for one in history.delivered.get(name, ())), key=lambda one: one.at_s
        )
        self.violations: list[Violation] = []
        self.last_s = 0.0
        """When the last promised event came for the first time."""

    def figures(self) -> ReaderFigures:
        """Judge. Effects: fills `violations` and `last_s`."""
        found = ReaderFigures(self._name, delivered=len(self._deliveries))
        first = self._firsts(found)
        self._order(found, first)
        self._losses(found, first)
        self._latencies(found, first)
        return found

    def _blame(self, kind: str, detail: str) -> None:
        self.violations.append(Violation(kind, self._name, detail))

    def _event(self, delivery: Delivered) -> Published | None:
        published = self._history.published
        return published[delivery.number] if 0 <= delivery.number < len(published) else None

    def _firsts(self, found: ReaderFigures) -> list[Delivered]:
        """The first delivery of each mesh_id; repeats are counted, those that say nothing about it are violations."""
        seen: dict[tuple[str, int], float] = {}
        first: list[Delivered] = []
        for one in self._deliveries:
            subscriber = one.mesh_id, 0 if self._durable else one.connection
            before_s = seen.get(subscriber)
            if before_s is not None:
                if one.redelivered or one.at_s - before_s > WINDOW_S:
                    found.redelivered += 1
                else:
                    found.duplicated += 1
                    self._blame(
                        "duplicated",
                        f"{one.mesh_id} (event {one.number}) came at {before_s:.3f} s and {one.at_s:.3f} s",
                    )
                continue
            seen[subscriber] = one.at_s
            first.append(one)
            event = self._event(one)
            if event is None or event.stream not in self._streams:
                self._blame("stray", f"{one.mesh_id} is event {one.number}, which was not published for it")
            elif event.outcome == "accepted" and one.mesh_id != event.mesh_id:
                found.copies += 1
                if not event.doubtful:
                    self._blame("stray", f"{one.mesh_id} is event {one.number}, accepted as {event.mesh_id}")
        found.first = len(first)
        return first

    def _order(self, found: ReaderFigures, first: Sequence[Delivered]) -> None:
        """By seq within (origin, key). Of a queue group nothing is promised: its members take turns."""
        if self._is_group:
            return
        highest: dict[tuple[str, str, int], int] = {}
        for one in first:
            event = self._event(one)
            origin, _, seq = one.mesh_id.rpartition("/")
            if event is None or not seq.isdigit():
                continue
            stream = origin, event.key, 0 if self._durable else one.connection
            before = highest.get(stream, 0)
            if int(seq) > before:
                highest[stream] = int(seq)
                continue
            found.reordered += 1
            if event.stream in self._ordered:
                self._blame(
                    "reordered", f"{one.mesh_id} of key {event.key} came after {before}, at {one.at_s:.3f} s"
                )

    def _losses(self, found: ReaderFigures, first: Sequence[Delivered]) -> None:
        arrived = {one.mesh_id: one.at_s for one in first}
        dead = {letter.mesh_id: letter.reason for letter in self._history.dead_letters}
        deadline_s = self._history.healed_s + self._history.plan.heal_s
        for number, event in enumerate(self._history.published):
            if event.outcome != "accepted" or event.stream not in self._streams:
                continue
            at_s = arrived.get(event.mesh_id)
            if event.stream not in self._promised:
                found.missed += at_s is None
                continue
            found.promised += 1
            if at_s is not None:
                self.last_s = max(self.last_s, at_s)
                if at_s > deadline_s:
                    self._blame(
                        "late", f"{event.mesh_id} (event {number}) came {at_s - event.sent_s:.3f} s later"
                    )
            elif event.mesh_id in dead:
                found.dead += 1
            else:
                found.lost += 1
                self._blame(
                    "lost",
                    f"{event.mesh_id} (event {number}, key {event.key}), accepted {event.answered_s:.3f} s",
                )

    def _latencies(self, found: ReaderFigures, first: Sequence[Delivered]) -> None:
        took_ms = sorted(
            (one.at_s - event.sent_s) * 1e3
            for one in first
            if (event := self._event(one)) is not None and event.mesh_id == one.mesh_id
        )
        if not took_ms:
            return
        found.late = sum(took > self._history.plan.late_s * 1e3 for took in took_ms)
        found.p50_ms = round(took_ms[len(took_ms) // 2], 2)
        found.p99_ms = round(took_ms[min(len(took_ms) - 1, len(took_ms) * 99 // 100)], 2)
        found.max_ms = round(took_ms[-1], 2)


def shown(violations: Sequence[Violation]) -> list[str]:
    """The first ones of each kind, and how many more there are."""
    by_kind: dict[str, list[Violation]] = {}
    for violation in violations:
        by_kind.setdefault(violation.kind, []).append(violation)
    lines: list[str] = []
    for kind, found in by_kind.items():
        lines += [str(one) for one in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"{kind}: and {len(found) - SHOWN} more")
    return lines
