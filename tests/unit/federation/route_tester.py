"""One route machine with hand-made neighbours, for tests that look at a single node."""

from __future__ import annotations

import random
from typing import TypeVar

from federation.core.policy.roles import RoutePolicy
from federation.core.route_settings import RouteSettings
from federation.core.route_views import RouteView
from federation.core.routes import RouteMachine
from mesh.core.effects import CloseLink, Notify, Send
from mesh.model.limits import Limits
from mesh.wire.frames import INFINITY, Routes, RoutesAck, RouteUpdate

F = TypeVar("F")


def update(region: str, seqno: int, metric: int, path: str, bridge: str = "o", epoch: int = 1) -> RouteUpdate:
    """A route to `region`; path as "m,z", nearest first."""
    return RouteUpdate(region, bridge, epoch, seqno, metric, tuple(path.split(",")))


def gone(region: str, bridge: str = "o", epoch: int = 1) -> RouteUpdate:
    return RouteUpdate(region, bridge, epoch, 1, INFINITY, ())


class OneNode:
    """The machine of node h/n0. Links are numbered by the test; frames of each link are numbered here."""

    def __init__(
        self,
        settings: RouteSettings | None = None,
        limits: Limits | None = None,
        policy: RoutePolicy | None = None,
    ) -> None:
        self.now = 100.0
        self.machine = RouteMachine(
            "h",
            "n0",
            1_000,
            settings or RouteSettings(),
            limits or Limits(),
            random.Random(1),
            self.now,
            policy=policy,
        )
        self._n: dict[int, int] = {}
        self.sent: list[Send] = []
        self.closed: list[CloseLink] = []
        self.notices: list[Notify] = []

    def up(self, link: int, region: str, role: str = "transit", cost: int = 0, rtt_ms: float = 0.0) -> None:
        self.machine.neighbour_up(link, region, f"{region}1", role, cost, rtt_ms, self.now)
        self.collect()

    def tell(self, link: int, *updates: RouteUpdate, full: bool = False) -> None:
        n = self._n[link] = self._n.get(link, 0) + 1
        self.machine.receive(link, Routes(n, full, updates), self.now)
        self.collect()

    def receive(self, link: int, frame: object) -> None:
        self.machine.receive(link, frame, self.now)  # type: ignore[arg-type]
        self.collect()

    def wait(self, seconds: float) -> None:
        """Let time pass, with every deadline handled when it is due, and every table acknowledged."""
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.machine.handle_deadline(self.now)
            self.collect()
        self.now = end

    def collect(self) -> None:
        """Take the effects of what was done to the machine directly."""
        for effect in self.machine.drain():
            match effect:
                case Send():
                    self.sent.append(effect)
                    if isinstance(effect.frame, Routes) and isinstance(effect.to, int):
                        self.machine.receive(effect.to, RoutesAck(effect.frame.n), self.now)
                case CloseLink():
                    self.closed.append(effect)
                case Notify():
                    self.notices.append(effect)

    def take(self, kind: type[F], to: int | str | None = None) -> list[F]:
        """Frames of one kind sent since the last call, of any kind forgotten."""
        frames = [s.frame for s in self.sent if isinstance(s.frame, kind) and to in (None, s.to)]
        self.sent = []
        return frames

    def updates(self, link: int) -> list[RouteUpdate]:
        """Updates sent on a link since the last call."""
        return [u for frame in self.take(Routes, link) for u in frame.updates]

    def routes(self, region: str) -> list[RouteView]:
        return [view for view in self.machine.rib(self.now) if view.region == region]

    def hop(self, region: str) -> tuple[int | None, str] | None:
        entry = self.machine.fib.get(region)
        return None if entry is None else (entry.hops[0].link, entry.hops[0].node)
