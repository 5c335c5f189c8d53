from __future__ import annotations

import inspect
import random

import pytest

from mesh.model.dice import Dice

METHODS = [name for name in vars(Dice) if not name.startswith("_")]
CALLS = {
    "random": (),
    "randrange": (2, 9),
    "uniform": (0.5, 1.5),
    "choice": ([1, 2, 3],),
    "sample": ([1, 2, 3], 2),
    "shuffle": ([1, 2, 3],),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_systems_dice_can_be_thrown_as_machines_throw_them(name: str) -> None:
    """Positionally, as the Protocol says: the same seed gives the same."""
    one, other = (getattr(random.Random(7), name)(*CALLS[name]) for _ in range(2))
    assert one == other
    wanted = [p for p in inspect.signature(getattr(Dice, name)).parameters.values() if p.name != "self"]
    assert len(wanted) == len(CALLS[name])
