"""The dice of a machine, handed in by its caller so that a seed replays a run.

`random.Random` satisfies this Protocol; machines never import `random`.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Dice(Protocol):
    """The part of random.Random that machines use."""

    def random(self) -> float: ...
    def randrange(self, start: int, stop: int, /) -> int: ...
    def uniform(self, a: float, b: float) -> float: ...
    def choice(self, seq: Sequence[T], /) -> T: ...
    def sample(self, population: Sequence[T], k: int) -> list[T]: ...
    def shuffle(self, x: MutableSequence[Any], /) -> None: ...
