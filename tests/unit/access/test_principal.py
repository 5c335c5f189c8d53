from __future__ import annotations

import pytest

from mesh.access.principal import Kind, Principal, Who, filled, widened

ANN = Principal("ann", Kind.JWT, frozenset({"ops"}), (("tenant", ("acme",)), ("team", ("a", "b"))))


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("*", True),
        ("ann", True),
        ("bob", False),
        ("jwt:ann", True),
        ("token:ann", False),
        ("certificate:ann", False),
        ("role:ops", True),
        ("role:ann", False),
        ("claim:tenant=acme", True),
        ("claim:team=b", True),
        ("claim:tenant=else", False),
        ("claim:other=acme", False),
    ],
)
def test_a_selector_means_those_it_names(text: str, means: bool) -> None:
    assert Who.parse(text).means(ANN) is means


@pytest.mark.parametrize("text", ["role:", "claim:tenant", "claim:=x", "a/b", "{name}", "#", "a=b"])
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Who.parse(text)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("a/#", "a/#"),
        ("tenants/{tenant}/#", "tenants/acme/#"),
        ("t-{tenant}/{name}", "t-acme/ann"),
        ("{team}/#", None),  # two values: which one is meant?
        ("{none}/#", None),
    ],
)
def test_placeholders_are_filled_from_claims(template: str, found: str | None) -> None:
    assert filled(template, ANN) == found


@pytest.mark.parametrize("value", ["a/b", "+", "#", "", "a+", "a\nb", "x" * 200])
def test_a_claim_cannot_widen_a_rule(value: str) -> None:
    assert filled("t/{name}/#", Principal(value, Kind.JWT)) is None


def test_a_name_cannot_lead_into_the_meshs_own_topics() -> None:
    assert filled("{name}/audit", Principal("$mesh", Kind.JWT)) is None


def test_what_a_template_may_become() -> None:
    assert widened("a/x-{tenant}/{name}/#") == "a/+/+/#"
