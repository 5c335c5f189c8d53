"""Node machines joined by hand: every burst waits in a queue of its own until the test lets it arrive."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from mesh.core.effects import CloseLink, Notify, Send
from mesh.core.opening import Terms
from mesh.core.session import LinkSession
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.node.machine import NodeMachine
from mesh.node.settings import NodeSettings
from mesh.wire import frames as wire
from mesh.wire.codec import encode_body
from mesh.wire.frames import BatchHeader, Frame, Leg

WALL_S = 1_700_000_000


def settings(
    region: str, node: str, *, epoch: int = 1, accept: str = "any", instance: str = "", **more: object
) -> NodeSettings:
    """A node's settings with what tests seldom care about filled in."""
    return NodeSettings(
        region=region,
        node=node,
        instance=instance or f"{region}/{node}#{epoch}",
        epoch=epoch,
        software="test",
        address=f"{node}:1",
        accept=accept,
        **more,  # type: ignore[arg-type]
    )


class Wired:
    """One machine and what it decided that is no frame."""

    def __init__(self, net: Net, machine: NodeMachine) -> None:
        self.net = net
        self.machine = machine
        self.notices: list[Notify] = []
        self.silent = False
        """Frames for it arrive and are not looked at: a stopped process."""

    def closed(self) -> list[tuple[str, str]]:
        """(about, reason) of the links that ended here, in order."""
        return [(n.about, str(n.reason)) for n in self.notices if n.what == "link_closed"]

    def open_links(self) -> list[LinkSession]:
        return [session for session in self.machine.sessions.values() if session.is_open]


class Pipe:
    """One connection: two ends and a queue of bursts towards each. None in a queue: the stream ends."""

    def __init__(self, ends: tuple[Wired, Wired], links: tuple[int, int]) -> None:
        self.ends = ends
        self.links = links
        self.queues: tuple[deque[Sequence[Frame] | None], deque[Sequence[Frame] | None]] = (deque(), deque())


class Net:
    """All machines, their pipes, one clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.nodes: list[Wired] = []
        self.pipes: list[Pipe] = []

    def node(self, region: str, node: str, **more: object) -> Wired:
        machine = NodeMachine(settings(region, node, **more), random.Random(len(self.nodes)), self.now)  # type: ignore[arg-type]
        wired = Wired(self, machine)
        self.nodes.append(wired)
        return wired

    def connect(self, dialler: Wired, other: Wired, terms: Terms | None = None) -> Pipe:
        """A connection that `dialler` made; nothing has arrived yet."""
        wall_ms = WALL_S * 1000
        a = dialler.machine.link_connected(
            dialled=True, terms=terms or Terms(), wall_ms=wall_ms, now=self.now
        )
        b = other.machine.link_connected(dialled=False, terms=Terms(), wall_ms=wall_ms, now=self.now)
        pipe = Pipe((dialler, other), (a, b))
        self.pipes.append(pipe)
        self.take(dialler)
        self.take(other)
        return pipe

    def take(self, node: Wired) -> None:
        """Put what a machine decided on its way."""
        bursts: dict[int, list[Frame]] = {}
        ended: list[int] = []
        for effect in node.machine.drain():
            if isinstance(effect, Send):
                bursts.setdefault(int(effect.to), []).append(effect.frame)
            elif isinstance(effect, CloseLink):
                bursts.setdefault(int(effect.to), []).append(wire.CloseLink(effect.reason, effect.detail))
                ended.append(int(effect.to))
            else:
                node.notices.append(effect)
        for link, burst in bursts.items():
            self._queue(node, link, burst)
        for link in ended:
            self._queue(node, link, None)

    def _queue(self, node: Wired, link: int, burst: Sequence[Frame] | None) -> None:
        for pipe in self.pipes:
            for end in (0, 1):
                if pipe.ends[end] is node and pipe.links[end] == link:
                    pipe.queues[1 - end].append(burst)

    def waiting(self) -> list[tuple[Pipe, int]]:
        """Queues with something in them: (pipe, the end it goes to)."""
        return [
            (pipe, end)
            for pipe in self.pipes
            for end in (0, 1)
            if pipe.queues[end] and not pipe.ends[end].silent
        ]

    def arrive(self, pipe: Pipe, end: int) -> None:
        """Let the next burst of a queue arrive."""
        burst = pipe.queues[end].popleft()
        node, link = pipe.ends[end], pipe.links[end]
        if burst is None:
            node.machine.link_lost(link, Close.LINK_LOST, "the connection ended", self.now)
        else:
            node.machine.receive(link, burst, self.now)
        self.take(node)

    def settle(self, dice: random.Random | None = None, most: int = 3_000) -> None:
        """Let everything arrive, in the order the dice choose."""
        for _ in range(most):
            waiting = self.waiting()
            if not waiting:
                return
            self.arrive(*(dice.choice(waiting) if dice else waiting[0]))
        raise AssertionError("frames answer frames without end")

    def run(self, seconds: float) -> None:
        """Let time pass; everything arrives at once."""
        end = self.now + seconds
        self.settle()
        while True:
            due = min(node.machine.next_deadline() for node in self.nodes if not node.silent)
            if due > end:
                break
            self.now = max(self.now, due)
            for node in self.nodes:
                if not node.silent and node.machine.next_deadline() <= self.now:
                    node.machine.handle_deadline(self.now)
                    self.take(node)
            self.settle()
        self.now = end


def tight(**limits: object) -> Limits:
    """Limits with some of them set."""
    return Limits(**limits)  # type: ignore[arg-type]


def linked(region_b: str, limits: Limits | None = None) -> tuple[Net, Wired, Wired, int]:
    """Two machines with an open link; returns the link's number at the first."""
    net = Net()
    a = net.node("eu", "n1", limits=limits or Limits())
    b = net.node(region_b, "n2")
    net.connect(b, a)
    net.settle()
    return net, a, b, a.open_links()[0].link


def hear(net: Net, node: Wired, link: int, *frames: Frame) -> None:
    """These frames arrive, and what the machine decided is on its way."""
    node.machine.receive(link, frames, net.now)
    net.take(node)


GOOD = BatchHeader(Leg.BRIDGE, 0, "us", "n2", 1, ("eu",), 0, 9, 0, ("us",), 1, 1)
"""A batch of us/n2 that eu/n1 may get over a bridge, with BODY."""
BODY = encode_body([(1, "t", "", 0, None, (), b"")])  # type: ignore[list-item]
