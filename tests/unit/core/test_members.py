"""Views, their order and their fingerprint."""

from __future__ import annotations

import math

import pytest

from mesh.core.members import MembershipSettings, MemberView, mark
from mesh.model.reasons import MemberReason
from mesh.wire.frames import MemberState


def view(epoch: int, incarnation: int, state: MemberState) -> MemberView:
    return MemberView("a", epoch, incarnation, state, ("h:1",), "sw", True, 3.0, MemberReason.JOINED, "b")


def test_epoch_then_incarnation_then_state_decide_which_word_is_newer() -> None:
    A, S, D, L = MemberState
    rising = [
        view(1, 0, A),
        view(1, 0, S),
        view(1, 0, D),
        view(1, 0, L),
        view(1, 1, A),
        view(1, 7, D),
        view(2, 0, A),
    ]
    mixed = [rising[i] for i in (3, 6, 0, 5, 2, 1, 4)]
    assert sorted(mixed, key=lambda v: v.order) == rising


def test_only_the_alive_and_the_suspect_are_live() -> None:
    assert [view(1, 0, state).live for state in MemberState] == [True, True, False, False]


def test_a_view_becomes_a_word_with_everything_in_it() -> None:
    word = view(2, 3, MemberState.SUSPECT).word()
    assert (word.node, word.epoch, word.incarnation, word.state) == ("a", 2, 3, MemberState.SUSPECT)
    assert (word.addresses, word.software, word.bridge, word.by) == (("h:1",), "sw", True, "b")


def test_the_mark_is_the_same_in_every_process_and_fits_64_bits() -> None:
    assert mark("a", 1, 2) == 0x86EF_5CA0_4187_BA14
    assert len({mark("a", 1, 2), mark("a", 2, 1), mark("b", 1, 2), mark("a", 12, -1)}) == 4


def test_suspicion_does_not_change_the_mark() -> None:
    assert view(1, 0, MemberState.ALIVE).mark() == view(1, 0, MemberState.SUSPECT).mark()


@pytest.mark.parametrize(
    ("live", "times"), [(1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)]
)
def test_a_word_is_sent_four_times_the_decimal_digits(live: int, times: int) -> None:
    assert MembershipSettings().transmits(live) == times


def test_the_shortest_suspicion_grows_with_the_logarithm_of_the_region() -> None:
    settings = MembershipSettings()
    assert [settings.suspicion_min_s(n) for n in (0, 1, 10, 100, 1000)] == pytest.approx([2, 2, 2, 4, 6])


@pytest.mark.parametrize(
    "wrong",
    [
        {"probe_timeout_s": 1.0},
        {"probe_timeout_s": 0.0},
        {"gossip_interval_s": 0.0},
        {"gossip_fanout": 0},
        {"suspicion_mult": -1.0},
        {"health_max": -1},
    ],
)
def test_numbers_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        MembershipSettings(**wrong)  # type: ignore[arg-type]


def test_lateness_may_be_ignored_altogether() -> None:
    assert MembershipSettings(late_s=math.inf, slack_s=math.inf).late_s == math.inf
