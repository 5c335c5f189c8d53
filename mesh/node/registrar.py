"""One registry as a node uses it: every call bounded in time, counted, and its absence told once.

Decides when a registry counts as unavailable (a call failed or took longer than CALL_S) and as back (a call was answered),
and how long to wait before the next try. Never decides what is asked of it.
Invariant: no call takes longer than CALL_S, whatever the kind does; while the registry is away one caller tries, the others
wait for `back`.
Source: design page "Routing", The registry ("registry down means the mesh runs on").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
import trio

from registry.base import BadEntry, Registry, RegistryError, RegistryStatistics, RegistryUnavailable

log = structlog.get_logger("registry")

CALL_S: Final = 5.0
"""Longest that a node waits for one answer."""
CLOSE_S: Final = 1.0
RETRY_S: Final = (0.5, 2.0)
"""First and longest wait before the next try while it is away; each with jitter."""
MINUTE_S: Final = 60.0
SAMPLE_S: Final = 1.0

T = TypeVar("T")


class Registrar:
    """Args: registry: whose calls it makes. role: what it is asked for, told in logs and views: "nodes", "directory" or "all"."""

    def __init__(self, registry: Registry, role: str = "all") -> None:
        self.registry = registry
        self.role = role
        self.available: bool | None = None
        """None until the first call ended."""
        self.since = trio.current_time()
        """When `available` took its value."""
        self.last_success: float | None = None
        self.problem = ""
        self.back = trio.Event()
        """Set when it answers; another one takes its place when it goes away."""
        self.doubted = trio.Event()
        """Set when something else than a call, the watch, met a failure: whoever calls regularly looks at once."""
        self.watch_problem = ""
        self.calls = 0
        self.failures = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(MINUTE_S / SAMPLE_S) + 2)

    async def ask(self, what: Callable[[Registry], Awaitable[T]]) -> T:
        """Make one call. Raises: what the call raises, and RegistryUnavailable when it takes longer than CALL_S."""
        self._sample()
        self.calls += 1
        with trio.move_on_after(CALL_S):
            try:
                answer = await what(self.registry)
            except RegistryUnavailable as error:
                self.failed(error)
                raise
            except BadEntry:
                raise  # refused here, before anything was asked
            except RegistryError:
                self.answered()
                raise
            self.answered()
            return answer
        late = RegistryUnavailable(f"registry {self.registry.kind}", f"no answer within {CALL_S:g} s")
        self.failed(late)
        raise late

    def answered(self) -> None:
        """It answered, whatever it said."""
        now = trio.current_time()
        self.last_success = now
        if self.available is not True:
            if self.available is False:
                log.info("registry is back", kind=self.registry.kind, away_s=round(now - self.since, 1))
            self.available, self.since, self.problem = True, now, ""
            self.back.set()

    def doubt(self, error: RegistryUnavailable) -> None:
        """The watch broke off. Whether the registry is away is for the next call to say."""
        if not self.watch_problem:
            log.debug("registry watch broke off", error=error.what)
        self.watch_problem = error.what
        self.doubted.set()

    def failed(self, error: RegistryUnavailable) -> None:
        """A call was told that it is away. Logged when it goes, not again until it was back."""
        self.failures += 1
        self.problem = f"{error.where}: {error.what}"
        if self.available is not False:
            log.warning(
                "registry unavailable: the mesh runs on without it, new peers wait",
                code=error.code,
                kind=self.registry.kind,
                error=self.problem,
                remedy=error.remedy,
            )
            self.available, self.since = False, trio.current_time()
            self.back = trio.Event()

    async def close(self) -> None:
        """Let go of the registry, within CLOSE_S."""
        with trio.move_on_after(CLOSE_S):
            await self.registry.aclose()

    def statistics(self) -> RegistryStatistics:
        """What its client counts."""
        return self.registry.statistics()

    def per_minute(self) -> int:
        """Requests of the last minute, as its client counts them (what it does by itself between calls is among them)."""
        self._sample()
        oldest = self._samples[0]
        return self.registry.statistics().calls - oldest[1]

    def _sample(self) -> None:
        now, calls = trio.current_time(), self.registry.statistics().calls
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now, calls))
        while len(self._samples) > 1 and self._samples[1][0] <= now - MINUTE_S:
            self._samples.popleft()
