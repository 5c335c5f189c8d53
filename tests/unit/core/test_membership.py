"""The membership machine as a whole, seen through its frames, links and deadlines."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.effects import CloseLink, Notify, Send
from mesh.core.membership import Membership, MembershipFrame, MembershipSettings
from mesh.model.ids import BadName
from mesh.model.reasons import Close
from mesh.wire.frames import (
    Gossip,
    Member,
    Members,
    MemberState,
    Probe,
    ProbeAck,
    ProbeNack,
    ProbeRequest,
)

ALIVE, SUSPECT, DEAD, LEFT = MemberState


def word(node: str, state: MemberState = ALIVE, incarnation: int = 0, epoch: int = 5, by: str = "") -> Member:
    return Member(node, epoch, incarnation, state, (f"{node}:1",), by=by)


class Bench:
    """Machine `me` (epoch 5), linked to some members, and what it did."""

    def __init__(self, members: str = "abcd", **numbers: float) -> None:
        self.machine = Membership(
            "me",
            5,
            ("me:1",),
            MembershipSettings(**numbers),  # type: ignore[arg-type]
            random.Random(4),
            0.0,
            software="hopmesh/1",
        )
        self.now = 0.0
        for name in members:
            self.machine.linked(name, 5, 0.0)
        self.machine.receive(
            members[0] if members else "x", Gossip(tuple(word(name) for name in members)), 0.0
        )
        self.machine.drain()

    def receive(self, peer: str, frame: MembershipFrame) -> None:
        self.machine.receive(peer, frame, self.now)

    def pass_time(self, seconds: float) -> None:
        """Serve every deadline in time."""
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.machine.handle_deadline(self.now)
        self.now = end

    def sent(self, kind: type) -> list[tuple[str, MembershipFrame]]:
        return [
            (str(effect.to), effect.frame)
            for effect in self.machine.drain()
            if isinstance(effect, Send) and isinstance(effect.frame, kind)
        ]

    def said(self) -> list[tuple[str, str, str]]:
        return [(e.what, e.about, e.reason) for e in self.machine.drain() if isinstance(e, Notify)]


def test_a_node_knows_itself_from_the_start() -> None:
    machine = Bench("").machine
    own = machine.members()["me"]
    assert (own.epoch, own.incarnation, own.state, own.addresses, own.software) == (
        5,
        0,
        ALIVE,
        ("me:1",),
        "hopmesh/1",
    )
    assert machine.alive() == ("me",)
    assert machine.is_live("me")
    assert not machine.is_live("x")
    assert machine.wanted_links(0.0) == []


def test_a_bad_own_name_is_misuse() -> None:
    with pytest.raises(BadName):
        Membership("no name", 1, (), MembershipSettings(), random.Random(0), 0.0)


def test_views_and_statistics_cannot_be_changed() -> None:
    machine = Bench().machine
    with pytest.raises(TypeError):
        machine.members()["x"] = machine.members()["me"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        machine.members()["a"].state = DEAD  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        machine.statistics().live = 3  # type: ignore[misc]


def test_a_probe_is_answered_under_its_number() -> None:
    bench = Bench()
    bench.receive("a", Probe(9, "me"))
    ((to, ack),) = bench.sent(ProbeAck)
    assert to == "a"
    assert isinstance(ack, ProbeAck)
    assert ack.seq == 9


def test_a_probe_for_another_is_not_answered_but_counted() -> None:
    bench = Bench()
    bench.receive("a", Probe(9, "you"))
    assert bench.machine.drain() == []
    assert bench.machine.statistics().refused == {"wrong_target": 1}


def test_a_probe_that_brings_a_suspicion_takes_its_refutation_home() -> None:
    bench = Bench()
    bench.receive("a", Probe(9, "me", (word("me", SUSPECT, by="a"),)))
    ((_, ack),) = bench.sent(ProbeAck)
    assert isinstance(ack, ProbeAck)
    assert (ack.gossip[0].node, ack.gossip[0].state, ack.gossip[0].incarnation) == ("me", ALIVE, 1)
    assert bench.machine.statistics().refutations == 1


def test_a_refutation_rides_home_through_the_helper() -> None:
    bench = Bench()
    bench.receive("a", ProbeRequest(3, "b", (word("b", SUSPECT, by="a"),)))
    ((to, probe),) = bench.sent(Probe)
    assert to == "b"
    assert isinstance(probe, Probe)
    assert ("b", SUSPECT) in {(w.node, w.state) for w in probe.gossip}, "the suspect is told"
    bench.receive("b", ProbeAck(probe.seq, (word("b", ALIVE, 1),)))
    ((to, ack),) = bench.sent(ProbeAck)
    assert to == "a"
    assert isinstance(ack, ProbeAck)
    assert [(w.node, w.incarnation) for w in ack.gossip if w.node == "b"] == [("b", 1)]


def test_each_member_is_probed_once_a_round() -> None:
    bench = Bench()
    probed = []
    for _ in range(4):
        bench.pass_time(1.0)
        probed += [to for to, _ in bench.sent(Probe)]
        for name in "abcd":
            bench.machine.heard(name, bench.now)
    assert sorted(probed) == ["a", "b", "c", "d"]


def test_a_silent_member_becomes_suspect_and_then_dead() -> None:
    bench = Bench("a")
    bench.pass_time(2.1)
    assert ("member_suspect", "a", "probe_failed") in bench.said()
    bench.pass_time(2.1)
    assert ("member_dead", "a", "suspicion_timeout") in bench.said()
    assert bench.machine.alive() == ("me",)


def test_a_member_whose_frames_are_heard_is_never_suspected() -> None:
    bench = Bench("a")
    for _ in range(100):
        bench.pass_time(0.4)
        bench.machine.heard("a", bench.now)
    assert bench.said() == []


def test_nothing_is_gossiped_while_nothing_changes() -> None:
    bench = Bench("a")
    for _ in range(50):
        bench.pass_time(0.4)
        bench.machine.heard("a", bench.now)
    bench.machine.drain()
    before = bench.machine.statistics().gossip_frames
    for _ in range(50):
        bench.pass_time(0.4)
        bench.machine.heard("a", bench.now)
        assert bench.sent(Gossip) == []
    assert bench.machine.statistics().gossip_frames == before


def test_a_link_makes_a_member_and_each_end_speaks_for_itself() -> None:
    bench = Bench()
    bench.machine.linked("new", 9, 0.0)
    effects = bench.machine.drain()
    assert [(e.what, e.about, e.reason) for e in effects if isinstance(e, Notify)] == [
        ("member_alive", "new", "joined")
    ]
    greeting = next(e.frame for e in effects if isinstance(e, Send) and e.to == "new")
    assert greeting == Members((bench.machine.members()["me"].word(),), False)


def test_a_link_to_oneself_is_misuse() -> None:
    with pytest.raises(ValueError, match="itself"):
        Bench().machine.linked("me", 5, 0.0)


def test_an_older_process_than_the_one_known_is_sent_away() -> None:
    bench = Bench()
    bench.machine.linked("a", 4, 0.0)
    assert [(e.to, e.reason) for e in bench.machine.drain() if isinstance(e, CloseLink)] == [
        ("a", Close.OLD_EPOCH)
    ]
    assert bench.machine.members()["a"].epoch == 5


def test_one_member_too_many_is_sent_away() -> None:
    bench = Bench(max_members=5)
    bench.machine.linked("e", 1, 0.0)
    assert [(e.to, e.reason) for e in bench.machine.drain() if isinstance(e, CloseLink)] == [
        ("e", Close.LIMIT)
    ]
    assert bench.machine.statistics().refused == {"max_members": 1}


def test_a_restarted_member_is_alive_by_its_link() -> None:
    bench = Bench()
    bench.machine.unlinked("a", 0.0)
    bench.machine.linked("a", 6, 0.1)
    assert bench.said() == [("member_suspect", "a", "link_lost"), ("member_alive", "a", "new_epoch")]


def test_a_lost_link_suspects_at_once_and_asks_helpers_at_once() -> None:
    bench = Bench()
    bench.machine.unlinked("a", 0.0)
    effects = bench.machine.drain()
    assert [(e.what, e.reason) for e in effects if isinstance(e, Notify)] == [("member_suspect", "link_lost")]
    asked = [e for e in effects if isinstance(e, Send) and isinstance(e.frame, ProbeRequest)]
    assert sorted(str(e.to) for e in asked) == ["b", "c", "d"]
    assert [(w.node, w.state) for w in bench.machine.wanted_links(0.0)] == [("a", SUSPECT)]
    bench.machine.unlinked("a", 0.1)
    assert bench.machine.drain() == []


def test_a_link_closed_with_a_reason_is_no_sign_of_death() -> None:
    bench = Bench()
    bench.machine.unlinked("a", 0.0, said_why=True)
    assert bench.machine.drain() == []
    assert [w.node for w in bench.machine.wanted_links(0.0)] == ["a"]


def test_a_suspect_that_is_heard_is_told_once() -> None:
    bench = Bench()
    bench.receive("b", Gossip((word("a", SUSPECT, by="b"),)))
    bench.machine.drain()
    bench.machine.heard("a", 0.0)
    ((to, frame),) = bench.sent(Gossip)
    assert to == "a"
    assert isinstance(frame, Gossip)
    assert [(w.node, w.state) for w in frame.members] == [("a", SUSPECT)]
    bench.machine.heard("a", 0.1)
    assert bench.sent(Gossip) == []
    assert bench.machine.accusers("a") == ("b",)


def test_a_dead_member_that_links_again_is_told_and_alive_once_it_refutes() -> None:
    bench = Bench()
    bench.receive("b", Gossip((word("a", DEAD, by="b"),)))
    bench.pass_time(3.0)
    assert [w.node for w in bench.machine.wanted_links(bench.now)] == ["a"], (
        "its link was closed, it is announced to"
    )
    bench.machine.drain()
    bench.machine.linked("a", 5, bench.now)
    assert not bench.machine.is_live("a")
    greeting = next(frame for to, frame in bench.sent(Members) if to == "a")
    assert isinstance(greeting, Members)
    assert [(w.node, w.state) for w in greeting.members] == [("me", ALIVE), ("a", DEAD)]
    bench.receive("a", Gossip((word("a", ALIVE, 1),)))
    assert ("member_alive", "a", "joined") in bench.said()


def test_a_hint_is_wanted_but_no_member() -> None:
    bench = Bench()
    bench.machine.introduce("x", 0, ("x:1",), 0.0)
    bench.machine.introduce("me", 0, ("me:1",), 0.0)
    bench.machine.introduce("a", 0, ("a:9",), 0.0)
    assert [(w.node, w.addresses, w.state) for w in bench.machine.wanted_links(1.0)] == [
        ("x", ("x:1",), None)
    ]
    assert "x" not in bench.machine.members()
    assert bench.machine.wanted_links(180.0) == []
    bench.machine.linked("x", 3, 181.0)
    assert bench.machine.members()["x"].addresses == ("x:1",)


def test_hints_out_of_bounds_are_refused_and_counted() -> None:
    bench = Bench(max_hints=1)
    bench.machine.introduce("no name", 0, (), 0.0)
    bench.machine.introduce("x", 0, ("a",) * 9, 0.0)
    bench.machine.introduce("x", 0, (), 0.0)
    bench.machine.introduce("y", 0, (), 0.0)
    assert bench.machine.statistics().refused == {"bad_name": 1, "too_long": 1, "max_hints": 1}


def test_leaving_tells_every_link_at_once_and_stops_probing() -> None:
    bench = Bench()
    bench.machine.leave(0.0)
    sent = bench.sent(Gossip)
    assert [to for to, _ in sent] == ["a", "b", "c", "d"]
    assert all(isinstance(f, Gossip) and f.members[0].state is LEFT for _, f in sent)
    bench.machine.leave(0.0)
    bench.pass_time(10.0)
    bench.machine.unlinked("a", bench.now)
    effects = bench.machine.drain()
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.frame, Probe | ProbeRequest)]
    assert not [e for e in effects if isinstance(e, Notify)]
    assert bench.machine.alive() == ("a", "b", "c", "d")
    assert bench.machine.wanted_links(bench.now) == []


def test_one_that_leaves_refutes_nothing_but_still_answers() -> None:
    bench = Bench()
    bench.machine.leave(0.0)
    bench.machine.drain()
    bench.receive("a", Probe(1, "me", (word("me", SUSPECT, by="a"),)))
    bench.machine.describe(0.0, bridge=True)
    assert len(bench.sent(ProbeAck)) == 1
    own = bench.machine.members()["me"]
    assert (own.state, own.incarnation, own.bridge) == (LEFT, 0, False)


def test_what_a_node_says_of_itself_changes_by_its_next_incarnation() -> None:
    bench = Bench()
    bench.machine.describe(0.0, addresses=("me:2",), bridge=True)
    bench.machine.describe(0.0, addresses=("me:2",), bridge=True)
    own = bench.machine.members()["me"]
    assert (own.addresses, own.bridge, own.incarnation) == (("me:2",), True, 1)
    bench.pass_time(0.3)
    words = [w for _, frame in bench.sent(Gossip) if isinstance(frame, Gossip) for w in frame.members]
    assert ("me", 1) in {(w.node, w.incarnation) for w in words}


def test_words_of_epochs_beyond_the_limit_are_refused() -> None:
    bench = Bench()
    bench.machine.limit_epochs(1_000)
    bench.receive("a", Gossip((word("b", epoch=1_001),)))
    assert bench.machine.members()["b"].epoch == 5
    assert bench.machine.statistics().refused == {"epoch_ahead": 1}


def test_after_a_standstill_nothing_missed_counts_against_others_and_the_own_health_is_worse() -> None:
    bench = Bench("a")
    bench.pass_time(1.2)
    assert bench.machine.statistics().probes >= 1
    bench.now += 20.0
    bench.machine.handle_deadline(bench.now)
    assert bench.said() == []
    statistics = bench.machine.statistics()
    assert (statistics.stalls, statistics.health) == (1, 1)


def test_a_deadline_handled_early_does_nothing() -> None:
    bench = Bench()
    due = bench.machine.next_deadline()
    assert due is not None
    bench.machine.handle_deadline(due - 0.001)
    assert bench.machine.drain() == []
    assert bench.machine.next_deadline() == due


def test_dead_members_are_forgotten_after_a_day() -> None:
    bench = Bench("ab")
    bench.receive("b", Gossip((word("a", DEAD, by="b"),)))
    bench.machine.handle_deadline(86_000.0)
    assert "a" in bench.machine.members()
    bench.now = 86_000.0
    bench.machine.heard("b", bench.now)
    bench.pass_time(500.0)
    assert "a" not in bench.machine.members()


def test_an_assumed_region_is_believed_at_once_and_nothing_waits_to_be_told() -> None:
    model = Bench("abc").machine
    model.receive("a", Gossip((word("new"),)), 0.0)
    model.linked("new", 5, 0.0)
    machine = Membership("new", 5, ("new:1",), MembershipSettings(), random.Random(0), 0.0)
    machine.assume(model)
    assert machine.alive() == ("a", "b", "c", "me", "new")
    assert machine.root == model.root
    assert (machine.statistics().links, machine.statistics().rumors) == (4, 0)


NAMES = st.sampled_from(["me", "a", "b", "x", "", "\0"])
SEQS = st.integers(0, 5)
WORDS = st.lists(
    st.builds(Member, NAMES, st.integers(0, 7), st.integers(0, 3), st.sampled_from(MemberState), by=NAMES),
    max_size=4,
).map(tuple)
FRAMES = st.one_of(
    st.builds(Probe, SEQS, NAMES, WORDS),
    st.builds(ProbeAck, SEQS, WORDS),
    st.builds(ProbeRequest, SEQS, NAMES, WORDS),
    st.builds(ProbeNack, SEQS, WORDS),
    st.builds(Gossip, WORDS),
    st.builds(Members, WORDS, st.booleans(), st.integers(0, 2)),
)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "x", "me"]), FRAMES, st.floats(0, 3)), max_size=15))
def test_no_frame_raises_and_the_own_member_stays_alive(
    script: list[tuple[str, MembershipFrame, float]],
) -> None:
    bench = Bench("ab")
    for peer, frame, seconds in script:
        bench.receive(peer, frame)
        bench.pass_time(seconds)
        for effect in bench.machine.drain():
            if isinstance(effect, CloseLink):
                bench.machine.unlinked(str(effect.to), bench.now)
    assert bench.machine.members()["me"].state is ALIVE
    assert set(bench.machine.members()) <= {"me", "a", "b", "x"}
