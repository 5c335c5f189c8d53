"""CloudEvents 1.0.2 as clients write and read them: HTTP in its three content modes, and each form from the other.

Decides the content mode, whether headers make a valid CloudEvent, and how one form is told in the other; `structured` judges what
is JSON. Never decides topics, limits or who may publish.
Invariant: what was accepted in one form converts to the other and back with the same meaning; data that is not text or JSON
keeps every byte.
Source: CloudEvents 1.0.2, JSON format, HTTP binding (sections 3.1 to 3.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final, Protocol
from urllib.parse import quote, unquote_to_bytes

import msgspec

from mesh.wire.attributes import (
    CONTENT_TYPE,
    DATA,
    DATA_BASE64,
    bad,
    check_name,
    check_text,
    codec_of,
    encode_text,
    is_json_type,
    is_text_type,
    media_type,
)
from mesh.wire.attributes import CloudEventError as CloudEventError
from mesh.wire.attributes import Fault as Fault
from mesh.wire.structured import (
    COMMON_NAMES,
    Parsed,
    attribute_texts,
    check_size,
    from_base64,
    from_batch,
    inspect_structured,
    is_json,
    is_set,
    members_of,
    parsed,
)

WRAPPED_TYPE: Final = "mesh.raw"
JSON_TYPE: Final = "application/json"
STRUCTURED_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_HEADER_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")
_NEEDS_NO_ESCAPE: Final = re.compile(r"[!#$&-~]*").fullmatch
_EVENT_FORMAT: Final = re.compile(r"application/cloudevents(-batch)?(?:\+(.*))?", re.DOTALL).fullmatch
_NO_HEADERS: Final = frozenset({CONTENT_TYPE, DATA, DATA_BASE64})
_string: Final = msgspec.json.Decoder(str).decode
_encode: Final = msgspec.json.Encoder().encode


class Carried(Protocol):
    """An event in either form, as model.event.Event describes them: Event, NewEvent and Parsed are."""

    @property
    def attributes(self) -> tuple[str, ...] | None: ...

    @property
    def data(self) -> bytes: ...


class Mode(Enum):
    """Content mode of an HTTP body."""

    BINARY = 1
    STRUCTURED = 2
    BATCH = 3


# -- taking events in --------------------------------------------------------------------------------------------


def from_http(
    headers: Sequence[tuple[bytes, bytes]], body: bytes, most_events: int, most_bytes: int | None = None
) -> list[Parsed] | None:
    """The events of an HTTP request or response, in any of the three content modes; None when it is no CloudEvent (no `ce-`
    header at all): wrap it.

    Args: headers: names in lower case. most_events: of a batch. most_bytes: of an event, None for no bound. Raises CloudEventError.
    """
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    match content_mode(content_type.decode("latin-1")):
        case Mode.STRUCTURED:
            check_size(body, most_bytes)
            return [inspect_structured(body)]
        case Mode.BATCH:
            return from_batch(body, most_events, most_bytes)
        case Mode.BINARY:
            check_size(body, most_bytes)
            event = from_binary(headers, body)
            return None if event is None else [event]


def content_mode(content_type: str) -> Mode:
    """Content mode by Content-Type (HTTP binding section 3). Raises CloudEventError for event formats other than JSON in UTF-8."""
    found = _EVENT_FORMAT(media_type(content_type))
    if found is None:
        return Mode.BINARY
    if found[2] != "json":
        raise CloudEventError(Fault.MEDIA_TYPE, f"event format of {content_type!r}: JSON is read here")
    if codec_of(content_type) not in ("utf-8", "ascii"):
        raise CloudEventError(Fault.MEDIA_TYPE, f"charset of {content_type!r}: CloudEvents in JSON are UTF-8")
    return Mode.BATCH if found[1] else Mode.STRUCTURED


def from_binary(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Parsed | None:
    """A CloudEvent in binary content mode; None when there is no `ce-` header at all.

    Args: headers: names in lower case, values as received. Cost: 0.5 us an attribute. Raises CloudEventError.
    """
    found: dict[str, str] = {}
    marked = False
    for header, value in headers:
        if header.startswith(b"ce-"):
            marked = True
            name = header[3:].decode("latin-1")
            if name not in COMMON_NAMES:
                check_name(name)
            elif name in _NO_HEADERS:
                raise bad(name, "belongs into the body or Content-Type, not into a ce- header")
            text = _header_text(name, value)
        elif header == b"content-type":
            name = CONTENT_TYPE
            text = value.decode("latin-1").strip()
            if not text:
                continue
        else:
            continue
        if name in found:
            raise bad(name, "is given twice")
        check_text(name, text)
        found[name] = text
    if not marked:
        return None
    return parsed(found, tuple(part for pair in found.items() for part in pair), body)


def wrap(body: bytes, content_type: str, id: str, source: str) -> Parsed:
    """A plain body as the data of an event of type `mesh.raw`. Raises CloudEventError for a content type no event can have."""
    attributes: tuple[str, ...] = ("specversion", "1.0", "id", id, "source", source, "type", WRAPPED_TYPE)
    if content_type:
        check_text(CONTENT_TYPE, content_type)
        attributes += (CONTENT_TYPE, content_type)
    return Parsed(id, source, WRAPPED_TYPE, "", "", "", attributes, body)


# -- one form from the other -------------------------------------------------------------------------------------


def to_structured(event: Carried) -> bytes:
    """The event in the JSON format; the same bytes where it was published in it.

    JSON data stands as it is when its type says JSON, or says nothing, and it is JSON; text stands as a string when its type
    is textual and it is UTF-8; all else is Base64 (JSON format section 3.1.1).
    Cost: 2 us for 300 bytes. Never raises.
    """
    if event.attributes is None:
        return event.data
    attributes = dict(zip(event.attributes[::2], event.attributes[1::2], strict=False))
    data = event.data
    head = _encode(attributes)
    if not data:
        return head
    comma = b"," if attributes else b""
    content_type = attributes.get(CONTENT_TYPE, JSON_TYPE)
    kind = media_type(content_type)
    if is_json_type(kind):
        if is_json(data):
            return b'%b%b"data":%b}' % (head[:-1], comma, data)
    elif is_text_type(kind) and (codec := codec_of(content_type)) is not None:
        try:
            return b'%b%b"data":%b}' % (head[:-1], comma, _encode(data.decode(codec)))
        except UnicodeDecodeError:
            pass  # not the text it says: every byte is kept
    return b'%b%b"data_base64":%b}' % (head[:-1], comma, _encode(data))


def to_binary(event: Carried) -> tuple[tuple[str, ...], bytes]:
    """(attributes, data) of the event in binary form; the same where it was published in it.

    An event without `datacontenttype` but with `data` gets the implied application/json (JSON format section 3.1.2).
    Cost: 5 us for 350 bytes. Raises CloudEventError for what `inspect_structured` refuses to read.
    """
    if event.attributes is not None:
        return event.attributes, event.data
    members = members_of(event.data)
    found = attribute_texts(members)
    data = b""
    if is_set(members, DATA_BASE64):
        data = from_base64(members[DATA_BASE64])
    elif DATA in members:
        value = bytes(members[DATA])
        content_type = found.setdefault(CONTENT_TYPE, JSON_TYPE)
        if value[:1] == b'"' and not is_json_type(media_type(content_type)):
            data, found[CONTENT_TYPE] = encode_text(_string(value), content_type)
        else:
            data = value
    return tuple(part for pair in found.items() for part in pair), data


def to_http_headers(attributes: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """Headers of binary content mode, percent-encoded (HTTP binding section 3.1.3.2); `datacontenttype` as Content-Type.

    Raises CloudEventError for names and content types that must not reach a header line.
    """
    headers = []
    for name, text in zip(attributes[::2], attributes[1::2], strict=True):
        check_name(name)
        if name == CONTENT_TYPE:
            check_text(name, text)
            headers.append((b"content-type", text.encode()))
        else:
            safe = text if _NEEDS_NO_ESCAPE(text) else quote(text, safe=_HEADER_SAFE)
            headers.append((b"ce-" + name.encode(), safe.encode()))
    return headers


def _header_text(name: str, value: bytes) -> str:
    """The text of a `ce-` header: a quoted string unescaped, then percent-decoded once, then UTF-8 (section 3.1.3.2)."""
    value = value.strip(b" \t")
    try:
        if b"%" not in value and b'"' not in value:
            return value.decode()
        if len(value) >= 2 and value[0] == value[-1] == 0x22:
            value = _ESCAPED.sub(rb"\1", value[1:-1])
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise bad(name, "is not UTF-8") from None
