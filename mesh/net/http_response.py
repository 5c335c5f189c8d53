"""HTTP answers as bytes.

Decides status line, framing and the headers every answer has. Never decides what is answered.
Invariant: no value can end a header line: an answer with a line break in a header is never written.
Source: RFC 9112 sections 4, 6 and 7.1; RFC 9110 sections 6.6.1 (Date), 8.6 (Content-Length), 15.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

from mesh.model.errors import problem
from mesh.net.http_request import Refusal

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

Headers = Sequence[tuple[str, str]]


@dataclass(slots=True, eq=False)
class Response:
    """A whole answer.

    headers: names and values in latin-1, without Content-Length, Connection, Date and Transfer-Encoding.
    close: end the connection after it.
    """

    status: int = 200
    body: bytes = b""
    headers: Headers = ()
    close: bool = False


class _Clock:
    """The Date header, formatted once a second."""

    second = 0
    line = ""


def _date() -> str:
    now = int(time.time())
    if now != _Clock.second:
        _Clock.second = now
        _Clock.line = time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now))
    return _Clock.line


def render_head(status: int, headers: Headers, *framing: str) -> bytes:
    """Status line and headers, with the empty line behind them.

    Args: framing: whole header lines of this module's making ("Connection: close").
    Raises: ValueError on a line break in a header, or what is not latin-1: the handler's mistake. Cost: about 2 us.
    """
    parts = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n", _date()]
    parts.extend(f"{name}: {value}\r\n" for name, value in headers)
    parts.extend(f"{line}\r\n" for line in framing)
    parts.append("\r\n")
    head = "".join(parts)
    lines = len(parts)
    if head.count("\n") != lines or head.count("\r") != lines or "\0" in head:
        raise ValueError(f"a header of an answer has a line break: {headers!r}")
    return head.encode("latin-1")


def render(response: Response, *, keep_alive: bool, version: str = "1.1", head_only: bool = False) -> bytes:
    """A whole answer as bytes.

    Args: version: the client's; a 1.0 client is told "keep-alive" where that is so. head_only: it answers HEAD.
    Raises: ValueError as render_head.
    """
    status = response.status
    framing: list[str] = []
    bodiless = status in (204, 304) or status < 200
    if not bodiless:
        framing.append(f"Content-Length: {len(response.body)}")
    if not keep_alive:
        framing.append("Connection: close")
    elif version == "1.0":
        framing.append("Connection: keep-alive")
    head = render_head(status, response.headers, *framing)
    return head if bodiless or head_only else head + response.body


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body. data: not empty, because an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def problem_response(refusal: Refusal) -> Response:
    """The problem+json answer to a request that could not even be read; the connection ends with it."""
    body = msgspec.json.encode(problem(refusal.code, refusal.detail, status=refusal.status)) + b"\n"
    headers = [("content-type", "application/problem+json")]
    if refusal.status == 503:
        headers.append(("retry-after", "1"))
    return Response(refusal.status, body, headers, close=True)
