"""One HTTP request and its answer; the connection is closed whatever happens."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping


class Refused(OSError):
    """An answer whose status is an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text[:500]}")
        self.status = status
        self.text = text


def fetch(
    method: str,
    address: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    within_s: float,
    tls: ssl.SSLContext | None = None,
) -> str:
    """The answer's text. `address` is host:port.

    Raises:
        Refused: the status is 400 or more, or none that HTTP knows.
        OSError: not reached, not in time, or the connection ended (Refused is one, too).
    """
    if tls is None:
        connection = http.client.HTTPConnection(address, timeout=within_s)
    else:
        connection = http.client.HTTPSConnection(address, timeout=within_s, context=tls)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except http.client.HTTPException as broken:
        raise OSError(f"{address} does not speak HTTP: {broken!r}") from broken
    finally:
        connection.close()
    if answer.status >= 400:
        raise Refused(answer.status, text)
    return text
