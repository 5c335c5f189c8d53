"""What a rule does to an event that it lets cross."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.core.policy.rewriting import CannotCross, Rewriting, in_clear
from federation.core.policy.rule_file import parse
from federation.core.policy.rules import Rule
from federation.core.policy.sealing import KEY_ID
from mesh.model.event import Event
from mesh.model.reasons import PolicyReason
from mesh.wire.cloudevents import to_structured

KEYS = {"k": b"k" * 32}
REQUIRED = ("specversion", "1.0", "id", "1", "source", "urn:s", "type", "t")


def rule(changes: str) -> Rule:
    return parse(f"key k file k.key\nexport to p allow topic a/# {changes}", "p").rules[0]


def event(data: bytes, *more: str, attributes: tuple[str, ...] | None = REQUIRED) -> Event:
    return Event(7, "a/b", "key", 5, None, attributes and (*attributes, *more), data)


def rewriting(keys: dict[str, bytes] = KEYS) -> Rewriting:
    return Rewriting(keys, lambda: b"n" * 12)


def test_without_a_change_it_is_the_very_same_event() -> None:
    whole = event(b"x")
    assert rewriting().of(whole, rule("")) is whole


def test_fields_are_stripped_and_masked() -> None:
    before = event(b'{"c":{"email":"e","email":"f","n":1},"l":[1,2,3]}', "subject", "s", "who", "w")
    found = rewriting().of(
        before,
        rule(
            "strip attribute subject mask attribute who mask data $..email strip data $.l[0,2] strip data $.c.n"
        ),
    )
    attributes, data = in_clear(found)
    assert attributes["who"] == "***"
    assert "subject" not in attributes
    assert json.loads(data) == {"c": {"email": "***"}, "l": [2]}
    assert b'"e"' not in data
    assert found[:4] == (7, "a/b", "key", 5)


def test_the_structured_form_is_treated_alike() -> None:
    text = b'{"specversion":"1.0","id":"1","source":"urn:s","type":"t","topic":"a/b","data":{"email":"secret","n":1}}'
    found = rewriting().of(event(text, attributes=None), rule("mask data $.email rename a -> x/y"))
    assert found.topic == "x/y/b"
    told = json.loads(to_structured(found))
    assert told["data"] == {"email": "***", "n": 1}
    assert told["topic"] == "x/y/b"


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (b"not json", ()),
        (b'{"a":NaN}', ()),
        ('{"a":1}'.encode("utf-16"), ()),
        (b"{}", ("datacontenttype", "text/plain")),
    ],
)
def test_data_that_is_no_json_does_not_cross_a_rule_on_its_fields(data: bytes, more: tuple[str, ...]) -> None:
    with pytest.raises(CannotCross) as caught:
        rewriting().of(event(data, *more), rule("mask data $.a"))
    assert caught.value.reason is PolicyReason.NOT_JSON


@given(st.binary(max_size=300), st.sampled_from([(), ("datacontenttype", "text/plain"), ("subject", "s")]))
def test_what_is_encrypted_decrypts_to_the_same(data: bytes, more: tuple[str, ...]) -> None:
    whole = event(data, *more)
    sealed = rewriting().of(whole, rule("encrypt k"))
    attributes, hidden = in_clear(sealed)
    assert attributes[KEY_ID] == "k"
    assert len(data) < 4 or data not in hidden
    opened = rewriting().of(sealed, rule("decrypt"))
    assert in_clear(opened)[1] == data
    assert dict(in_clear(opened)[0]) == dict(in_clear(whole)[0])


def test_what_cannot_be_decrypted_does_not_cross() -> None:
    sealed = rewriting().of(event(b"data"), rule("encrypt k"))
    changed = sealed._replace(data=sealed.data[:-1] + b"x")
    other = sealed._replace(
        attributes=tuple("2" if part == "1" else part for part in sealed.attributes or ())
    )
    cases = [
        (rewriting(), event(b"data"), PolicyReason.NOT_ENCRYPTED),
        (rewriting({}), sealed, PolicyReason.UNKNOWN_KEY),
        (rewriting({"k": b"z" * 32}), sealed, PolicyReason.BROKEN_SEAL),
        (rewriting(), changed, PolicyReason.BROKEN_SEAL),
        (rewriting(), other, PolicyReason.BROKEN_SEAL),
        (rewriting(), sealed._replace(data=b"short"), PolicyReason.BROKEN_SEAL),
    ]
    for at, (machine, one, reason) in enumerate(cases):
        with pytest.raises(CannotCross) as caught:
            machine.of(one, rule("decrypt"))
        assert caught.value.reason is reason, at


def test_a_broken_cloudevent_does_not_cross_a_rule_that_changes_it() -> None:
    with pytest.raises(CannotCross) as caught:
        rewriting().of(event(b"{", attributes=None), rule("strip attribute subject"))
    assert caught.value.reason is PolicyReason.UNREADABLE
