"""Events as users of the client hold them."""

from __future__ import annotations

import json

import pytest
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.client_events import Delivery, PlainEvent, Structured, plain_event, read_event, structured_json

ATTRIBUTES = {"id": "1", "source": "/", "type": "t"}


def test_plain_data_is_wrapped_with_an_identity_of_its_own() -> None:
    first, second = (json.loads(structured_json("ü", "mesh://client/x")) for _ in range(2))
    assert first.pop("id") != second.pop("id")
    assert first == {
        "specversion": "1.0",
        "source": "mesh://client/x",
        "type": "mesh.raw",
        "datacontenttype": "text/plain; charset=utf-8",
        "data": "ü",
    }


def test_structured_json_is_not_touched() -> None:
    raw = Structured(b'{ "anything":\n1 }')
    assert structured_json(raw, "") == raw


@given(st.binary(max_size=50))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_bytes_come_back_as_they_were(data: bytes) -> None:
    for event in (data, bytearray(data), memoryview(data), PlainEvent(ATTRIBUTES, data)):
        assert plain_event(structured_json(event, "/")).data == data


@pytest.mark.parametrize("data", [{"a": [1, None, 2.5]}, "text", b"\x00\xff", None])
def test_an_event_of_the_sdk_means_the_same_when_it_comes_back(data: object) -> None:
    kind = {} if data is None or isinstance(data, dict) else {"datacontenttype": "text/plain"}
    event = CloudEvent({**ATTRIBUTES, **kind}, data)
    back = read_event(structured_json(event, ""))
    assert isinstance(back, CloudEvent)
    assert (back.get_attributes(), back.get_data()) == (event.get_attributes(), event.get_data())


def test_what_is_no_event_is_refused() -> None:
    for thing in (7, None, ["a"], object()):
        with pytest.raises(TypeError, match="is no event"):
            structured_json(thing, "")


def test_a_delivery_gives_its_event_in_both_kinds_and_its_bytes() -> None:
    raw = b'{"specversion":"1.0","id":"1","source":"/","type":"t","verylongextensionnameover20":1,"data":{"a":1}}'
    delivery = Delivery("t", raw)
    assert delivery.raw is raw
    assert delivery.data == {"a": 1}
    assert delivery.plain.get_attributes()["verylongextensionnameover20"] == 1
    assert delivery.event.get_extension("verylongextensionnameover20") == 1
    assert delivery.event is delivery.event
