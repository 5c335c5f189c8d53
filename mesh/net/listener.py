"""A listening port and its accept loop, for links and for HTTP alike.

Decides which sockets are bound, how accepting goes on whatever clients and the system do, and that no connection's end
is the end of another. Counts what it refuses.
Never reads a byte of a connection.
Invariant: while `serve` runs and `close` was not called, the port accepts, or counts why it cannot just now.
Source: design pages "Dependencies" (runtime) and "What a person sees" (Errors); accept(2).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from mesh.model.errors import MeshError
from mesh.net.address import join, split
from mesh.net.port_holder import port_holder
from mesh.net.supervise import Crashes, start_child
from mesh.net.tcp import TcpTransport, why
from mesh.net.transport import LinkLost

BACKLOG: Final = 1024
ACCEPTS_A_TURN: Final = 64
"""Connections accepted before the other tasks have their turn."""
NO_DESCRIPTORS_PAUSE_S: Final = 0.1

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_DEAD: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EFAULT})
"""Errors of accept(2) that mean the listening socket itself is no good; every other concerns one client."""

CountRefusal = Callable[[str], None]
"""Told a short stable reason for each connection or request that was refused or broken."""
ServeOne = Callable[[TcpTransport], Awaitable[object]]


class Listener:
    """One configured address, bound. Made by `open_listener`.

    Args:
        sockets: bound and listening, owned from now on.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        assert sockets
        self._sockets = sockets
        self._closed = False
        self.addresses = tuple(join(*sock.getsockname()[:2]) for sock in sockets)
        self.accepted = 0
        self.connections = 0
        """Open now."""

    @property
    def address(self) -> str:
        """Where it listens, with the port the system chose for 0."""
        return self.addresses[0]

    @property
    def port(self) -> int:
        """The first address's port."""
        return split(self.address)[1]

    @property
    def on_loopback(self) -> bool:
        """Only this machine reaches it."""
        return all(ipaddress.ip_address(split(address)[0]).is_loopback for address in self.addresses)

    async def serve(
        self,
        serve_one: ServeOne,
        *,
        kind: str,
        crashes: Crashes,
        count_refusal: CountRefusal,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept, and run `serve_one` for each connection as a task of its own, until `close` and the last one's end.

        Args:
            kind: what the connections are ("link", "client"): in task names and crash counts.
        Effects: a connection is aborted when its task ends, however that was; LinkLost is a normal end, counted as
            `connection_lost`; a crash is recorded. Raises: cancellation; OSError when the listening socket itself is broken.
            Cost: one task a connection.
        """
        try:
            async with trio.open_nursery() as nursery:
                for sock in self._sockets:
                    nursery.start_soon(
                        self._accept,
                        sock,
                        serve_one,
                        nursery,
                        kind,
                        crashes,
                        count_refusal,
                        name=f"accept {kind}",
                    )
                task_status.started()
        finally:
            self.close()

    def close(self) -> None:
        """Stop accepting; connections go on. Idempotent."""
        if not self._closed:
            self._closed = True
            for sock in self._sockets:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def _accept(
        self,
        sock: socket.socket,
        serve_one: ServeOne,
        nursery: trio.Nursery,
        kind: str,
        crashes: Crashes,
        count_refusal: CountRefusal,
    ) -> None:
        spare = _Spare()
        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                for _ in range(ACCEPTS_A_TURN):
                    try:
                        connected, _peer = sock.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        if error.errno in _DEAD:
                            raise
                        if error.errno in _EXHAUSTED:
                            count_refusal("no_descriptors")
                            spare.turn_away(sock)
                            await trio.sleep(NO_DESCRIPTORS_PAUSE_S)
                            break
                        count_refusal("accept_failed")
                        continue
                    self.accepted += 1
                    transport = TcpTransport(connected)
                    start_child(
                        nursery,
                        crashes,
                        kind,
                        transport.remote,
                        self._one,
                        transport,
                        serve_one,
                        count_refusal,
                    )
        except (trio.ClosedResourceError, OSError):
            if not self._closed:
                raise
        finally:
            spare.close()

    async def _one(self, transport: TcpTransport, serve_one: ServeOne, count_refusal: CountRefusal) -> None:
        self.connections += 1
        try:
            await serve_one(transport)
        except LinkLost:
            count_refusal("connection_lost")
        finally:
            self.connections -= 1
            transport.abort()


class _Spare:
    """A descriptor in reserve: when none is left, the next client is accepted with it and told at once that we are full,
    instead of waiting in the backlog for an answer that does not come."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._take()

    def _take(self) -> None:
        with suppress(OSError):
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def turn_away(self, sock: socket.socket) -> None:
        if self._fd is None:
            self._take()
        if self._fd is not None:
            self.close()
            with suppress(OSError):
                sock.accept()[0].close()
            self._take()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


async def open_listener(where: str, address: str, *, backlog: int = BACKLOG) -> Listener:
    """Bind and listen.

    Args:
        where: the configuration key, for the error ("listen.events").
        address: "HOST:PORT"; port 0 lets the system choose; a host name is bound on each of its addresses (with port 0:
            the first); "[::]" takes IPv4 too.
    Raises: MeshError MESH-C005 (no address), MESH-C012 (in use, names the process where that can be seen), MESH-C013
        (not this machine's, no permission, unknown name); nothing is left bound.
    """
    try:
        host, port = split(address)
    except ValueError as error:
        raise MeshError("MESH-C005", where, str(error)) from None
    if not host:
        raise MeshError("MESH-C005", where, f'"{address}" has no host: write 127.0.0.1, or 0.0.0.0 for all')
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise MeshError("MESH-C013", where, f"the host name {host!r} cannot be resolved") from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, target in found[:1] if port == 0 else found:
            sockets.append(_bind(family, target, backlog))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _refused(where, address, port, error) from None
    return Listener(sockets)


def _bind(family: int, target: object, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # So that a node can start again while connections of its last life are in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(target[0] != "::"))  # type: ignore[index]
        sock.bind(target)  # type: ignore[arg-type]
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _refused(where: str, address: str, port: int, error: OSError) -> MeshError:
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        return MeshError(
            "MESH-C012", where, f"port {port} is already used" + (f" by {holder}" if holder else "")
        )
    return MeshError("MESH-C013", where, f"{address} cannot be listened on: {why(error)}")
