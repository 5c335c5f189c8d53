"""The numbered exchange on one link: whatever is lost, repeated or reordered, both ends agree at last."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.federation.route_tester import gone, update

from federation.core.exchange import Allowance, Inbound, Outbound, route_root
from federation.core.route_settings import RouteSettings
from federation.core.selection import Key
from mesh.model.limits import Limits
from mesh.model.reasons import Close
from mesh.wire.frames import INFINITY, Routes, RouteUpdate

SETTINGS = RouteSettings()
LIMITS = Limits()


class Truth(dict[Key, RouteUpdate]):
    """What the sender would announce."""

    def set(self, region: str, metric: int) -> Key:
        self[(region, "o")] = update(region, 1, metric, f"m,{region}")
        return (region, "o")


def pair(settings: RouteSettings = SETTINGS, limits: Limits = LIMITS) -> tuple[Outbound, Inbound]:
    return Outbound(settings, limits, 0.0), Inbound(settings, limits, 0.0)


def held(inbound: Inbound) -> dict[Key, RouteUpdate]:
    return {key: told for key, (_, told) in inbound.held.items()}


def test_an_allowance_saves_up_to_its_burst_and_refills_at_its_rate() -> None:
    bucket = Allowance(10, 5, 0.0)
    assert bucket.take(5, 0.0)
    assert not bucket.take(1, 0.0)
    assert bucket.take(1, 0.1)
    assert not bucket.charge(7, 100.0)
    assert bucket.left == -2


def test_the_root_does_not_depend_on_order_and_differs_for_different_sets() -> None:
    one, two = update("a", 1, 2, "a"), update("b", 1, 2, "b")
    assert route_root([one, two]) == route_root([two, one]) != route_root([one])
    assert route_root([]) == 0


def test_changes_wait_for_each_other_and_leave_as_one_frame() -> None:
    outbound, inbound = pair()
    truth = Truth()
    for region, due in (("a", 0.05), ("b", 0.06)):
        outbound.mark(truth.set(region, 3), due)
    assert outbound.next_deadline() == 0.05
    assert not outbound.due(0.04)
    (frame,) = outbound.flush(truth.get, 0.05)
    assert len(frame.updates) == 2
    assert len(inbound.accept(frame).changes) == 2
    assert held(inbound) == outbound.announced == truth


def test_what_is_as_it_was_told_is_not_told_again() -> None:
    outbound, _ = pair()
    truth = Truth()
    key = truth.set("a", 3)
    outbound.mark(key, 0.0)
    assert len(outbound.flush(truth.get, 0.0)) == 1
    outbound.mark(key, 0.0)
    assert outbound.flush(truth.get, 0.0) == []


def test_a_retraction_goes_at_once_and_only_for_what_was_told() -> None:
    outbound, inbound = pair()
    truth = Truth()
    outbound.mark(truth.set("a", 3), 0.0)
    for frame in outbound.flush(truth.get, 0.0):
        inbound.accept(frame)
    (frame,) = outbound.retract([("a", "o"), ("never", "o")], 0.0)
    assert [(told.region, told.metric, told.path) for told in frame.updates] == [("a", INFINITY, ())]
    assert inbound.accept(frame).changes == [(("a", "o"), None)]
    assert held(inbound) == {} == outbound.announced
    assert outbound.retract([("a", "o")], 0.0) == []


def test_beyond_its_pace_the_sender_coalesces_and_retractions_still_go() -> None:
    limits = Limits(updates_per_s=10, updates_burst=5)
    outbound, _ = pair(limits=limits)
    truth = Truth()
    for n in range(8):
        outbound.mark(truth.set(f"a{n}", 3), 0.0)
    assert [len(frame.updates) for frame in outbound.flush(truth.get, 0.0)] == [5]
    assert len(outbound.retract([("a0", "o"), ("a1", "o")], 0.0)) == 1
    later = outbound.next_deadline()
    assert later is not None
    assert 0 < later <= 0.2
    for n in range(5, 8):
        truth.set(f"a{n}", 9)
    sent = [
        told for at in (0.2, 0.4, 0.6) for frame in outbound.flush(truth.get, at) for told in frame.updates
    ]
    assert sorted((told.region, told.metric) for told in sent) == [("a5", 9), ("a6", 9), ("a7", 9)]


def test_a_peer_that_acknowledges_nothing_gets_no_more_than_a_window() -> None:
    settings_ = RouteSettings(window_frames=2)
    outbound, _ = pair(settings_)
    truth = Truth()
    frames = []
    for n in range(4):
        outbound.mark(truth.set(f"a{n}", 3), 0.0)
        frames += outbound.flush(truth.get, 0.0) if outbound.due(0.0) else []
    assert len(frames) == 2
    assert not outbound.due(0.0)
    assert outbound.retract([("a0", "o")], 0.0) == []
    del truth[("a0", "o")]
    assert outbound.acknowledged(frames[0].n)
    assert not outbound.acknowledged(frames[0].n)
    (frame,) = outbound.flush(truth.get, 0.0)
    assert {told.region for told in frame.updates} == {"a0", "a2", "a3"}
    assert outbound.announced.keys() == truth.keys()


def test_an_unacknowledged_frame_is_sent_again_as_it_was_ever_more_slowly() -> None:
    outbound, _ = pair()
    truth = Truth()
    outbound.mark(truth.set("a", 3), 0.0)
    (frame,) = outbound.flush(truth.get, 0.0)
    times = []
    for _ in range(5):
        at = outbound.next_deadline()
        assert at is not None
        assert outbound.again(at) == [frame]
        times.append(at)
    assert times == [3.0, 9.0, 21.0, 45.0, 75.0]
    assert outbound.resent == 5


def test_an_older_frame_never_overrides_a_newer_one() -> None:
    _, inbound = pair()
    new, old = Routes(2, False, (update("a", 1, 9, "m,a"),)), Routes(1, False, (update("a", 1, 3, "m,a"),))
    assert inbound.accept(new).changes == [(("a", "o"), new.updates[0])]
    assert inbound.accept(old).changes == []
    assert held(inbound) == {("a", "o"): new.updates[0]}


def test_an_older_frame_does_not_bring_a_retracted_route_back() -> None:
    _, inbound = pair()
    first = Routes(1, False, (update("a", 1, 3, "m,a"),))
    late = Routes(2, False, (update("a", 2, 3, "m,a"), update("b", 1, 3, "m,b")))
    assert inbound.accept(first).changes
    assert inbound.accept(Routes(3, False, (gone("a"),))).changes == [(("a", "o"), None)]
    assert [key for key, _ in inbound.accept(late).changes] == [("b", "o")]
    assert inbound.accept(first).changes == []
    assert held(inbound).keys() == {("b", "o")}


def test_a_whole_table_replaces_what_came_before_it_and_not_what_came_after() -> None:
    _, inbound = pair()
    inbound.accept(Routes(1, False, (update("a", 1, 3, "m,a"), update("b", 1, 3, "m,b"))))
    inbound.accept(Routes(4, False, (update("c", 1, 3, "m,c"), gone("d"))))
    table = Routes(3, True, (update("a", 1, 3, "m,a"), update("c", 9, 9, "m,c"), update("d", 1, 1, "m,d")))
    assert dict(inbound.accept(table).changes) == {("b", "o"): None, ("a", "o"): table.updates[0]}
    assert inbound.accept(Routes(2, False, (update("b", 5, 5, "m,b"),))).changes == []
    assert held(inbound).keys() == {("a", "o"), ("c", "o")}
    assert held(inbound)[("c", "o")].metric == 3


def test_a_table_too_large_for_one_frame_follows_as_paced_updates() -> None:
    outbound, inbound = pair(RouteSettings(frame_bytes=120))
    truth = Truth()
    for n in range(5):
        truth.set(f"a{n}", 3)
    frames = [outbound.full(truth.values(), 0.0)]
    assert frames[0].full
    assert len(frames[0].updates) == 2
    at = outbound.next_deadline()
    assert at is not None
    frames += outbound.flush(truth.get, at)
    for frame in frames:
        inbound.accept(frame)
    assert held(inbound) == truth == outbound.announced


def test_no_frame_is_larger_than_its_bounds_even_with_the_longest_names() -> None:
    outbound, inbound = pair()
    truth = Truth()
    path = tuple(f"{n:064}" for n in range(31))
    for n in range(1_000):
        region = f"{n:064}z"[1:]
        truth[(region, "o")] = RouteUpdate(region, "o" * 64, 1 << 52, 1 << 52, INFINITY - 1, (*path, region))
    truth = Truth({(told.region, told.bridge): told for told in truth.values()})
    frames = [outbound.full(truth.values(), 0.0)]
    at = outbound.next_deadline()
    assert at is not None
    frames += outbound.flush(truth.get, at)
    frames += outbound.flush(truth.get, at + 30)
    frames += outbound.retract(list(truth), 100.0)
    for frame in frames:
        assert len(msgspec.msgpack.encode(frame)) < LIMITS.frame_bytes
        inbound.accept(frame)
    assert len(frames) >= 5
    assert held(inbound) == {}


def test_surplus_regions_and_sources_are_refused_and_known_ones_still_taken() -> None:
    _, inbound = pair(RouteSettings(region_sources=2), Limits(regions=2))
    many = [update("a", 1, 3, "m,a", bridge=f"o{n}") for n in range(4)]
    many += [update(region, 1, 3, f"m,{region}") for region in ("b", "c")]
    intake = inbound.accept(Routes(1, False, tuple(many)))
    assert intake.refused == 3
    assert inbound.incomplete
    assert held(inbound).keys() == {("a", "o0"), ("a", "o1"), ("b", "o")}
    assert len(inbound.accept(Routes(2, False, (update("b", 2, 9, "m,b"), gone("a", "o0")))).changes) == 2
    assert inbound.accept(Routes(3, False, (update("a", 1, 3, "m,a", bridge="o9"),))).refused == 0


def test_a_number_far_ahead_is_a_protocol_error() -> None:
    _, inbound = pair()
    assert inbound.accept(Routes(SETTINGS.reorder_frames + 1, False, ())).close is Close.PROTOCOL_ERROR
    assert inbound.accept(Routes(SETTINGS.reorder_frames, False, ())).close is None


def test_a_correct_sender_stays_within_what_the_receiver_bears() -> None:
    """A first table, a burst, a withdrawal of everything, and then changes without end."""
    outbound, inbound = pair()
    truth, dice, now = Truth(), random.Random(3), 0.0
    for n in range(900):
        truth.set(f"a{n}", 3)
    frames = [outbound.full(truth.values(), now)]
    frames += outbound.retract(list(truth), now)
    for key in truth:
        outbound.mark(key, now)
    while now < 25:
        for frame in frames:
            assert inbound.charge(inbound.accept(frame).price, now)
            outbound.acknowledged(frame.n)
        now += 0.1
        for n in dice.sample(range(900), 200):
            outbound.mark(truth.set(f"a{n}", dice.randrange(2, 99)), now)
        frames = outbound.flush(truth.get, now) if outbound.due(now) else []


def test_a_flood_is_more_than_the_receiver_bears() -> None:
    _, inbound = pair()
    price = 0
    for n in range(1, 30):
        many = tuple(update(f"a{k}", n, 3, f"m,a{k}") for k in range(100))
        price = inbound.accept(Routes(n, False, many)).price
        if not inbound.charge(price, 0.0):
            break
    assert 15 < n < 25


moves = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abcd"), st.integers(1, 9)),
        st.tuples(st.just("drop"), st.sampled_from("abcd")),
        st.tuples(st.just("full")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("deliver"), st.integers(0, 99), st.booleans()),
        st.tuples(st.just("lose"), st.integers(0, 99)),
    ),
    max_size=40,
)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(moves)
def test_once_everything_is_acknowledged_both_ends_hold_the_same(script: list[tuple]) -> None:
    outbound, inbound = pair()
    truth = Truth()
    wire: list[Routes] = []
    now = 0.0

    def deliver(frame: Routes) -> None:
        assert inbound.accept(frame).close is None
        outbound.acknowledged(frame.n)

    for move in script:
        now += 0.01
        match move:
            case ("set", region, metric):
                outbound.mark(truth.set(region, metric), now)
            case ("drop", region):
                truth.pop((region, "o"), None)
                wire += outbound.retract([(region, "o")], now)
            case ("full",):
                wire.append(outbound.full(truth.values(), now))
            case ("flush",):
                wire += outbound.flush(truth.get, now)
            case ("deliver", n, again) if wire:
                frame = wire[n % len(wire)] if again else wire.pop(n % len(wire))
                deliver(frame)
            case ("lose", n) if wire:
                wire.pop(n % len(wire))
    for _ in range(3):
        now += 100
        for frame in [*outbound.flush(truth.get, now), *outbound.again(now)]:
            deliver(frame)
    assert outbound.settled
    assert held(inbound) == outbound.announced == truth
    assert inbound.root() == route_root(outbound.announced.values())
