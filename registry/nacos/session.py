"""A connection to one of several Nacos servers that is kept: made anew when it is lost, with all that it carried done again.

Decides which server is tried when, and what a caller is told meanwhile. A call waits for the outcome of an attempt that began
after it, and never longer: a registry that is away is said to be away.

| the server            | what is done                                                                             |
|-----------------------|-------------------------------------------------------------------------------------------|
| refuses connections   | the next one at once; after a round of all, RETRY_S[0] doubling to RETRY_S[1], a call cuts it short |
| hangs                 | given up `connect_timeout_s` after connecting, or `call_timeout_s` after a call; then the next one |
| is busy               | may take LOGIN_S to check a password: giving up early and asking again would only add to its work |
| says nothing          | is asked every CHECK_S                                                                     |
| forgot the connection | the connection is made anew                                                                |
| refuses the token     | one login, one repetition                                                                  |

Invariant: a connection is handed out only after `redo` was done on it. One task of the run keeps it (`run`).
Source: Nacos, `RpcClient` (reconnecting, health check every 5 s) and `NamingGrpcRedoService`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from registry.base import RegistryUnavailable
from registry.nacos.connection import Connection, ConnectionBroken, Refused
from registry.nacos.login import LOGIN_S, Login
from registry.nacos.requests import (
    NO_RIGHT,
    Answer,
    Request,
    ServiceInfo,
)
from registry.nacos.settings import NacosSettings

RETRY_S: Final = (0.2, 2.0)
ATTEMPT_S: Final = 0.1
"""Rounds begin no closer together, however many calls ask for one."""
CHECK_S: Final = 5.0
WHERE: Final = "registry.servers"

A = TypeVar("A", bound=Answer)


class Session:
    """Args: redo: registers and subscribes again, by `ask_now`. pushed: takes what the server tells.
    changed: the connection came or went."""

    def __init__(
        self,
        settings: NacosSettings,
        redo: Callable[[], Awaitable[None]],
        pushed: Callable[[ServiceInfo], None],
        changed: Callable[[], None],
        login: Login | None = None,
    ) -> None:
        self._settings = settings
        self._login = login or Login(settings)
        self._redo = redo
        self._pushed = pushed
        self._changed = changed
        self._servers = list(settings.servers)
        random.shuffle(self._servers)  # nodes spread over the servers; nothing else hangs on it
        self._made: Connection | None = None
        self._ready: Connection | None = None
        self._problem = RegistryUnavailable(WHERE, "not connected yet")
        self._begun = self._ended = 0
        self._moved = trio.Event()
        self._wanted = trio.Event()
        self.generation = 0
        """Counts the connections: what a server holds for one of them it does not hold for the next."""
        self.connected_s = float("-inf")
        self.calls = 0
        self.failures = 0

    @property
    def server(self) -> str:
        """The server in use, or ""."""
        return "" if self._ready is None else self._ready.server

    @property
    def connection_id(self) -> str:
        """What the server calls the connection in use, or ""."""
        return "" if self._ready is None else self._ready.id

    async def ready(self) -> None:
        """Wait until there is a connection. Raises: RegistryUnavailable when an attempt that began after the call failed."""
        await self._connection()

    async def ask(self, request: Request, kind: type[A], *, again: bool = True) -> A:
        """One request, and a second time on a new connection if the first one broke; not with `again` False.

        Raises: RegistryUnavailable: no server, no right, or refused; the request may have been carried out.
        """
        self.calls += 1
        try:
            try:
                return await self._ask(await self._connection(), request, kind)
            except ConnectionBroken as broken:
                if not again:
                    raise RegistryUnavailable(WHERE, broken.what, broken.code) from broken
            try:
                return await self._ask(await self._connection(), request, kind)
            except ConnectionBroken as broken:
                raise RegistryUnavailable(WHERE, broken.what, broken.code) from broken
        except RegistryUnavailable:
            self.failures += 1
            raise

    async def ask_now(self, request: Request, kind: type[A]) -> A:
        """One request on the connection that is just being made, for `redo`. Raises: ConnectionBroken, RegistryUnavailable."""
        if self._made is None:
            raise ConnectionBroken("there is no connection")
        return await self._ask(self._made, request, kind)

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        pause_s = RETRY_S[0]
        while True:
            began_s = trio.current_time()
            self._begun += 1
            served = await self._round()
            self._ended = self._begun
            self._notify()
            if served:
                pause_s = RETRY_S[0]
                continue
            await trio.sleep_until(began_s + ATTEMPT_S)
            with trio.move_on_after(pause_s * random.uniform(0.5, 1.0)):
                await self._wanted.wait()
            self._wanted = trio.Event()
            pause_s = min(pause_s * 2, RETRY_S[1])

    # -- connecting ------------------------------------------------------------------------------------------------

    async def _round(self) -> bool:
        """Try each server once, and serve on the first that takes us. Returns whether one did."""
        for server in list(self._servers):
            self._servers.append(self._servers.pop(0))
            if await self._serve(server):
                return True
        return False

    async def _serve(self, server: str) -> bool:
        """Connect to a server and stay until that breaks. Returns whether it was connected; else `_problem` says why not."""
        served = False
        try:
            connection = Connection(self._settings, server, self._pushed)
        except OSError as error:
            self._problem = RegistryUnavailable(
                "registry.tls", f"{error.filename}: {error.strerror}", "MESH-R012"
            )
            return False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.read, name="nacos stream")
                try:
                    with trio.fail_after(3 * self._settings.connect_timeout_s + LOGIN_S):
                        await self._set_up(connection)
                    served = True
                    self._ready = connection
                    self._notify()
                    nursery.start_soon(self._check, connection, name="nacos check")
                    await connection.broken.wait()
                    self._problem = RegistryUnavailable(WHERE, connection.end.what, connection.end.code)
                except trio.TooSlowError:
                    self._problem = RegistryUnavailable(WHERE, f"{server} does not answer in time")
                except ConnectionBroken as broken:
                    self._problem = RegistryUnavailable(WHERE, broken.what, broken.code)
                except Refused as refused:
                    self._problem = self._unavailable(refused)
                except RegistryUnavailable as error:
                    self._problem = error
                nursery.cancel_scope.cancel()
        finally:
            self._made = self._ready = None
            self._changed()
            await connection.aclose()
        if connection.next_server in self._servers:
            self._servers.remove(connection.next_server)
            self._servers.insert(0, connection.next_server)
        return served

    async def _set_up(self, connection: Connection) -> None:
        with trio.fail_after(self._settings.connect_timeout_s):
            await (
                connection.greet()
            )  # a server that hangs is found out here, so that a busy one may take its time below
        token = await self._login.token(connection.server)
        with trio.fail_after(self._settings.connect_timeout_s):
            await connection.set_up(token)
        self.generation += 1
        self.connected_s = trio.current_time()
        self._made = connection
        await self._redo()

    async def _check(self, connection: Connection) -> None:
        """Ask a server that nobody asked for a while."""
        while True:
            await trio.sleep_until(connection.answered_s + CHECK_S)
            if trio.current_time() >= connection.answered_s + CHECK_S:
                try:
                    await connection.check(await self._login.token(connection.server))
                except (Refused, RegistryUnavailable):
                    connection.answered_s = trio.current_time()  # it lives; calls will tell
                except ConnectionBroken:
                    return

    async def _connection(self) -> Connection:
        target = self._begun + 1
        while True:
            ready = self._ready
            if ready is not None and not ready.broken.is_set():
                return ready
            if self._ended >= target:
                problem = self._problem
                raise RegistryUnavailable(problem.where, problem.what, problem.code)
            self._wanted.set()
            await self._moved.wait()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
        self._changed()

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _ask(self, connection: Connection, request: Request, kind: type[A]) -> A:
        """One request, with a new token if the server refuses the one we have."""
        token = await self._login.token(connection.server)
        try:
            return await connection.ask(request, kind, token)
        except Refused as refused:
            if refused.code != NO_RIGHT or not token:
                raise self._unavailable(refused) from refused
        self._login.reject(token)
        token = await self._login.token(connection.server)
        try:
            return await connection.ask(request, kind, token)
        except Refused as refused:
            raise self._unavailable(refused) from refused

    def _unavailable(self, refused: Refused) -> RegistryUnavailable:
        settings = self._settings
        if refused.code != NO_RIGHT:
            return RegistryUnavailable(WHERE, refused.what)
        if not settings.user:
            what = f"{refused.what}: it asks for user and password, and none is set"
            return RegistryUnavailable("registry.user", what, "MESH-R009")
        place = f"namespace {settings.namespace or 'public'!r}, group {settings.group!r}"
        what = f"{refused.what}: give user {settings.user!r} read and write permission for {place}"
        return RegistryUnavailable("registry.user", what, "MESH-R010")
