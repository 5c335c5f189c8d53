"""Simulated links are streams: late, narrow, stalled or broken, never lossy; chaos adds what streams never do."""

from __future__ import annotations

import pytest

from mesh.core.opening import Terms
from mesh.testing.network import HELD_FRAMES, RTO_S, SEGMENT_BYTES, Chaos, Connection
from mesh.testing.world import SimNode, World
from mesh.wire import frames as wire
from mesh.wire.codec import encode

NEAR, FAR = (50.1, 8.7), (1.35, 103.8)
PULL = wire.RoutesPull()


class Line:
    """A connection with both ends' machines left out: what arrives is noted."""

    def __init__(self, *, far: bool = True, through_codec: bool = False) -> None:
        self.world = World(1, through_codec=through_codec)
        self.a = self.world.node("eu", "a", NEAR)
        self.b = self.world.node("ap", "b", FAR if far else NEAR)
        self.arrived: list[tuple[float, wire.Frame]] = []
        for node in (self.a, self.b):
            node.start()
            node.received = self._note  # type: ignore[method-assign]
        self.world.dial(self.a, self.b.key, Terms())
        self.world.run(1.0)
        self.arrived.clear()
        [self.connection] = self.a.connections.values()

    def _note(self, link: int, frames: list[wire.Frame]) -> None:
        self.arrived += [(self.world.now, frame) for frame in frames]

    def send(self, *frames: wire.Frame, sender: SimNode | None = None) -> float:
        for frame in frames:
            self.world.transmit(sender or self.a, self.connection, frame)
        return self.world.now

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.arrived]


def test_a_frame_takes_the_latency_of_the_distance() -> None:
    line = Line()
    sent = line.send(PULL)
    line.world.run(1.0)
    assert line.times == [pytest.approx(sent + line.world.latency_s(line.a, line.b), abs=1e-4)]
    assert 0.05 < line.world.latency_s(line.a, line.b) < 0.12


def test_a_dial_takes_a_round_trip_and_needs_the_other_end() -> None:
    world = World(1)
    a, b = world.node("eu", "a", NEAR), world.node("ap", "b", FAR)
    a.start()
    world.dial(a, b.key, Terms())
    world.run(1.0)
    assert a.connections == {}, "nobody listens"
    b.start()
    world.dial(a, b.key, Terms())
    latency = world.latency_s(a, b)
    world.run(2 * latency - 0.001)
    assert a.connections == {}
    world.run(0.002)
    assert len(a.connections) == len(b.connections) == 1
    world.cut(b.key, a.key, both=False)
    world.dial(a, b.key, Terms())
    world.run(1.0)
    assert len(a.connections) == 1, "a connect needs both ways"


def test_bandwidth_is_a_queue_on_the_line() -> None:
    line = Line(far=False)
    line.world.chaos.bandwidth_bytes_s = 1_000.0
    size = SEGMENT_BYTES + len(encode(PULL))
    sent = line.send(PULL, PULL, PULL)
    line.world.run(3.0)
    latency = line.world.latency_s(line.a, line.b)
    assert line.times == [pytest.approx(sent + n * size / 1_000 + latency) for n in (1, 2, 3)]


def test_a_narrow_line_is_narrow_for_its_pair_only() -> None:
    line = Line(far=False)
    line.world.narrow[line.a.key, line.b.key] = 100.0
    sent = line.send(PULL)
    line.send(PULL, sender=line.b)
    line.world.run(3.0)
    back, there = line.times
    assert back - sent < 0.01
    assert there - sent == pytest.approx((SEGMENT_BYTES + len(encode(PULL))) / 100, abs=0.01)


def test_loss_costs_a_retransmission_and_jitter_time_but_the_order_stays() -> None:
    line = Line()
    line.world.chaos = Chaos(loss=0.3, jitter=1.0)
    sent = [wire.RoutesAck(n) for n in range(200)]
    begun = line.send(*sent)
    line.world.run(3.0)
    assert [frame for _, frame in line.arrived] == sent, "a stream neither loses nor reorders"
    assert line.times == sorted(line.times)
    latency = line.world.latency_s(line.a, line.b)
    assert line.times[-1] - begun > latency + RTO_S + 2 * latency, (
        "what comes after a lost segment waits for it"
    )


