"""Asking a node over HTTP: one request, a list followed to its end, or a stream of server-sent events.

Decides how a failure is told (unreachable, too late, not a Hopmesh node, refused with a problem object) and nothing else.
Uses the standard library only, because a command that answers in 0.1 s is asked more often.
Source: design page "What a person sees", Admin API; RFC 9457; WHATWG HTML section 9.2 (server-sent events).
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from mesh.model.errors import ERRORS, MeshError

MAX_ANSWER_BYTES: Final = 64 << 20
MAX_LINE_BYTES: Final = 32 << 20
PAGE_ITEMS: Final = 10_000
SILENCE_S: Final = 45.0
"""A stream without a byte for so long is lost: a node sends a keep-alive every 15 s."""

Params = Sequence[tuple[str, str]]


class Event(NamedTuple):
    """One server-sent event."""

    event: str
    id: str
    data: str


class Node:
    """One port of a node. where: its base URL; every error names it. token: shown with each request, "" for none.

    A connection is kept between requests; after an error it is made anew. Raises: MeshError MESH-A001 for a bad URL.
    """

    def __init__(self, where: str, timeout_s: float, token: str = "") -> None:
        try:
            parts = urlsplit(where)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or parts.scheme not in ("http", "https"):
            raise MeshError("MESH-A001", where, "it is not http://HOST:PORT")
        self.where = where
        self.timeout_s = timeout_s
        self._base = parts.path
        self._proof = {"Authorization": f"Bearer {token}"} if token else {}
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            from mesh.client_tls import client_context

            self._connection = http.client.HTTPSConnection(
                host, port, timeout=timeout_s, context=client_context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    # -- requests --------------------------------------------------------------------------------------------------

    def get(self, path: str, params: Params = ()) -> dict[str, Any]:
        """The JSON object of a GET. Raises: MeshError (A002, A010, A012, or the problem's own code)."""
        return self.call("GET", path, params)

    def call(
        self,
        method: str,
        path: str,
        params: Params = (),
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object of an answer with a 2xx status. Raises: as `get`."""
        response = self._send(method, path, params, body, {"Accept": "application/json", **(headers or {})})
        raw = self._read(response)
        found = self._object(raw, response.status)
        if not 200 <= response.status < 300:
            raise self._refusal(found, response.status)
        return found

    def list(self, path: str, params: Params = ()) -> dict[str, Any]:
        """A list answer with the items of every page. Nodes that missed any page are missing.

        Cost: one request for each page. Raises: as `get`.
        """
        params = [*params, ("limit", str(PAGE_ITEMS))]
        whole = self.get(path, params)
        if not isinstance(whole.get("items"), list):
            raise MeshError("MESH-A010", self.where + path, "the answer is no list")
        cursor = whole.get("next")
        while cursor:
            page = self.get(path, [*params, ("cursor", str(cursor))])
            whole["items"] += page["items"]
            known = {entry["node"] for entry in whole["missing"]}
            whole["missing"] += [entry for entry in page["missing"] if entry["node"] not in known]
            cursor = page.get("next")
        missed = {entry["node"] for entry in whole.get("missing", ())}
        whole["answered"] = [node for node in whole.get("answered", ()) if node not in missed]
        whole["next"] = None
        return whole

    def stream(
        self, path: str, params: Params = (), *, patience_s: float = 0.0, ends: float | None = None
    ) -> Iterator[Event]:
        """Server-sent events. Ends by itself only at `ends`; a stream that closes or falls silent raises MESH-A016.

        Args: patience_s: how much longer than the time-out the node may take to begin. ends: monotonic seconds.
        Raises: as `get`, and MESH-A016.
        """
        sock = self._connect()
        sock.settimeout(self.timeout_s + patience_s)
        response = self._send("GET", path, params, None, {"Accept": "text/event-stream"})
        if response.status != 200:
            raise self._refusal(self._object(self._read(response), response.status), response.status)
        if "text/event-stream" not in response.headers.get("Content-Type", ""):
            raise MeshError("MESH-A010", self.where + path, "the answer is no event stream")
        yield from self._events(response, sock, path, ends)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _connect(self) -> socket.socket:
        """A fresh connection's socket: a stream sets its own time-out, and http.client lets go of the socket."""
        self._connection.close()
        try:
            self._connection.connect()
        except OSError as error:
            raise self._unreachable(error) from None
        sock: socket.socket = self._connection.sock
        return sock

    def _send(
        self, method: str, path: str, params: Params, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        target = self._base + path + (f"?{urlencode(params, quote_via=quote)}" if params else "")
        for attempt in (1, 2):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, target, body, {**headers, **self._proof})
                return self._connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
                self._connection.close()
                # A kept connection may have been closed while idle. Only a GET is safe to say twice.
                if fresh or method != "GET" or attempt == 2:
                    raise self._unreachable(error) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._connection.close()
                raise self._unreachable(error) from None
        raise AssertionError("unreachable")

    def _unreachable(self, error: Exception) -> MeshError:
        match error:
            case TimeoutError():
                return MeshError("MESH-A012", self.where, f"nothing came for {self.timeout_s:g} s")
            case socket.gaierror():
                return MeshError("MESH-A002", self.where, "the host name cannot be resolved")
            case ConnectionError() | OSError():
                what = (error.strerror or str(error) or type(error).__name__).lower()
                return MeshError("MESH-A002", self.where, what)
            case _:
                return MeshError("MESH-A010", self.where, str(error) or type(error).__name__)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            raw = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._unreachable(error) from None
        if len(raw) > MAX_ANSWER_BYTES:
            self._connection.close()
            raise MeshError("MESH-A010", self.where, f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        return raw

    def _object(self, raw: bytes, status: int) -> dict[str, Any]:
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise MeshError("MESH-A010", self.where, f"status {status} without a JSON object")
        return found

    def _refusal(self, found: Mapping[str, Any], status: int) -> MeshError:
        """The problem object as an error; a code of a newer release keeps its text."""
        code, detail = str(found.get("code", "")), str(found.get("detail") or found.get("title") or status)
        where = str(found.get("where") or self.where)
        if code in ERRORS:
            return MeshError(code, where, detail.rstrip("."), str(found.get("remedy") or ""))
        if not code:
            return MeshError("MESH-A010", self.where, f"status {status}: {detail}")
        return MeshError("MESH-A014", where, f"{code} {detail}", str(found.get("remedy") or ""))

    def _events(
        self, response: http.client.HTTPResponse, sock: socket.socket, path: str, ends: float | None
    ) -> Iterator[Event]:
        name, last_id, data = "message", "", list[str]()
        while True:
            left_s = SILENCE_S if ends is None else min(SILENCE_S, ends - time.monotonic())
            if left_s <= 0:
                return
            sock.settimeout(left_s)
            try:
                raw = response.readline(MAX_LINE_BYTES)
            except TimeoutError:
                if ends is not None and time.monotonic() >= ends:
                    return
                raise self._lost(path, f"nothing came for {SILENCE_S:g} s") from None
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(path, str(error) or type(error).__name__) from None
            if not raw:
                raise self._lost(path, "the node closed it")
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if not line:
                if data:
                    yield Event(name, last_id, "\n".join(data))
                name, data = "message", []
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match field:
                case "event":
                    name = value
                case "data":
                    data.append(value)
                case "id":
                    last_id = value

    def _lost(self, path: str, what: str) -> MeshError:
        self._connection.close()
        return MeshError("MESH-A016", self.where + path, what)


def segment(name: str) -> str:
    """One path segment: a name as it stands in a URL."""
    return quote(name, safe="")


def partial_line(answer: Mapping[str, Any]) -> str:
    """ "3 of 4 nodes answered, missing: eu-2 (suspect 4s)", or "" when all did."""
    missing = answer.get("missing") or []
    if not missing:
        return ""
    answered = len(answer.get("answered") or [])
    named = ", ".join(f"{entry['node']} ({entry['why']})" for entry in missing)
    return f"{answered} of {answered + len(missing)} nodes answered, missing: {named}"
