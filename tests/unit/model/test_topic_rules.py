"""A topic follows the first rule that matches it."""

from __future__ import annotations

import pytest

from mesh.model.topic_rules import REMEMBERED, TopicRule, TopicRules

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
        rule = RULES.of(topic)
        assert rule is not None
        assert rule.filter == filter


def test_no_rule() -> None:
    assert RULES.of("$mesh/x") is None
    assert TopicRules([]).of("a") is None


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
    for number in range(REMEMBERED + 10):
        assert RULES.of(f"t/{number}") is RULES.rules[3]
    assert RULES.of("orders/eu") is RULES.rules[1]
