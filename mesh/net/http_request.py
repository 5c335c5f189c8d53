"""HTTP/1.1 requests, from bytes to values, strictly.

Decides where one request ends and the next begins, and refuses whatever two programs could read in two ways: both or
repeated lengths, other transfer codings than chunked, a missing or repeated Host, paths with dot segments. llhttp parses;
what it lets pass beyond that is refused here. Decides what a connection may hold: bytes and number of headers, body bytes.
Never answers.
Invariant: memory held for a connection is at most header_bytes + body_bytes + what one receive returned.
Source: RFC 9112 sections 2, 3, 6 and 7; RFC 9110 sections 7.8 and 10.1.1.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools

from mesh.model.limits import Limits

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUERY_PAIRS: Final = 1_024
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is answered with an error and the connection closed.

    status: HTTP. counted: the short stable name it is counted under. detail: a sentence. code: row of model.errors.
    """

    status: int
    counted: str
    detail: str
    code: str = "MESH-E031"


class RefusedRequest(Exception):
    """Carries a Refusal out of llhttp's callbacks."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class Pairs(list[tuple[str, str]]):
    """Query parameters in the order in which they came, decoded; names may repeat."""

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value."""
        for key, value in self:
            if key == name:
                return value
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value."""
        return [value for key, value in self if key == name]


@dataclass(slots=True, eq=False)
class Request:
    """One whole request.

    method: upper case, one of METHODS. target: as it was sent. path: decoded, "*" for OPTIONS of the whole server.
    raw_query: after the "?", not decoded. headers: names in lower case, in order. version: "1.0" or "1.1".
    keep_alive: whether the client wants the connection kept. websocket: it asks for an upgrade to WebSocket.
    """

    method: str
    target: str
    path: str
    raw_query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    remote: str
    version: str
    keep_alive: bool
    websocket: bool = False

    def header(self, name: bytes) -> bytes | None:
        """A header's value, several of one name joined by ", " (RFC 9110 section 5.2); None if there is none.

        name: lower case. Cost: O(headers).
        """
        found = [value for key, value in self.headers if key == name]
        if len(found) > 1:
            return b", ".join(found)
        return found[0] if found else None

    @property
    def query(self) -> Pairs:
        """The query's pairs. A "+" stands for itself, as RFC 3986 has it: filters are full of them. Cost: linear.

        Raises: RefusedRequest on what does not decode; answered with 400 if it leaves the request's own code.
        """
        return read_query(self.raw_query)


def read_query(raw: str) -> Pairs:
    """See Request.query."""
    pieces = raw.split("&", QUERY_PAIRS) if raw else []
    if len(pieces) > QUERY_PAIRS:
        raise RefusedRequest(Refusal(400, "bad_target", f"more than {QUERY_PAIRS} query parameters"))
    pairs = Pairs()
    for piece in pieces:
        if piece:
            name, _, value = piece.partition("=")
            pairs.append((_decode(name.encode("ascii")), _decode(value.encode("ascii"))))
    return pairs


def read_target(target: bytes) -> tuple[str, str]:
    """Path (decoded) and raw query of a request target in origin, absolute or asterisk form (RFC 9112 section 3.2).

    Raises: RefusedRequest. Cost: linear, little where nothing is escaped.
    """
    if not target.startswith(b"/"):
        if target == b"*":
            return "*", ""
        scheme, colon, rest = target.partition(b"://")
        if not colon or scheme.lower() not in (b"http", b"https"):
            raise RefusedRequest(Refusal(400, "bad_target", "the request target is no path"))
        _, slash, path = rest.partition(b"/")
        target = slash + path or b"/"
    if b"#" in target:
        raise RefusedRequest(Refusal(400, "bad_target", 'a "#" in the request target: write it as %23'))
    raw_path, _, raw_query = target.partition(b"?")
    path_text = _decode(raw_path)
    if "/." in path_text and any(level in (".", "..") for level in path_text.split("/")):
        raise RefusedRequest(Refusal(400, "bad_target", 'a path with "." or ".." as a level'))
    return path_text, raw_query.decode("ascii")


def _decode(raw: bytes) -> str:
    try:
        if b"%" in raw:
            if _BAD_ESCAPE.search(raw):
                raise RefusedRequest(Refusal(400, "bad_target", 'a "%" without two hexadecimal digits'))
            raw = unquote_to_bytes(raw)
            text = raw.decode()
            if _CONTROL.search(text):
                raise RefusedRequest(Refusal(400, "bad_target", "a control character in the request target"))
            return text
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise RefusedRequest(
            Refusal(400, "bad_target", "the request target is not UTF-8 when decoded")
        ) from None


class BodyBudget:
    """Bytes of request bodies that all connections of a server hold together."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class RequestParser:
    """The requests of one connection.

    `feed` what was received, take from `requests` what is complete; then look at `refusal`: requests before it are good.
    `release` what was taken out, so that the budget knows.
    """

    def __init__(self, limits: Limits, remote: str, budget: BodyBudget) -> None:
        self.requests: deque[Request] = deque()
        self.refusal: Refusal | None = None
        self.in_request = False
        """Part of a request has been received."""
        self.wants_continue = False
        """The client waits for 100 (Continue) before it sends the body; the caller clears it."""
        self.leftover = b""
        """What followed a request for an upgrade."""
        self.finished = False
        """The client said that this is its last request, or asked for an upgrade."""
        self._limits = limits
        self._header_bytes = limits.header_bytes
        self._header_count = limits.header_count
        self._remote = remote
        self._budget = budget
        self._held = 0
        self._parser = httptools.HttpRequestParser(self)
        self._dry = 0  # bytes since llhttp last gave us anything to bound
        self._gave = False
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._path = self._raw_query = ""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._body: bytes | bytearray = b""
        self._version = self._method = ""
        self._websocket = False
        self._in_head = True

    def feed(self, data: bytes) -> None:
        """Take in what was received. Cost: linear. Never raises on what a client sends; see `refusal`."""
        if data == b"\r\n" and not self.in_request:
            return  # an empty line behind a body, which old clients send (RFC 9112 section 2.2)
        while data and self.refusal is None and not self.finished:
            self._gave = False
            self.in_request = True
            try:
                self._parser.feed_data(data)
                size = len(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                size = 0
                data = self._upgraded(data[upgrade.args[0] :])
            except httptools.HttpParserError as error:
                if not self.finished:  # else it is what came behind the last request, which nobody reads
                    self.refusal = _refusal(error)
                return
            if not self.in_request:
                self._dry = 0
            else:
                self._dry = 0 if self._gave else self._dry + size
                if self._dry > self._limits.header_bytes:
                    self.refusal = Refusal(431, "headers_too_large", "a line without end")

    def release(self, size: int) -> None:
        """`size` body bytes of taken requests are no longer held."""
        self._held -= size
        self._budget.used_bytes -= size

    def close(self) -> None:
        """The connection is over: give everything back to the budget. Idempotent."""
        self.release(self._held)
        self._body = b""

    def _upgraded(self, rest: bytes) -> bytes:
        """llhttp stops behind a request with Upgrade. Returns what is still to be parsed."""
        if self.requests and self.requests[-1].websocket:
            self.leftover = rest
            self.finished = True
            return b""
        # An upgrade to something else is ignored (RFC 9110 section 7.8): the request is an ordinary one.
        self._parser = httptools.HttpRequestParser(self)
        return rest

    # -- called by llhttp; an exception stops it -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begin()
        self.in_request = True

    def on_url(self, url: bytes) -> None:
        self._gave = True
        self._url = self._url + url if self._url else url
        self._head_bytes += len(url)
        if self._head_bytes > self._header_bytes:
            raise self._head_too_large()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._gave = True
            self._headers.append((name.lower(), value))
        # A trailer is counted and forgotten; it does not reset the bound on bytes that give nothing.
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._header_bytes:
            raise self._head_too_large()
        if len(self._headers) > self._header_count:
            raise RefusedRequest(Refusal(431, "too_many_headers", f"more than {self._header_count} headers"))

    def _head_too_large(self) -> RefusedRequest:
        return RefusedRequest(
            Refusal(431, "headers_too_large", f"more than {self._header_bytes} bytes of headers")
        )

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._version = self._parser.get_http_version()
        if self._version not in ("1.1", "1.0"):
            raise RefusedRequest(
                Refusal(505, "unsupported_version", f"HTTP/{self._version} is not spoken here")
            )
        method = self._method = self._parser.get_method().decode("ascii")
        if method not in METHODS:
            raise RefusedRequest(Refusal(501, "bad_method", f"method {method} is not known here"))
        hosts = length = 0
        upgrade = coding = b""
        for name, value in self._headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                length = int(value or b"0")  # llhttp has checked that it is digits, and there once
            elif name == b"transfer-encoding":
                coding += value.lower() + b","
            elif name == b"upgrade":
                upgrade += value.lower()
            elif name == b"expect":
                self._expect(value)
        if hosts > 1 or (hosts == 0 and self._version == "1.1"):
            raise RefusedRequest(Refusal(400, "bad_host", "one Host header is needed"))
        if coding not in (b"", b"chunked,") or (coding and self._version == "1.0"):
            raise RefusedRequest(
                Refusal(501, "transfer_coding", "no transfer coding but chunked is known here")
            )
        if length > self._limits.body_bytes:
            raise _too_large(self._limits)
        self._path, self._raw_query = read_target(self._url)
        if self._parser.should_upgrade():
            if length or coding:
                raise RefusedRequest(
                    Refusal(400, "upgrade_with_body", "a request for an upgrade with a body: send it without")
                )
            self._websocket = upgrade == b"websocket" and method == "GET"

    def _expect(self, value: bytes) -> None:
        if value.lower() != b"100-continue":
            raise RefusedRequest(Refusal(417, "expectation", "only 100-continue can be expected here"))
        self.wants_continue = self._version == "1.1"

    def on_body(self, body: bytes) -> None:
        self._gave = True
        self.wants_continue = False
        if len(self._body) + len(body) > self._limits.body_bytes:
            raise _too_large(self._limits)
        self._held += len(body)
        self._budget.used_bytes += len(body)
        if self._budget.used_bytes > self._budget.limit_bytes:
            raise RefusedRequest(
                Refusal(
                    503,
                    "bodies_too_large",
                    "the bodies being received fill the memory set aside",
                    "MESH-E017",
                )
            )
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        keep_alive = self._parser.should_keep_alive()
        self.requests.append(
            Request(
                method=self._method,
                target=self._url.decode("ascii"),
                path=self._path,
                raw_query=self._raw_query,
                headers=self._headers,
                body=self._body if isinstance(self._body, bytes) else bytes(self._body),
                remote=self._remote,
                version=self._version,
                keep_alive=keep_alive,
                websocket=self._websocket,
            )
        )
        self._body = b""
        self.in_request = False
        self.wants_continue = False
        if not keep_alive:
            self.finished = True


def _too_large(limits: Limits) -> RefusedRequest:
    return RefusedRequest(
        Refusal(413, "body_too_large", f"the body is longer than {limits.body_bytes} bytes", "MESH-E007")
    )


def _refusal(error: httptools.HttpParserError) -> Refusal:
    """llhttp's error, or the one a callback stopped it with, as a refusal."""
    cause = error.__context__
    if isinstance(cause, RefusedRequest):
        return cause.refusal
    text = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return Refusal(400, "bad_method", "the method is not known")
    if "HTTP version" in text or "PRI" in text:
        return Refusal(505, "unsupported_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if "Content-Length" in text or "Transfer-Encoding" in text:
        return Refusal(400, "bad_length", f"the length of the body is unclear: {text}")
    return Refusal(400, "malformed_request", f"this is no HTTP request: {text}")
