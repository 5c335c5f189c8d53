"""Ordered topics: events of a key are handed over in the order in which they were published, whatever way they took.

Decides, at the origin, which event came before one (`Chains`), and at the delivering node which event has to wait for another
(`Gate`). Never holds back an event of a topic that is not ordered.
An event says, for each region it goes to, the seq of the one before it of the same topic and key that went there too, and how long
before. A node that has not seen that one holds the later one back: until it comes, at most HOLD_S, or until there are too many.
One that was published more than RECENT_S before is not waited for: this node may not have wanted it.
Invariant: an event that is held back is in the store, if anybody here acknowledges; it is released exactly once.
Bounds: CHAINS keys are remembered at an origin, HELD events are held back at a node.
Source: design page "Routing", Delivery (order).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from mesh.core.counters import Counters
from mesh.core.dedupe import Window
from mesh.model.event import Event
from mesh.wire.frames import BatchHeader

CHAINS: Final = 65_536
HELD: Final = 10_000
HOLD_S: Final = 10.0
RECENT_S: Final = 60.0
BEFORE: Final = 2
"""Where `Event.extra` says what came before: "REGION=SEQ@AGE_MS", separated by spaces."""

Payload = TypeVar("Payload")


class Chains:
    """At the origin: the last event of each topic and key, by region. Cost: O(regions) an ordered event."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], dict[str, tuple[int, float]]] = OrderedDict()

    def before(self, topic: str, key: str, regions: Iterable[str], seq: int, now: float) -> str:
        """What an event of these regions says of the ones before it; it is the last one from now on."""
        chain = self._last.pop((topic, key), None)
        if chain is None:
            chain = {}
            if len(self._last) >= CHAINS:
                self._last.popitem(last=False)
        self._last[topic, key] = chain
        said = []
        for region in regions:
            last = chain.get(region)
            if last is not None:
                said.append(f"{region}={last[0]}@{max(0, int((now - last[1]) * 1e3))}")
            chain[region] = (seq, now)
        return " ".join(said)


class Before(NamedTuple):
    """What an event says of the one before it. age_ms: how long before it was published."""

    seq: int
    age_ms: int


def before(event: Event, region: str) -> Before | None:
    """What an event says of the one before it in a region; None when it says nothing, or nothing that can be read."""
    extra = event.extra
    if extra is None or len(extra) <= BEFORE:
        return None
    for said in extra[BEFORE].split(" "):
        name, _, value = said.partition("=")
        if name == region:
            seq, _, age = value.partition("@")
            if seq.isdecimal() and age.isdecimal() and len(seq) < 20 and len(age) < 20:
                return Before(int(seq), int(age))
    return None


@dataclass(slots=True, eq=False)
class _Held(Generic[Payload]):
    chain: tuple[object, ...]
    seq: int
    before: int
    until: float
    payload: Payload
    window: Window = field(repr=False)


class Gate(Generic[Payload]):
    """At the delivering node. Args: region: the own one. Cost: 1 us an ordered event; O(held of the key) while some are held back."""

    def __init__(self, region: str, counters: Counters) -> None:
        self._region = region
        self._counters = counters
        self._chains: dict[tuple[object, ...], list[_Held[Payload]]] = {}
        self._count = 0
        self._next_until: float | None = None

    def __len__(self) -> int:
        return self._count

    def must_wait(self, header: BatchHeader, event: Event, window: Window) -> bool:
        """Whether an event has to wait for another one. window: of its origin, in which it and what was seen are marked."""
        said = before(event, self._region)
        if said is None or said.age_ms > RECENT_S * 1e3 or self._count >= HELD:
            return False
        if not window.knows(said.seq):
            return True
        return any(held.seq == said.seq for held in self._chains.get(_chain(header, event), ()))

    def hold(self, header: BatchHeader, event: Event, window: Window, payload: Payload, now: float) -> None:
        """Keep an event back until the one before it has come. payload: what `release` gives out then."""
        said = before(event, self._region)
        assert said is not None
        left_ms = header.remaining_ms
        until = now + min(HOLD_S, left_ms / 1e3) if left_ms else now + HOLD_S
        chain = _chain(header, event)
        held = _Held(chain, event.seq, said.seq, until, payload, window)
        waiting = self._chains.setdefault(chain, [])
        waiting.append(held)
        waiting.sort(key=lambda one: one.seq)
        self._count += 1
        if self._next_until is None or until < self._next_until:
            self._next_until = until

    def release(self, now: float) -> list[Payload]:
        """What need not wait any longer, in order: the one before it has come, or its time is over (counted as order_gap)."""
        if not self._count:
            return []
        found: list[Payload] = []
        for chain, waiting in list(self._chains.items()):
            while waiting:
                first = waiting[0]
                if not first.window.knows(first.before):
                    if first.until > now:
                        break
                    self._counters.order_gaps += 1
                found.append(waiting.pop(0).payload)
                self._count -= 1
            if not waiting:
                del self._chains[chain]
        untils = [held.until for waiting in self._chains.values() for held in waiting[:1]]
        self._next_until = min(untils) if untils else None
        return found

    def next_deadline(self) -> float | None:
        """When something was held back for long enough."""
        return self._next_until


def _chain(header: BatchHeader, event: Event) -> tuple[object, ...]:
    return header.region, header.node, header.epoch, event.topic, event.key
