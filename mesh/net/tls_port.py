"""The TLS handshakes of an HTTP port's clients, and a bound on strangers who begin one and do not go on.

Decides how many may be under way, that the oldest goes when another comes, and what a client is told that speaks HTTP without TLS.
Never decides which certificates are good: that is `Secure`'s.
Invariant: at most `limits.half_open_clients` handshakes are under way, each at most `limits.handshake_timeout_s` long; each that came to
nothing was counted once.
Source: RFC 4987 section 3.4 (recycling the oldest half-open).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio

from mesh.model.limits import Limits
from mesh.model.reasons import Tls
from mesh.net.http_request import Refusal
from mesh.net.http_response import problem_response, render
from mesh.net.listener import CountRefusal
from mesh.net.tls import Secure, TlsFailed, TlsTransport, shake_hands
from mesh.net.transport import LinkLost, Transport, linger

PLAIN_CODE = "MESH-E060"


class Handshakes:
    """Args: secure: the port's certificates. when_refused: told who was refused, and why."""

    def __init__(
        self,
        secure: Secure,
        limits: Limits,
        count_refusal: CountRefusal,
        when_refused: Callable[[str, TlsFailed], object] = lambda remote, failed: None,
    ) -> None:
        self._secure = secure
        self._limits = limits
        self._count_refusal = count_refusal
        self._when_refused = when_refused
        self._under_way: dict[trio.CancelScope, None] = {}  # oldest first

    async def shake(self, connected: Transport) -> TlsTransport | None:
        """The connection inside TLS; None where it came to nothing, which was counted. Raises: LinkLost; cancellation."""
        limits = self._limits
        if len(self._under_way) >= limits.half_open_clients:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            oldest.cancel()
            self._count_refusal(Tls.EVICTED.counted)
        scope = trio.CancelScope()
        self._under_way[scope] = None
        try:
            with scope:
                return await shake_hands(connected, self._secure, limits.handshake_timeout_s, server=True)
        except TlsFailed as failed:
            self._count_refusal(failed.why.counted)
            self._when_refused(connected.remote, failed)
            if failed.why is Tls.PLAIN:
                await _tell_plain(connected)
        finally:
            self._under_way.pop(scope, None)
        return None


async def _tell_plain(connected: Transport) -> None:
    refusal = Refusal(
        400, Tls.PLAIN.counted, "this port speaks HTTP inside TLS only: use https://", PLAIN_CODE
    )
    with suppress(LinkLost):
        await connected.send(render(problem_response(refusal), keep_alive=False))
        await linger(connected)
