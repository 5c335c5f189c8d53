"""A TCP relay on loopback between two programs, in threads of the test's own process: the place to break a connection.

`cut` ends what is open and refuses what comes; `stall` keeps everything open and passes nothing on, as a dead router does.
Neither side sees a difference to a network doing that. Bounded: a direction holds at most one read (64 KiB) back.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal

READ_BYTES = 65536
State = Literal["open", "stalled", "cut"]


class Relay:
    """Passes on to `target` (host, port) what arrives at `address`, while it is open."""

    def __init__(self, target: tuple[str, int], admits: Callable[[int], bool] = lambda _port: True) -> None:
        """`admits` is asked with the caller's port for every new connection; False refuses it."""
        self._target = target
        self._admits = admits
        self._state: State = "open"
        self._changed = threading.Condition()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"relay-{self.port}", daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        """As at the start; what a stalled direction held back is passed on."""
        self._become("open")

    def stall(self) -> None:
        self._become("stalled")

    def cut(self) -> None:
        self._become("cut")
        self.drop()

    def drop(self) -> None:
        """End the connections that are open now; new ones are as the state says."""
        with self._changed:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def close(self) -> None:
        self._closed = True
        self.cut()
        # A blocked accept is not ended by close alone.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _become(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, (_host, port) = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near, port), daemon=True).start()

    def _connect(self, near: socket.socket, port: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._state != "stalled")
            refused = self._state == "cut"
        try:
            if refused or not self._admits(port):
                near.close()
                return
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        pair = (near, far)
        with self._changed:
            self._pairs.add(pair)
        # Asked again now that `drop` would find it: a cut while it was being connected would be missed otherwise.
        if self._state == "cut" or not self._admits(port):
            self._end(pair)
            return
        threading.Thread(target=self._pass_on, args=(near, far, pair), daemon=True).start()
        threading.Thread(target=self._pass_on, args=(far, near, pair), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(READ_BYTES):
                with self._changed:
                    self._changed.wait_for(lambda: self._state != "stalled")
                sink.sendall(data)
        self._end(pair)

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._changed:
            self._pairs.discard(pair)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
