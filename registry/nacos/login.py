"""User and password for a token: Nacos's login by HTTP.

Decides when a token is fetched: when there is none, when nine tenths of its time are over, and when a server refused it. Never
writes a password anywhere, and asks at most once in REFUSED_S after a refusal.
Invariant: HTTP runs in a worker thread with a time-out, and reads at most ANSWER_BYTES.
Source: Nacos, "Authorization": `POST /nacos/v3/auth/user/login` (3.x), `POST /nacos/v1/auth/login` (2.x).
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final
from urllib.parse import urlencode

import msgspec
import trio

from registry.base import RegistryUnavailable
from registry.nacos.settings import NacosSettings

ANSWER_BYTES: Final = 64 * 1024
LOGIN_S: Final = 10.0
"""A server takes 0.1 s of its processor to check a password, and 50 nodes may start at once."""
REFUSED_S: Final = 1.0
RENEW_AT: Final = 0.9
"""Of a token's time."""
TOKEN_S: Final = (1.0, 7 * 86_400.0)
"""A time that a server gives its tokens is taken to lie between these."""
PATHS: Final = ("/v3/auth/user/login", "/v1/auth/login")
UNKNOWN_PATH: Final = frozenset({404, 405, 410, 501})
WHERE: Final = "registry.user"

Post = Callable[[str, str, str], Awaitable[tuple[int, bytes]]]
"""Server, path and form; status and the answer's bytes. Raises: OSError, http.client.HTTPException."""


class _Given(msgspec.Struct, rename="camel", kw_only=True):
    access_token: str
    token_ttl: float = 18_000.0


class Login:
    """The token of one client, good for all servers of its Nacos. Args: post: sends a form (tests send it elsewhere)."""

    def __init__(self, settings: NacosSettings, post: Post | None = None) -> None:
        self._settings = settings
        self._post = post or self._post_in_thread
        self._limiter = trio.CapacityLimiter(1)
        self._asking = trio.Lock()
        self._token = ""
        self._renew_s = self._end_s = float("-inf")
        self._refusal = ""
        self._refused_s = float("-inf")
        self._paths: dict[str, str] = {}

    async def token(self, server: str) -> str:
        """A token that should be good, fetched from this server if need be; "" where no user is set.

        Raises: RegistryUnavailable (MESH-R009 when user and password are refused).
        """
        if not self._settings.user:
            return ""
        async with self._asking:
            now = trio.current_time()
            if now < self._renew_s:
                return self._token
            if self._refusal and now < self._refused_s + REFUSED_S:
                raise RegistryUnavailable(WHERE, self._refusal, "MESH-R009")
            try:
                await self._fetch(server)
            except RegistryUnavailable:
                if now >= self._end_s:
                    raise
        return self._token

    def reject(self, token: str) -> None:
        """A server did not take this token: fetch another one next time."""
        if token == self._token:
            self._renew_s = self._end_s = float("-inf")

    async def _fetch(self, server: str) -> None:
        status, raw = await self._ask(server)
        try:
            given = msgspec.json.decode(raw, type=_Given) if status == http.HTTPStatus.OK else None
        except (msgspec.MsgspecError, ValueError):
            given = None
        now = trio.current_time()
        if given is None or not given.access_token:
            self._refused_s = now
            self._refusal = (
                f"{server} refuses user {self._settings.user!r} or the password (HTTP {status}): correct them,"
                " and look in the console whether the user is there"
            )
            raise RegistryUnavailable(WHERE, self._refusal, "MESH-R009")
        life_s = min(max(given.token_ttl, TOKEN_S[0]), TOKEN_S[1])
        self._token, self._refusal = given.access_token, ""
        self._renew_s, self._end_s = now + life_s * RENEW_AT, now + life_s

    async def _ask(self, server: str) -> tuple[int, bytes]:
        """The newest path that the server knows."""
        form = urlencode({"username": self._settings.user, "password": self._settings.password})
        known = self._paths.get(server)
        status, raw = 0, b""
        for path in PATHS if known is None else (known,):
            try:
                with trio.fail_after(LOGIN_S):
                    status, raw = await self._post(server, self._settings.context_path + path, form)
            except (OSError, trio.TooSlowError) as error:
                what = f"{server} does not answer a login: {str(error) or 'no answer in time'}"
                raise RegistryUnavailable("registry.servers", what) from error
            except http.client.HTTPException:
                return 0, b""  # 2.3 has been seen to refuse a password with a broken answer
            if status not in UNKNOWN_PATH:
                self._paths[server] = path
                break
        else:
            self._paths.pop(server, None)
        return status, raw

    async def _post_in_thread(self, server: str, path: str, form: str) -> tuple[int, bytes]:
        work = partial(_post, self._settings, server, path, form)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)


def _post(settings: NacosSettings, server: str, path: str, form: str) -> tuple[int, bytes]:
    host, port = settings.split(server)
    connection: http.client.HTTPConnection
    if settings.login_secure:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
        connection = http.client.HTTPSConnection(host, port, timeout=LOGIN_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=LOGIN_S)
    try:
        connection.request("POST", path, form, {"Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES)
    finally:
        connection.close()
