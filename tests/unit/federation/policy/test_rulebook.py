"""What the rules of a link say of events and of interest, against a naive reading of the same lines."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from federation.core.policy.rule_file import RuleError, parse
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction, Rule
from mesh.model.event import Event
from mesh.model.reasons import PolicyReason
from mesh.model.topic import covers, matches

TOPICS = ["/".join(levels) for depth in (1, 2, 3) for levels in product(("a", "b", "x"), repeat=depth)]
FILTERS = ["#", "+", "a", "a/#", "a/+", "a/b/#", "b/#", "+/b", "x/#", "x/+/#", "+/+", "x"]
ATTRIBUTES = ("specversion", "1.0", "id", "1", "source", "urn:s", "type", "com.acme.order", "class", "open")


def event(topic: str, data: bytes = b"12345", attributes: tuple[str, ...] | None = ATTRIBUTES) -> Event:
    return Event(1, topic, "", 0, None, attributes, data)


def book(text: str, *, open: bool = False, region: str = "p", role: str = "transit") -> Rulebook:
    return Rulebook(parse(text, "p.rules").rules, Direction.EXPORT, region, role, open=open)


def after(rule: Rule | None, topic: str) -> str:
    if rule is None or rule.rename is None:
        return topic
    return rule.rename.new + topic[len(rule.rename.old) :]


rule_lines = st.builds(
    lambda allow, topic, rename, condition: " ".join(
        ["export to p", "allow" if allow else "deny", "topic", topic, condition]
        + (
            [f"rename {topic[0]} -> {rename}"]
            if allow and rename and topic[0] in "ab" and topic[:2] in ("a", "a/", "b/")
            else []
        )
    ),
    st.booleans(),
    st.sampled_from(FILTERS),
    st.sampled_from(["", "x", "x/y", "b"]),
    st.sampled_from(["", "", "", "destination r", "size > 10", "origin o"]),
)


@given(
    st.lists(rule_lines, max_size=6), st.booleans(), st.sampled_from(["o", "q"]), st.sampled_from(["r", "s"])
)
def test_interest_never_hides_what_may_cross_and_no_two_topics_become_one(
    lines: list[str], open: bool, origin: str, destination: str
) -> None:
    try:
        rules = book("\n".join(lines), open=open)
    except RuleError:
        return
    seen: dict[str, str] = {}
    for topic in TOPICS:
        for data in (b"12345", b"1" * 11):
            decision = rules.decide(event(topic, data), origin, destination, 0.0)
            if not decision.allowed:
                continue
            name = after(decision.rule, topic)
            assert seen.setdefault(name, topic) == topic
            for filter in FILTERS:
                if matches(filter, name):
                    assert any(matches(before, topic) for before in rules.before(filter, destination)), (
                        filter,
                        topic,
                    )


@given(st.lists(rule_lines, max_size=6), st.booleans(), st.sampled_from(FILTERS))
def test_nothing_that_one_rule_denies_whole_is_named(lines: list[str], open: bool, filter: str) -> None:
    try:
        rules = book("\n".join(lines), open=open)
    except RuleError:
        return
    for before in rules.before(filter, "s"):
        for rule in rules.rules:
            if rule.allow and covers(rule.topic, before):
                break
            if not rule.allow and rule.by_topic_alone:
                assert not covers(rule.topic, before)


@given(st.lists(rule_lines, max_size=6), st.sampled_from(TOPICS), st.integers(0, 20))
def test_the_first_rule_that_matches_decides(lines: list[str], topic: str, size: int) -> None:
    try:
        rules = book("\n".join(lines))
    except RuleError:
        return
    found = rules.decide(event(topic, b"1" * size), "o", "s", 0.0)
    for rule in rules.rules:
        naive = (
            matches(rule.topic, topic)
            and (rule.destination is None or rule.destination.text == "s")
            and (rule.larger_than is None or size > rule.larger_than)
        )
        if naive:
            assert found == (rule.allow, PolicyReason.RULE, rule)
            return
    assert found == (False, PolicyReason.DEFAULT_DENY, None)


def test_conditions_on_the_event() -> None:
    rules = book(
        "export to p deny label class=secret*\nexport to p allow topic # type com.acme.* source urn:* size <= 5"
    )
    assert rules.decide(event("a"), "o", "r", 0.0).allowed
    assert not rules.decide(event("a", b"123456"), "o", "r", 0.0).allowed
    secret = (*ATTRIBUTES[:-1], "secret-1")
    found = rules.decide(event("a", attributes=secret), "o", "r", 0.0)
    assert (found.allowed, found.where) == (False, "p.rules:1")
    structured = event("a", b'{"specversion":"1.0","id":"1","source":"urn:s","type":"org.x"}', None)
    assert rules.decide(structured, "o", "r", 0.0).reason is PolicyReason.DEFAULT_DENY
    assert rules.decide(event("a", b"{", None), "o", "r", 0.0).reason is PolicyReason.UNREADABLE


def test_a_rate_is_a_bucket_of_a_second() -> None:
    rules = book("export to p allow topic # rate 2/s")
    assert [rules.decide(event("a"), "o", "r", 10.0).allowed for _ in range(3)] == [True, True, False]
    assert [rules.decide(event("a"), "o", "r", 10.5).allowed for _ in range(2)] == [True, False]


def test_the_meshs_own_topics_never_cross() -> None:
    rules = book("export to p allow topic #", open=True)
    assert rules.decide(event("$mesh/dlq/x"), "o", "r", 0.0).reason is PolicyReason.RESERVED_TOPIC
    assert rules.before("$mesh/#", "r") == ()


def test_narrowing() -> None:
    rules = book("export to p allow topic orders/#\nexport to p allow topic t/# rename t -> acme/t")
    assert rules.before("#", "r") == ("orders/#", "t/#")
    assert rules.before("acme/+/x", "r") == ("t/x",)
    assert rules.before("hr/#", "r") == ()
    assert book("export to p deny topic hr/#", open=True).before("#", "r") == ("#",)
    assert book("export to p deny topic hr/#", open=True).before("hr/pay", "r") == ()


def test_who_the_rules_are_for() -> None:
    text = "export to q deny topic #\nexport to role:dmz allow topic a\nexport to p allow topic b\nexport to * allow topic c"
    assert [rule.line for rule in book(text, role="dmz").rules] == [2, 3, 4]
    assert [rule.line for rule in book(text).rules] == [3, 4]
    assert book("", open=True).passes_all
    assert not book("").passes_all


def test_regions_follow_from_the_rules() -> None:
    rules = book("export to p allow topic # destination r1\nexport to p deny topic #")
    assert rules.lets_in(destination="r1").allowed
    assert not rules.lets_in(destination="r2").allowed
    assert not book("").lets_in(destination="r1").allowed
    assert book("export to p allow topic a origin o").lets_in(origin="o", destination="r").allowed
    assert not book("export to p allow topic a origin o").lets_in(origin="z").allowed


def test_hits_are_counted_by_rule() -> None:
    rules = book("export to p allow topic a\nexport to p deny topic b")
    for topic in ("a", "a", "b", "x"):
        rules.count(rules.decide(event(topic), "o", "r", 0.0))
    assert [(hit.allowed, hit.denied) for hit in rules.hits()] == [(2, 0), (0, 1)]
    assert rules.by_default == (0, 1)


@given(st.lists(rule_lines, max_size=6), st.booleans())
def test_what_is_said_of_a_whole_topic_is_said_of_each_of_its_events(lines: list[str], open: bool) -> None:
    try:
        rules = book("\n".join(lines), open=open)
    except RuleError:
        return
    for topic in TOPICS:
        whole = rules.whole(topic)
        for data, origin, destination in ((b"", "o", "r"), (b"1" * 11, "q", "s")):
            assert whole in (None, rules.decide(event(topic, data), origin, destination, 0.0))
