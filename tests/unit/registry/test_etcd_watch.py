"""Places in etcd's history, as they are given out. (Watching itself: tests/contract and tests/services.)"""

from __future__ import annotations

import pytest

from registry.etcd.watch import Place


def test_a_place_is_read_as_it_was_given_out() -> None:
    assert Place.read(str(Place(0xCAFE, 17))) == Place(0xCAFE, 17)


@pytest.mark.parametrize("text", ["", ".", "cafe", "cafe.", ".1", "cafe.0", "cafe.-1", "cafe.01", "CAFE.1", "-1.1", " cafe.1", "cafe.1 ",
                                  "x.1", "cafe.99999999999999999999", "cafe.1.1"])  # fmt: skip
def test_nothing_else_is_read(text: str) -> None:
    assert Place.read(text) is None
