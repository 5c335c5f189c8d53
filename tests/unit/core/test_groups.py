"""Which member of a queue group gets an event."""

from __future__ import annotations

from collections import Counter

from mesh.core.groups import Far, assign, far_region, member_node

IDS = [f"ap/ap-1/1/{n}" for n in range(2_000)]


def test_the_local_region_comes_first_when_it_has_members() -> None:
    found = assign(IDS[0], "mail", "orders/#", "eu", {"eu-1": True}, [Far("us", 1, 100)])
    assert found is not None
    assert (found.region, found.node) == ("eu", "eu-1")


def test_members_without_credit_are_passed_over_for_another_region_but_not_for_nobody() -> None:
    away = assign(IDS[0], "mail", "f", "eu", {"eu-1": False}, [Far("us", 1, 1)])
    assert away is not None
    assert away.region == "us"
    alone = assign(IDS[0], "mail", "f", "eu", {"eu-1": False}, [])
    assert alone is not None
    assert alone.node == "eu-1"


def test_without_local_members_the_nearest_region_serves() -> None:
    assert far_region(IDS[0], "mail", [Far("us", 90, 8), Far("af", 40, 1), Far("in", 41, 64)]) == "af"


def test_equally_near_regions_share_by_their_member_counts() -> None:
    counts = Counter(far_region(one, "mail", [Far("us", 5, 3), Far("af", 5, 1)]) for one in IDS)
    assert 1_400 < counts["us"] < 1_600


def test_nobody_is_chosen_where_there_is_nobody() -> None:
    assert assign(IDS[0], "mail", "f", "eu", {}, [Far("us", 1, 0)]) is None


def test_everybody_who_knows_the_same_nodes_chooses_the_same_one_and_all_get_a_fair_share() -> None:
    nodes = ["eu-1", "eu-2", "eu-3"]
    counts = Counter(member_node(one, "mail", nodes) for one in IDS)
    assert counts == Counter(member_node(one, "mail", reversed(nodes)) for one in IDS)
    assert all(550 < counts[node] < 780 for node in nodes)


def test_a_node_that_leaves_moves_only_its_own_events() -> None:
    before = {one: member_node(one, "mail", ["eu-1", "eu-2", "eu-3"]) for one in IDS}
    after = {one: member_node(one, "mail", ["eu-1", "eu-2"]) for one in IDS}
    assert all(after[one] == before[one] for one in IDS if before[one] != "eu-3")
