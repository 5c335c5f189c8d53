"""A tiny world for route machines: nodes in regions, links with delay, loss, repetition and reorder, in virtual time.

After every step the node that acted is checked for a forwarding cycle through it, per source, over every next hop that
it could use at that moment. Since only its own next hops changed, that checks every snapshot.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from federation.core.policy.roles import RoutePolicy, link_role
from federation.core.routes import RouteMachine, RouteSettings
from federation.core.selection import Key
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.model.limits import Limits
from mesh.model.reasons import Close

Name = tuple[str, str]


@dataclass
class Node:
    """One process. A restart makes a new one."""

    name: Name
    machine: RouteMachine
    alive: bool = True
    timer: float | None = None
    notices: list[Notify] = field(default_factory=list)
    table: dict[Key, tuple] = field(default_factory=dict)
    told: dict[Name, float] = field(default_factory=dict)


@dataclass
class Line:
    """A configured bridge between two nodes; `session` is the link number while it is up."""

    a: Name
    b: Name
    rtt_ms: float
    cost: int
    role_a: str
    role_b: str
    delay_s: float
    session: int | None = None
    last: dict[Name, float] = field(default_factory=dict)


class World:
    """Everything, and the clock."""

    def __init__(
        self, seed: int, settings: RouteSettings | None = None, policy: RoutePolicy | None = None
    ) -> None:
        self.dice = random.Random(seed)
        self.now = 0.0
        self.settings = settings or RouteSettings()
        self.limits = Limits()
        self.policy = policy
        self.nodes: dict[Name, Node] = {}
        self.regions: dict[str, list[Name]] = {}
        self.lines: dict[tuple[Name, Name], Line] = {}
        self.sessions: dict[int, Line] = {}
        self.loss = self.repeat = self.reorder = 0.0
        self.gossip_s = 0.02
        self.closed: list[tuple[Close, str]] = []
        self.cycles: list[str] = []
        self.steps = 0
        self.frames = 0
        self.watch: Callable[[Key], bool] = lambda key: True
        self._epochs: dict[Name, int] = {}
        self._links = 0
        self._n = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    # -- building ------------------------------------------------------------------------------------------------

    def node(self, region: str, name: str) -> Name:
        """Start a node (or start it again, with a higher epoch)."""
        key = (region, name)
        epoch = self._epochs[key] = self._epochs.get(key, 999) + 1
        machine = RouteMachine(
            region, name, epoch, self.settings, self.limits, self.dice, self.now, policy=self.policy
        )
        self.nodes[key] = Node(key, machine)
        members = self.regions.setdefault(region, [])
        if key not in members:
            members.append(key)
        for other in members:
            if other != key and self.nodes[other].alive:
                self.join(key, other)
        return key

    def join(self, a: Name, b: Name) -> None:
        """Two nodes of a region have a link; each gets the other's table."""
        for one, other in ((a, b), (b, a)):
            self.act(one, lambda m, other=other: m.sibling_link(other[1], True, 1, self.now))
            for key, value in self.tables(other).items():
                self.act(one, lambda m, o=other, k=key, v=value: m.sibling_entry(o[1], *k, v, self.now))

    def part(self, a: Name, b: Name) -> None:
        for one, other in ((a, b), (b, a)):
            self.act(one, lambda m, other=other: m.sibling_link(other[1], False, 1, self.now))

    def rejoin(self, a: Name, b: Name) -> None:
        if self.nodes[a].alive and self.nodes[b].alive:
            self.join(a, b)

    def tables(self, name: Name) -> dict[Key, tuple]:
        return self.nodes[name].table

    def line(
        self,
        a: Name,
        b: Name,
        rtt_ms: float = 0.0,
        cost: int = 0,
        role_a: str = "transit",
        role_b: str = "transit",
        delay_s: float = 0.01,
    ) -> Line:
        made = self.lines[(a, b)] = Line(a, b, rtt_ms, cost, role_a, role_b, delay_s)
        self.connect(made)
        return made

    # -- faults --------------------------------------------------------------------------------------------------

    def connect(self, line: Line) -> None:
        if line.session is not None or not (self.nodes[line.a].alive and self.nodes[line.b].alive):
            return
        self._links += 1
        link = line.session = self._links
        self.sessions[link] = line
        line.last = {}
        for me, other, mine, theirs in (
            (line.a, line.b, line.role_a, line.role_b),
            (line.b, line.a, line.role_b, line.role_a),
        ):
            role = link_role(mine, theirs)
            self.act(
                me, lambda m, o=other, r=role: m.neighbour_up(link, *o, r, line.cost, line.rtt_ms, self.now)
            )

    def cut(self, line: Line, notice_s: float = 0.0) -> None:
        """The link dies; each end notices, one of them `notice_s` later."""
        link = line.session
        if link is None:
            return
        line.session = None
        del self.sessions[link]
        ends = [line.a, line.b]
        self.dice.shuffle(ends)
        for end, wait_s in zip(ends, (0.0, notice_s), strict=True):
            process = self.nodes[end]
            self.at(wait_s, lambda p=process: p.alive and self.act(p.name, self._down(link), p))

    def _down(self, link: int) -> Callable[[RouteMachine], None]:
        return lambda m: m.neighbour_down(link, self.now)

    def crash(self, name: Name, notice_s: float = 0.0) -> None:
        self.nodes[name].alive = False
        for line in self.lines.values():
            if name in (line.a, line.b):
                self.cut(line, notice_s)
        for other in self.regions[name[0]]:
            if other != name and self.nodes[other].alive:
                self.act(other, lambda m: m.sibling_link(name[1], False, 1, self.now))
                self.act(other, lambda m: m.sibling_gone(name[1], self.now))

    def restart(self, name: Name) -> None:
        self.node(*name)
        for line in self.lines.values():
            if name in (line.a, line.b):
                self.connect(line)

    # -- time ----------------------------------------------------------------------------------------------------

    def at(self, wait_s: float, what: Callable[[], object]) -> None:
        self._n += 1
        heapq.heappush(self._queue, (self.now + wait_s, self._n, what))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = end

    def act(self, name: Name, what: Callable[[RouteMachine], object], process: Node | None = None) -> None:
        """Let a node's machine do something, carry out its effects, and check the snapshot."""
        node = self.nodes[name]
        if not node.alive or (process is not None and process is not node):
            return
        what(node.machine)
        self.steps += 1
        self._check(node)
        for effect in node.machine.drain():
            self._carry_out(node, effect)
        self._spread(node)
        due = node.machine.next_deadline()
        if due is not None and (node.timer is None or due < node.timer):
            node.timer = due
            self.at(max(0.0, due - self.now), lambda: self._tick(node, due))

    def _tick(self, node: Node, due: float) -> None:
        if node.timer == due and node.alive:
            node.timer = None
            self.act(node.name, lambda m: m.handle_deadline(self.now), node)

    def _carry_out(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(to=int(link)):
                line = self.sessions.get(link)
                if line is not None:
                    other = line.b if line.a == node.name else line.a
                    self._send(line, link, other, effect)
            case Send(to=str(name)):
                other = (node.name[0], name)
                frame = effect.frame
                self.at(
                    0.005,
                    lambda: self.act(other, lambda m: m.receive_sibling(node.name[1], frame, self.now)),
                )
            case CloseLink():
                self.closed.append((effect.reason, effect.detail))
                line = self.sessions.get(effect.to)
                if line is not None:
                    self.cut(line)
            case Notify():
                node.notices.append(effect)

    def _send(self, line: Line, link: int, other: Name, effect: Send) -> None:
        self.frames += 1
        copies = 1 + (self.dice.random() < self.repeat)
        for _ in range(copies):
            if self.dice.random() < self.loss:
                continue
            wait_s = line.delay_s * self.dice.uniform(1.0, 1.3)
            if self.dice.random() < self.reorder:
                wait_s += self.dice.uniform(0.0, 0.5)
            else:
                arrival = max(self.now + wait_s, line.last.get(other, 0.0))
                line.last[other] = arrival
                wait_s = arrival - self.now
            self.at(wait_s, lambda: self._arrive(line, link, other, effect))

    def _arrive(self, line: Line, link: int, other: Name, effect: Send) -> None:
        if line.session == link:
            self.act(other, lambda m: m.receive(link, effect.frame, self.now))

    def _spread(self, node: Node) -> None:
        """The region's table: each entry reaches each sibling a little later, in order."""
        for region, bridge, value in node.machine.take_published():
            table = self.tables(node.name)
            if value is None:
                table.pop((region, bridge), None)
            else:
                table[(region, bridge)] = value
            for other in self.regions[node.name[0]]:
                if other != node.name:
                    self._tell(node, other, region, bridge, value)

    def _tell(self, node: Node, other: Name, region: str, bridge: str, value: tuple | None) -> None:
        earliest = self.now + self.dice.uniform(0.0, 2 * self.gossip_s)
        arrival = node.told[other] = max(earliest, node.told.get(other, 0.0))
        listener = self.nodes[other]

        def arrive() -> None:
            if node.alive and self.nodes[node.name] is node:
                self.act(
                    other,
                    lambda m: m.sibling_entry(node.name[1], region, bridge, value, self.now),
                    listener,
                )

        self.at(arrival - self.now, arrive)

    # -- looking -------------------------------------------------------------------------------------------------

    def hops(self, node: Node, key: Key) -> Iterator[Name]:
        """Every node that `node` may send to for this source, over links that exist."""
        source = node.machine._rib.sources.get(key)
        if source is None:
            return
        for hop, route in source.candidates.items():
            if route.refusal is not None:
                continue
            if isinstance(hop, int):
                line = self.sessions.get(hop)
                if line is not None:
                    yield line.b if line.a == node.name else line.a
            elif self.nodes[(node.name[0], hop)].alive:
                yield (node.name[0], hop)

    def _check(self, node: Node) -> None:
        for key in node.machine._rib.sources:
            if self.watch(key) and self._returns(node, key):
                self.cycles.append(f"t={self.now:.3f} {key} at {node.name}")

    def _returns(self, start: Node, key: Key) -> bool:
        seen: set[Name] = set()
        todo = list(self.hops(start, key))
        while todo:
            name = todo.pop()
            if name == start.name:
                return True
            if name not in seen:
                seen.add(name)
                todo.extend(self.hops(self.nodes[name], key))
        return False

    def metrics(self) -> dict[Name, dict[str, int]]:
        return {
            name: {region: entry.metric for region, entry in node.machine.fib.items()}
            for name, node in self.nodes.items()
            if node.alive
        }

    def oracle(self) -> dict[Name, dict[str, int]]:
        """Shortest distances by Dijkstra from every origin, over the links that are up."""
        best: dict[Name, dict[str, int]] = {name: {} for name, node in self.nodes.items() if node.alive}
        edges: dict[Name, list[tuple[Name, int]]] = {}
        for line in self.sessions.values():
            cost = 1 + line.cost + self._rtt_cost(line)
            edges.setdefault(line.a, []).append((line.b, cost))
            edges.setdefault(line.b, []).append((line.a, cost))
        for origin in edges:
            for name, metric in self._distances(origin, edges).items():
                known = best[name].get(origin[0])
                if known is None or metric < known:
                    best[name][origin[0]] = metric
        return best

    def _rtt_cost(self, line: Line) -> int:
        assert line.session is not None
        return self.nodes[line.a].machine._border.neighbours[line.session].round_trip.announced_ms

    def _distances(self, origin: Name, edges: dict[Name, list[tuple[Name, int]]]) -> dict[Name, int]:
        done: dict[Name, int] = {}
        todo = [(0, origin)]
        while todo:
            metric, name = heapq.heappop(todo)
            if name in done or (name[0] == origin[0] and name != origin):
                continue
            done[name] = metric
            for other, cost in edges.get(name, ()):
                heapq.heappush(todo, (metric + cost, other))
            if name != origin:
                for other in self.regions[name[0]]:
                    if self.nodes[other].alive:
                        heapq.heappush(todo, (metric + 1, other))
        del done[origin]
        return done


def random_world(
    seed: int,
    regions: int,
    nodes: int,
    extra: float,
    settings: RouteSettings | None = None,
    policy: RoutePolicy | None = None,
) -> World:
    """A connected random graph of regions with 1 to `nodes` nodes each, and `extra` bridges per region beyond a tree."""
    world = World(seed, settings, policy)
    dice = world.dice
    for n in range(regions):
        for m in range(dice.randrange(1, nodes + 1)):
            world.node(f"r{n:03}", f"n{m}")
    names = list(world.regions.values())

    def bridge(i: int, j: int) -> None:
        a, b = dice.choice(names[i]), dice.choice(names[j])
        if (a, b) not in world.lines and (b, a) not in world.lines:
            rtt_ms = dice.uniform(0, 200)
            world.line(a, b, rtt_ms, cost=dice.randrange(0, 20), delay_s=0.002 + rtt_ms / 2000)

    for n in range(1, regions):
        bridge(n, dice.randrange(0, n))
    for _ in range(int(extra * regions)):
        i, j = dice.sample(range(regions), 2)
        bridge(i, j)
    return world
