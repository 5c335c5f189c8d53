"""What an attribute may be: the tables of the CloudEvents specification."""

from __future__ import annotations

import pytest

from mesh.wire.attributes import (
    CloudEventError,
    Fault,
    canonical,
    check_name,
    check_text,
    check_whole,
    codec_of,
    encode_text,
    is_json_type,
    is_text_type,
    media_type,
)

WHOLE = {"specversion": "1.0", "id": "A234", "source": "/mycontext", "type": "com.example.someevent"}


@pytest.mark.parametrize("name", ["id", "comexampleextension1", "0", "x" * 40])
def test_names_are_lower_case_letters_and_digits(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "Id", "my_ext", "my-ext", "é", "a b", "id\n", "data", "٣", "data_base64"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CloudEventError) as caught:
        check_name(name)
    assert caught.value.fault is Fault.ATTRIBUTE
    assert caught.value.attribute == name


@pytest.mark.parametrize("text", ["", "plain", "Euro € 😀", "\u00a0", "tab is %09", "\U0001fffd"])
def test_values_are_characters(text: str) -> None:
    check_text("subject", text)


@pytest.mark.parametrize("text", ["\x00", "a\nb", "\x7f", "\x9f", "\ufdd0", "\ufffe", "\U0010ffff", "\ud800"])
def test_control_characters_noncharacters_and_surrogates_are_refused(text: str) -> None:
    with pytest.raises(CloudEventError, match="'subject'"):
        check_text("subject", text)


def test_a_content_type_is_ascii() -> None:
    check_text("datacontenttype", "text/plain; charset=utf-8")
    with pytest.raises(CloudEventError, match="ASCII"):
        check_text("datacontenttype", "text/plain; title=é")


def test_the_required_attributes_are_enough() -> None:
    check_whole(WHOLE)


@pytest.mark.parametrize("name", WHOLE)
def test_a_missing_attribute_is_named(name: str) -> None:
    with pytest.raises(CloudEventError, match=name) as caught:
        check_whole({key: value for key, value in WHOLE.items() if key != name})
    assert (caught.value.fault, caught.value.attribute) == (Fault.MISSING, name)


def test_all_missing_attributes_are_named_together() -> None:
    with pytest.raises(CloudEventError, match="missing: id, type"):
        check_whole({"specversion": "1.0", "source": "/x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("specversion", "0.3"), ("specversion", "1"), ("specversion", ""), ("id", ""), ("source", ""), ("type", ""), ("subject", ""),
     ("dataschema", ""), ("datacontenttype", ""), ("time", "")],
)  # fmt: skip
def test_an_impossible_core_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(CloudEventError) as caught:
        check_whole({**WHOLE, name: value})
    assert (caught.value.fault, caught.value.attribute) == (Fault.ATTRIBUTE, name)


def test_an_empty_extension_is_a_value() -> None:
    check_whole({**WHOLE, "comexampleextension1": ""})


@pytest.mark.parametrize(
    "time",
    ["2018-04-05T17:31:00Z", "2018-04-05t17:31:00z", "2018-04-05T17:31:00.123456789+01:00", "2016-12-31T23:59:60Z",
     "2018-04-05 17:31:00Z", "0001-01-01T00:00:00-23:59"],
)  # fmt: skip
def test_times_are_rfc_3339(time: str) -> None:
    check_whole({**WHOLE, "time": time})


@pytest.mark.parametrize(
    "time",
    ["yesterday", "2018-04-05", "2018-04-05T17:31:00", "2018-13-05T17:31:00Z", "2018-04-05T24:00:00Z", "2018-04-05T17:31Z",
     "2018-04-05T17:31:00Z\n", "٢018-04-05T17:31:00Z"],
)  # fmt: skip
def test_other_times_are_refused(time: str) -> None:
    with pytest.raises(CloudEventError, match="'time'"):
        check_whole({**WHOLE, "time": time})


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (5, "5"), (-(2**31), "-2147483648"), (2**31 - 1, "2147483647")],
)
def test_booleans_and_integers_have_canonical_strings(value: int, text: str) -> None:
    assert canonical("ext", value) == text


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 1.5, 5.0])
def test_other_numbers_are_no_attribute_values(value: float) -> None:
    with pytest.raises(CloudEventError, match="integer of 32 bits"):
        canonical("ext", value)


def test_core_attributes_are_strings() -> None:
    with pytest.raises(CloudEventError, match="'id' is not a string"):
        canonical("id", 5)


@pytest.mark.parametrize(
    ("content_type", "json", "text"),
    [
        ("application/json", True, False), ("Application/JSON ; charset=utf-8", True, False), ("text/json", True, True),
        ("application/vnd.x+json", True, False), ("application/json-seq", False, False), ("json", False, False),
        ("text/plain", False, True), ("text/html;charset=x", False, True), ("application/xml", False, True),
        ("image/svg+xml", False, True), ("application/x-www-form-urlencoded", False, True), ("image/png", False, False),
        ("application/octet-stream", False, False), ("", False, False),
    ],
)  # fmt: skip
def test_a_content_type_tells_json_and_text(content_type: str, json: bool, text: bool) -> None:
    kind = media_type(content_type)
    assert (is_json_type(kind), is_text_type(kind)) == (json, text)


@pytest.mark.parametrize(
    ("content_type", "codec"),
    [("text/plain", "utf-8"), ('text/plain; charset="UTF-8"', "utf-8"), ("text/plain;Charset=ISO-8859-1", "latin-1"),
     ("text/plain; charset=us-ascii; x=y", "ascii"), ("text/plain; charset=utf-16", None), ("text/plain; charset=idna", None)],
)  # fmt: skip
def test_few_charsets_are_read(content_type: str, codec: str | None) -> None:
    assert codec_of(content_type) == codec


@pytest.mark.parametrize(
    ("text", "content_type", "data", "told"),
    [
        ("é", "text/plain", b"\xc3\xa9", "text/plain"),
        ("é", "text/plain; charset=iso-8859-1", b"\xe9", "text/plain; charset=iso-8859-1"),
        ("€", "text/plain; charset=iso-8859-1", b"\xe2\x82\xac", "text/plain; charset=utf-8"),
        ("é", "text/plain; charset=us-ascii; x=y", b"\xc3\xa9", "text/plain; charset=utf-8; x=y"),
        ("a", "text/plain; charset=ebcdic", b"a", "text/plain; charset=utf-8"),
    ],
)
def test_text_is_written_in_its_charset_or_in_utf8_that_says_so(
    text: str, content_type: str, data: bytes, told: str
) -> None:
    assert encode_text(text, content_type) == (data, told)
