from __future__ import annotations

from mesh.access.held import Held
from mesh.access.screen import PIECE


def test_a_whole_subscription_is_under_its_own_number() -> None:
    assert Held.of(7, "a/#", "", ["a/#"]).pieces == {7: "a/#"}


def test_pieces_follow_the_rules() -> None:
    held = Held.of(7, "#", "", ["a/#", "b/#"])
    assert held.pieces == {7: "a/#", 7 + PIECE: "b/#"}
    assert held.moved_to(Held.of(7, "#", "", ["b/#", "a/#"])) is None
    gone, fresh = held.moved_to(Held.of(7, "#", "", ["b/#", "c", "d"])) or ([], {})
    assert gone == [7]
    assert fresh == {7 + 2 * PIECE: "c", 7 + 3 * PIECE: "d"}


def test_a_subscription_of_number_zero() -> None:
    held = Held.of(0, "#", "", ["a/#"])
    assert held.moved_to(Held.of(0, "#", "", ["#"])) == ([0], {PIECE: "#"})
