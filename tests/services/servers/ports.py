"""Free TCP ports of loopback for servers that come back on the port they had.

They are taken by chance from below the range out of which the system gives ports to outgoing connections: a server that is
down for a while would find its port in use by some client otherwise. A port is free when it can be bound, and nothing is
held afterwards: a server that finds its port taken at its first start chooses again (`process.PortTaken`). Within one
process no port is handed out twice.
"""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

HOST = "127.0.0.1"
# Below are the well-known ports of services that a developer may have running.
LOWEST = 10_000
# Tries before giving up: with a thousand listeners a block of five is free in nearly every try.
TRIES = 200

_given: set[int] = set()
_lock = threading.Lock()
# Not seeded: two runs at the same time must not choose the same.
_dice = random.SystemRandom()


def free_port() -> int:
    """One free port."""
    return free_block((0,))


def free_block(offsets: tuple[int, ...]) -> int:
    """A port P for which P + offset is free for every one of the offsets.

    Raises:
        OSError: no such block was found.
    """
    highest = _first_given_by_the_system() - 1
    for _ in range(TRIES):
        port = _dice.randint(LOWEST - min(offsets), highest - max(offsets))
        block = [port + offset for offset in offsets]
        with _lock:
            if not _given.isdisjoint(block) or not all(_is_free(each) for each in block):
                continue
            _given.update(block)
        return port
    raise OSError(f"no port P is free together with {offsets} after {TRIES} tries")


def _first_given_by_the_system() -> int:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # A system that gives out nearly all ports leaves no better choice.
    return first if first > LOWEST + 5_000 else 61_000


def _is_free(port: int) -> bool:
    """Whether a server could listen there, on loopback and on all addresses (Nacos's Raft listens on all)."""
    for host in (HOST, ""):
        with socket.socket() as probe:
            # As servers do: what is left of closed connections does not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
