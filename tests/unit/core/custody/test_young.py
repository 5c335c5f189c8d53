from __future__ import annotations

from math import inf

from mesh.core.custody.young import YoungSubscriptions


def test_the_oldest_of_some_subscriptions() -> None:
    young = YoungSubscriptions(60.0)
    young.add(1, 1, 100.0)
    young.add(1, 2, 110.0)
    young.add(2, 1, 120.0)
    assert young.oldest([(1, (2,)), (2, (1,))], 130.0) == 110.0
    assert young.oldest([(1, (1, 2))], 130.0) == 100.0
    assert young.oldest([], 130.0) == inf


def test_one_that_is_not_known_is_old() -> None:
    young = YoungSubscriptions(60.0)
    young.add(1, 1, 100.0)
    assert young.oldest([(1, (1,)), (7, (3,))], 130.0) == -inf
    assert young.oldest([(1, (1,))], 161.0) == -inf
    assert len(young) == 0


def test_one_that_is_made_again_is_young_again() -> None:
    young = YoungSubscriptions(60.0)
    young.add(1, 1, 100.0)
    young.add(1, 1, 150.0)
    assert young.oldest([(1, (1,))], 170.0) == 150.0
