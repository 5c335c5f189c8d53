"""The export of a region against the plain definition of covering, and property P10 against a scan with `matches`."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.summary import MERGE_BUDGET, Summary
from mesh.model.topic import canonical, covers, literal_prefix, matches

WORLD = [
    "/".join(levels)
    for depth in (1, 2, 3)
    for levels in product(("a", "b", "$x", "$mesh", "z"), repeat=depth)
]
_heads = st.lists(st.sampled_from(["a", "b", "c", "$x", "+"]), min_size=1, max_size=3)
filters = st.one_of(
    _heads.map("/".join),
    _heads.map(lambda levels: "/".join([*levels[:2], "#"])),
    st.sampled_from(["#", "$mesh/up"]),
)
_steps = st.lists(st.tuples(st.sampled_from(["add", "add", "remove"]), filters), max_size=30)


def exact_covering(held: set[str]) -> set[str]:
    """Of each class of equal filters one, and of those the ones no other covers."""
    distinct = {canonical(filter) for filter in held if not filter.startswith("$mesh")}
    return {narrow for narrow in distinct if not any(covers(wide, narrow) for wide in distinct - {narrow})}


def run(summary: Summary, steps: list[tuple[str, str]]) -> set[str]:
    """Do the steps that are possible; the filters still held."""
    counts: dict[str, int] = {}
    for kind, filter in steps:
        if kind == "add":
            counts[filter] = counts.get(filter, 0) + 1
            summary.add(filter)
        elif counts.get(filter):
            counts[filter] -= 1
            summary.remove(filter)
    return {filter for filter, count in counts.items() if count}


def matched(entries: object) -> set[str]:
    return {topic for topic in WORLD if any(matches(filter, topic) for filter in entries)}


@settings(max_examples=20, derandomize=True, deadline=None)
@given(_steps)
def test_below_the_budget_the_export_is_the_exact_covering_set_and_matches_the_same(
    steps: list[tuple[str, str]],
) -> None:
    summary = Summary()
    held = run(summary, steps)
    assert dict(summary.entries()) == dict.fromkeys(exact_covering(held), False)
    assert matched(summary.entries()) == {topic for topic in matched(held) if not topic.startswith("$mesh")}


@settings(max_examples=20, derandomize=True, deadline=None)
@given(_steps, st.integers(1, 8))
def test_above_the_budget_the_export_matches_a_superset_and_no_other_dollar_topic(
    steps: list[tuple[str, str]], budget: int
) -> None:
    summary = Summary(budget)
    held = {filter for filter in run(summary, steps) if not filter.startswith("$mesh")}
    entries = summary.entries()
    exact, exported = matched(held), matched(entries)
    assert exact <= exported
    assert {topic for topic in exported if topic[0] == "$"} == {topic for topic in exact if topic[0] == "$"}
    assert not any(covers(wide, narrow) for wide in entries for narrow in entries if wide != narrow)
    covering = exact_covering(held)
    if len(covering) <= budget:
        assert dict(entries) == dict.fromkeys(covering, False)
    dollar = sum(filter.startswith("$") for filter in covering)
    assert len(entries) <= max(budget, dollar + 1)
    for filter, merged in entries.items():
        if merged:
            assert filter.endswith("#")
            assert sum(covers(filter, narrow) for narrow in covering) > 1
        else:
            assert filter in covering


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(_steps, max_size=6), st.integers(1, 8))
def test_changes_taken_one_after_another_rebuild_the_export(
    parts: list[list[tuple[str, str]]], budget: int
) -> None:
    summary = Summary(budget)
    copy: dict[str, bool] = {}
    history: list[tuple[str, str]] = []
    for part in parts:
        for kind, filter in part:
            if kind == "add":
                summary.add(filter)
            elif history.count(("add", filter)) > history.count(("remove", filter)):
                summary.remove(filter)
            else:
                continue
            history.append((kind, filter))
        entries, gone = summary.take_changes()
        assert all(copy.get(filter) is not merged for filter, merged in entries.items())
        assert list(entries) == sorted(entries)
        assert list(gone) == sorted(gone)
        copy.update(entries)
        for filter in gone:
            del copy[filter]
        assert copy == summary.entries()
        assert summary.take_changes() == ({}, ())


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(filters, max_size=25, unique=True), st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_export_shows_neither_order_nor_history(held: list[str], budget: int, dice: object) -> None:
    straight, crooked = Summary(budget), Summary(budget)
    for filter in held:
        straight.add(filter)
    shuffled = [*held, *held, "#", "a/+"]
    dice.shuffle(shuffled)
    for filter in shuffled:
        crooked.add(filter)
    for filter in [*held, "#", "a/+"]:
        crooked.remove(filter)
    assert crooked.entries() == straight.entries()


def test_a_filter_stays_exported_until_the_last_node_dropped_it() -> None:
    summary = Summary()
    summary.add("a")
    summary.add("a")
    summary.remove("a")
    assert dict(summary.entries()) == {"a": False}
    summary.remove("a")
    assert not summary.entries()
    with pytest.raises(ValueError, match="not in the summary"):
        summary.remove("a")


def test_removing_a_wide_filter_brings_back_what_it_covered_and_what_that_covers_stays_away() -> None:
    summary = Summary()
    for filter in ("a/b/c", "a/b/d", "a/b/#", "x/y", "#", "a/z", "a/#"):
        summary.add(filter)
    assert summary.take_changes() == ({"#": False}, ())
    summary.remove("#")
    assert summary.take_changes() == ({"a/#": False, "x/y": False}, ("#",))
    summary.remove("a/#")
    assert summary.take_changes() == ({"a/b/#": False, "a/z": False}, ("a/#",))
    summary.remove("a/b/#")
    assert dict(summary.entries()) == dict.fromkeys(["a/z", "a/b/c", "a/b/d", "x/y"], False)


def test_a_filter_whose_coverer_left_is_found_again_below_the_next_one() -> None:
    summary = Summary()
    for filter in ("a/b/c", "a/b/#", "a/#"):
        summary.add(filter)
    summary.remove("a/b/#")
    assert dict(summary.entries()) == {"a/#": False}
    summary.remove("a/#")
    assert dict(summary.entries()) == {"a/b/c": False}


def test_the_two_spellings_of_everything_are_one_entry() -> None:
    summary = Summary()
    summary.add("+/#")
    summary.add("#")
    summary.remove("+/#")
    assert dict(summary.entries()) == {"#": False}


def test_filters_of_the_mesh_itself_are_not_exported() -> None:
    summary = Summary()
    for filter in ("$mesh/#", "$mesh", "$meshes/a", "$SYS/up"):
        summary.add(filter)
    summary.remove("$mesh/never-added")
    assert dict(summary.entries()) == {"$meshes/a": False, "$SYS/up": False}
    assert summary.statistics().filters == 2


def test_the_widest_prefixes_are_opened_first_and_what_does_not_fit_stays_merged() -> None:
    summary = Summary(20)
    for number in range(100):
        summary.add(f"fleet/truck/{number}/speed")
    for number in range(6):
        summary.add(f"shop/eu/orders/{number}")
    summary.add("shop/us")
    summary.add("fleet/depot")
    merged = {filter for filter, merged in summary.entries().items() if merged}
    assert merged == {"fleet/truck/#"}
    assert len(summary.entries()) == 1 + 6 + 2
    assert summary.merging
    assert summary.statistics().merged == 1
    assert summary.statistics().covering == 108


def test_a_merged_prefix_is_as_long_as_its_filters_allow_and_takes_its_own_level_in() -> None:
    summary = Summary(2)
    for filter in ("a/b/c/1", "a/b/c/2", "a/b/c", "x"):
        summary.add(filter)
    assert dict(summary.entries()) == {"a/b/c/#": True, "x": False}


def test_a_prefix_with_a_wildcard_is_opened_before_it_would_swallow_other_paths() -> None:
    summary = Summary(8)
    for name in "pqrst":
        summary.add(f"+/{name}")
        summary.add(f"a/b/{name}")
    assert dict(summary.entries()) == {
        **dict.fromkeys([f"+/{name}" for name in "pqrst"], False),
        "a/b/#": True,
    }


def test_filters_on_other_paths_that_a_merged_prefix_covers_leave_the_export() -> None:
    summary = Summary(3)
    for number in range(9):
        summary.add(f"+/b/{number}")
    summary.add("a/b/x")
    summary.add("a/c")
    assert dict(summary.entries()) == {"+/b/#": True, "a/c": False}


def test_a_plus_alone_merged_is_everything_and_leaves_nothing_beside_it() -> None:
    summary = Summary(3)
    for number in range(9):
        summary.add(f"+/{number}")
    summary.add("a/b/c")
    summary.add("e")
    assert dict(summary.entries()) == {"#": True}


def test_a_wildcard_level_does_not_make_a_prefix_narrower() -> None:
    summary = Summary(6)
    for number in range(3):
        summary.add(f"+/b/{number}")
    for number in range(5):
        summary.add(f"c/{number}")
    assert dict(summary.entries()) == {"+/b/0": False, "+/b/1": False, "+/b/2": False, "c/#": True}


def test_too_many_first_levels_end_in_everything_but_the_dollar_topics() -> None:
    summary = Summary(5)
    for number in range(6):
        summary.add(f"t{number}/x")
        summary.add(f"$s/{number}")
    entries = dict(summary.entries())
    assert entries.pop("#") is True
    assert entries == {f"$s/{number}": False for number in range(6)}


def test_back_below_the_budget_the_merged_entries_go() -> None:
    summary = Summary(2)
    for name in "pqr":
        summary.add(f"a/{name}")
    assert summary.take_changes() == ({"a/#": True}, ())
    summary.remove("a/q")
    assert summary.take_changes() == ({"a/p": False, "a/r": False}, ("a/#",))
    assert not summary.merging


def test_thousands_of_filters_become_the_few_that_cover_them() -> None:
    summary = Summary()
    for area, site, device in product(range(10), range(10), range(50)):
        summary.add(f"area{area}/site{site}/device{device}")
    assert summary.merging
    assert len(summary.entries()) <= MERGE_BUDGET
    for area in range(10):
        summary.add(f"area{area}/+/#")
    assert len(summary.entries()) == 10
    assert all(literal_prefix(filter) for filter in summary.entries())


def test_a_budget_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Summary(0)
