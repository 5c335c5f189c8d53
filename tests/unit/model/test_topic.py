"""The grammar of topics and filters, against the examples of MQTT 5 section 4.7 and a brute-force world of topics."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.limits import Limits
from mesh.model.topic import (
    TopicError,
    canonical,
    check_filter,
    check_group,
    check_topic,
    covers,
    has_wildcard,
    is_reserved,
    literal_prefix,
    matches,
    overlaps,
    parse_share,
)

# Every topic of up to four levels over the levels that filters below use and one that none uses.
WORLD = [
    "/".join(levels) for depth in (1, 2, 3, 4) for levels in product(("a", "b", "$x", "z"), repeat=depth)
]

_levels = st.lists(st.sampled_from(["a", "b", "$x", "+"]), min_size=1, max_size=3)
filters = st.one_of(
    _levels.map("/".join),
    _levels.map(lambda levels: "/".join([*levels[:2], "#"])),
    st.just("#"),
)


@pytest.mark.parametrize(
    ("filter", "matched", "others"),
    [
        (
            "sport/tennis/player1/#",
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"],
            ["sport/tennis", "sport/tennis/player2"],
        ),
        ("sport/#", ["sport", "sport/tennis"], ["sports"]),
        ("#", ["sport", "sport/tennis", "/", "/finance"], ["$SYS", "$SYS/monitor/Clients"]),
        (
            "sport/tennis/+",
            ["sport/tennis/player1", "sport/tennis/player2"],
            ["sport/tennis/player1/ranking"],
        ),
        ("sport/+", ["sport/"], ["sport"]),
        ("+", ["sport"], ["/finance", "sport/tennis", "$SYS"]),
        ("+/tennis/#", ["sport/tennis", "sport/tennis/x"], ["sport", "$SYS/tennis"]),
        ("sport/+/player1", ["sport/tennis/player1", "sport//player1"], ["sport/player1"]),
        ("+/+", ["/finance", "a/b"], ["finance"]),
        ("/+", ["/finance"], ["finance"]),
        ("+/monitor/Clients", ["x/monitor/Clients"], ["$SYS/monitor/Clients"]),
        ("$SYS/#", ["$SYS", "$SYS/monitor/Clients"], ["SYS/monitor", "$SYSTEM/x"]),
        ("$SYS/monitor/+", ["$SYS/monitor/Clients"], ["$SYS/monitor"]),
        ("ACCOUNTS", ["ACCOUNTS"], ["Accounts", "/ACCOUNTS", "ACCOUNTS/"]),
        ("Accounts payable", ["Accounts payable"], []),
    ],
)
def test_the_examples_of_mqtt_5_section_4_7_match_as_written(
    filter: str, matched: list[str], others: list[str]
) -> None:
    assert check_filter(filter) == filter
    for topic in matched + others:
        assert check_topic(topic) == topic
    assert [topic for topic in matched + others if matches(filter, topic)] == matched


@pytest.mark.parametrize(
    "filter", ["sport/tennis#", "sport/tennis/#/ranking", "sport+", "#/a", "a/b+/c", "##", "++", "a/+#"]
)
def test_a_misplaced_wildcard_is_refused(filter: str) -> None:
    with pytest.raises(TopicError, match=r"'#'|mixes"):
        check_filter(filter)


@pytest.mark.parametrize("text", ["", "a\0b", "a/\ud800", "x" * 513, "ä" * 257, "/" * 16])
def test_text_out_of_bounds_is_refused_as_topic_and_as_filter(text: str) -> None:
    with pytest.raises(TopicError):
        check_topic(text)
    with pytest.raises(TopicError):
        check_filter(text)


@pytest.mark.parametrize("text", ["x" * 512, "ä" * 256, "/" * 15, "/", " ", "a//b", "$x", "$SYS/up"])
def test_text_within_bounds_is_taken_as_topic_and_as_filter(text: str) -> None:
    assert check_topic(text) == check_filter(text) == text
    assert matches(text, text)


def test_bounds_come_from_the_limits_given() -> None:
    small = Limits(topic_levels=2, topic_bytes=4, filter_levels=3, filter_bytes=6)
    check_topic("a/b", small)
    check_filter("a/+/#", small)
    for topic in ("a/b/c", "aaaaa"):
        check_topic(topic)
        with pytest.raises(TopicError):
            check_topic(topic, small)
    for filter in ("a/b/c/#", "aaaa/+/#"):
        with pytest.raises(TopicError):
            check_filter(filter, small)


def test_a_topic_without_text_is_refused_with_what_to_do() -> None:
    for value in (None, 3, b"a", ["a"]):
        with pytest.raises(TopicError, match="text"):
            check_topic(value)  # type: ignore[arg-type]
        with pytest.raises(TopicError, match="text"):
            check_filter(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("topic", ["a/+", "#", "a+b", "$share/g/a", "$share"])
def test_nobody_publishes_on_a_wildcard_or_a_share(topic: str) -> None:
    with pytest.raises(TopicError):
        check_topic(topic)


def test_clients_do_not_publish_on_the_topics_of_the_mesh_but_may_subscribe() -> None:
    for topic in ("$mesh", "$mesh/nodes/up"):
        assert is_reserved(topic)
        assert check_topic(topic) == topic
        assert check_filter(topic) == topic
        with pytest.raises(TopicError, match="published by the mesh itself"):
            check_topic(topic, from_client=True)
    assert check_topic("$meshes/a", from_client=True) == "$meshes/a"
    assert check_topic("a/$mesh", from_client=True) == "a/$mesh"
    assert not is_reserved("$meshes/a")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("$share/mail/a/+/b", ("mail", "a/+/b")),
        ("$share/mail/#", ("mail", "#")),
        ("$share/mail//a", ("mail", "/a")),
        ("$share/my group/$SYS/#", ("my group", "$SYS/#")),
        ("a/$share/b", ("", "a/$share/b")),
        ("$shared/g/a", ("", "$shared/g/a")),
    ],
)
def test_a_share_splits_into_group_and_filter(text: str, parts: tuple[str, str]) -> None:
    assert parse_share(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        *(
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g#/a",
            "$share/a\nb/c",
        ),
        *("$share/g/$share/h/a", "$share/g/a/#/b", "$share/" + "g" * 65 + "/a", ""),
    ],
)
def test_a_share_without_a_proper_group_and_filter_is_refused(text: str) -> None:
    with pytest.raises(TopicError):
        parse_share(text)


def test_a_group_name_is_one_printable_level_without_wildcards() -> None:
    assert check_group("mail-1.x_ü") == "mail-1.x_ü"
    for group in ("", "a/b", "+", "a#", "\t", "g" * 65, None):
        with pytest.raises(TopicError, match="group"):
            check_group(group)  # type: ignore[arg-type]


@settings(max_examples=20, derandomize=True, deadline=None)
@given(filters, filters)
def test_covering_and_overlapping_are_what_a_world_of_topics_says(wide: str, narrow: str) -> None:
    of_wide = {topic for topic in WORLD if matches(wide, topic)}
    of_narrow = {topic for topic in WORLD if matches(narrow, topic)}
    assert covers(wide, narrow) == (of_narrow <= of_wide)
    assert covers(narrow, wide) == (of_wide <= of_narrow)
    assert overlaps(wide, narrow) == overlaps(narrow, wide) == bool(of_wide & of_narrow)
    assert (canonical(wide) == canonical(narrow)) == (of_wide == of_narrow)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a/#", "a", True),
        ("a/+/#", "a/#", False),
        ("a/+/#", "a/+", True),
        ("a/+", "a/#", False),
        ("#", "$SYS/#", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/+/x", True),
        ("+/#", "#", True),
        ("#", "+/#", True),
        ("+/+/#", "#", False),
        ("/#", "/", True),
    ],
)
def test_covering_at_the_edges(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


@settings(max_examples=20, derandomize=True, deadline=None)
@given(filters)
def test_a_literal_prefix_is_all_a_filter_demands_before_its_first_wildcard(filter: str) -> None:
    prefix = literal_prefix(filter)
    rest = filter.split("/")[len(prefix) :]
    assert list(prefix) + rest == filter.split("/")
    assert not any(map(has_wildcard, prefix))
    assert not rest or has_wildcard(rest[0])


def test_one_empty_level_is_a_prefix_and_no_level_is_none() -> None:
    assert literal_prefix("/+") == ("",)
    assert literal_prefix("+/a") == ()
    assert literal_prefix("a/b") == ("a", "b")
