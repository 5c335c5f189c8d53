"""Who is in the region, whom to probe next, to whom links are missing, who is forgotten."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import reduce
from operator import xor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.members import MembershipSettings, MemberView
from mesh.core.roster import Hint, Roster
from mesh.model.reasons import MemberReason
from mesh.wire.frames import MemberState

ALIVE, SUSPECT, DEAD, LEFT = MemberState


def view(node: str, state: MemberState = ALIVE, incarnation: int = 0, since: float = 0.0) -> MemberView:
    return MemberView(node, 1, incarnation, state, (f"{node}:1",), "", False, since, MemberReason.JOINED)


def roster(*others: str, limits: MembershipSettings | None = None, linked: bool = True) -> Roster:
    made = Roster(view("me"), limits or MembershipSettings())
    for name in others:
        made.put(view(name))
        if linked:
            made.link(name, 1)
    return made


CHANGES = st.lists(
    st.tuples(
        st.sampled_from("abcde"),
        st.sampled_from([*MemberState, "link", "unlink", "forget"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(CHANGES)
def test_root_live_and_missing_always_follow_the_views(
    changes: list[tuple[str, MemberState | str, int]],
) -> None:
    made = roster()
    for node, what, incarnation in changes:
        if isinstance(what, MemberState):
            made.put(view(node, what, incarnation))
        elif what == "link":
            made.link(node, 1)
        elif what == "unlink":
            made.unlink(node)
        elif node in made.views and not made.views[node].live:
            made.forget(node)
        live = [v for v in made.views.values() if v.live]
        assert made.live == len(live)
        assert made.live_names() == tuple(sorted(v.node for v in live))
        assert made.root == reduce(xor, (v.mark() for v in live), 0)
        assert set(made.gone) == {v.node for v in made.views.values() if not v.live}
        assert {w.node for w in made.wanted(0.0)} == {
            v.node
            for v in made.views.values()
            if v.node != "me" and v.state is not LEFT and v.node not in made.links
        }
        assert set(made.pick(9, random.Random(1))) == {v.node for v in live if v.node in made.links}


def test_a_round_of_probes_visits_every_live_member_once_in_an_order_of_the_dice() -> None:
    made = roster(*(f"n{i}" for i in range(20)))
    made.put(view("n3", DEAD))
    dice = random.Random(7)
    rounds = [[made.next_target(dice, 0.0) for _ in range(19)] for _ in range(3)]
    for visited in rounds:
        assert set(visited) == {f"n{i}" for i in range(20)} - {"n3"}
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_newcomer_is_probed_within_the_running_round() -> None:
    made = roster("a", "b", "c", "d")
    dice = random.Random(3)
    first = [made.next_target(dice, 0.0), made.next_target(dice, 0.0)]
    made.put(view("new"))
    made.link("new", 1)
    rest = [made.next_target(dice, 0.0) for _ in range(3)]
    assert {*first, *rest} == {"a", "b", "c", "d", "new"}


def test_a_member_that_returns_is_listed_once() -> None:
    made = roster("a", "b")
    for _ in range(3):
        made.put(view("a", DEAD))
        made.put(view("a", ALIVE))
    dice = random.Random(0)
    assert sorted(str(made.next_target(dice, 0.0)) for _ in range(4)) == ["a", "a", "b", "b"]


def test_with_nobody_to_probe_there_is_no_target() -> None:
    made = roster("a")
    made.put(view("a", DEAD))
    assert made.next_target(random.Random(0), 0.0) is None
    assert made.next_target(random.Random(0), 0.0) is None


def test_a_member_just_learned_of_gets_time_to_link_before_it_is_probed() -> None:
    made = roster("a", linked=False)
    dice = random.Random(0)
    assert made.next_target(dice, 4.9) is None
    assert made.next_target(dice, 5.0) == "a"
    made.put(view("b", SUSPECT, since=5.0))
    assert made.next_target(dice, 5.1) is not None, "a suspect is probed at once"


def test_picks_are_different_live_linked_and_not_excluded() -> None:
    made = roster(*(f"n{i}" for i in range(40)))
    for i in range(20):
        made.put(view(f"n{i}", DEAD))
    made.unlink("n20")
    for seed in range(20):
        picked = made.pick(3, random.Random(seed), {"n21"})
        assert len(set(picked)) == 3
        assert not {"n20", "n21", *(f"n{i}" for i in range(20))} & set(picked)


def test_where_links_are_few_the_few_are_found() -> None:
    made = roster(*(f"n{i}" for i in range(200)), linked=False)
    made.link("n7", 1)
    assert made.pick(3, random.Random(0)) == ["n7"]


def test_the_dead_are_kept_a_quarter_of_an_hour_and_announced_to_for_a_day() -> None:
    made = roster("a", "b")
    made.put(view("a", DEAD, since=0.0))
    made.put(view("b", LEFT, since=0.0))
    made.sweep(899.0)
    assert set(made.gone) == {"a", "b"}
    made.sweep(900.0)
    assert set(made.gone) == {"a"}, "the left are not announced to"
    made.sweep(86_399.0)
    assert set(made.gone) == {"a"}
    made.sweep(86_400.0)
    assert set(made.views) == {"me"}


def test_beyond_the_count_the_oldest_dead_go_first_but_never_before_their_time() -> None:
    made = roster(*"abc", limits=MembershipSettings(dead_max=1))
    for at, name in enumerate("abc"):
        made.put(view(name, DEAD, since=float(at)))
    made.sweep(900.0)
    assert set(made.gone) == {"b", "c"}
    made.sweep(2_000.0)
    assert set(made.gone) == {"c"}


def test_a_full_roster_makes_room_only_from_the_long_dead() -> None:
    made = roster("a", "b", limits=MembershipSettings(max_members=3))
    assert not made.room(1e6)
    made.put(view("a", DEAD, since=0.0))
    assert not made.room(899.0)
    assert made.room(900.0)
    assert set(made.views) == {"me", "b"}


def test_a_live_member_is_never_forgotten() -> None:
    with pytest.raises(AssertionError):
        roster("a").forget("a")


def test_hints_are_wanted_until_they_are_met_or_too_old() -> None:
    made = roster("a")
    made.hint("x", Hint(0, ("x:1",), 10.0))
    made.hint("a", Hint(0, ("a:2",), 10.0))
    assert [(w.node, w.addresses, w.state) for w in made.wanted(9.0)] == [("x", ("x:1",), None)]
    made.unlink("a")
    assert made.wanted(9.0)[0].addresses == ("a:1", "a:2"), "a hint adds addresses to a known member"
    assert "x" not in {w.node for w in made.wanted(10.0)}
    made.sweep(10.0)
    assert made.hints == {}
    assert made.unlink("nobody") is False


def test_one_that_left_is_wanted_again_only_as_a_newer_process() -> None:
    made = roster("a")
    made.unlink("a")
    made.put(view("a", LEFT))
    made.hint("a", Hint(1, ("a:1",), 10.0))
    assert made.wanted(0.0) == []
    made.hint("a", Hint(2, ("a:1",), 10.0))
    assert [w.node for w in made.wanted(0.0)] == ["a"]


def test_hints_are_bounded() -> None:
    made = roster(limits=MembershipSettings(max_hints=1))
    assert made.hint("a", Hint(0, (), 1.0))
    assert made.hint("a", Hint(0, ("b",), 1.0))
    assert not made.hint("b", Hint(0, (), 1.0))


def test_an_assumed_roster_equals_its_model_seen_from_another_node() -> None:
    model = roster("a", "b", "c")
    other = Roster(view("b"), MembershipSettings())
    other.assume(model)
    assert (other.root, other.live, other.live_names()) == (model.root, model.live, model.live_names())
    assert set(other.links) == {"me", "a", "c"}
    dice = random.Random(0)
    assert {other.next_target(dice, 0.0) for _ in range(3)} == {"me", "a", "c"}
    other.put(replace(view("a"), state=DEAD))
    assert model.views["a"].state is ALIVE
