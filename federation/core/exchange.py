"""The numbered exchange of route updates on one bridge link: one `Outbound` and one `Inbound` at each end.

Decides when changes leave (coalesced, paced, retractions at once), what is sent again, and which received update is
newer. Never decides what is true: `Outbound` asks a function for the state of a source, `Inbound` hands changes on.
Invariant: once every frame is acknowledged, what `Inbound` holds equals what `Outbound` announced, whatever was lost,
repeated or reordered between; an older frame never overrides a newer one.
A link is a stream and needs none of the repair; it is what makes the machine safe under any driver. Each link starts
with a whole table (`full`), so nothing outlives a link.
Source: design page "Routing", Routes and Security (updates 50/s, burst 500 for each neighbour).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

import msgspec

from federation.core.route_settings import RouteSettings
from federation.core.selection import Key
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire.frames import INFINITY, Routes, RouteUpdate

Current: TypeAlias = Callable[[Key], RouteUpdate | None]
"""What this node would announce of a source on this link now; None: nothing."""

_pack = msgspec.msgpack.Encoder().encode


def route_root(updates: Iterable[RouteUpdate]) -> int:
    """A 64-bit hash of a set of updates, whatever their order; 0 of none. Cost: O(n), about 2 us each."""
    root = 0
    for update in updates:
        root ^= int.from_bytes(blake2b(_pack(update), digest_size=8).digest(), "big")
    return root


class Allowance:
    """A token bucket: `rate` a second, at most `burst` saved up."""

    __slots__ = ("_at", "burst", "left", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.left = burst
        self._at = now

    def take(self, n: float, now: float) -> bool:
        """Take n tokens if they are there."""
        self._refill(now)
        if self.left < n:
            return False
        self.left -= n
        return True

    def charge(self, n: float, now: float) -> bool:
        """Take n tokens whether they are there or not. Returns: they were."""
        self._refill(now)
        self.left -= n
        return self.left >= 0

    def _refill(self, now: float) -> None:
        if now > self._at:
            self.left = min(self.burst, self.left + (now - self._at) * self.rate)
            self._at = now


@dataclass(slots=True)
class _Sent:
    frame: Routes
    again_at: float
    wait_s: float


class Outbound:
    """What is announced on one link.

    announced: what the other end holds once everything arrived. resent: frames sent again, for statistics.
    """

    __slots__ = (
        "_dirty",
        "_flush_at",
        "_limits",
        "_n",
        "_pace",
        "_settings",
        "_unacked",
        "announced",
        "resent",
    )

    def __init__(self, settings: RouteSettings, limits: Limits, now: float) -> None:
        self._settings = settings
        self._limits = limits
        self._pace = Allowance(limits.updates_per_s, limits.updates_burst, now)
        self._n = 0
        self._dirty: dict[Key, None] = {}
        self._flush_at: float | None = None
        self._unacked: dict[int, _Sent] = {}
        self.announced: dict[Key, RouteUpdate] = {}
        self.resent = 0

    @property
    def settled(self) -> bool:
        """Nothing waits and everything sent was acknowledged."""
        return not self._dirty and not self._unacked

    def mark(self, key: Key, due: float) -> None:
        """The source may have changed: look at it at `due` (s), or earlier if something else is due earlier."""
        self._dirty[key] = None
        if self._flush_at is None or due < self._flush_at:
            self._flush_at = due

    def allow_request(self, now: float) -> bool:
        """May a seqno request leave now? It counts as an update."""
        return self._pace.take(1, now)

    def full(self, updates: Iterable[RouteUpdate], now: float) -> Routes:
        """The whole table as one frame that replaces everything; what does not fit follows as paced updates."""
        room = self._settings.frame_bytes
        self._dirty.clear()
        self._unacked.clear()
        self._flush_at = None
        self.announced.clear()
        for update in updates:
            key = (update.region, update.bridge)
            room -= _size(update)
            if room < 0:
                self.mark(key, now + self._settings.coalesce_s)
            else:
                self.announced[key] = update
        return self._frame(True, list(self.announced.values()), now)

    def retract(self, keys: Iterable[Key], now: float) -> list[Routes]:
        """Withdraw announced sources at once. With the window full they wait like the rest. Returns: frames in order."""
        gone = [key for key in keys if key in self.announced]
        if len(self._unacked) >= self._settings.window_frames:
            for key in gone:
                self.mark(key, now)
            return []
        return self._frames([_retraction(self.announced.pop(key)) for key in gone], now)

    def due(self, now: float) -> bool:
        """Something waits whose time has come, and the window is open."""
        return self._flush_at is not None and self._flush_at <= now and self._open

    @property
    def _open(self) -> bool:
        return len(self._unacked) < self._settings.window_frames

    def flush(self, current: Current, now: float) -> list[Routes]:
        """Announce what changed among the sources marked, as far as the pace allows: the rest coalesces further.

        Returns: frames in order. Cost: O(marked).
        """
        self._flush_at = None
        updates: list[RouteUpdate] = []
        while self._dirty:
            key = next(iter(self._dirty))
            update, told = current(key), self.announced.get(key)
            if update is None:
                if told is not None:
                    del self.announced[key]
                    updates.append(_retraction(told))
            elif update != told:
                if not self._pace.take(1, now):
                    self._flush_at = now + max(self._settings.coalesce_s, 1 / self._pace.rate)
                    break
                self.announced[key] = update
                updates.append(update)
            del self._dirty[key]
        return self._frames(updates, now)

    def acknowledged(self, n: int) -> bool:
        """The other end has frame n. Returns: False when no such frame is out."""
        return self._unacked.pop(n, None) is not None

    def again(self, now: float) -> list[Routes]:
        """Frames whose acknowledgement is overdue, as they were: their number keeps them from overriding newer ones."""
        frames = []
        for sent in self._unacked.values():
            if sent.again_at <= now:
                sent.wait_s = min(2 * sent.wait_s, self._settings.ack_timeout_max_s)
                sent.again_at = now + sent.wait_s
                frames.append(sent.frame)
        self.resent += len(frames)
        return frames

    def next_deadline(self) -> float | None:
        times = [sent.again_at for sent in self._unacked.values()]
        if self._flush_at is not None and self._open:
            times.append(self._flush_at)
        return min(times, default=None)

    def _frames(self, updates: list[RouteUpdate], now: float) -> list[Routes]:
        """As few frames as fit the bounds of count and size. They may pass the window by what one flush holds, which the
        pace bounds."""
        frames: list[Routes] = []
        part: list[RouteUpdate] = []
        room = self._settings.frame_bytes
        for update in updates:
            size = _size(update)
            if part and (size > room or len(part) == self._settings.frame_updates):
                frames.append(self._frame(False, part, now))
                part, room = [], self._settings.frame_bytes
            part.append(update)
            room -= size
        if part:
            frames.append(self._frame(False, part, now))
        return frames

    def _frame(self, full: bool, updates: list[RouteUpdate], now: float) -> Routes:
        self._n += 1
        frame = Routes(self._n, full, tuple(updates))
        wait_s = self._settings.ack_timeout_s
        self._unacked[self._n] = _Sent(frame, now + wait_s, wait_s)
        return frame


def _retraction(told: RouteUpdate) -> RouteUpdate:
    return RouteUpdate(told.region, told.bridge, told.epoch, told.seqno, INFINITY, ())


def _size(update: RouteUpdate) -> int:
    return 40 + len(update.region) + len(update.bridge) + sum(len(name) + 2 for name in update.path)


class Intake(NamedTuple):
    """What a frame changed. changes: (source, its newest update, or None when it is gone). price: of the frame.
    refused: sources that passed a limit. close: set when the frame is nonsense, with its detail."""

    changes: list[tuple[Key, RouteUpdate | None]]
    price: int
    refused: int = 0
    close: Close | None = None
    detail: str = ""


class Inbound:
    """What was received on one link.

    held: source -> (number of the frame that told it, the update). incomplete: something was refused, so that digests
    cannot agree.
    """

    __slots__ = (
        "_ahead",
        "_limits",
        "_pace",
        "_regions",
        "_settings",
        "_tombs",
        "_upto",
        "held",
        "incomplete",
    )

    def __init__(self, settings: RouteSettings, limits: Limits, now: float) -> None:
        self._settings = settings
        self._limits = limits
        excess = settings.excess_factor
        self._pace = Allowance(excess * limits.updates_per_s, excess * limits.updates_burst, now)
        self._upto = 0
        self._ahead: set[int] = set()
        self._tombs: dict[Key, int] = {}
        self._regions: dict[str, int] = {}
        self.held: dict[Key, tuple[int, RouteUpdate]] = {}
        self.incomplete = False

    def root(self) -> int:
        """Hash of what is held, to compare with the other end's digest."""
        return route_root(update for _, update in self.held.values())

    def charge(self, price: float, now: float) -> bool:
        """Count traffic against several times a correct sender's pace. Returns: False when that is passed."""
        return self._pace.charge(price, now)

    def accept(self, frame: Routes) -> Intake:
        """Take in a frame's updates. Cost: O(updates), and O(held) for a whole table."""
        n = frame.n
        if n <= self._upto or n in self._ahead:
            return Intake([], 1)
        if n > self._upto + self._settings.reorder_frames:
            return Intake([], 1, 0, Close.PROTOCOL_ERROR, f"routes frame {n} after {self._upto}")
        self._number(n, frame.full)
        changes: dict[Key, RouteUpdate | None] = {}
        price, refused = (self._settings.full_price, 0) if frame.full else (1, 0)
        if frame.full:
            self.incomplete = False
            named = {(update.region, update.bridge) for update in frame.updates}
            for key in [key for key, (told, _) in self.held.items() if told < n and key not in named]:
                self._drop(key)
                changes[key] = None
        for update in frame.updates:
            key = (update.region, update.bridge)
            known = self.held.get(key)
            if (known is not None and known[0] > n) or self._tombs.get(key, 0) > n:
                continue
            if update.metric >= INFINITY:
                price += known is None
                if known is not None:
                    self._drop(key)
                    changes[key] = None
                if n > self._upto:
                    self._tombs[key] = n
            elif known is None and not self._room(update.region):
                refused += 1
                price += 1
                self.incomplete = True
            else:
                price += 0 if frame.full else 1
                if known is None:
                    self._regions[update.region] = self._regions.get(update.region, 0) + 1
                self.held[key] = (n, update)
                changes[key] = update
        if self._tombs:
            # Only after the updates: this frame may be the late one that the retraction has to hold off.
            self._tombs = {key: at for key, at in self._tombs.items() if at > self._upto}
        return Intake(list(changes.items()), price, refused)

    def _number(self, n: int, full: bool) -> None:
        """A whole table makes up for every earlier frame; else numbers are ticked off one by one."""
        if full:
            self._upto = n
            self._ahead = {ahead for ahead in self._ahead if ahead > n}
        else:
            self._ahead.add(n)
        while self._upto + 1 in self._ahead:
            self._upto += 1
            self._ahead.remove(self._upto)

    def _room(self, region: str) -> bool:
        sources = self._regions.get(region, 0)
        if sources == 0:
            return len(self._regions) < self._limits.regions
        return sources < self._settings.region_sources

    def _drop(self, key: Key) -> None:
        del self.held[key]
        left = self._regions[key[0]] - 1
        if left:
            self._regions[key[0]] = left
        else:
            del self._regions[key[0]]
