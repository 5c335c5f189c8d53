"""What this node has delivered at least once, remembered over a restart: dedupe windows as notes in the store.

Decides when a window is written down. Never decides what is a duplicate (`mesh.core.dedupe` does).
Invariant: what is forgotten in a crash, at most NOTE_S of it, can only come again as a retransmission, which says `redelivered`.
Source: design page "Routing", Forwarding (dedupe) and Delivery.
"""

from __future__ import annotations

from typing import Final
from zlib import compress, decompress, error

import msgspec

from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.dedupe import Dedupe, Origin
from mesh.model.limits import Limits

NOTE: Final = "seen/"
NOTE_S: Final = 1.0
AT_ONCE: Final = 64
"""Windows written down at a time: the others have their turn later."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[Origin, int, bytes]).decode


class Seen:
    """Args: dedupe: the windows. Cost: 60 us a window that moved, at most AT_ONCE of them every NOTE_S."""

    def __init__(self, store: Store, dedupe: Dedupe, limits: Limits, now: float) -> None:
        self._store = store
        self._dedupe = dedupe
        self._limits = limits
        self._noted: dict[Origin, int] = {}
        self._at = now

    def restore(self, now: float) -> int:
        """Bring back what an earlier process wrote down. Returns how many windows."""
        found = 0
        for key, value in list(self._store.notes.items()):
            if not key.startswith(NOTE):
                continue
            try:
                origin, highest, packed = _decode(value)
                bits = decompress(packed)
            except (msgspec.DecodeError, error):
                continue
            if len(bits) == self._limits.dedupe_window // 8:
                window = self._dedupe.window(origin, now)
                window.highest, window.bits = highest, bytearray(bits)
                self._noted[origin] = window.marks
                found += 1
        return found

    def next_deadline(self) -> float | None:
        """When `note` has something to do."""
        return self._at if self._dedupe.marked else None

    def note(self, now: float) -> None:
        """Write down the windows that moved, and forget those that are gone."""
        if now < self._at:
            return
        self._at = now + NOTE_S
        windows = self._dedupe.windows()
        moved = [origin for origin, window in windows.items() if self._noted.get(origin) != window.marks]
        self._dedupe.marked = len(moved) > AT_ONCE
        for origin in moved[:AT_ONCE]:
            window = windows[origin]
            self._noted[origin] = window.marks
            self._write(origin, _encode((origin, window.highest, compress(bytes(window.bits), 1))))
        for origin in [origin for origin in self._noted if origin not in windows]:
            del self._noted[origin]
            self._write(origin, None)

    def _write(self, origin: Origin, value: bytes | None) -> None:
        try:
            self._store.note(NOTE + "/".join(map(str, origin)), value)
        except StoreRefusedError:
            self._noted.pop(origin, None)
            self._dedupe.marked = True  # as if it had not been noted: the next one tries again
