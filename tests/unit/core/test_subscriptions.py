"""Local subscriptions against a linear scan: matches, turns in groups, and what the region is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.subscriptions import SubscriptionIndex, Transition, bucket
from mesh.model.topic import matches

_words = ["a", "b"]
topics = st.lists(st.sampled_from(_words), min_size=1, max_size=2).map("/".join)
filters = st.sampled_from(["a", "b", "a/b", "a/+", "+/b", "a/#", "#", "+"])
_sessions = st.integers(1, 4)
_sids = st.integers(0, 3)
_steps = st.one_of(
    st.tuples(st.just("subscribe"), _sessions, _sids, filters, st.sampled_from(["", "", "g", "h"])),
    st.tuples(st.just("unsubscribe"), _sessions, _sids),
    st.tuples(st.just("drop"), _sessions),
)

Held = dict[tuple[int, int], tuple[str, str]]


def told(held: Held) -> dict[tuple[str, str], int]:
    """What the region has to know: 1 for a plain filter, the bucket of a group's members."""
    counts: dict[tuple[str, str], int] = {}
    for key in held.values():
        counts[key] = counts.get(key, 0) + 1
    return {key: bucket(count) if key[0] else 1 for key, count in counts.items()}


def step(
    index: SubscriptionIndex, held: Held, kind: str, session: int, *rest: object
) -> tuple[Transition, ...]:
    """Do one step on the index and on the model; refused steps change neither."""
    if kind == "drop":
        for key in [key for key in held if key[0] == session]:
            del held[key]
        return index.drop_session(session)
    sid = rest[0]
    if kind == "unsubscribe":
        if (session, sid) not in held:
            with pytest.raises(KeyError):
                index.unsubscribe(session, sid)
            return ()
        del held[session, sid]
        return index.unsubscribe(session, sid)
    if (session, sid) in held:
        with pytest.raises(ValueError, match="in use"):
            index.subscribe(session, *rest)
        return ()
    held[session, sid] = (rest[2], rest[1])
    return index.subscribe(session, *rest)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(_steps, max_size=30), st.integers(1, 20))
def test_matches_and_transitions_equal_a_scan_after_every_step(steps: list[tuple], cache_weight: int) -> None:
    index = SubscriptionIndex(cache_weight=cache_weight)
    held: Held = {}
    region: dict[tuple[str, str], int] = {}
    for one in steps:
        transitions = step(index, held, *one)
        assert len({transition[:2] for transition in transitions}) == len(transitions)
        for group, filter, members in transitions:
            assert region.get((group, filter), 0) != members
            region[group, filter] = members
        region = {key: members for key, members in region.items() if members}
        assert region == told(held)
        for topic in ("a", "a/b"):
            expected: dict[int, list[int]] = {}
            for (session, sid), (group, filter) in sorted(held.items()):
                if not group and matches(filter, topic):
                    expected.setdefault(session, []).append(sid)
            found = index.match(topic)
            assert dict(found) == {session: tuple(sids) for session, sids in expected.items()}
            assert len(found) == len(expected)
            assert index.match(topic) == found
    assert {transition[:2]: transition.members for transition in index.held()} == region
    assert index.statistics().subscriptions == len(held)
    assert index.statistics().cached <= cache_weight
    assert sorted(index.sessions()) == sorted({session for session, _ in held})


def test_a_bucket_is_the_largest_power_of_two_up_to_the_count() -> None:
    assert [bucket(n) for n in (-1, 0, 1, 2, 3, 4, 7, 8, 1000)] == [0, 0, 1, 2, 2, 4, 4, 8, 512]