def test_chaos_drops_repeats_and_reorders_control_frames_of_open_sessions_only() -> None:
    world = World(1)
    a, b = world.node("eu", "a"), world.node("eu", "b")
    world.seed_link(a, b)
    a.start()
    b.start()
    world.run(2.0)
    got: list[wire.Frame] = []
    b.received = lambda link, frames: got.extend(frames)  # type: ignore[method-assign]
    [connection] = a.connections.values()
    world.chaos = Chaos(drop=0.2, duplicate=0.2, reorder=0.2)
    assert not world.chaos.lossless
    told = [wire.RoutesAck(n) for n in range(500)]
    for frame in told:
        world.transmit(a, connection, frame)
    hellos = [wire.Hello(n, 0) for n in range(100)]
    for frame in hellos:
        world.transmit(a, connection, frame)
    world.run(2.0)
    acks = [frame.n for frame in got if isinstance(frame, wire.RoutesAck)]
    assert 300 < len(set(acks)) < 480
    assert len(acks) > len(set(acks))
    assert acks != sorted(acks)
    assert [frame for frame in got if isinstance(frame, wire.Hello)][-100:] == hellos


def test_a_one_way_cut_holds_one_way_and_healing_delivers_what_was_held_in_order() -> None:
    line = Line()
    line.world.cut(line.a.key, line.b.key, both=False)
    there = [wire.RoutesAck(n) for n in range(3)]
    line.send(*there)
    line.send(PULL, sender=line.b)
    line.world.run(1.0)
    assert [frame for _, frame in line.arrived] == [PULL]
    line.world.heal(line.a.key, line.b.key)
    line.world.run(1.0)
    assert [frame for _, frame in line.arrived] == [PULL, *there]


def test_healing_all_ends_every_cut() -> None:
    line = Line()
    line.world.cut(line.a.key, line.b.key)
    assert len(line.world.blocked) == 2
    line.send(PULL)
    line.world.heal()
    line.world.run(1.0)
    assert line.world.blocked == set()
    assert [frame for _, frame in line.arrived] == [PULL]


def test_a_stream_that_stalls_for_too_much_breaks() -> None:
    line = Line()
    line.world.cut(line.a.key, line.b.key)
    line.send(*[PULL] * HELD_FRAMES)
    assert not line.connection.dead
    line.send(PULL)
    assert line.connection.dead


def test_both_ends_are_told_of_a_reset_after_the_latency_and_nobody_of_a_power_loss() -> None:
    line = Line()
    line.world.sever(line.connection, told=True)
    assert len(line.a.connections) == len(line.b.connections) == 1
    line.world.run(line.world.latency_s(line.a, line.b) + 0.001)
    assert line.a.connections == line.b.connections == {}
    silent = Line()
    silent.world.sever(silent.connection, told=False)
    silent.send(PULL)
    silent.world.run(1.0)
    assert silent.arrived == []
    assert len(silent.a.connections) == len(silent.b.connections) == 1


def test_a_slow_node_reads_late_and_in_order() -> None:
    line = Line(far=False)
    line.b.slow_s = 0.5
    sent = line.send(wire.RoutesAck(1), wire.RoutesAck(2))
    line.world.run(0.4)
    line.b.slow_s = 0.0
    line.send(wire.RoutesAck(3))
    line.world.run(2.0)
    assert [frame.n for _, frame in line.arrived if isinstance(frame, wire.RoutesAck)] == [1, 2, 3]
    assert line.times[0] - sent >= 0.5


def test_frames_go_through_the_codec_where_that_is_asked() -> None:
    line = Line(through_codec=True)
    frame = wire.Probe(7, "n")
    line.send(frame)
    line.world.run(1.0)
    [(_, got)] = line.arrived
    assert got == frame
    assert got is not frame


def test_each_end_knows_its_own_number_and_the_other_node() -> None:
    line = Line()
    connection: Connection = line.connection
    own, other, its, way = connection.end(line.a)
    assert (other, way) == (line.b, connection.to_b)
    assert connection.end(line.b) == (its, line.a, own, connection.to_a)
