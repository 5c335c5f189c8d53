"""TLS 1.3 over any transport, driven without a thread or a second copy of the stream: a transport that encrypts.

Decides how a handshake goes and ends, how OpenSSL's errors become one sentence and one reason each, and what is known of the other end
afterwards. Never decides which certificates are good: the contexts verify, and `Secure.refuses` says who is welcome.
Invariant: no byte is handed up before the other end was verified and found welcome; what is encrypted leaves in its order.
Source: RFC 8446; design page "Routing", Security; OpenSSL's SSL_read(3) and SSL_write(3).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import trio

from mesh.model.certificate import PeerCertificate, only_id
from mesh.model.reasons import Close, Tls
from mesh.net.transport import READ_BYTES, LinkLost, Transport, linger

PIECE_BYTES: Final = 64 * 1024
"""Encrypted at a time, four records: what may wait encrypted for a socket that takes no more."""
RECORD_BYTES: Final = 16 * 1024
"""What one record carries at most: OpenSSL returns no more at a time, and room for more costs."""
GOODBYE_S: Final = 0.5
"""How long an end that was refused has to read the alert that says why."""
_HANDSHAKE, _ALERT = 0x16, 0x15
"""First bytes of TLS records that may begin a connection."""


class TlsFailed(LinkLost):
    """No TLS connection came of it, or it broke. why: the reason it is counted under."""

    def __init__(self, why: Tls, detail: str) -> None:
        super().__init__(detail, Close.TLS_FAILED)
        self.why = why


class Secure(Protocol):
    """The files of one kind of port as they are now: asked at every handshake, so that a reload needs no restart."""

    @property
    def server(self) -> ssl.SSLContext: ...

    @property
    def client(self) -> ssl.SSLContext: ...

    def refuses(self, certificate: PeerCertificate | None) -> tuple[Tls, str] | None:
        """Why a verified certificate (None: the other end showed none) is not welcome; None when it is."""


class TlsTransport:
    """A transport inside TLS. `handshake` comes first.

    Args:
        below: connected, owned from now on. server: this end was dialled. host: the name that was dialled, for contexts that check it.
    Keeps: Transport. Cost: about 2.3 ms for the handshakes of both ends, then one more copy and AES of every byte.
    """

    def __init__(self, below: Transport, secure: Secure, *, server: bool, host: str = "") -> None:
        self._below = below
        self._secure = secure
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = secure.server if server else secure.client
        name = host if host and not server else None
        try:
            self._ssl = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name)
        except ValueError as error:  # a name that no certificate can carry
            raise TlsFailed(Tls.BAD_CERTIFICATE, f"{host!r}: {error}") from None
        self._server = server
        self._rest = b""  # encrypted, not taken by the transport below yet
        self._owed = 0  # of the next plain bytes, that were told as not taken and are in `_rest`
        self._sending = False
        self._more = False  # there may be plain bytes left in OpenSSL
        self._ended = False
        self._unread = b""
        self._failure: TlsFailed | None = None
        self.kind = below.kind
        self.remote = below.remote
        self.sends_now = below.sends_now
        self.certificate: PeerCertificate | None = None

    @property
    def version(self) -> str:
        """Such as "TLSv1.3"; "" before the handshake."""
        return self._ssl.version() or ""

    async def handshake(self, farewell: Callable[[str], bytes] | None = None) -> None:
        """Agree on keys, and find the other end welcome. Raises: TlsFailed, LinkLost; cancellation. The other end is told why, and
        the transport below is left to be closed.

        Args: farewell: what to say inside TLS to an end that is not welcome, from the sentence that says why.
        """
        try:
            await self._shake()
        except ssl.SSLError as error:
            failed = _failed(error, server=self._server)
            with suppress(LinkLost):
                await self._flush()  # the alert
                await linger(self._below, GOODBYE_S)
            raise failed from None
        found = _certificate(self._ssl)
        refusal = self._secure.refuses(found)
        if refusal is not None:
            with suppress(LinkLost):
                if farewell is not None:
                    await self.send(farewell(refusal[1]))
                await linger(self, GOODBYE_S)
            raise TlsFailed(*refusal)
        self.certificate = found

    async def _shake(self) -> None:
        first = True
        while True:
            try:
                self._ssl.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            if self._out.pending:
                await self._below.send(self._out.read())
            if done:
                return
            data = await self._below.receive(READ_BYTES)
            if not data:
                raise TlsFailed(Tls.CUT_SHORT, "the other end closed the connection during the TLS handshake")
            if first and data[0] not in (_HANDSHAKE, _ALERT):
                raise TlsFailed(Tls.PLAIN, "the other end does not speak TLS")
            first = False
            self._in.write(data)

    # -- receiving -------------------------------------------------------------------------------------------------

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """See Transport."""
        if self._unread:
            await trio.lowlevel.checkpoint()
            data = self._unread
            self._unread = data[most:]
            return data[:most]
        if self._more or self._failure is not None or self._ended:
            await trio.lowlevel.checkpoint()
        while True:
            found = self._decrypt(most)
            if found is not None:
                return found
            data = await self._below.receive(max(most, READ_BYTES))
            if not data:
                # Without a closing alert: what is carried here says itself where it ends, so nothing can be cut off unseen.
                self._ended = True
            else:
                self._in.write(data)

    def unread(self, data: bytes) -> None:
        """Put back what was received to find out which protocol is spoken: the next `receive` returns it."""
        self._unread = data + self._unread

    def _decrypt(self, most: int) -> bytes | None:
        """Plain bytes that are there; b"" at the end; None when more must come first. Raises: TlsFailed."""
        if self._failure is not None:
            raise self._failure
        parts: list[bytes] = []
        left = most
        while left > 0 and not self._ended:
            if not self._in.pending and not self._ssl.pending():
                break
            try:
                part = self._ssl.read(min(left, RECORD_BYTES))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                part = b""
            except ssl.SSLError as error:
                self._failure = _failed(error, server=self._server)
                break
            if not part:
                self._ended = True
                break
            parts.append(part)
            left -= len(part)
        self._more = left == 0
        self._flush_now()
        if parts:
            return b"".join(parts)
        if self._failure is not None:
            raise self._failure
        return b"" if self._ended else None

    # -- sending ---------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """See Transport."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        try:
            with memoryview(data) as view:
                done = min(self._owed, len(view))
                self._owed -= done
                while True:
                    piece = view[done : done + PIECE_BYTES]
                    done += len(piece)
                    self._encrypt(piece)
                    await self._flush()
                    if done >= len(view):
                        return
        finally:
            self._sending = False

    def send_now(self, data: bytes) -> int:
        """See Transport. Where the transport below takes an encrypted piece only in part, the last byte of it is told as not taken:
        whoever sends the rest, as the interface demands, sends what waits here with it."""
        if not self.sends_now or not self._flush_now():
            return 0
        taken = min(self._owed, len(data))
        self._owed -= taken
        with memoryview(data) as view:
            while taken < len(view):
                piece = view[taken : taken + PIECE_BYTES]
                if len(piece) < 2:
                    break  # too short to be told as taken in part
                self._encrypt(piece)
                taken += len(piece)
                if not self._flush_now():
                    self._owed = 1
                    return taken - 1
        return taken

    def _encrypt(self, piece: memoryview) -> None:
        """Into `_rest`. Raises: LinkLost when OpenSSL does not go on: after an alert of the other end, or a goodbye of this one."""
        try:
            while piece:
                piece = piece[self._ssl.write(piece) :]
        except ssl.SSLError as error:
            raise _failed(error, server=self._server) from None
        self._rest += self._out.read()

    async def _flush(self) -> None:
        while self._rest or self._out.pending:
            data, self._rest = self._rest + self._out.read(), b""
            await self._below.send(data)

    def _flush_now(self) -> bool:
        """Hand down what waits, as far as that goes without waiting. Returns: whether nothing is left. Raises: LinkLost."""
        if self._sending:
            return False
        if self._out.pending:
            self._rest += self._out.read()
        if self._rest and self.sends_now:
            self._rest = self._rest[self._below.send_now(self._rest) :]
        return not self._rest

    # -- ending ----------------------------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """See Transport."""
        self._shut()
        if not self._sending:
            with suppress(LinkLost):
                await self._flush()
        await self._below.send_eof()

    async def aclose(self) -> None:
        """See Transport."""
        self._shut()
        with suppress(LinkLost):
            self._flush_now()
        await self._below.aclose()

    def abort(self) -> None:
        """See Transport."""
        self._below.abort()

    def _shut(self) -> None:
        """Nothing more will be encrypted: the closing alert."""
        with suppress(ssl.SSLError, ValueError):
            self._ssl.unwrap()


