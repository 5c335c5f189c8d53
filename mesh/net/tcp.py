"""A TCP connection as a transport, driven directly on the non-blocking socket.

Decides the socket's options and when to wait. trio's own socket wrapper is not used: a link sends from whatever task has
the data (`send_now`), and each wrapped call costs several microseconds more.
Never interprets a byte.
Invariant: `receive` waits first and then reads without a further checkpoint, so that cancelling it loses nothing.
Source: design page "Wire and speed", rules 4 and 7; tcp(7).
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Final

import trio

from mesh.model.certificate import PeerCertificate
from mesh.net.address import join
from mesh.net.transport import READ_BYTES, LinkLost

NOT_SENT_BYTES: Final = 128 * 1024
"""Bytes the kernel may hold unsent: above it the socket is not writable, so that control frames do not wait behind data."""
KEEPALIVE_S: Final = (30, 10, 3)
"""Idle seconds before the first probe, seconds between probes, probes unanswered until the connection is dead."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def tune(sock: socket.socket) -> None:
    """Set the options of a connected socket. Never raises: an option the system lacks is left out."""
    idle_s, interval_s, probes = KEEPALIVE_S
    wanted: list[tuple[int, int, int]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    for name, value in (
        ("TCP_NOTSENT_LOWAT", NOT_SENT_BYTES),
        ("TCP_KEEPIDLE", idle_s),
        ("TCP_KEEPINTVL", interval_s),
        ("TCP_KEEPCNT", probes),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            wanted.append((socket.IPPROTO_TCP, option, value))
    for level, option, value in wanted:
        try:
            sock.setsockopt(level, option, value)
        except OSError:
            continue  # the connection is gone already, or the option is unknown here: both show later, or never


def why(error: OSError) -> str:
    """An operating system's error as a sentence for a person, without its number. Cost: O(1)."""
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return "the other end reset the connection"
    text = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return text[:1].lower() + text[1:] if text else "the connection failed"


class TcpTransport:
    """One connected TCP socket.

    Args:
        sock: connected and owned from now on; made non-blocking here.
        remote: the other end for people; asked from the socket when "".
    Keeps: Transport. Cost: one system call an operation, and one turn of the loop for each wait.
    """

    kind = "tcp"
    sends_now = True
    certificate: PeerCertificate | None = None

    def __init__(self, sock: socket.socket, remote: str = "") -> None:
        sock.setblocking(False)
        tune(sock)
        self._sock = sock
        self._closed = False
        self._unread = b""
        self.remote = remote or _remote(sock)

    async def receive(self, most: int = READ_BYTES) -> bytes:
        """See Transport."""
        if self._unread:
            await trio.lowlevel.checkpoint()
            data = self._unread
            self._unread = data[most:]
            return data[:most] if self._unread else data
        sock = self._sock
        while True:
            try:
                await trio.lowlevel.wait_readable(sock)
                return sock.recv(most)
            except BlockingIOError:
                continue  # woken without data: another reader of a shared descriptor, or a checksum failure
            except trio.ClosedResourceError:
                raise LinkLost("the connection was closed at this end") from None
            except OSError as error:
                raise LinkLost(self._why(error)) from None

    def unread(self, data: bytes) -> None:
        """Put back what was received to find out which protocol is spoken: the next `receive` returns it."""
        self._unread = data + self._unread

    async def send(self, data: bytes) -> None:
        """See Transport."""
        sock = self._sock
        await trio.lowlevel.checkpoint_if_cancelled()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += sock.send(view[sent:])
                except BlockingIOError:
                    try:
                        await trio.lowlevel.wait_writable(sock)
                    except (trio.ClosedResourceError, OSError):
                        raise LinkLost("the connection was closed at this end") from None
                except OSError as error:
                    raise LinkLost(self._why(error)) from None
        # A writer whose socket always takes everything must still let the others run.
        await trio.lowlevel.cancel_shielded_checkpoint()

    def send_now(self, data: bytes) -> int:
        """See Transport."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLost(self._why(error)) from None

    async def send_eof(self) -> None:
        """See Transport."""
        if not self._closed:
            with suppress(OSError):  # not connected any more: nobody waits for our end of stream
                self._sock.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """See Transport. The kernel goes on delivering what it was given."""
        self._close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """See Transport. Unsent bytes are dropped and the other end sees a reset."""
        if not self._closed:
            with suppress(OSError):  # disconnected already: nothing to reset
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def _why(self, error: OSError) -> str:
        return "the connection was closed at this end" if self._closed else why(error)


def _remote(sock: socket.socket) -> str:
    try:
        host, port, *_ = sock.getpeername()
    except (OSError, ValueError):
        return "unknown"  # it left before it was asked
    return join(str(host), int(port))
