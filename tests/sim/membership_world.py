"""A region of membership machines in virtual time: delays, loss, duplicates, standstills, crashes, cuts.

Links are a full mesh from the start, or dialled by the world as `wanted_links` asks. Everything follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import msgspec

from mesh.core.effects import CloseLink, Notify, Send
from mesh.core.membership import Membership, MembershipSettings
from mesh.wire.frames import Members

DIAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Notice:
    """A Notify effect, and who had it when."""

    at: float
    node: str
    notify: Notify


class World:
    """Machines n0..n(N-1) and the links between them."""

    def __init__(
        self,
        size: int,
        seed: int,
        settings: MembershipSettings | None = None,
        *,
        delay_s: tuple[float, float] = (0.001, 0.005),
        loss: float = 0.0,
        duplicates: float = 0.0,
        converged: bool = True,
        dialling: bool = False,
        measure: bool = False,
    ) -> None:
        self.dice = random.Random(seed)
        self.settings = settings or MembershipSettings()
        self.delay_s = delay_s
        self.loss = loss
        self.duplicates = duplicates
        self.dialling = dialling
        self.measure = measure
        self.now = 0.0
        self.machines: dict[str, Membership] = {}
        self.epochs: dict[str, int] = {}
        self.down: set[str] = set()
        self.asleep: dict[str, float] = {}
        self.muffled: dict[str, float] = {}
        self.side: dict[str, int] = {}
        self.links: set[tuple[str, str]] = set()
        self.notices: list[Notice] = []
        self.bytes_sent: dict[str, int] = {}
        self.frames_sent = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._n = count()
        self._wake: dict[str, float] = {}
        self._held: dict[str, list[tuple[str, object]]] = {}
        self._inbox: dict[str, list[tuple[Callable[..., None], tuple[object, ...]]]] = {}
        names = [f"n{i}" for i in range(size)]
        for name in names:
            self.boot(name)
        if converged and size > 1:
            self._converge(names)
            self.links = {(a, b) for a in names for b in names if a != b} if dialling else set()
        if dialling:
            self.at(0.0, self._dial)

    # -- nodes -------------------------------------------------------------------------------------------------

    def boot(self, name: str) -> Membership:
        """Start a process of `name`, the first or a newer one; where links are dialled it has heard of the others."""
        self.epochs[name] = self.epochs.get(name, 0) + 1
        for other in self.machines:
            if (name, other) in self.links:
                self.cut_link(name, other)  # what the earlier process left open
        for kept in (self.asleep, self.muffled, self._inbox, self._held, self._wake):
            kept.pop(name, None)
        self.down.discard(name)
        machine = Membership(
            name,
            self.epochs[name],
            (f"{name}:7946",),
            self.settings,
            random.Random(self.dice.random()),
            self.now,
            software="hopmesh/0.1.0",
        )
        self.machines[name] = machine
        if self.dialling:
            for other in self.machines:
                machine.introduce(other, 0, (f"{other}:7946",), self.now)  # as a registry or seeds would
        self._schedule(name)
        return machine

    def _converge(self, names: list[str]) -> None:
        """Everyone believes in everyone and has all links, and nothing waits to be told."""
        model = Membership(
            names[0], 1, (f"{names[0]}:7946",), self.settings, random.Random(0), 0.0, software="hopmesh/0.1.0"
        )
        words = tuple(machine.members()[name].word() for name, machine in self.machines.items())
        model.receive(names[1], Members(words, False), 0.0)
        for name in names[1:]:
            model.linked(name, 1, 0.0)
        for machine in self.machines.values():
            machine.assume(model)

    def crash(self, name: str) -> None:
        """Gone without a word: its links stay open and swallow everything."""
        self.down.add(name)

    def kill(self, name: str) -> None:
        """The process ends: its links end too."""
        self.down.add(name)
        for other in list(self.machines):
            if other != name and other not in self.down:
                self.cut_link(name, other)

    def sleep(self, name: str, seconds: float) -> None:
        """The process stands still; on waking it sees its deadlines first, then the frames that waited."""
        self.asleep[name] = self.now + seconds
        self.at(self.now + seconds, self._awake, name, self.now + seconds)

    def muffle(self, name: str, seconds: float) -> None:
        """The process runs but its frames do not move, in or out, until then: all arrive at once afterwards."""
        until = self.muffled[name] = self.now + seconds
        self.at(until, self._heard_again, name, until)

    def _heard_again(self, name: str, until: float) -> None:
        if self.muffled.get(name) != until:
            return
        del self.muffled[name]
        for to, frame in self._held.pop(name, []):
            self._send(name, to, frame)
        for call, args in self._inbox.pop(name, []):
            call(*args)

    def _awake(self, name: str, until: float) -> None:
        if self.asleep.get(name) != until:
            return
        del self.asleep[name]
        self._deadline(name, self.now)
        for call, args in self._inbox.pop(name, []):
            call(*args)

    # -- time --------------------------------------------------------------------------------------------------

    def at(self, when: float, call: Callable[..., None], *args: object) -> None:
        heappush(self._queue, (when, next(self._n), call, args))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; ends early, with True, when `until` holds (looked at after every step)."""
        end = self.now + seconds
        queue = self._queue
        while queue and queue[0][0] <= end:
            when, _, call, args = heappop(queue)
            self.now = when
            call(*args)
            if until is not None and until():
                return True
        self.now = end
        return False

    def act(self, name: str, call: Callable[[Membership], None]) -> None:
        """Do something with one machine now."""
        call(self.machines[name])
        self._settle(name)

    def _deadline(self, name: str, when: float) -> None:
        if name in self.down:
            return
        if self._wake.get(name) == when:
            del self._wake[name]
        if name in self.asleep:
            return
        self.machines[name].handle_deadline(self.now)
        self._settle(name)

    def _schedule(self, name: str) -> None:
        due = self.machines[name].next_deadline()
        if due is None:
            return
        known = self._wake.get(name)
        if known is None or due < known:
            self._wake[name] = due
            self.at(max(due, self.now), self._deadline, name, due)

    def _settle(self, name: str) -> None:
        for effect in self.machines[name].drain():
            if isinstance(effect, Send):
                self._send(name, str(effect.to), effect.frame)
            elif isinstance(effect, CloseLink):
                self.cut_link(name, str(effect.to), said_why=True)
            else:
                self.notices.append(Notice(self.now, name, effect))
        self._schedule(name)

    # -- frames ------------------------------------------------------------------------------------------------

    def _send(self, source: str, to: str, frame: object) -> None:
        if source in self.muffled:
            self._held.setdefault(source, []).append((to, frame))
            return
        self.frames_sent += 1
        if self.measure:
            # 5 bytes: length and kind
            size = 5 + len(msgspec.msgpack.encode(frame))
            self.bytes_sent[source] = self.bytes_sent.get(source, 0) + size
        dice = self.dice.random
        low, high = self.delay_s
        for _ in range(2 if self.duplicates and dice() < self.duplicates else 1):
            if not self.loss or dice() >= self.loss:
                self.at(
                    self.now + low + (high - low) * dice(),
                    self._arrive,
                    source,
                    to,
                    self.epochs.get(to),
                    frame,
                )

    def _arrive(self, source: str, to: str, epoch: int, frame: object) -> None:
        if to in self.down or self.epochs[to] != epoch or not self.joined(source, to):
            return
        if self.dialling and (source, to) not in self.links:
            return
        if to in self.asleep or to in self.muffled:
            self._inbox.setdefault(to, []).append((self._arrive, (source, to, epoch, frame)))
            return
        self.machines[to].receive(source, frame, self.now)
        self._settle(to)

    def joined(self, a: str, b: str) -> bool:
        """No cut lies between them."""
        return self.side.get(a, 0) == self.side.get(b, 0)

    def cut(self, names: Iterable[str], side: int) -> None:
        """Put these on another side: frames to and from the rest are lost, links stay open."""
        for name in names:
            self.side[name] = side

    def heal(self) -> None:
        self.side.clear()

    # -- links -------------------------------------------------------------------------------------------------

    def cut_link(self, a: str, b: str, *, said_why: bool = False) -> None:
        """End the link between two; both learn of it unless they are down, when they wake if they are asleep."""
        self.links.discard((a, b))
        self.links.discard((b, a))
        for end, other in ((a, b), (b, a)):
            self.at(self.now + self.delay_s[1], self._unlinked, end, other, said_why)

    def _unlinked(self, end: str, other: str, said_why: bool) -> None:
        if end in self.down or (end, other) in self.links:
            return
        if end in self.asleep or end in self.muffled:
            self._inbox.setdefault(end, []).append((self._unlinked, (end, other, said_why)))
            return
        self.machines[end].unlinked(other, self.now, said_why=said_why)
        self._settle(end)

    def link(self, a: str, b: str) -> None:
        """Open the link between two running processes."""
        self.links.update(((a, b), (b, a)))
        for end, other in ((a, b), (b, a)):
            self.machines[end].linked(other, self.epochs[other], self.now)
        for end in (a, b):
            self._settle(end)

    def _dial(self) -> None:
        for name, machine in self.machines.items():
            if name in self.down or name in self.asleep or name in self.muffled:
                continue
            for wanted in machine.wanted_links(self.now):
                other = wanted.node
                if (
                    other in self.machines
                    and other not in self.down
                    and other not in self.asleep
                    and other not in self.muffled
                    and self.joined(name, other)
                    and (name, other) not in self.links
                ):
                    self.link(name, other)
        self.at(self.now + DIAL_S, self._dial)

    # -- looking -----------------------------------------------------------------------------------------------

    def up(self) -> list[str]:
        return [name for name in self.machines if name not in self.down]

    def agree(self, live: Iterable[str] | None = None) -> bool:
        """Every running node believes in exactly `live` (default: those running), nobody suspect, roots equal."""
        names = tuple(sorted(live if live is not None else self.up()))
        machines = [self.machines[name] for name in self.up()]
        return (
            len({machine.root for machine in machines}) == 1
            and all(machine.alive() == names for machine in machines)
            and all(machine.statistics().suspects == 0 for machine in machines)
        )

    def said(self, what: str, about: str | None = None) -> list[Notice]:
        return [
            n for n in self.notices if n.notify.what == what and (about is None or n.notify.about == about)
        ]
