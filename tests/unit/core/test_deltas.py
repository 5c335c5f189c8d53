"""Deltas in themselves: soundness, weight, and the last writes of a chain."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.deltas import fault, merge, plausible, weigh
from mesh.core.history import N_MAX, History
from mesh.model.ids import Version
from mesh.model.reasons import TableReason
from mesh.wire.frames import Delta, Scope


def test_what_a_history_sends_is_sound() -> None:
    history = History("a", 1)
    assert fault(history.frames(Scope.REGION, 0)[0], Scope.REGION) is None
    for number in range(5_000):
        history.put(f"{number}" * 30, b"1", 0.0)
    history.delete("7" * 30, 0.0)
    for frame in (*history.frames(Scope.REGION, 0), *history.frames(Scope.REGION, 4_900)):
        assert fault(frame, Scope.REGION) is None
        assert fault(frame, Scope.WORLD) is TableReason.WRONG_SCOPE


def test_the_weight_is_at_least_the_size_on_the_wire_and_not_far_above() -> None:
    history = History("a" * 60, 1 << 40)
    for number in range(300):
        history.put(f"fé/{number}", bytes(number), 0.0)
    (frame,) = history.frames(Scope.WORLD, 0)
    size = len(msgspec.msgpack.encode(frame))
    assert size <= weigh(frame) <= size * 1.2


def test_positions_that_no_honest_node_has_are_not_plausible() -> None:
    assert plausible("r/b", Version(1, 0))
    assert plausible("r" * 64 + "/" + "b" * 64, Version(1, N_MAX))
    for owner, version in (("", Version(1, 0)), ("x" * 130, Version(1, 0)), ("é" * 65, Version(1, 0)),
                           ("x", Version(0, 0)), ("x", Version(1, -1)), ("x", Version(1, N_MAX + 1))):  # fmt: skip
        assert not plausible(owner, version)


def test_a_chain_is_merged_to_the_last_write_of_each_key_in_order() -> None:
    first = Delta(Scope.REGION, "a", 1, 0, 3, 0, (("x", 1, b"1"), ("y", 2, b"1"), ("z", 3, b"1")))
    second = Delta(Scope.REGION, "a", 1, 3, 5, 9, (("x", 4, b"2"), ("y", 5, None)))
    assert list(merge([first, second], 0).items()) == [("z", (3, b"1")), ("x", (4, b"2")), ("y", (5, None))]
    assert merge([first, second], 4) == {"y": (5, None)}


NUMBERS = st.integers(-2, 6) | st.sampled_from([N_MAX, N_MAX + 1, -(1 << 63), (1 << 64) - 1])
ENTRIES = st.lists(st.tuples(st.text(max_size=3), NUMBERS, st.none() | st.binary(max_size=3)), max_size=4)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=3), NUMBERS, NUMBERS, NUMBERS, NUMBERS, ENTRIES)
def test_a_delta_without_fault_has_ascending_numbers_inside_its_bounds(
    owner: str, epoch: int, since: int, upto: int, root: int, entries: list[tuple[str, int, bytes | None]]
) -> None:
    if fault(Delta(Scope.REGION, owner, epoch, since, upto, root, tuple(entries)), Scope.REGION) is None:
        numbers = [n for _, n, _ in entries]
        assert numbers == sorted(set(numbers))
        assert all(0 <= since < n <= upto <= N_MAX for n in numbers)
        assert owner
        assert epoch >= 1
