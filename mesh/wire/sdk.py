"""Events of the official `cloudevents` SDK, from the forms the mesh carries and back.

Decides which Python value stands for which data: JSON is the value it says, text is str, all else is bytes. Imports the SDK only
when an event is made, because it is an extra of the client and no part of a node.
Never invents an attribute: the SDK adds a `time` to events that have none, and this takes it away again.
Source: CloudEvents 1.0.2, JSON format section 3.1; cloudevents 2.x.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mesh.wire.attributes import (
    CONTENT_TYPE,
    bad,
    canonical,
    check_name,
    check_text,
    codec_of,
    encode_text,
    is_json_type,
    is_text_type,
    media_type,
)
from mesh.wire.cloudevents import JSON_TYPE, Carried, to_binary
from mesh.wire.structured import is_json

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

_TIME: Final = "time"
_LEAP: Final = re.compile(r"(:\d\d):60")


def to_sdk(event: Carried) -> BaseCloudEvent:
    """The event as an SDK CloudEvent.

    Data: the JSON value when the content type says JSON (or nothing) and it is; str when it is text; None when there is none;
    else bytes. Raises CloudEventError, ImportError without the extra `sdk`.
    """
    from cloudevents.core.v1.event import CloudEvent

    pairs, data = to_binary(event)
    attributes: dict[str, Any] = dict(zip(pairs[::2], pairs[1::2], strict=True))
    content_type = attributes.get(CONTENT_TYPE)
    timed = _TIME in attributes
    if timed:
        attributes[_TIME] = _datetime(attributes[_TIME])
    made = CloudEvent(attributes, _value(data, content_type))
    if not timed:
        made.get_attributes().pop(_TIME, None)
    return made


def from_sdk(event: BaseCloudEvent) -> tuple[tuple[str, ...], bytes]:
    """(attributes, data) of an SDK CloudEvent in binary form, ready for headers or for model.event.NewEvent.

    A str under a JSON content type (or none) is a JSON string, as in the SDK's own structured mode. Data that is no bytes and has
    no content type is application/json, and says so. Raises CloudEventError.
    """
    found: dict[str, str] = {}
    for name, value in event.get_attributes().items():
        check_name(name)
        if value is not None:
            found[name] = text = _canonical(name, value)
            check_text(name, text)
    value = event.get_data()
    if value is None:
        data = b""
    elif isinstance(value, (bytes, bytearray)):
        data = bytes(value)
    else:
        content_type = found.setdefault(CONTENT_TYPE, JSON_TYPE)
        if isinstance(value, str) and not is_json_type(media_type(content_type)):
            data, found[CONTENT_TYPE] = encode_text(value, content_type)
        else:
            data = _json(value)
    return tuple(part for pair in found.items() for part in pair), data


def _value(data: bytes, content_type: str | None) -> Any:
    if not data:
        return None
    kind = media_type(content_type or JSON_TYPE)
    try:
        if is_json_type(kind) and is_json(data):
            return msgspec.json.decode(data)
        codec = codec_of(content_type or "")
        if is_text_type(kind) and codec is not None:
            return data.decode(codec)
    except (UnicodeDecodeError, msgspec.DecodeError):
        pass  # not what its type says, or a number beyond a float: the bytes are
    return data


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise bad("data", f"cannot be written as JSON: {error}") from None


def _datetime(text: str) -> datetime:
    """RFC 3339 to a datetime, which knows no leap second: it becomes the second before."""
    try:
        return datetime.fromisoformat(_LEAP.sub(r"\1:59", text.upper()))
    except ValueError:
        raise bad(_TIME, "is outside the years 1 to 9999") from None


def _canonical(name: str, value: object) -> str:
    """The canonical string of an attribute's Python value (CloudEvents, "Type System")."""
    match value:
        case str():
            return value
        case bool() | int():
            return canonical(name, value)
        case bytes():
            return b64encode(value).decode()
        case datetime():
            text = value.isoformat()
            return text[:-6] + "Z" if text.endswith("+00:00") else text
        case _:
            raise bad(name, f"is a {type(value).__name__}: no attribute can be")
