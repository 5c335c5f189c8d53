"""What a publisher is told of an event."""

from __future__ import annotations

from mesh.core.groups import Assigned
from mesh.core.plan import Plan, Unreached
from mesh.model.reasons import NotDelivered
from mesh.node.publish_answers import TOLDS, PublishAnswers
from mesh.node.service import Outcome, RegionReason

AWAY = (
    Unreached("ap", "", NotDelivered.NO_ROUTE, "no way"),
    Unreached("eu", "n9", NotDelivered.LINK_DOWN, "gone"),
)


def plan(local: int = 0, nodes: int = 0, regions: tuple[str, ...] = (), **more: tuple[object, ...]) -> Plan:
    sessions = tuple((number, (1,)) for number in range(local))
    rest = {"groups": (), "unreached": ()} | more
    return Plan(sessions, tuple(f"n{n}" for n in range(nodes)), regions, split=False, **rest)  # type: ignore[arg-type]


def test_sessions_here_and_nodes_of_the_region_are_local() -> None:
    assert PublishAnswers("eu").of(plan(2, 3, ("us",)), ()) == Outcome(("us",), 5, (), ())


def test_a_group_served_here_is_local_one_served_elsewhere_names_its_region_once() -> None:
    chosen = (Assigned("g", "t", "eu", "n1"), Assigned("h", "t", "us", ""))
    outcome = PublishAnswers("eu").of(plan(regions=("us",)), chosen)
    assert outcome == Outcome(("us",), 1, (("g", "eu"), ("h", "us")), ())


def test_who_is_out_of_reach_misses_an_event_at_most_once_and_gets_it_later_at_least_once() -> None:
    answers = PublishAnswers("eu")
    once = answers.of(plan(unreached=AWAY), ())
    assert (once.regions, once.local) == ((), 0)
    assert once.reasons == (RegionReason("ap", "no_route", "no way"), RegionReason("eu", "link_down", "gone"))
    kept = answers.of(plan(unreached=AWAY), (), kept=True)
    assert (kept.regions, kept.local) == (("ap",), 1)
    assert [reason.detail for reason in kept.reasons] == [
        "no way; kept here until it returns",
        "gone; kept here until it returns",
    ]


def test_nobody_at_all_has_a_reason_which_is_another_one_where_a_group_has_no_member() -> None:
    answers = PublishAnswers("eu")
    assert [reason.reason for reason in answers.of(plan(), ()).reasons] == ["no_interest"]
    without = answers.of(plan(groups=(("g", "t"),)), ())
    assert [reason.reason for reason in without.reasons] == ["no_members"]


def test_plans_that_lead_to_the_same_places_are_told_with_one_value_and_what_is_remembered_is_bounded() -> (
    None
):
    answers = PublishAnswers("eu")
    one, two = plan(1, regions=("us",)), plan(1, regions=("us",))
    assert answers.alone(one) is answers.alone(two) is one.told is two.told
    for number in range(2 * TOLDS):
        answers.alone(plan(regions=(f"r{number}",)))
        assert len(answers._tolds) <= TOLDS + 1
