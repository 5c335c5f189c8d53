"""Two copies of each event, and processes that die with their disks at every kind of moment: nothing that was accepted is lost."""

from __future__ import annotations

import random

from mesh.testing.crash_points import PLAYS, Death, Life, every_death, live, pairs

PLAY = PLAYS["copies"]


def told(deaths: tuple[Death, ...], life: Life) -> list[str]:
    """What was violated. What was accepted with one copy may be gone with its disk: that was said (`copies_short`)."""
    excused = ("P4",) if life.short else ()
    return [f"{deaths}: {one}" for one in life.violations if one.prop not in excused]


def test_a_disk_that_is_lost_in_each_kind_of_moment_of_each_node_loses_nothing() -> None:
    kinds: dict[tuple[object, ...], Death] = {}
    moments = live(PLAY).moments
    for death in every_death(PLAY):
        what = moments[death.node][death.moment - 1]
        kinds.setdefault((death.node, what, death.told), death._replace(wiped=True, torn=0.0))
    assert len(kinds) > 60
    found = []
    for at, death in enumerate(kinds.values()):
        some = (death._replace(down_s=(0.7, 5.0, 25.0)[at % 3]),)
        life = live(PLAY, some)
        assert life.died == 1
        found += told(some, life)
    assert not found, "\n".join(found)


def test_a_node_that_dies_while_another_one_has_lost_its_disk() -> None:
    dice = random.Random(7)
    found = []
    for first, second in pairs(PLAY, dice, 30):
        lost = first._replace(wiped=True, down_s=dice.choice((0.7, 5.0, 20.0)))
        other = second._replace(wiped=second.node == first.node, down_s=dice.choice((0.05, 0.7, 20.0)))
        found += told((lost, other), live(PLAY, (lost, other)))
    assert not found, "\n".join(found)


def test_two_deaths_with_their_disks_left() -> None:
    found = []
    for some in pairs(PLAY, random.Random(13), 20):
        found += told(some, live(PLAY, some))
    assert not found, "\n".join(found)
