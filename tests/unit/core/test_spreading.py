"""Who is told what: gossip, words on probes, roots and lists."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from mesh.core.agenda import Agenda
from mesh.core.beliefs import Beliefs
from mesh.core.effects import Effect, Send
from mesh.core.members import Due, MembershipSettings, MemberView
from mesh.core.roster import Roster
from mesh.core.rumors import Rumors
from mesh.core.spreading import Spreading
from mesh.core.suspicion import LocalHealth
from mesh.model.reasons import MemberReason
from mesh.wire.frames import Gossip, Member, Members, MemberState

ALIVE, SUSPECT, DEAD, LEFT = MemberState


def word(node: str, state: MemberState = ALIVE, incarnation: int = 0) -> Member:
    return Member(node, 1, incarnation, state, by="b" if state > ALIVE else "")


class Bench:
    """The telling half of `me`, with linked members."""

    def __init__(self, members: str = "abcde", **numbers: float) -> None:
        self.settings = MembershipSettings(**numbers)  # type: ignore[arg-type]
        self.roster = Roster(
            MemberView("me", 1, 0, ALIVE, (), "", False, 0.0, MemberReason.JOINED), self.settings
        )
        self.rumors = Rumors()
        self.agenda: Agenda[Due] = Agenda()
        self.outbox: list[Effect] = []
        self.beliefs = Beliefs(
            self.settings, self.roster, self.rumors, LocalHealth(8), self.agenda, self.outbox
        )
        self.spreading = Spreading(
            self.settings,
            self.roster,
            self.rumors,
            self.beliefs,
            self.agenda,
            random.Random(2),
            self.outbox,
            0.0,
        )
        self.beliefs.learn([word(name) for name in members], 0.0)
        for name in members:
            self.roster.link(name, 1)
            self.rumors.drop(name)
        self.outbox.clear()

    def sent(self) -> list[tuple[str, object]]:
        found = [(str(e.to), e.frame) for e in self.outbox if isinstance(e, Send)]
        self.outbox.clear()
        return found

    def gossip_times(self) -> list[float]:
        times = []
        while (entry := self.agenda.pop(1e9)) is not None:
            if entry.kind is Due.GOSSIP:
                times.append(entry.at)
        return times


def test_news_goes_to_three_members_a_tick_until_told_often_enough() -> None:
    bench = Bench()
    bench.rumors.put(word("a", ALIVE, 1))
    told = 0
    for _ in range(10):
        bench.spreading.gossip()
        sent = bench.sent()
        assert len(sent) == len({to for to, _ in sent}) <= 3
        assert all(frame == Gossip((word("a", ALIVE, 1),)) for _, frame in sent)
        told += len(sent)
    assert told == 4, "4 * ceil(log10(6 + 1))"
    assert bench.spreading.gossip_frames == 4


def test_gossip_is_armed_only_while_there_is_something_to_tell_and_somebody_to_tell() -> None:
    bench = Bench()
    bench.spreading.arm(1.0)
    assert bench.gossip_times() == []
    alone = Bench("")
    alone.rumors.put(word("me"))
    alone.spreading.arm(1.0)
    assert alone.gossip_times() == []
    bench.rumors.put(word("a"))
    bench.spreading.arm(1.0)
    bench.spreading.arm(1.01)
    (at,) = bench.gossip_times()
    assert 1.0 < at <= 1.2


def test_gossip_lies_on_one_grid_and_never_twice_at_one_point() -> None:
    bench = Bench()
    bench.rumors.put(word("a"))
    now = 1.0
    times = []
    for _ in range(50):
        bench.rumors.put(word("a"))
        bench.spreading.arm(now)
        (now,) = bench.gossip_times()
        times.append(now)
        bench.spreading.gossip()
    steps = [b - a for a, b in pairwise(times)]
    assert steps == pytest.approx([0.2] * 49)


def test_a_frame_to_a_suspect_begins_with_its_suspicion() -> None:
    bench = Bench()
    bench.beliefs.learn([word("a", SUSPECT)], 0.0)
    for _ in range(20):
        bench.rumors.take(9, 4)
    assert [(w.node, w.state) for w in bench.spreading.news("a", "a")] == [("a", SUSPECT)]
    assert [(w.node, w.state) for w in bench.spreading.news("b", "a")] == [("a", SUSPECT)], (
        "a helper is told, too"
    )
    assert bench.spreading.news("b", "") == ()


def test_without_the_buddy_system_a_suspect_is_told_by_gossip_only() -> None:
    bench = Bench(buddy=False)
    bench.beliefs.learn([word("a", SUSPECT)], 0.0)
    for _ in range(20):
        bench.rumors.take(9, 4)
    assert bench.spreading.news("a", "a") == ()


def test_the_same_word_rides_once_on_a_frame() -> None:
    bench = Bench()
    bench.beliefs.learn([word("a", SUSPECT)], 0.0)
    assert [w.node for w in bench.spreading.news("a", "a")] == ["a"]


def test_a_frame_about_oneself_begins_with_the_own_word() -> None:
    bench = Bench()
    assert [w.node for w in bench.spreading.news("a", "me")] == ["me"]


def test_a_teller_of_something_wrong_about_this_node_is_answered_at_once() -> None:
    bench = Bench()
    bench.spreading.learn("c", (word("me", SUSPECT),), 0.0)
    ((to, frame),) = bench.sent()
    assert to == "c"
    assert isinstance(frame, Gossip)
    assert (frame.members[0].state, frame.members[0].incarnation) == (ALIVE, 1)


def test_equal_roots_need_no_answer() -> None:
    bench = Bench()
    bench.spreading.compare("a", Members((), True, bench.spreading.root), 0.0)
    assert bench.sent() == []


def test_unequal_roots_are_answered_with_everything_the_dead_included() -> None:
    bench = Bench()
    bench.beliefs.learn([word("e", DEAD)], 0.0)
    bench.sent()
    bench.spreading.compare("a", Members((), True, 7), 0.0)
    ((to, frame),) = bench.sent()
    assert to == "a"
    assert isinstance(frame, Members)
    assert frame.reply
    assert frame.root == 0
    assert {(w.node, w.state) for w in frame.members} == {
        *((n, ALIVE) for n in ("me", "a", "b", "c", "d")),
        ("e", DEAD),
    }


def test_a_whole_list_is_answered_with_what_it_lacks() -> None:
    bench = Bench()
    bench.beliefs.learn([word("b", ALIVE, 4)], 0.0)
    theirs = (*(word(n) for n in ("me", "a", "b", "c")), word("x"))
    bench.spreading.compare("a", Members(theirs, True), 0.0)
    ((_, frame),) = bench.sent()
    assert isinstance(frame, Members)
    assert not frame.reply
    assert {(w.node, w.incarnation) for w in frame.members} == {("b", 4), ("d", 0), ("e", 0)}
    assert "x" in bench.roster.views


def test_the_rest_of_an_exchange_is_not_answered() -> None:
    bench = Bench()
    bench.spreading.compare("a", Members((word("x"),), False), 0.0)
    assert bench.sent() == []


def test_a_long_list_is_cut_into_frames_and_only_the_last_asks() -> None:
    bench = Bench(list_members=4)
    bench.spreading.compare("a", Members((), True, 7), 0.0)
    frames = [frame for _, frame in bench.sent() if isinstance(frame, Members)]
    assert [(len(f.members), f.reply) for f in frames] == [(4, False), (2, True)]


def test_lists_asked_for_too_fast_are_refused_and_counted() -> None:
    bench = Bench()
    for _ in range(3):
        bench.spreading.compare("a", Members((), True, 7), 0.0)
    assert len(bench.sent()) == 1
    assert bench.beliefs.refused == {"lists_too_fast": 2}
    bench.spreading.compare("a", Members((), True, 7), 0.02)
    assert len(bench.sent()) == 1


def test_two_nodes_that_missed_different_words_agree_after_one_exchange() -> None:
    one, other = Bench("abc"), Bench("abc")
    one.beliefs.learn([word("x"), word("b", ALIVE, 2)], 0.0)
    other.beliefs.learn([word("y"), word("c", ALIVE, 9), word("a", LEFT)], 0.0)
    frames: list[tuple[Bench, object]] = [(other, Members((), True, one.spreading.root))]
    while frames:
        to, frame = frames.pop(0)
        assert isinstance(frame, Members)
        to.spreading.compare("a", frame, 0.0)
        frames += [(one if to is other else other, f) for _, f in to.sent() if isinstance(f, Members)]
    assert one.spreading.root == other.spreading.root


def test_a_sync_compares_roots_with_one_member_and_sets_the_next() -> None:
    bench = Bench()
    first = bench.agenda.pop(1e9)
    assert first is not None
    bench.spreading.sync(first.at, first.at)
    ((_, frame),) = bench.sent()
    assert frame == Members((), True, bench.spreading.root)
    following = bench.agenda.pop(1e9)
    assert following is not None
    assert 4.0 <= following.at - first.at <= 6.0


def test_a_new_link_brings_the_sync_forward_and_chooses_its_member() -> None:
    bench = Bench()
    stale = bench.agenda.pop(1e9)
    assert stale is not None
    bench.spreading._sync_at = stale.at + 5.0
    bench.spreading.greet("d", stale.at)
    ((to, frame),) = bench.sent()
    assert (to, frame) == ("d", Members((bench.roster.own.word(),), False))
    soon = bench.agenda.pop(1e9)
    assert soon is not None
    assert 0.5 <= soon.at - stale.at <= 1.0
    bench.spreading.sync(stale.at, stale.at)
    assert bench.sent() == [], "the earlier time no longer counts"
    bench.spreading.sync(soon.at, soon.at)
    assert [to for to, _ in bench.sent()] == ["d"]


def test_a_node_that_knew_nobody_asks_for_everything_at_once() -> None:
    bench = Bench("a")
    bench.spreading.greet("a", 0.0)
    assert bench.sent() == [("a", Members((bench.roster.own.word(),), True, bench.spreading.root))]


def test_a_member_not_alive_is_greeted_with_what_is_believed_of_it() -> None:
    bench = Bench()
    bench.beliefs.learn([word("a", DEAD)], 0.0)
    bench.sent()
    bench.spreading.greet("a", 0.0)
    ((_, frame),) = bench.sent()
    assert isinstance(frame, Members)
    assert [(w.node, w.state) for w in frame.members] == [("me", ALIVE), ("a", DEAD)]
