from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.access.principal import Kind, Principal, Scope
from mesh.access.rights import REMEMBERED, Rights
from mesh.access.rule_file import Right, read_rules
from mesh.model.topic import covers, matches

ANN = Principal("ann", Kind.TOKEN, frozenset({"ops"}), (("tenant", ("acme",)),))


def rights(text: str, principal: Principal = ANN) -> Rights:
    return Rights(read_rules(text, "mesh.acl"), principal)


def test_the_first_rule_that_matches_decides_and_nothing_is_allowed_by_default() -> None:
    found = rights("deny * * hr/#\nallow ann publish #\ndeny ann publish orders/#\n")
    assert found.may(Right.PUBLISH, "orders/1")
    assert not found.may(Right.PUBLISH, "hr/1")
    assert not found.may(Right.SUBSCRIBE, "orders/1")
    assert found.cause(Right.PUBLISH, "hr/1").told == 'rule "deny * * hr/#" (mesh.acl:1)'
    assert found.cause(Right.SUBSCRIBE, "x").told == "no rule of mesh.acl allows it"


def test_wildcards_do_not_reach_the_meshs_own_topics() -> None:
    assert not rights("allow * * #\n").may(Right.SUBSCRIBE, "$mesh/audit")
    assert rights("allow * * $mesh/audit\n").may(Right.SUBSCRIBE, "$mesh/audit")
    assert rights("allow * * #\n").part(Right.SUBSCRIBE, "$mesh/#").filters == ()


def test_a_deny_whose_placeholder_cannot_be_filled_denies_more_and_an_allow_nothing() -> None:
    text = "deny * * {tenant}/secret\nallow * * {tenant}/#\nallow * * +/+\n"
    assert not rights(text).may(Right.PUBLISH, "acme/secret")
    assert rights(text).may(Right.PUBLISH, "other/secret")
    stranger = rights(text, Principal("bob", Kind.TOKEN))
    assert not stranger.may(Right.PUBLISH, "other/secret")
    assert not stranger.may(Right.PUBLISH, "acme/a/b")


def test_parts_of_a_filter() -> None:
    found = rights(
        "deny * * orders/+/secret\nallow * * orders/#\nallow * * tenants/{tenant}/#\nallow * * a/b\n"
    )
    part = found.part(Right.SUBSCRIBE, "#")
    assert (set(part.filters), part.whole) == ({"orders/#", "tenants/acme/#", "a/b"}, False)
    assert found.part(Right.SUBSCRIBE, "orders/1/secret").filters == ()
    assert found.part(Right.SUBSCRIBE, "orders/1/secret").cause.rule is not None
    part = found.part(Right.SUBSCRIBE, "orders/+")
    assert (part.filters, part.whole) == (("orders/+",), True)
    part = found.part(Right.SUBSCRIBE, "orders/#")
    assert (part.filters, part.whole) == (("orders/#",), False)  # a deny lies in it


def test_scopes_and_limits() -> None:
    text = "scope ann read\nscope role:ops publish\nlimit ann events=5/s\nlimit * events=9/s bytes=1KiB/s connections=2\n"
    found = rights(text)
    assert found.scopes == {Scope.READ, Scope.PUBLISH}
    assert found.allowance == (5.0, 1024.0, 2, None)
    assert rights("scope ann admin\n").scopes == set(Scope)
    assert rights("scope bob admin\n").scopes == frozenset()


def test_what_is_remembered_is_bounded() -> None:
    found = rights("allow * * a/#\n")
    for number in range(REMEMBERED + 10):
        assert found.may(Right.PUBLISH, f"a/{number}")
    assert len(found.known(Right.PUBLISH)) <= REMEMBERED


FILTERS = st.sampled_from(["#", "a/#", "a/+", "a/b", "+/b", "b/#", "+", "a/b/#", "+/#", "$x/#", "$x/a"])
TOPICS = st.sampled_from(["a", "b", "a/b", "a/c", "b/b", "a/b/c", "c", "$x/a", "$x", "a/b/c/d"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    lines = draw(
        st.lists(
            st.tuples(st.sampled_from(["allow", "deny"]), st.sampled_from(["*", "ann", "bob"]), FILTERS),
            max_size=6,
        )
    )
    return "".join(f"{word} {who} subscribe {filter}\n" for word, who, filter in lines)


@settings(max_examples=300)
@given(texts(), FILTERS, TOPICS)
def test_what_may_be_seen_is_what_a_naive_reader_of_the_file_says(text: str, wanted: str, topic: str) -> None:
    found = rights(text)
    naive = False
    for line in text.splitlines():
        word, who, _, filter = line.split()
        if who in ("*", "ann") and matches(filter, topic):
            naive = word == "allow"
            break
    assert found.may(Right.SUBSCRIBE, topic) == naive
    part = found.part(Right.SUBSCRIBE, wanted)
    subscribed = any(matches(piece, topic) for piece in part.filters)
    if naive and matches(wanted, topic):
        assert subscribed  # nothing that may be seen is left out
    if subscribed:
        assert matches(wanted, topic)  # nothing is asked for that was not wanted
    if part.whole and matches(wanted, topic):
        assert naive
    assert all(covers(wanted, piece) for piece in part.filters)