def test_only_the_first_and_the_last_subscription_of_a_filter_are_told() -> None:
    index = SubscriptionIndex()
    assert index.subscribe(1, 1, "a/+") == (Transition("", "a/+", 1),)
    assert index.subscribe(1, 2, "a/+") == ()
    assert index.subscribe(2, 1, "a/+") == ()
    assert index.member_count("", "a/+") == 3
    assert index.match("a/b") == ((1, (1, 2)), (2, (1,)))
    assert index.unsubscribe(1, 1) == ()
    assert index.drop_session(2) == ()
    assert index.unsubscribe(1, 2) == (Transition("", "a/+", 0),)
    assert index.match("a/b") == ()
    assert index.held() == ()
    assert index.statistics().plain_filters == index.statistics().sessions == 0


def test_a_group_is_told_when_its_bucket_changes() -> None:
    index = SubscriptionIndex()
    heard = [index.subscribe(session, 1, "a", "g") for session in range(1, 6)]
    assert [transition.members for (transition,) in filter(None, heard)] == [1, 2, 4]
    heard = [index.drop_session(session) for session in range(1, 6)]
    assert [transition.members for (transition,) in filter(None, heard)] == [2, 1, 0]


def test_dropping_a_session_tells_each_group_once_with_where_it_ended() -> None:
    index = SubscriptionIndex()
    for sid in range(8):
        index.subscribe(1, sid, "a", "g")
    index.subscribe(2, 0, "a", "g")
    assert index.drop_session(1) == (Transition("g", "a", 1),)
    assert index.drop_session(1) == ()


def test_a_session_that_matches_by_several_filters_is_named_once_with_all_its_numbers() -> None:
    index = SubscriptionIndex()
    index.subscribe(7, 9, "a/b")
    index.subscribe(7, 3, "a/+")
    index.subscribe(7, 5, "#")
    index.subscribe(8, 1, "#")
    assert sorted(index.match("a/b")) == [(7, (3, 5, 9)), (8, (1,))]


def test_group_members_take_turns_and_a_member_that_left_is_passed_over() -> None:
    index = SubscriptionIndex()
    for session in (1, 2, 3):
        index.subscribe(session, 10 + session, "a", "g")
    assert index.match("a") == ()
    assert index.group_sessions("g", "a") == ((1, 11), (2, 12), (3, 13))
    assert [index.next_in_group("g", "a") for _ in range(4)] == [(1, 11), (2, 12), (3, 13), (1, 11)]
    assert index.group_sessions("g", "a") == ((2, 12), (3, 13), (1, 11))
    index.drop_session(2)
    assert [index.next_in_group("g", "a") for _ in range(3)] == [(3, 13), (1, 11), (3, 13)]
    assert index.member_count("g", "a") == 2
    index.drop_session(1)
    index.drop_session(3)
    assert index.next_in_group("g", "a") is None
    assert index.group_sessions("g", "a") == ()
    assert index.member_count("g", "a") == index.member_count("", "zzz") == 0


def test_a_match_is_remembered_until_a_plain_subscription_changes() -> None:
    index = SubscriptionIndex()
    index.subscribe(1, 1, "a")
    first = index.match("a")
    index.subscribe(2, 1, "a", "g")
    assert index.match("a") is first
    index.subscribe(2, 2, "#")
    assert index.match("a") == ((2, (2,)), (1, (1,)))
    assert index.statistics().searches == 2


def test_a_refused_number_leaves_the_subscription_that_has_it() -> None:
    index = SubscriptionIndex()
    index.subscribe(1, 1, "a")
    with pytest.raises(ValueError, match="sid 1 is in use"):
        index.subscribe(1, 1, "b")
    with pytest.raises(KeyError, match="no subscription"):
        index.unsubscribe(2, 1)
    assert dict(index.of_session(1)) == {1: "a"}
    assert dict(index.of_session(2)) == {}


def test_many_sessions_on_one_filter_are_shared_between_remembered_topics() -> None:
    index = SubscriptionIndex()
    for session in range(1000):
        index.subscribe(session, 1, "a/#")
    one, other = index.match("a/b"), index.match("a/c")
    assert len(one) == 1000
    assert all(first is second for first, second in zip(one, other, strict=True))
