"""Free TCP ports of loopback, chosen by the system.

A port is free when it can be bound, and nothing is held afterwards: another process may take it before the server does.
Servers therefore choose again when one does not come up because its port was taken (`process.PortTaken`). Within one
process no port is handed out twice.
"""

from __future__ import annotations

import socket
import threading

HOST = "127.0.0.1"
# Tries before giving up: with a thousand listeners a block of five is free in nearly every try.
TRIES = 200

_given: set[int] = set()
_lock = threading.Lock()


def free_port() -> int:
    """One free port."""
    return free_block((0,))


def free_block(offsets: tuple[int, ...]) -> int:
    """A port P for which P + offset is free for every one of the offsets.

    The system chooses P; ports it would not choose by itself (below 1024, above 65535) are never part of a block.

    Raises:
        OSError: no such block was found.
    """
    for _ in range(TRIES):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        block = [port + offset for offset in offsets]
        with _lock:
            if not _given.isdisjoint(block) or not all(_is_free(each) for each in block):
                continue
            _given.update(block)
        return int(port)
    raise OSError(f"no port P is free together with {offsets} after {TRIES} tries")


def _is_free(port: int) -> bool:
    """Whether a server could listen there, on loopback and on all addresses (Nacos's Raft listens on all)."""
    if not 1024 <= port <= 65535:
        return False
    for host in (HOST, ""):
        with socket.socket() as probe:
            # As servers do: what is left of closed connections does not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
