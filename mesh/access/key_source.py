"""Where the issuer's keys come from: a file, or a URL that is asked again and again.

Decides when to ask: at an interval, with growing pauses after a failure, and early when a token names a key that is not held, but at
most every UNKNOWN_KEY_S, whatever tokens come. Never decides whether a token is good.
Invariants: keys that are held stay in use until better ones are read, at most STALE_S; one request at a time; an answer is bounded.
Source: RFC 7517 section 5; docs/access.md.
"""

from __future__ import annotations

import random
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Final, NoReturn
from urllib.parse import urlsplit

import structlog
import trio

from mesh.access.signed import MOST_BYTES, Keys, read_keys
from mesh.access.terms import on_loopback
from mesh.model.errors import MeshError

log = structlog.get_logger("access")

FETCH_S: Final = 10.0
UNKNOWN_KEY_S: Final = 5.0
"""Tokens that name unknown keys make the URL asked at most so often."""
WAIT_S: Final = 5.0
"""A request whose token names an unknown key waits so long for the answer."""
STALE_S: Final = 86_400.0
"""Keys that could not be read anew for so long are not believed any more."""
BACKOFF_S: Final = (1.0, 300.0)


class KeySource:
    """Keys from a URL. Args: changed: told when others were read."""

    def __init__(self, url: str, refresh_s: float, changed: Callable[[Keys], object]) -> None:
        self.url = url
        self.keys = Keys({})
        self._raw = b""
        self.problem = ""
        """Why the last request failed; "" when it did not."""
        self.fetched = 0
        """Requests so far."""
        self._refresh_s = refresh_s
        self._changed = changed
        self._read_at = float("-inf")
        self._asked_at = float("-inf")
        self._wanted = trio.Event()
        self._answered = trio.Event()

    @property
    def fresh(self) -> bool:
        """Whether the keys may still be believed."""
        return trio.current_time() - self._read_at < STALE_S

    async def run(self) -> None:
        """Ask, and again, until cancelled."""
        failures = 0
        while True:
            ok = await self._ask()
            failures = 0 if ok else failures + 1
            pause_s = self._refresh_s
            if failures:
                pause_s = min(BACKOFF_S[0] * 2 ** min(failures - 1, 16), BACKOFF_S[1], self._refresh_s)
            with trio.move_on_after(pause_s * random.uniform(0.9, 1.0)):
                await self._wanted.wait()
            await trio.sleep_until(self._asked_at + min(UNKNOWN_KEY_S, self._refresh_s))

    async def refreshed(self) -> None:
        """A token names a key that is not held: wait for newer keys, if they may be asked for now. Returns at once where they
        were asked for a moment ago."""
        if trio.current_time() < self._asked_at + min(UNKNOWN_KEY_S, self._refresh_s):
            await trio.lowlevel.checkpoint()
            return
        answered = self._answered
        self._wanted.set()
        with trio.move_on_after(WAIT_S):
            await answered.wait()

    def want(self) -> None:
        """Ask soon (SIGHUP)."""
        self._wanted.set()

    async def _ask(self) -> bool:
        self._wanted = trio.Event()
        self._asked_at = trio.current_time()
        self.fetched += 1
        try:
            with trio.fail_after(FETCH_S + 1):
                raw = await trio.to_thread.run_sync(fetch, self.url, abandon_on_cancel=True)
            keys = read_keys(raw, self.url)
        except (MeshError, trio.TooSlowError) as error:
            problem = error.what if isinstance(error, MeshError) else f"no answer within {FETCH_S:g} s"
            if problem != self.problem:
                log.warning("keys for JWTs cannot be read", code="MESH-C052", url=self.url, problem=problem)
            self.problem = problem
            return False
        else:
            if self.problem:
                log.info("keys for JWTs are read again", url=self.url)
            self.problem = ""
            self._read_at = trio.current_time()
            if raw != self._raw:
                self._raw, self.keys = raw, keys
                log.info("keys for JWTs", url=self.url, keys=sorted(keys.ids))
                self._changed(keys)
            return True
        finally:
            self._answered.set()
            self._answered = trio.Event()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from the URL that was configured, and from nowhere it points to."""

    def redirect_request(self, *args: object, **kwargs: object) -> NoReturn:
        raise MeshError("MESH-C052", "", "it answers with a redirection: write the URL it points to")


def fetch(url: str) -> bytes:
    """The bytes at a URL; blocks. Raises: MeshError MESH-C052."""
    proxies = [urllib.request.ProxyHandler({})] if on_loopback(urlsplit(url).hostname or "") else []
    opener = urllib.request.build_opener(_NoRedirect, *proxies)
    request = urllib.request.Request(url, headers={"accept": "application/json", "user-agent": "hopmesh"})
    try:
        with opener.open(request, timeout=FETCH_S) as answer:
            raw: bytes = answer.read(MOST_BYTES + 1)
            return raw
    except urllib.error.HTTPError as error:
        raise MeshError("MESH-C052", url, f"it answers {error.code}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise MeshError("MESH-C052", url, str(why)[:200]) from None
