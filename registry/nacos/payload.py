"""The one envelope of Nacos's gRPC protocol: `Payload`, as bytes of protocol buffers.

Decides how an envelope is written and which received bytes are one. Its body is JSON that `registry.nacos.requests` reads.
Written by hand: three fields of one message, without generated code that would tie Hopmesh to a version of protobuf.

| message  | field | number | kind                                     |
|----------|-------|--------|------------------------------------------|
| Payload  | metadata | 2   | Metadata                                 |
| Payload  | body     | 3   | google.protobuf.Any, of it `value` (2)   |
| Metadata | type     | 3   | the request's or answer's name           |
| Metadata | clientIp | 8   | shown in the console                     |
| Metadata | headers  | 7   | map of texts; `accessToken` among them   |

Invariant: whatever the bytes are, `decode` returns an envelope or raises BadPayload. Unknown fields are passed over.
Source: Nacos, api module, `nacos_grpc_service.proto`; protocol buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

REQUEST: Final = "/Request/request"
"""One request, one answer."""
STREAM: Final = "/BiRequestStream/requestBiStream"
"""The server's own requests, and our answers to them."""

HEADERS: Final = 64

_METADATA: Final = 2
_BODY: Final = 3
_TYPE: Final = 3
_HEADERS: Final = 7
_CLIENT_IP: Final = 8
_ANY_VALUE: Final = 2
_MAP_KEY: Final = 1
_MAP_VALUE: Final = 2

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5


class BadPayload(ValueError):
    """Bytes that are no envelope."""


class Payload(NamedTuple):
    """type: simple name of the request or answer. body: its JSON."""

    type: str
    body: bytes
    headers: Mapping[str, str] = {}
    client_ip: str = ""


def encode(payload: Payload) -> bytes:
    """Cost: O(size)."""
    metadata = _field(_TYPE, payload.type.encode())
    for name, value in payload.headers.items():
        metadata += _field(_HEADERS, _field(_MAP_KEY, name.encode()) + _field(_MAP_VALUE, value.encode()))
    if payload.client_ip:
        metadata += _field(_CLIENT_IP, payload.client_ip.encode())
    return _field(_METADATA, metadata) + _field(_BODY, _field(_ANY_VALUE, payload.body))


def decode(raw: bytes) -> Payload:
    """Read an envelope. Raises: BadPayload, whatever the bytes are. Cost: O(size)."""
    kind, body, client_ip, headers = "", b"", "", dict[str, str]()
    for number, value in _fields(raw):
        if number == _BODY:
            body = b"".join(part for inner, part in _fields(value) if inner == _ANY_VALUE)
        elif number == _METADATA:
            for inner, part in _fields(value):
                if inner == _TYPE:
                    kind = _text(part)
                elif inner == _CLIENT_IP:
                    client_ip = _text(part)
                elif inner == _HEADERS:
                    pair = dict(_fields(part))
                    headers[_text(pair.get(_MAP_KEY, b""))] = _text(pair.get(_MAP_VALUE, b""))
                    if len(headers) > HEADERS:
                        raise BadPayload(f"more than {HEADERS} headers")
    if not kind:
        raise BadPayload("an envelope without a type")
    return Payload(kind, body, headers, client_ip)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadPayload(str(error)) from error


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields that have a length; others are passed over."""
    at = 0
    while at < len(raw):
        tag, at = _read_varint(raw, at)
        kind, size = tag & 7, 0
        if kind == _VARINT:
            _, at = _read_varint(raw, at)
            continue
        if kind == _BYTES:
            size, at = _read_varint(raw, at)
        elif kind == _FIXED64:
            size = 8
        elif kind == _FIXED32:
            size = 4
        else:
            raise BadPayload(f"wire type {kind}")
        if at + size > len(raw):
            raise BadPayload("it ends in the middle of a field")
        if kind == _BYTES:
            yield tag >> 3, raw[at : at + size]
        at += size


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise BadPayload("it ends in the middle of a number")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BadPayload("a number of more than 64 bits")
