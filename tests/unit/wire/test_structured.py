"""CloudEvents in JSON: what is one, alone and in batches, and which attribute is to blame where it is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.wire import structured
from mesh.wire.cloudevents import from_binary, from_http, to_binary, to_http_headers
from mesh.wire.structured import CloudEventError, Fault, Parsed

few = settings(
    derandomize=True, deadline=None, max_examples=20, database=None, suppress_health_check=list(HealthCheck)
)
OBJECT = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "source": "/mycontext",
    "id": "A234-1234-1234",
}


def refusal(raw: bytes | dict[str, Any]) -> CloudEventError:
    with pytest.raises(CloudEventError) as caught:
        structured.inspect_structured(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    return caught.value


# -- structured mode ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra", [{}, {"comexampleothervalue": 5}, {"subject": None}, {"time": "2016-12-31T23:59:60Z"}]
)
def test_a_structured_event_is_looked_at_and_kept(extra: dict[str, Any]) -> None:
    raw = json.dumps(
        {**OBJECT, "topic": "a/b", "partitionkey": "k", "traceparent": "00-1-2-01", "data": [1], **extra}
    ).encode()
    event = structured.inspect_structured(raw)
    assert event == Parsed(
        "A234-1234-1234", "/mycontext", "com.example.someevent", "a/b", "k", "00-1-2-01", None, raw
    )
    assert event.data is raw


@pytest.mark.parametrize("missing", OBJECT)
@pytest.mark.parametrize("extra", [{}, {"ext": 1}])
def test_a_required_attribute_that_is_absent_or_null_is_named(missing: str, extra: dict[str, Any]) -> None:
    for event in ({k: v for k, v in OBJECT.items() if k != missing}, {**OBJECT, missing: None}):
        error = refusal({**event, **extra})
        assert (error.fault, error.attribute) == (Fault.MISSING, missing)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 5), ("id", ""), ("source", ["/x"]), ("type", True), ("specversion", "0.3"), ("specversion", 1), ("subject", ""),
        ("subject", 5), ("time", "noon"), ("time", 5), ("dataschema", ""), ("datacontenttype", "é/x"), ("Ext", "1"),
        ("my_ext", "1"), ("ext", {"a": 1}), ("ext", [1]), ("ext", 1.5), ("ext", 2**31), ("ext", "\x00"), ("id", "a\nb"),
        ("subject", "\ufdd0"), ("topic", "\x7f"), ("data_base64", "???"), ("data_base64", 5), ("data_base64", "AA=A"),
    ],
)  # fmt: skip
def test_what_no_attribute_can_be_is_refused_by_name(name: str, value: Any) -> None:
    for ascii_only in (True, False):
        error = refusal(json.dumps({**OBJECT, name: value}, ensure_ascii=ascii_only).encode())
        assert (error.fault, error.attribute) == (Fault.ATTRIBUTE, name)


@pytest.mark.parametrize("data", [1, None, "text"])
@pytest.mark.parametrize("extra", [{}, {"ext": 1}])
def test_data_and_data_base64_exclude_each_other(data: Any, extra: dict[str, Any]) -> None:
    error = refusal({**OBJECT, **extra, "data": data, "data_base64": "AA=="})
    assert (error.fault, error.attribute) == (Fault.ATTRIBUTE, "data_base64")
    structured.inspect_structured(json.dumps({**OBJECT, **extra, "data": data, "data_base64": None}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xef\xbb\xbf{}", b'{"id":"\xff"}', b'{"data":"\xff"}', b"{} {}", b'{"id":1,}',
        b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"data":NaN}', b'{"id":"\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_json_object_in_utf8_is_malformed(raw: bytes) -> None:
    assert refusal(raw).fault is Fault.MALFORMED


@few
@given(st.binary(max_size=60), st.integers(0, 10**6))
def test_garbage_and_damaged_events_are_parsed_or_refused(garbage: bytes, place: int) -> None:
    whole = json.dumps({**OBJECT, "ext": 1, "data": {"a": "é"}}).encode()
    at = place % len(whole)
    for raw in (garbage, whole[:at], whole[:at] + garbage + whole[at + 1 :]):
        try:
            parsed = structured.inspect_structured(raw)
        except CloudEventError:
            continue
        attributes, data = to_binary(parsed)
        assert from_binary(to_http_headers(attributes), data) is not None


# -- batches -----------------------------------------------------------------------------------------------------


def test_each_event_of_a_batch_keeps_its_own_bytes() -> None:
    first, second = (
        b'{ "specversion" : "1.0", "type":"t","source":"s","id":"1" ,"data" : [ 1 ] }',
        json.dumps(OBJECT).encode(),
    )
    events = structured.from_batch(b" [ %b ,\n%b ] " % (first, second), 2)
    assert [event.data for event in events] == [first, second]
    assert [event.id for event in events] == ["1", "A234-1234-1234"]
    assert structured.from_batch(b"[]", 0) == []


@pytest.mark.parametrize(
    ("junk", "fault"),
    [
        (b"[" + b"1," * 300_000 + b"1]", Fault.MALFORMED),
        (b"[" + b"{}," * 300_000 + b"{}]", Fault.MALFORMED),
        (b"[" + b'{"specversion":1,"id":1,"source":1,"type":1},' * 9_000 + b"1]", Fault.MALFORMED),
        (
            b"[" + b",".join([b'{"specversion":"1.0","id":"1","source":"/","type":"t"}'] * 6_000) + b"]",
            Fault.TOO_MANY,
        ),
    ],
)
def test_a_long_batch_of_little_things_is_refused_before_it_is_cut_up(
    monkeypatch: pytest.MonkeyPatch, junk: bytes, fault: Fault
) -> None:
    monkeypatch.setattr(structured, "_raws", None)
    with pytest.raises(CloudEventError) as refused:
        structured.from_batch(junk, 1_000)
    assert refused.value.fault is fault
    assert structured.common_batch(junk, 1_000) is None


def test_an_event_is_measured_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    event = json.dumps({**OBJECT, **{f"a{n}": "x" for n in range(300)}}).encode()
    with pytest.raises(CloudEventError, match="attributes, at most 256"):
        structured.inspect_structured(event)
    monkeypatch.setattr(structured, "inspect_structured", None)
    with pytest.raises(CloudEventError, match="are allowed") as refused:
        structured.from_batch(b"[%b]" % event, 10, 1_000)
    assert (refused.value.fault, refused.value.index) == (Fault.TOO_MANY, 0)
    with pytest.raises(CloudEventError, match="are allowed"):
        from_http([(b"content-type", b"application/cloudevents+json")], event, 10, 1_000)


def test_a_bad_event_of_a_batch_is_named_by_its_place() -> None:
    batch = [OBJECT, OBJECT, {**OBJECT, "id": ""}]
    with pytest.raises(CloudEventError, match="event 2 of the batch: attribute 'id' is empty") as caught:
        structured.from_batch(json.dumps(batch).encode(), 10)
    assert (caught.value.index, caught.value.attribute) == (2, "id")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[", b"[1,]", b"[" * 100_000])
def test_a_batch_is_a_json_array(raw: bytes) -> None:
    with pytest.raises(CloudEventError) as caught:
        structured.from_batch(raw, 10)
    assert (caught.value.fault, caught.value.index) == (Fault.MALFORMED, None)


def test_a_batch_has_a_bound() -> None:
    with pytest.raises(CloudEventError, match="at most 2") as caught:
        structured.from_batch(json.dumps([OBJECT] * 3).encode(), 2)
    assert caught.value.fault is Fault.TOO_MANY


@pytest.mark.parametrize(
    "member", [{"data_base64": "AA=="}, {"ext": 1}, {"id": ""}, {"topic": "a\\b"}, {"subject": "é"}]
)
def test_a_batch_with_anything_out_of_the_ordinary_goes_the_careful_way(member: dict[str, Any]) -> None:
    plain = [{**OBJECT, "topic": "a"}, {**OBJECT, "topic": "b", "data": {"x": [1]}}]
    found = structured.common_batch(json.dumps(plain).encode(), 9)
    assert found is not None
    assert [event.topic for event in found[0]] == ["a", "b"]
    assert [json.loads(piece) for piece in found[1]] == plain
    odd = json.dumps([*plain, {**OBJECT, **member}], ensure_ascii=False).encode()
    assert structured.common_batch(odd, 9) is None


@pytest.mark.parametrize(
    ("data", "sound"),
    [
        (b"{}", True), (b' [1, "a"] ', True), ('"é"'.encode(), True), (b"0", True),
        (b"", False), (b"1,2", False), (b"]", False), (b"[1", False), (b'"\xff"', False), (b"{}\n{}", False), (b"[" * 100_000, False),
    ],
)  # fmt: skip
def test_many_are_json_when_each_of_them_is(data: bytes, sound: bool) -> None:
    assert structured.is_json(data) is sound
    assert structured.are_json([b"1", data, b"2"]) is sound
    assert not structured.are_json([b"1", data, b"[1"])
    assert structured.are_json([])
