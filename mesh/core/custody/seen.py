"""What this node has delivered at least once, remembered over a restart: dedupe windows as notes in the store.

Decides when a window is written down. Never decides what is a duplicate (`mesh.core.dedupe` does).
Of ordered topics it is written down at once, beside the window: the next event of a key must find the one before it known.
Invariant: what is forgotten in a crash, at most NOTE_S of it, can only come again as a retransmission, which says `redelivered`;
of ordered topics nothing is forgotten that is not in the store as a record.
Source: design page "Routing", Forwarding (dedupe) and Delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from zlib import compress, decompress, error

import msgspec

from mesh.core.custody.receipts import ranges
from mesh.core.custody.store import Store, StoreRefusedError
from mesh.core.dedupe import Dedupe, Origin
from mesh.model.limits import Limits

NOTE: Final = "seen/"
SINCE: Final = "seen+/"
"""Ranges of seqs that came since the window was written down."""
RANGES: Final = 64
"""With so many of them the window is written down anew."""
NOTE_S: Final = 1.0
AT_ONCE: Final = 64
"""Windows written down at a time: the others have their turn later."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[Origin, int, bytes]).decode
_decode_since: Final = msgspec.msgpack.Decoder(tuple[Origin, list[tuple[int, int]]]).decode


class Seen:
    """Args: dedupe: the windows. Cost: 60 us a window that moved, at most AT_ONCE of them every NOTE_S."""

    def __init__(self, store: Store, dedupe: Dedupe, limits: Limits, now: float) -> None:
        self._store = store
        self._dedupe = dedupe
        self._limits = limits
        self._noted: dict[Origin, int] = {}
        self._since: dict[Origin, list[tuple[int, int]]] = {}
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
        for key, value in list(self._store.notes.items()):
            if key.startswith(SINCE):
                self._restore_since(value, now)
        return found

    def _restore_since(self, value: bytes, now: float) -> None:
        try:
            origin, some = _decode_since(value)
        except msgspec.DecodeError:
            return
        window = self._dedupe.window(origin, now)
        self._since[origin] = some
        for first, last in some:
            for seq in range(first, min(last, first + self._limits.dedupe_window) + 1):
                window.see(seq)

    def note_ordered(self, came: Mapping[Origin, Sequence[int]]) -> None:
        """Seqs of ordered topics that came in a burst, before it is acknowledged. Cost: 5 us an origin, 60 us every RANGES ranges."""
        for origin, seqs in came.items():
            known = self._since.setdefault(origin, [])
            known += ranges(seqs)
            if len(known) > RANGES:
                known = self._since[origin] = list(
                    ranges([s for first, last in known for s in range(first, last + 1)])
                )
            if len(known) > RANGES:
                self._note_window(origin)
            else:
                self._write(SINCE, origin, _encode((origin, known)))

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
            self._note_window(origin)
        for origin in [origin for origin in self._noted if origin not in windows]:
            del self._noted[origin]
            self._write(NOTE, origin, None)
            if self._since.pop(origin, None) is not None:
                self._write(SINCE, origin, None)

    def _note_window(self, origin: Origin) -> None:
        window = self._dedupe.windows()[origin]
        self._noted[origin] = window.marks
        if not self._write(NOTE, origin, _encode((origin, window.highest, compress(bytes(window.bits), 1)))):
            self._noted.pop(origin, None)
            self._dedupe.marked = True  # as if it had not been noted: the next one tries again
        elif self._since.pop(origin, None) is not None:
            self._write(SINCE, origin, None)

    def _write(self, kind: str, origin: Origin, value: bytes | None) -> bool:
        try:
            self._store.note(kind + "/".join(map(str, origin)), value)
        except StoreRefusedError:
            return False
        return True