async def shake_hands(
    below: Transport,
    secure: Secure,
    timeout_s: float,
    *,
    server: bool,
    host: str = "",
    farewell: Callable[[str], bytes] | None = None,
) -> TlsTransport:
    """A transport inside TLS, with the other end verified and welcome; see TlsTransport and its `handshake`.

    Raises: TlsFailed, LinkLost; `below` is to be closed then."""
    with trio.move_on_after(timeout_s):
        transport = TlsTransport(below, secure, server=server, host=host)
        await transport.handshake(farewell)
        return transport
    raise TlsFailed(Tls.TIMEOUT, f"no TLS handshake within {timeout_s:g} s")


# -- what OpenSSL says ------------------------------------------------------------------------------------------------


def _certificate(connection: ssl.SSLObject) -> PeerCertificate | None:
    """What the other end's verified certificate says; None where it showed none."""
    told = connection.getpeercert()
    if not told:
        return None
    names = told.get("subjectAltName", ())
    subject = told.get("subject", ())
    assert isinstance(names, tuple)
    assert isinstance(subject, tuple)
    common = [pair[1] for part in subject for pair in part if pair[0] == "commonName"]
    return PeerCertificate(
        id=only_id([str(name[1]) for name in names if name[0] == "URI"]),
        subject=str(common[0])[:200] if common else "",
        serial=str(told.get("serialNumber", "")),
        not_after_s=float(ssl.cert_time_to_seconds(str(told["notAfter"]))),
    )


