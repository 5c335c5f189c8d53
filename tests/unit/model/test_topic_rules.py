"""A topic follows the first rule that matches it."""

from __future__ import annotations

import pytest

from mesh.model.topic_rules import DEFAULT, KNOWN, Level, SpoolPolicy, TopicRule, TopicRules

RULES = TopicRules(
    [
        TopicRule("orders/tmp/#"),
        TopicRule("orders/#", retain_s=60.0),
        TopicRule("+/audit", retain_s=600.0),
        TopicRule("#"),
    ]
)


@pytest.mark.parametrize(
    ("topic", "filter"),
    [
        ("orders/tmp/x", "orders/tmp/#"),
        ("orders/eu", "orders/#"),
        ("orders/audit", "orders/#"),
        ("shop/audit", "+/audit"),
        ("other", "#"),
    ],
)
def test_the_first_rule_that_matches(topic: str, filter: str) -> None:
    for _ in range(2):
        assert RULES.of(topic).filter == filter


def test_a_topic_without_a_rule_follows_the_default_which_promises_nothing() -> None:
    assert RULES.of("$mesh/x") is DEFAULT
    assert TopicRules([]).of("a") is DEFAULT
    assert (DEFAULT.level, DEFAULT.ordered, DEFAULT.retain_s) == (Level.AT_MOST_ONCE, False, 0.0)
    assert (DEFAULT.deadline_s, DEFAULT.spool_bytes, DEFAULT.spool_policy) == (0.0, 0, SpoolPolicy.BLOCK)


def test_a_rule_is_found_by_its_filter_and_one_that_is_gone_is_the_default() -> None:
    assert RULES.named("+/audit") is RULES.rules[2]
    assert RULES.named("orders/eu") is DEFAULT, "a filter is no topic: it is not matched"


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("orders/#", True),
        ("orders/eu", True),
        ("orders/tmp/x", True),
        ("#", False),
        ("shop/+", False),
        ("x/audit", True),
    ],
)
def test_a_filter_is_retained_when_one_rule_with_retain_covers_it(filter: str, expected: bool) -> None:
    assert RULES.retains(filter) is expected
    assert [rule.filter for rule in RULES.retained] == ["orders/#", "+/audit"]


def test_what_is_remembered_is_bounded_and_right_all_the_same() -> None:
    rules = TopicRules(RULES.rules)
    for number in range(KNOWN + 10):
        assert rules.of(f"t/{number}") is RULES.rules[3]
        assert rules.remembered <= KNOWN
    assert rules.of("orders/eu") is RULES.rules[1]
