"""The frames as values: the kinds, and what every one of them keeps."""

from __future__ import annotations

from mesh.wire.frames import (
    KINDS,
    Data,
)


def test_kinds_fit_their_byte_and_only_one_is_data() -> None:
    assert all(0 <= kind <= 255 for kind in KINDS)
    assert len(set(KINDS.values())) == len(KINDS)
    assert KINDS[0] is Data
