"""What is believed of each member, and why it changed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.agenda import Agenda
from mesh.core.beliefs import Beliefs
from mesh.core.effects import CloseLink, Effect, Notify, Send
from mesh.core.members import PROVISIONAL, Due, MembershipSettings, MemberView
from mesh.core.roster import Roster
from mesh.core.rumors import Rumors
from mesh.core.suspicion import LocalHealth, Suspicion
from mesh.model.reasons import Close, MemberReason
from mesh.wire.frames import Gossip, Member, MemberState

ALIVE, SUSPECT, DEAD, LEFT = MemberState


def word(
    node: str,
    state: MemberState = ALIVE,
    incarnation: int = 0,
    epoch: int = 5,
    by: str = "b",
    addresses: tuple[str, ...] = (),
) -> Member:
    return Member(node, epoch, incarnation, state, addresses, by=by)


class Bench:
    """The beliefs of `me` in a region with linked a, b, c, d and e."""

    def __init__(self, **numbers: float) -> None:
        self.settings = MembershipSettings(**numbers)  # type: ignore[arg-type]
        self.roster = Roster(
            MemberView("me", 5, 0, ALIVE, ("me:1",), "", False, 0.0, MemberReason.JOINED), self.settings
        )
        self.rumors = Rumors()
        self.health = LocalHealth(self.settings.health_max)
        self.agenda: Agenda[Due] = Agenda()
        self.outbox: list[Effect] = []
        self.beliefs = Beliefs(self.settings, self.roster, self.rumors, self.health, self.agenda, self.outbox)
        self.learn(*(word(name, addresses=(f"{name}:1",)) for name in "abcde"))
        for name in "abcde":
            self.roster.link(name, 5)
        self.rumors.take(99, 1)
        self.outbox.clear()

    def learn(self, *words: Member, now: float = 1.0, listed: bool = False) -> bool:
        return self.beliefs.learn(words, now, listed=listed)

    def said(self) -> list[tuple[str, str, str]]:
        found = [(e.what, e.about, e.reason) for e in self.outbox if isinstance(e, Notify)]
        self.outbox.clear()
        return found

    def state(self, node: str) -> MemberState:
        return self.roster.views[node].state

    def let_pass(self, until: float, late: bool = False) -> None:
        """Serve suspicion and close deadlines up to `until`."""
        while (entry := self.agenda.pop(until)) is not None:
            if entry.kind is Due.CLOSE_DEAD:
                self.beliefs.close_due(str(entry.key))
                continue
            assert isinstance(entry.key, tuple)
            node, suspicion = entry.key
            assert isinstance(suspicion, Suspicion)
            self.beliefs.suspicion_due(node, suspicion, entry.at, late)


def test_an_unknown_member_joins_by_a_word_and_is_told_on() -> None:
    bench = Bench()
    assert not bench.learn(word("new", addresses=("new:1",)))
    assert bench.said() == [("member_alive", "new", "joined")]
    assert bench.rumors.take(9, 9)[0].addresses == ("new:1",)


def test_the_dead_nobody_knew_stay_unknown() -> None:
    bench = Bench()
    bench.learn(word("x", DEAD), word("y", LEFT))
    assert not {"x", "y"} & set(bench.roster.views)


def test_an_unknown_suspect_is_a_member_all_the_same() -> None:
    bench = Bench()
    bench.learn(word("x", SUSPECT))
    assert bench.said() == [("member_suspect", "x", "suspected_by_others")]


def test_a_word_heard_again_changes_nothing_and_is_not_told_on() -> None:
    bench = Bench()
    bench.learn(word("a"))
    assert bench.said() == []
    assert len(bench.rumors) == 0


@pytest.mark.parametrize(
    ("first", "second", "what", "reason"),
    [
        ([], word("a", SUSPECT), "member_suspect", "suspected_by_others"),
        ([], word("a", DEAD), "member_dead", "declared_dead"),
        ([], word("a", LEFT), "member_left", "left"),
        ([word("a", SUSPECT)], word("a", ALIVE, 1), "member_alive", "refuted"),
        ([word("a", DEAD)], word("a", ALIVE, 1), "member_alive", "joined"),
        ([word("a", DEAD)], word("a", ALIVE, 0, 6), "member_alive", "new_epoch"),
        ([word("a", LEFT)], word("a", ALIVE, 0, 6), "member_alive", "new_epoch"),
        ([], word("a", ALIVE, 0, 6), "member_alive", "new_epoch"),
        ([word("a", DEAD)], word("a", LEFT), "member_left", "left"),
    ],
)
def test_each_change_says_what_and_why(first: list[Member], second: Member, what: str, reason: str) -> None:
    bench = Bench()
    bench.learn(*first)
    bench.said()
    bench.learn(second)
    assert bench.said() == [(what, "a", reason)]


@pytest.mark.parametrize(
    ("held", "stale"),
    [
        (word("a", SUSPECT), word("a", ALIVE)),
        (word("a", ALIVE, 3), word("a", SUSPECT, 2)),
        (word("a", DEAD), word("a", SUSPECT)),
        (word("a", LEFT), word("a", DEAD)),
        (word("a", ALIVE, 0, 6), word("a", DEAD, 9, 5)),
    ],
)
def test_an_older_word_changes_nothing(held: Member, stale: Member) -> None:
    bench = Bench()
    bench.learn(held)
    view = bench.roster.views["a"]
    bench.said()
    bench.learn(stale)
    assert bench.roster.views["a"] is view
    assert bench.said() == []


WORDS = st.lists(
    st.builds(
        word,
        st.just("a"),
        st.sampled_from(MemberState),
        st.integers(0, 3),
        st.integers(4, 6),
        st.sampled_from("bcd"),
    ),
    max_size=12,
)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(WORDS, st.randoms(use_true_random=False))
def test_nodes_that_heard_the_same_words_in_any_order_believe_the_same(
    words: list[Member], dice: random.Random
) -> None:
    one, other = Bench(), Bench()
    one.learn(*words)
    shuffled = [*words, *words]
    dice.shuffle(shuffled)
    other.learn(*shuffled)
    assert one.roster.views["a"].order == other.roster.views["a"].order
    assert one.roster.root == other.roster.root


def test_a_suspicion_ends_in_death_unless_confirmed_after_thirty_seconds() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT), now=100.0)
    bench.let_pass(129.9)
    assert bench.state("a") is SUSPECT
    bench.said()
    bench.let_pass(130.1)
    assert bench.said() == [("member_dead", "a", "suspicion_timeout")]
    assert bench.roster.views["a"].by == "me"


def test_confirmations_of_live_members_shorten_it_and_are_told_on() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT, by="b"), now=100.0)
    bench.rumors.take(9, 1)
    for by in ("b", "made-up", "a"):
        bench.learn(word("a", SUSPECT, by=by), now=100.1)
    assert len(bench.rumors) == 0, "the same accuser, an unknown one and the suspect confirm nothing"
    for by in ("c", "d", "me"):
        bench.learn(word("a", SUSPECT, by=by), now=100.2)
        assert [w.by for w in bench.rumors.take(9, 1)] == [by]
    bench.learn(word("a", SUSPECT, by="e"), now=100.3)
    assert len(bench.rumors) == 0, "three confirmations are enough"
    bench.let_pass(101.9)
    assert bench.state("a") is SUSPECT
    bench.let_pass(102.0)
    assert bench.state("a") is DEAD


def test_in_a_region_of_two_nobody_can_confirm_and_the_suspicion_is_the_shortest() -> None:
    bench = Bench()
    bench.learn(*(word(name, LEFT) for name in "bcde"))
    bench.learn(word("a", SUSPECT), now=100.0)
    bench.let_pass(102.0)
    assert bench.state("a") is DEAD


def test_a_refutation_ends_the_suspicion() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT), now=100.0)
    bench.learn(word("a", ALIVE, 1), now=101.0)
    bench.let_pass(200.0)
    assert bench.state("a") is ALIVE


def test_a_death_told_in_a_list_only_makes_a_suspect_and_a_leave_is_a_leave() -> None:
    bench = Bench()
    bench.learn(word("a", DEAD), word("b", LEFT), listed=True)
    assert bench.state("a") is SUSPECT
    assert bench.state("b") is LEFT
    bench.learn(word("a", DEAD), listed=True)
    assert bench.state("a") is SUSPECT


def test_an_accusation_of_ones_own_is_told_to_the_suspect_at_once() -> None:
    bench = Bench()
    bench.beliefs.accuse("a", MemberReason.PROBE_FAILED, 1.0)
    sent = [e for e in bench.outbox if isinstance(e, Send)]
    assert [e.to for e in sent] == ["a"]
    frame = sent[0].frame
    assert isinstance(frame, Gossip)
    assert (frame.members[0].state, frame.members[0].by) == (SUSPECT, "me")
    assert bench.said() == [("member_suspect", "a", "probe_failed")]


def test_the_accuser_tells_the_suspect_again_while_its_time_runs() -> None:
    bench = Bench()
    bench.beliefs.accuse("a", MemberReason.PROBE_FAILED, 1.0)
    bench.outbox.clear()
    bench.let_pass(7.5)
    assert [e.to for e in bench.outbox if isinstance(e, Send)] == ["a", "a", "a"], "each two seconds"
    other = Bench()
    other.learn(word("a", SUSPECT), now=1.0)
    other.outbox.clear()
    other.let_pass(7.5)
    assert other.outbox == [], "those that only heard of it leave that to the accuser"


def test_an_accusation_against_a_suspect_is_a_confirmation() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT, by="b"))
    bench.beliefs.accuse("a", MemberReason.PROBE_FAILED, 1.0)
    assert bench.beliefs.suspicions["a"].accusers == {"b", "me"}


def test_bad_health_withholds_accusations_until_the_member_was_silent_for_long() -> None:
    bench = Bench()
    bench.health.note(4)
    bench.beliefs.accuse("a", MemberReason.PROBE_FAILED, 1.0)
    bench.beliefs.accuse("a", MemberReason.LINK_LOST, 30.9)
    assert bench.state("a") is ALIVE
    assert bench.beliefs.withheld == 2
    bench.beliefs.accuse("a", MemberReason.PROBE_FAILED, 31.1)
    assert bench.state("a") is SUSPECT


def test_the_dead_and_the_unknown_are_not_accused() -> None:
    bench = Bench()
    bench.learn(word("a", DEAD))
    bench.said()
    bench.beliefs.accuse("a", MemberReason.PROBE_FAILED, 1.0)
    bench.beliefs.accuse("x", MemberReason.PROBE_FAILED, 1.0)
    assert bench.said() == []


def test_a_suspect_heard_since_is_told_again_instead_of_declared_dead() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT), now=100.0)
    bench.beliefs.heard["a"] = 120.0
    bench.outbox.clear()
    bench.let_pass(130.0)
    assert bench.state("a") is SUSPECT
    assert [e.to for e in bench.outbox if isinstance(e, Send)] == ["a"]
    bench.let_pass(132.0)
    assert bench.state("a") is DEAD, "heard no more: its time is over"


def test_time_given_again_is_not_cut_short_by_an_earlier_deadline() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT, by="b"), now=100.0)
    for by in ("c", "d", "e"):
        bench.learn(word("a", SUSPECT, by=by), now=101.0)
    bench.beliefs.heard["a"] = 101.5
    bench.let_pass(103.9)
    assert bench.state("a") is SUSPECT
    bench.let_pass(104.0)
    assert bench.state("a") is DEAD


def test_a_suspicion_that_ends_during_a_standstill_waits_once_for_unread_frames() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT), now=100.0)
    bench.let_pass(130.0, late=True)
    assert bench.state("a") is SUSPECT
    bench.let_pass(130.5, late=True)
    assert bench.state("a") is DEAD


def test_time_slept_is_given_back_to_suspects() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT), now=100.0)
    bench.beliefs.slept(20.0)
    bench.let_pass(150.4)
    assert bench.state("a") is SUSPECT
    bench.let_pass(150.6)
    assert bench.state("a") is DEAD


def test_a_dead_member_with_a_link_is_told_and_then_its_link_is_closed() -> None:
    bench = Bench()
    bench.learn(word("a", DEAD), now=1.0)
    assert [e.to for e in bench.outbox if isinstance(e, Send)] == ["a"]
    bench.let_pass(2.9)
    assert not [e for e in bench.outbox if isinstance(e, CloseLink)]
    bench.let_pass(3.0)
    assert [(e.to, e.reason) for e in bench.outbox if isinstance(e, CloseLink)] == [("a", Close.MEMBER_DEAD)]
    assert "a" not in bench.roster.links


def test_one_that_refuted_its_death_keeps_its_link() -> None:
    bench = Bench()
    bench.learn(word("a", DEAD), now=1.0)
    bench.learn(word("a", ALIVE, 1), now=1.1)
    bench.let_pass(10.0)
    assert "a" in bench.roster.links


@pytest.mark.parametrize("state", [SUSPECT, DEAD, LEFT])
def test_a_lie_about_oneself_is_refuted_by_the_next_incarnation(state: MemberState) -> None:
    bench = Bench()
    assert bench.learn(word("me", state, 7))
    assert (bench.roster.own.state, bench.roster.own.incarnation) == (ALIVE, 8)
    assert bench.health.score == 1
    assert [(w.node, w.state, w.incarnation) for w in bench.rumors.take(9, 9)] == [("me", ALIVE, 8)]
    assert bench.said() == []


def test_a_lie_already_refuted_asks_for_an_answer_but_not_for_another_incarnation() -> None:
    bench = Bench()
    bench.learn(word("me", SUSPECT, 0))
    assert bench.learn(word("me", SUSPECT, 0))
    assert bench.roster.own.incarnation == 1
    assert bench.health.score == 1


def test_ones_own_word_coming_back_is_no_lie() -> None:
    bench = Bench()
    assert not bench.learn(word("me"))
    assert bench.learn(word("me", ALIVE, 0, 4)), "but one of an earlier epoch means that the teller is behind"
    assert bench.roster.own.incarnation == 0


def test_an_unknown_incarnation_of_oneself_is_overtaken() -> None:
    bench = Bench()
    assert bench.learn(word("me", ALIVE, 3))
    assert bench.roster.own.incarnation == 4
    assert bench.health.score == 0


def test_a_newer_process_with_the_own_name_is_reported_once_and_not_refuted() -> None:
    bench = Bench()
    bench.learn(word("me", ALIVE, 0, 6), word("me", DEAD, 0, 6))
    assert bench.said() == [("name_in_use", "me", "name_in_use")]
    assert (bench.roster.own.epoch, bench.roster.own.incarnation) == (5, 0)
    bench.learn(word("me", ALIVE, 0, 7))
    assert len(bench.said()) == 1


def test_words_out_of_bounds_are_refused_and_counted() -> None:
    bench = Bench(max_members=7)
    bench.beliefs.newest_epoch = 100
    before = dict(bench.roster.views)
    bench.learn(
        word("a", DEAD, (1 << 20) + 1),
        word("me", SUSPECT, (1 << 20) + 1),
        word("new", ALIVE, (1 << 20) + 1),
        word("a", ALIVE, 0, 101),
        word("a", ALIVE, 1, -5),
        word("new", ALIVE, -1),
        word("new", epoch=-1),
        word("new", addresses=("x",) * 9),
        word("new", addresses=("x" * 257,)),
        word("new", by="x" * 65),
        word("no name"),
    )
    assert bench.roster.views == before
    bench.learn(word("f"), word("g"))
    assert bench.beliefs.refused == {
        "incarnation_jump": 3,
        "epoch_ahead": 1,
        "malformed": 2,
        "too_long": 3,
        "bad_name": 1,
        "max_members": 1,
    }


def test_a_link_to_an_unknown_process_makes_a_member_that_is_not_told_on_until_it_speaks() -> None:
    bench = Bench()
    bench.beliefs.arrived("new", 9, ("new:1",), 1.0)
    assert bench.said() == [("member_alive", "new", "joined")]
    assert bench.roster.views["new"].incarnation == PROVISIONAL
    assert len(bench.rumors) == 0
    bench.learn(word("new", ALIVE, 0, 9))
    assert len(bench.rumors) == 1
    assert bench.said() == [], "still alive: no change of state"


def test_a_link_to_a_newer_process_replaces_the_older_one() -> None:
    bench = Bench()
    bench.learn(word("a", SUSPECT))
    bench.said()
    bench.beliefs.arrived("a", 6, (), 1.0)
    assert bench.said() == [("member_alive", "a", "new_epoch")]
    assert bench.roster.views["a"].addresses == ("a:1",)
    assert "a" not in bench.beliefs.suspicions


def test_what_is_kept_of_forgotten_members_is_dropped() -> None:
    bench = Bench()
    bench.beliefs.heard.update(dict.fromkeys(("a", "gone"), 1.0))
    bench.beliefs.prune()
    assert bench.beliefs.heard == {"a": 1.0}


@settings(derandomize=True, max_examples=20, deadline=None)
@given(
    st.lists(
        st.builds(
            Member,
            st.sampled_from(["me", "a", "b", "x", "", "\0", "y" * 70]),
            st.integers(-1, 1 << 64),
            st.integers(-1, 1 << 64),
            st.sampled_from(MemberState),
            st.lists(st.text(max_size=3), max_size=10).map(tuple),
            st.text(max_size=3),
            st.booleans(),
            st.sampled_from(["", "me", "a", "x", "\0"]),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_no_word_raises_and_the_own_member_stays_alive(words: Sequence[Member], listed: bool) -> None:
    bench = Bench(max_members=8)
    bench.learn(*words, listed=listed)
    bench.let_pass(1e9)
    assert bench.roster.own.state is ALIVE
    assert len(bench.roster.views) <= 8
