"""CloudEvents in and out: tables from the specification, round trips, and the official SDK as a second opinion."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.model.event import Event, NewEvent
from mesh.wire import cloudevents as ce
from mesh.wire import structured as judged
from mesh.wire.cloudevents import CloudEventError, Fault, Mode, Parsed

few = settings(
    derandomize=True, deadline=None, max_examples=20, database=None, suppress_health_check=list(HealthCheck)
)
CORE = ("specversion", "1.0", "type", "com.example.someevent", "source", "/mycontext", "id", "A234-1234-1234")
HEADERS = [
    (b"host", b"127.0.0.1:7222"),
    (b"ce-specversion", b"1.0"),
    (b"ce-type", b"com.example.someevent"),
    (b"ce-source", b"/mycontext"),
    (b"ce-id", b"A234-1234-1234"),
]
OBJECT = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "source": "/mycontext",
    "id": "A234-1234-1234",
}


def binary(*attributes: str, data: bytes = b"") -> Event:
    return Event(1, "t", "", 0, None, (*CORE, *attributes), data)


def structured(raw: bytes | dict[str, Any]) -> Event:
    return Event(1, "t", "", 0, None, None, raw if isinstance(raw, bytes) else json.dumps(raw).encode())


def refusal(raw: bytes | dict[str, Any]) -> CloudEventError:
    with pytest.raises(CloudEventError) as caught:
        judged.inspect_structured(structured(raw).data)
    return caught.value


# -- content modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "mode"),
    [
        ("", Mode.BINARY), ("application/json", Mode.BINARY), ("application/cloudevents+json", Mode.STRUCTURED),
        ("Application/CloudEvents+JSON; charset=UTF-8", Mode.STRUCTURED), ("application/cloudevents-batch+json", Mode.BATCH),
        ("application/cloudeventsx+json", Mode.BINARY),
    ],
)  # fmt: skip
def test_the_content_type_tells_the_mode(content_type: str, mode: Mode) -> None:
    assert ce.content_mode(content_type) is mode


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents",
        "application/cloudevents+avro",
        "application/cloudevents+json; charset=utf-16",
    ],
)
def test_other_event_formats_are_refused(content_type: str) -> None:
    with pytest.raises(CloudEventError) as caught:
        ce.from_http([(b"content-type", content_type.encode())], b"{}", 10)
    assert caught.value.fault is Fault.MEDIA_TYPE


def test_from_http_takes_each_mode() -> None:
    raw = json.dumps(OBJECT).encode()
    assert ce.from_http([(b"content-type", b"application/cloudevents+json")], raw, 9) == [
        judged.inspect_structured(raw)
    ]
    batch = ce.from_http([(b"content-type", b"application/cloudevents-batch+json")], b"[%b]" % raw, 9)
    assert batch == [judged.inspect_structured(raw)]
    assert ce.from_http(HEADERS, b"x", 9) == [ce.from_binary(HEADERS, b"x")]
    assert ce.from_http([(b"content-type", b"text/plain")], b"x", 9) is None


# -- binary mode -------------------------------------------------------------------------------------------------


def test_headers_become_attributes_in_their_order_and_the_body_is_the_data() -> None:
    headers = [
        *HEADERS,
        (b"content-type", b"text/plain"),
        (b"ce-topic", b"orders/eu"),
        (b"ce-partitionkey", b"k7"),
    ]
    event = ce.from_binary(headers, b"\x00hello")
    assert event is not None
    assert event.attributes == (
        *CORE,
        "datacontenttype",
        "text/plain",
        "topic",
        "orders/eu",
        "partitionkey",
        "k7",
    )
    assert (event.id, event.source, event.type) == ("A234-1234-1234", "/mycontext", "com.example.someevent")
    assert (event.topic, event.key, event.traceparent, event.data) == ("orders/eu", "k7", "", b"\x00hello")


def test_without_any_ce_header_it_is_no_cloudevent() -> None:
    assert ce.from_binary([(b"content-type", b"text/plain"), (b"cee-id", b"1")], b"hello") is None


@pytest.mark.parametrize("missing", ["specversion", "type", "source", "id"])
def test_the_missing_one_of_the_required_attributes_is_named(missing: str) -> None:
    headers = [(name, value) for name, value in HEADERS if name != b"ce-" + missing.encode()]
    with pytest.raises(CloudEventError, match=missing) as caught:
        ce.from_binary(headers, b"")
    assert (caught.value.fault, caught.value.attribute) == (Fault.MISSING, missing)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"), (b"%e2%82%ac", "€"), (b"%41", "A"), (b"%2541", "%41"),
        (b"plain text", "plain text"), (b'"quoted \\"text\\""', 'quoted "text"'), (b'"a%20b"', "a b"), (b"100%", "100%"),
        (b"%zz", "%zz"), ("é".encode(), "é"), (b'"', '"'), (b'""', ""), (b'say "hi"', 'say "hi"'), (b" padded\t", "padded"),
    ],
)  # fmt: skip
def test_header_values_are_unquoted_and_percent_decoded_once(value: bytes, text: str) -> None:
    event = ce.from_binary([*HEADERS, (b"ce-ext", value)], b"")
    assert event is not None
    assert event.attributes == (*CORE, "ext", text)


@pytest.mark.parametrize(
    "value", [b"%C0%A0", b"\xff", b"%E2%82", b"%0A", b"%ED%A0%80", b"a\x00", b"%EF%BF%BE"]
)
def test_header_values_that_are_no_text_are_refused(value: bytes) -> None:
    with pytest.raises(CloudEventError, match="'ext'"):
        ce.from_binary([*HEADERS, (b"ce-ext", value)], b"")


def test_a_long_header_of_quotes_costs_no_more_than_any_other() -> None:
    assert ce.from_binary([*HEADERS, (b"ce-ext", b'"' + b'\\"' * 30_000 + b"x")], b"") is not None


@pytest.mark.parametrize(
    "header",
    [(b"ce-my_ext", b"1"), (b"ce-", b"1"), (b"ce-data", b"1"), (b"ce-data_base64", b""), (b"ce-id", b"2"),
     (b"ce-datacontenttype", b"text/plain"), (b"ce-time", b"noon"), (b"ce-subject", b""), (b"ce-\xff", b"1")],
)  # fmt: skip
def test_headers_that_no_cloudevent_has_are_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(CloudEventError) as caught:
        ce.from_binary([*HEADERS, header], b"")
    assert caught.value.fault is Fault.ATTRIBUTE


def test_an_empty_content_type_is_none_and_two_are_refused() -> None:
    event = ce.from_binary([*HEADERS, (b"content-type", b"")], b"")
    assert event is not None
    assert event.attributes == CORE
    with pytest.raises(CloudEventError, match="twice"):
        ce.from_binary([*HEADERS, (b"content-type", b"a/b"), (b"content-type", b"a/c")], b"")


def test_headers_come_out_percent_encoded() -> None:
    headers = ce.to_http_headers(
        (*CORE, "subject", 'Euro € 😀 "100%" ~!', "datacontenttype", "text/plain; charset=utf-8")
    )
    assert headers[0] == (b"ce-specversion", b"1.0")
    assert headers[2] == (b"ce-source", b"/mycontext")
    assert headers[4] == (b"ce-subject", b"Euro%20%E2%82%AC%20%F0%9F%98%80%20%22100%25%22%20~!")
    assert headers[5] == (b"content-type", b"text/plain; charset=utf-8")


@pytest.mark.parametrize(
    "attributes", [("a\r\nb", "1"), ("datacontenttype", "a/b\r\nx: y"), ("Id", "1"), ("data", "1")]
)
def test_nothing_gets_into_a_header_line_that_does_not_belong_there(attributes: tuple[str, ...]) -> None:
    with pytest.raises(CloudEventError):
        ce.to_http_headers(attributes)
    assert b"\r" not in ce.to_http_headers(("subject", "a\r\nb"))[0][1]


def test_a_plain_body_is_wrapped() -> None:
    event = ce.wrap(b"hello", "text/plain", "id-1", "mesh://eu/eu-1")
    attributes = (
        "specversion",
        "1.0",
        "id",
        "id-1",
        "source",
        "mesh://eu/eu-1",
        "type",
        "mesh.raw",
        "datacontenttype",
        "text/plain",
    )
    assert event == Parsed("id-1", "mesh://eu/eu-1", "mesh.raw", "", "", "", attributes, b"hello")
    assert ce.from_binary(ce.to_http_headers(attributes), b"hello") == event
    assert ce.wrap(b"", "", "i", "s").attributes == (
        *attributes[:2],
        "id",
        "i",
        "source",
        "s",
        "type",
        "mesh.raw",
    )
    with pytest.raises(CloudEventError):
        ce.wrap(b"", "text/\x00", "i", "s")


# -- conversions -------------------------------------------------------------------------------------------------

SPECIFICATION: dict[str, tuple[dict[str, Any], tuple[str, ...], bytes]] = {
    "binary": (
        {"datacontenttype": "application/vnd.apache.thrift.binary", "data_base64": "AP8="},
        ("datacontenttype", "application/vnd.apache.thrift.binary"), b"\x00\xff",
    ),
    "xml": ({"datacontenttype": "application/xml", "data": '<much wow="xml"/>'}, ("datacontenttype", "application/xml"), b'<much wow="xml"/>'),
    "json": (
        {"datacontenttype": "application/json", "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True}},
        ("datacontenttype", "application/json"), b'{"appinfoA": "abc", "appinfoB": 123, "appinfoC": true}',
    ),
    "string": ({"data": "I'm just a string"}, ("datacontenttype", "application/json"), b'"I\'m just a string"'),
    "json string": ({"datacontenttype": "application/json", "data": "{}"}, ("datacontenttype", "application/json"), b'"{}"'),
    "null": ({"data": None}, ("datacontenttype", "application/json"), b"null"),
    "text": ({"datacontenttype": "text/plain", "data": "é\n"}, ("datacontenttype", "text/plain"), "é\n".encode()),
    "untyped bytes": ({"data_base64": "AP8="}, (), b"\x00\xff"),
    "none": ({}, (), b""),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECIFICATION)
def test_structured_becomes_binary_and_back_as_the_specification_says(case: str) -> None:
    members, content_type, data = SPECIFICATION[case]
    extensions = {"comexampleextension1": "value", "comexampleothervalue": 5, "flag": True, "unset": None}
    attributes = (
        *CORE,
        "comexampleextension1",
        "value",
        "comexampleothervalue",
        "5",
        "flag",
        "true",
        *content_type,
    )
    assert ce.to_binary(structured({**OBJECT, **extensions, **members})) == (attributes, data)
    back = json.loads(ce.to_structured(Event(1, "t", "", 0, None, attributes, data)))
    implied = (
        {"datacontenttype": "application/json"} if content_type and "datacontenttype" not in members else {}
    )
    assert back == {
        **OBJECT,
        "comexampleextension1": "value",
        "comexampleothervalue": "5",
        "flag": "true",
        **implied,
        **members,
    }


@pytest.mark.parametrize(
    ("content_type", "data", "member"),
    [
        ("", b"hello", '"data_base64":"aGVsbG8="'),
        ("", b" [1, 2.50] ", '"data": [1, 2.50] '),
        ("application/json", b"{not json", '"data_base64":"e25vdCBqc29u"'),
        ("application/json", b'"\xff"', '"data_base64":"Iv8i"'),
        ("application/json", b"1e999", '"data":1e999'),
        ("text/plain", b"\xff", '"data_base64":"/w=="'),
        ("text/plain; charset=iso-8859-1", b"\xe9", '"data":"é"'),
        ("text/plain; charset=utf-16", b"\xff\xfea\x00", '"data_base64":"//5hAA=="'),
        ("application/x-www-form-urlencoded", b"hello", '"data":"hello"'),
        ("application/octet-stream", b"hello", '"data_base64":"aGVsbG8="'),
    ],
)
def test_data_stands_in_json_as_its_type_and_its_bytes_allow(
    content_type: str, data: bytes, member: str
) -> None:
    event = binary(*(("datacontenttype", content_type) if content_type else ()), data=data)
    assert ce.to_structured(event).decode().endswith(f",{member}}}")


def test_deeply_nested_json_data_stays_bytes() -> None:
    data = b"[" * 100_000 + b"]" * 100_000
    assert base64.b64decode(json.loads(ce.to_structured(binary(data=data)))["data_base64"]) == data


def test_the_published_form_is_not_touched() -> None:
    event = structured(b'{"any": "bytes" }')
    assert ce.to_structured(event) is event.data
    plain = binary("datacontenttype", "a/b", data=b"x")
    assert ce.to_binary(plain) == (plain.attributes, plain.data)


def test_an_event_without_attributes_or_data_still_has_a_form() -> None:
    assert ce.to_structured(NewEvent("t", "", 0, (), b"")) == b"{}"
    assert ce.to_structured(NewEvent("t", "", 0, (), b"1")) == b'{"data":1}'


def test_text_in_an_unknown_charset_becomes_utf8_and_says_so() -> None:
    event = structured({**OBJECT, "datacontenttype": "text/plain; charset=shift_jis", "data": "日本"})
    assert ce.to_binary(event) == ((*CORE, "datacontenttype", "text/plain; charset=utf-8"), "日本".encode())


def test_data_that_is_not_the_text_its_type_says_is_its_json() -> None:
    assert (
        ce.to_binary(structured({**OBJECT, "datacontenttype": "text/plain", "data": {"a": 1}}))[1]
        == b'{"a": 1}'
    )


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"id": {}}', b'{"data_base64": "?"}', b"\xff"])
def test_a_structured_event_that_was_never_valid_is_refused_when_converted(raw: bytes) -> None:
    with pytest.raises(CloudEventError):
        ce.to_binary(structured(raw))


# -- properties and the SDK --------------------------------------------------------------------------------------

LINE = st.text(alphabet='aZ0 /%"\\~é€😀', min_size=1, max_size=8)
EXTENSIONS = st.dictionaries(
    st.sampled_from(["ext", "topic", "partitionkey", "x1", "subject"]), LINE, max_size=3
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet='a"\\é\n\x00', max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(LINE, inner, max_size=2),
    max_leaves=4,
)
TYPED = st.one_of(
    st.tuples(
        st.sampled_from(["application/json", "application/a+json"]),
        JSON.map(lambda value: json.dumps(value).encode()),
    ),
    st.tuples(st.sampled_from(["text/plain", "application/xml"]), LINE.map(str.encode)),
    st.tuples(
        st.sampled_from(["application/octet-stream", "text/plain", "application/json", "image/png"]),
        st.binary(max_size=9),
    ),
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    content_type, data = draw(TYPED)
    pairs = {
        "specversion": "1.0",
        "id": draw(LINE),
        "source": draw(LINE),
        "type": draw(LINE),
        **draw(EXTENSIONS),
    }
    if draw(st.booleans()):
        pairs["time"] = "2018-04-05T17:31:00Z"
    pairs["datacontenttype"] = content_type
    return Event(1, "t", "", 0, None, tuple(part for pair in pairs.items() for part in pair), data)


def same_data(content_type: str, a: bytes, b: bytes) -> bool:
    if a == b:
        return True
    return content_type.endswith("json") and json.loads(a) == json.loads(b)


@few
@given(events())
def test_every_event_survives_both_forms_with_its_data(event: Event) -> None:
    assert event.attributes is not None
    raw = ce.to_structured(event)
    parsed = judged.inspect_structured(raw)
    attributes, data = ce.to_binary(parsed)
    assert attributes == event.attributes
    assert same_data(attributes[-1], data, event.data)
    again = ce.from_binary(ce.to_http_headers(attributes), data)
    assert again is not None
    assert (again.attributes, again.data) == (attributes, data)
    assert again[:6] == parsed[:6]


@few
@given(events(), st.dictionaries(st.sampled_from(["ext", "other", "id", "time"]), JSON, max_size=2))
def test_the_quick_look_and_the_careful_one_agree(event: Event, more: dict[str, Any]) -> None:
    raw = json.dumps({**json.loads(ce.to_structured(event)), **more}).encode()

    def outcome(look: Any) -> Any:
        try:
            return look(raw)
        except CloudEventError as error:
            return error.fault, error.attribute

    assert outcome(judged.inspect_structured) == outcome(judged._inspect_carefully)


@few
@given(events())
def test_the_sdk_reads_what_we_write_in_both_modes(event: Event) -> None:
    assert event.attributes is not None
    pairs = dict(zip(event.attributes[::2], event.attributes[1::2], strict=True))
    headers = {name.decode(): value.decode() for name, value in ce.to_http_headers(event.attributes)}
    for message in (HTTPMessage(headers, event.data), HTTPMessage({}, ce.to_structured(event))):
        theirs = from_http_event(message)
        attributes = dict(theirs.get_attributes())
        attributes["time"] = "2018-04-05T17:31:00Z"  # the SDK makes one up where there is none
        assert attributes == {**pairs, "time": "2018-04-05T17:31:00Z"}
        assert sdk_bytes(theirs, pairs["datacontenttype"], event.data)


def sdk_bytes(theirs: Any, content_type: str, data: bytes) -> bool:
    """Whether the SDK found this data. It knows no null apart from none, and turns any UTF-8 into str."""
    value = theirs.get_data()
    if value is None:
        return data in (b"", b"null")
    if isinstance(value, bytes):
        return value == data
    if content_type.endswith("json") and judged.is_json(data):
        return bool(json.loads(data) == value)
    return bool(value.encode() == data)


@few
@given(events())
def test_we_read_what_the_sdk_writes_in_both_modes(event: Event) -> None:
    assert event.attributes is not None
    pairs: dict[str, Any] = dict(zip(event.attributes[::2], event.attributes[1::2], strict=True))
    if "time" in pairs:
        pairs["time"] = (
            JSONFormat().read(None, json.dumps({**OBJECT, "time": pairs["time"]}).encode()).get_time()
        )
    theirs = CloudEvent(dict(pairs), event.data or None)
    expected = {**dict(zip(event.attributes[::2], event.attributes[1::2], strict=True))}
    for message in (to_binary_event(theirs), to_structured_event(theirs)):
        headers = [(name.lower().encode(), value.encode()) for name, value in message.headers.items()]
        found = ce.from_http(headers, message.body, 1)
        assert found is not None
        attributes, data = ce.to_binary(found[0])
        ours = dict(zip(attributes[::2], attributes[1::2], strict=True))
        assert {**ours, "time": expected.get("time", ours["time"])} == {
            **expected,
            "time": expected.get("time", ours["time"]),
        }
        assert data == event.data


def test_the_sdk_is_laxer_and_we_are_not() -> None:
    no_version = {name: value for name, value in OBJECT.items() if name != "specversion"}
    assert JSONFormat().read(None, json.dumps(no_version).encode()).get_specversion() == "1.0"
    assert refusal(no_version).attribute == "specversion"
    no_id = {name: value for name, value in OBJECT.items() if name != "id"}
    assert JSONFormat().read(None, json.dumps(no_id).encode()).get_id()
    assert refusal(no_id).attribute == "id"