_VERIFY: Final[dict[int, tuple[Tls, str]]] = {
    9: (Tls.NOT_YET_VALID, "is not valid yet: compare the clocks"),
    10: (Tls.EXPIRED, "has expired"),
    18: (Tls.FOREIGN_CA, "is signed by itself, not by a CA that is trusted here"),
    19: (Tls.FOREIGN_CA, "comes from a CA that is not trusted here"),
    20: (Tls.FOREIGN_CA, "comes from a CA that is not trusted here"),
    21: (Tls.FOREIGN_CA, "comes from a CA that is not trusted here"),
    62: (Tls.FOREIGN_NAME, "is for another host"),
    64: (Tls.FOREIGN_NAME, "is for another host"),
}
"""OpenSSL's X509_V_ERR numbers (x509_vfy.h)."""
_ALERTS: Final[dict[str, str]] = {
    "UNKNOWN_CA": "it comes from a CA that is not trusted there",
    "CERTIFICATE_EXPIRED": "it has expired",
    "CERTIFICATE_REQUIRED": "none was shown, and one is needed",
    "BAD_CERTIFICATE": "it cannot be used",
    "CERTIFICATE_UNKNOWN": "it cannot be used",
    "ACCESS_DENIED": "it is not welcome there",
}
"""Alerts about this end's certificate, by the end of OpenSSL's names for them, and what they say."""


def _failed(error: ssl.SSLError, *, server: bool) -> TlsFailed:
    """An error of OpenSSL as one reason and one sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why, says = _VERIFY.get(
            error.verify_code, (Tls.BAD_CERTIFICATE, f"cannot be used: {error.verify_message}")
        )
        return TlsFailed(why, f"the other end's certificate {says}")
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return TlsFailed(Tls.NO_CERTIFICATE, "the other end showed no certificate")
    if reason in ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "HTTPS_PROXY_REQUEST"):
        return TlsFailed(Tls.PLAIN, "the other end does not speak TLS")
    if reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW"):
        return TlsFailed(Tls.OLD_VERSION, "the other end speaks no TLS 1.3")
    _, is_alert, alert = reason.partition("_ALERT_")
    if is_alert:
        says = _ALERTS.get(alert, "")
        if says:
            return TlsFailed(Tls.REFUSED_BY_PEER, f"the other end refused this end's certificate: {says}")
        return TlsFailed(Tls.REFUSED_BY_PEER, f"the other end ended TLS: {alert.replace('_', ' ').lower()}")
    text = (reason or str(error)).replace("_", " ").lower()
    return TlsFailed(Tls.BROKEN, f"TLS with the {'dialling' if server else 'dialled'} end failed: {text}")
