"""SDK events to the forms of the mesh and back."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent

from mesh.model.event import NewEvent
from mesh.wire import sdk
from mesh.wire.attributes import CloudEventError
from mesh.wire.sdk import from_sdk, to_sdk

CORE = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
PAIRS = ("specversion", "1.0", "id", "1", "source", "/s", "type", "t")
NOON = datetime(2018, 4, 5, 12, tzinfo=UTC)


def event(*attributes: str, data: bytes = b"") -> NewEvent:
    return NewEvent("t", "", 0, (*PAIRS, *attributes), data)


@pytest.mark.parametrize(
    ("content_type", "data", "value"),
    [
        ("application/json", b'{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("application/x+json", b'"text"', "text"),
        ("application/json", b"{broken", b"{broken"),
        ("application/json", b"1e999", b"1e999"),
        ("text/plain", "é".encode(), "é"),
        ("text/plain; charset=iso-8859-1", b"\xe9", "é"),
        ("text/plain", b"\xff", b"\xff"),
        ("image/png", b"plain", b"plain"),
        ("application/json", b"", None),
    ],
)
def test_data_is_the_value_its_type_says_and_comes_back(content_type: str, data: bytes, value: Any) -> None:
    made = to_sdk(event("datacontenttype", content_type, data=data))
    assert made.get_data() == value
    attributes, back = from_sdk(made)
    assert attributes == (*PAIRS, "datacontenttype", content_type)
    assert back == data.replace(b" ", b"")


def test_a_structured_event_becomes_an_sdk_event() -> None:
    raw = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","ext":5,"data":{"a":1}}'
    made = to_sdk(NewEvent("t", "", 0, None, raw))
    assert made.get_attributes() == {**CORE, "ext": "5", "datacontenttype": "application/json"}
    assert made.get_data() == {"a": 1}


def test_no_time_is_made_up() -> None:
    made = to_sdk(event())
    assert made.get_time() is None
    assert made.get_attributes() == CORE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2018-04-05T12:00:00Z", NOON),
        ("2018-04-05t12:00:00z", NOON),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (
            "2018-04-05T12:00:00.5+02:00",
            datetime(2018, 4, 5, 12, 0, 0, 500_000, tzinfo=timezone(timedelta(hours=2))),
        ),
    ],
)
def test_times_are_datetimes_with_a_zone(text: str, value: datetime) -> None:
    assert to_sdk(event("time", text)).get_time() == value


def test_a_time_no_datetime_can_hold_is_refused() -> None:
    with pytest.raises(CloudEventError, match="years 1 to 9999"):
        to_sdk(event("time", "0000-01-01T00:00:00Z"))


def test_attributes_become_canonical_strings() -> None:
    made = CloudEvent({**CORE, "time": NOON, "flag": True, "n": -5, "bin": b"\x00\xff", "none": None}, b"x")
    attributes, data = from_sdk(made)
    assert attributes == (*PAIRS, "time", "2018-04-05T12:00:00Z", "flag", "true", "n", "-5", "bin", "AP8=")
    assert data == b"x"


@pytest.mark.parametrize("value", [1.5, {}, 2**31, "a\nb"])
def test_attributes_that_no_event_can_have_are_refused(value: object) -> None:
    with pytest.raises(CloudEventError, match="'ext'"):
        from_sdk(CloudEvent({**CORE, "time": NOON, "ext": value}))


@pytest.mark.parametrize(
    ("given", "content_type", "data"),
    [
        ("text", None, b'"text"'),
        ({"a": 1}, None, b'{"a":1}'),
        ("{}", "application/json", b'"{}"'),
        ("é", "text/plain", "é".encode()),
        ({"a": 1}, "text/plain", b'{"a":1}'),
    ],
)
def test_values_are_written_as_their_type_says(given: Any, content_type: str | None, data: bytes) -> None:
    typed = {} if content_type is None else {"datacontenttype": content_type}
    attributes, written = from_sdk(CloudEvent({**CORE, "time": NOON, **typed}, given))
    assert written == data
    assert attributes[-1] == (content_type or "application/json")


def test_a_value_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(CloudEventError, match="written as JSON"):
        from_sdk(CloudEvent({**CORE, "time": NOON}, {"a": object()}))


def test_the_sdk_is_imported_only_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudevents", None)
    for name in [name for name in sys.modules if name.startswith("cloudevents.")]:
        monkeypatch.delitem(sys.modules, name)
    assert sdk.__spec__ is not None
    assert sdk.__spec__.loader is not None
    without = importlib.util.module_from_spec(sdk.__spec__)
    sdk.__spec__.loader.exec_module(without)
    with pytest.raises(ImportError):
        without.to_sdk(event())
