"""What a line of a policy file may be, and what the error of one says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.policy.rule_file import RuleError, parse
from federation.core.policy.rules import Direction, Field, Glob, Label, Rename

GOOD = """
# what the DMZ may have
key k1 file secrets/k1.key

export to dmz allow topic orders/# type com.acme.* source "urn:a b" strip attribute subject mask data $.customer.email
import from role:dmz deny topic hr/# size > 64KiB rate 30/m label class=personal* origin eu-* destination us
export to * allow topic a/# rename a -> acme/a encrypt k1
"""


def test_every_part_of_a_rule() -> None:
    found = parse(GOOD, "policy.rules")
    first, second, third = found.rules
    assert found.keys["k1"].path == "secrets/k1.key"
    assert (first.direction, first.peer, first.allow, first.topic) == (
        Direction.EXPORT,
        "dmz",
        True,
        "orders/#",
    )
    assert first.type == Glob("com.acme.*")
    assert first.source == Glob("urn:a b")
    assert first.fields == (Field("attribute", "subject", False), Field("data", "$.customer.email", True))
    assert first.where == "policy.rules:5"
    assert first.text.startswith("export to dmz allow")
    assert (second.direction, second.peer, second.allow) == (Direction.IMPORT, "role:dmz", False)
    assert (second.larger_than, second.at_most, second.rate_per_s) == (65_536, None, 0.5)
    assert second.labels == (Label("class", Glob("personal*")),)
    assert third.rename == Rename("a", "acme/a")
    assert third.encrypt == "k1"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("allow to dmz", "export or import or key"),
        ("export from dmz allow", "'from' where to must stand"),
        ("export to dmz", "ends where allow or deny"),
        ("export to dmz permit", "'permit'"),
        ("export to dm/z allow", "region name"),
        ("export to role:boss allow", "roles are"),
        ("export to dmz allow topic a/#/b", "'#' takes all that follows"),
        ("export to dmz allow topic $mesh/#", "mesh's own topics"),
        ("export to dmz allow topic a topic b", "twice"),
        ("export to dmz allow colour red", "'colour' is neither"),
        ("export to dmz deny strip attribute subject", "denies"),
        ("export to dmz allow strip attribute id", "cannot be stripped"),
        ("export to dmz allow mask attribute time", "cannot be masked"),
        ("export to dmz allow mask data customer", "no JSON path"),
        ("export to dmz allow mask data $[", "no JSON path"),
        ("export to dmz allow size < 5", "'<' where"),
        ("export to dmz allow size <= much", "64KiB"),
        ("export to dmz allow rate fast", "100/s"),
        ("export to dmz allow label class", "NAME=VALUE"),
        ("export to dmz allow encrypt k9", "key k9"),
        ("export to dmz allow topic a/# rename b -> c", "also matches other topics"),
        ("export to dmz allow topic a/# rename a c", "'c' where -> must stand"),
        ("export to dmz allow topic a/# rename a -> c/+", "without wildcards"),
        ('export to dmz allow source "open', "quotes"),
        ("key k1 path x", "'path' where file"),
        ("key k1 file", "ends where"),
    ],
)
def test_what_is_no_rule_is_told_with_its_line(line: str, says: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse(f"# one\n\n{line}\n", "p.rules")
    assert str(caught.value).startswith("p.rules:3: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        "import from p allow topic in/# rename in -> p/in\nimport from p allow topic #",
        "import from p allow topic a/# rename a -> x\nimport from q allow topic b/#\nimport from * allow topic b/# rename b -> x",
        "export to role:dmz allow topic a/# rename a -> x\nexport to p allow topic x/1",
    ],
)
def test_renames_that_make_one_topic_of_two_are_refused(lines: str) -> None:
    with pytest.raises(RuleError, match="can become the same topic"):
        parse(lines, "p.rules")


@pytest.mark.parametrize(
    "lines",
    [
        "import from p allow topic in/# rename in -> p/in\nimport from p deny topic p/in/#\nimport from p allow topic #",
        "import from p allow topic a/# rename a -> x\nimport from q allow topic b/# rename b -> x",
        "export to p allow topic a/# rename a -> x\nimport from p allow topic x/#",
        "export to p allow topic a/1 rename a -> x\nexport to p allow topic a/# rename a -> x",
    ],
)
def test_renames_that_keep_topics_apart_are_taken(lines: str) -> None:
    assert parse(lines, "p.rules").rules


@given(st.text(max_size=200))
def test_whatever_the_text_the_outcome_is_rules_or_an_error_with_its_place(text: str) -> None:
    try:
        parse(text, "p")
    except RuleError as error:
        found = error
    else:
        return
    assert str(found).startswith("p:")
    assert found.line >= 1


words = st.sampled_from(
    [
        "export",
        "import",
        "to",
        "from",
        "key",
        "dmz",
        "*",
        "role:dmz",
        "allow",
        "deny",
        "topic",
        "a/#",
        "#",
        "+",
        "a/b",
        "type",
        "com.*",
        "size",
        "<=",
        ">",
        "5",
        "rate",
        "1/s",
        "label",
        "x=y",
        "strip",
        "mask",
        "attribute",
        "data",
        "$.a",
        "subject",
        "rename",
        "->",
        "a",
        "b",
        "encrypt",
        "decrypt",
        "k",
        "file",
    ]
)


@given(st.lists(st.lists(words, max_size=14), max_size=4))
def test_lines_of_the_grammars_own_words(lines: list[list[str]]) -> None:
    text = "\n".join(map(" ".join, lines))
    try:
        found = parse(text, "p")
    except RuleError:
        return
    assert [rule.text for rule in parse(text, "p").rules] == [rule.text for rule in found.rules]
