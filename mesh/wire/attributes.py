"""What CloudEvents 1.0.2 lets an attribute be: its name, its value, the required ones, and what a content type says of data.

Decides each refusal and what it blames. Never looks at data, and never knows which form an event came in.
Invariant: every attribute that was accepted has one canonical string, and that string is accepted in every form.
Source: CloudEvents 1.0.2, sections "Naming Conventions", "Type System" and "Context Attributes"; RFC 3339; RFC 2046.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

DATA: Final = "data"
DATA_BASE64: Final = "data_base64"
CONTENT_TYPE: Final = "datacontenttype"
REQUIRED: Final = ("specversion", "id", "source", "type")
CORE: Final = frozenset({*REQUIRED, "subject", "dataschema", CONTENT_TYPE, "time"})
"""Attributes that are strings in every form; extensions may be integers and booleans too."""

_NEVER_EMPTY: Final = ("id", "source", "type", "subject", "dataschema", CONTENT_TYPE)
_NAME: Final = re.compile(r"[a-z0-9]+").fullmatch
_NOT_IN_STRINGS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]"
).search
_INTEGERS: Final = range(-(2**31), 2**31)
_TIME: Final = re.compile(
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)"
    r"(?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])"
).fullmatch
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^\s;"]*)"?', re.IGNORECASE)
_CODECS: Final = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "latin-1", "latin1": "latin-1",
}  # fmt: skip
"""Charsets in which text is read and written. All others stay bytes: codecs by name from outside are no toy."""
_TEXT_TYPES: Final = frozenset({"application/xml", "application/x-www-form-urlencoded", "application/yaml"})


class Fault(StrEnum):
    """What is wrong with something that should have been a CloudEvent."""

    MALFORMED = "malformed"
    """Not JSON, not UTF-8, not an object."""
    MISSING = "missing"
    """A required attribute."""
    ATTRIBUTE = "attribute"
    """A name or value that the specification does not allow."""
    MEDIA_TYPE = "media_type"
    """An event format or charset that is not read here."""
    TOO_MANY = "too_many"
    """Events in a batch, attributes or bytes of an event."""


class CloudEventError(ValueError):
    """No valid CloudEvent; nothing was taken. attribute: its name, or "". index: place in the batch, or None."""

    def __init__(self, fault: Fault, detail: str, attribute: str = "", index: int | None = None) -> None:
        super().__init__(detail if index is None else f"event {index} of the batch: {detail}")
        self.fault = fault
        self.detail = detail
        self.attribute = attribute
        self.index = index


def bad(name: str, what: str) -> CloudEventError:
    """The refusal of one attribute."""
    return CloudEventError(Fault.ATTRIBUTE, f"attribute {name[:64]!r} {what}", name)


def check_name(name: str) -> None:
    """Raises CloudEventError unless an attribute may have this name."""
    if _NAME(name) is None or name == DATA:
        raise bad(name, "is no attribute name: lower-case letters and digits, and not 'data'")


def check_text(name: str, text: str) -> None:
    """Raises CloudEventError unless the attribute may have this value. Cost: 0.1 us for ASCII."""
    if text.isascii() and text.isprintable():
        return
    if _NOT_IN_STRINGS(text):
        raise bad(name, "has a control character or a code point that is no character")
    if name == CONTENT_TYPE:
        raise bad(name, "is no media type: only ASCII characters")


def check_whole(found: dict[str, str]) -> None:
    """Raises CloudEventError unless these attributes, each good in itself, make an event. Cost: 1 us."""
    try:
        _, _, _, version = found["id"], found["source"], found["type"], found["specversion"]
    except KeyError:
        missing = [name for name in REQUIRED if name not in found]
        what = f"required attributes that are missing: {', '.join(missing)}"
        raise CloudEventError(Fault.MISSING, what, missing[0]) from None
    if version != "1.0":
        raise bad("specversion", f"is {version[:16]!r}: CloudEvents 1.0 is spoken here")
    if "" in found.values():
        for name in _NEVER_EMPTY:
            if found.get(name) == "":
                raise bad(name, "is empty")
    time = found.get("time")
    if time is not None and _TIME(time) is None:
        raise bad("time", "is no RFC 3339 time such as 2018-04-05T17:31:00Z")


def canonical(name: str, value: float) -> str:
    """The canonical string of a boolean or an integer. Raises CloudEventError where no attribute, or not this one, can be it."""
    if name in CORE:
        raise bad(name, "is not a string")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value in _INTEGERS:
        return str(value)
    raise bad(name, "is a number, but no integer of 32 bits")


# -- content types -----------------------------------------------------------------------------------------------


def media_type(content_type: str) -> str:
    """The media type in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def codec_of(content_type: str) -> str | None:
    """Codec of the text that this content type declares: UTF-8 where it declares none, None for charsets not read here."""
    found = _CHARSET.search(content_type) if ";" in content_type else None
    return _CODECS.get(found[1].lower()) if found else "utf-8"


def encode_text(text: str, content_type: str) -> tuple[bytes, str]:
    """Text in the charset its type declares, and the type. A charset not read here, or too small, becomes UTF-8, and the type says so."""
    codec = codec_of(content_type)
    if codec is not None:
        try:
            return text.encode(codec), content_type
        except UnicodeEncodeError:
            pass
    return text.encode(), _CHARSET.sub("; charset=utf-8", content_type)


def is_json_type(media_type: str) -> bool:
    """JSON-formatted content, as the JSON format (section 3.1.1) defines it."""
    return media_type.endswith(("/json", "+json"))


def is_text_type(media_type: str) -> bool:
    """Whether people read it: such data stands as a string in JSON."""
    return (
        media_type.startswith("text/") or media_type.endswith(("+xml", "+yaml")) or media_type in _TEXT_TYPES
    )
