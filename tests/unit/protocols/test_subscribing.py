"""What the parameters of a subscription mean together."""

from __future__ import annotations

import pytest

from mesh.model.limits import Limits
from mesh.node.service import Missing, Receipt, Wait
from mesh.protocols.problem import Problem
from mesh.protocols.subscribing import Wish, read_wish, receipt_object

LIMITS = Limits()


def test_the_defaults_wait_for_this_node_alone() -> None:
    assert read_wish([("filter", "a/#")], LIMITS) == Wish(("a/#",), "", Wait.NODE, (), 5.0)


def test_everything_given_is_taken_and_a_filter_given_twice_counts_once() -> None:
    pairs = [
        ("filter", "a"),
        ("filter", "b"),
        ("filter", "a"),
        ("group", "g"),
        ("wait", "region"),
        ("wait_timeout", "2s"),
    ]
    assert read_wish(pairs, LIMITS) == Wish(("a", "b"), "g", Wait.REGION, (), 2.0)


def test_naming_regions_waits_for_the_mesh() -> None:
    wish = read_wish([("filter", "a"), ("regions", "us,ap")], LIMITS)
    assert (wish.wait, wish.regions) == (Wait.MESH, ("us", "ap"))


@pytest.mark.parametrize("regions", [",".join(f"r{n}" for n in range(65)), "no name", "us,$", "x" * 70])
def test_a_receipt_demands_a_bounded_number_of_regions_with_names(regions: str) -> None:
    with pytest.raises(Problem, match="region") as refused:
        read_wish([("filter", "a"), ("regions", regions)], LIMITS)
    assert (refused.value.code, refused.value.where) == ("MESH-E011", "regions")


def test_a_socket_that_only_publishes_needs_no_filter() -> None:
    assert read_wish([], LIMITS, filter_needed=False).filters == ()
    with pytest.raises(Problem, match="filter=F"):
        read_wish([], LIMITS)


@pytest.mark.parametrize("name", ["client", "durable"])
def test_durable_subscriptions_are_not_built_yet(name: str) -> None:
    with pytest.raises(Problem) as refused:
        read_wish([("filter", "a"), (name, "true")], LIMITS)
    assert refused.value.status == 501


def test_a_receipt_tells_what_is_missing_and_why() -> None:
    receipt = Receipt(("eu", "us"), (Missing("ap", "no_route"),), False)
    assert receipt_object(receipt) == {
        "installed": ("eu", "us"),
        "missing": [{"region": "ap", "why": "no_route"}],
        "complete": False,
    }


def test_where_it_begins_is_taken_as_it_is_but_not_empty() -> None:
    assert read_wish([("filter", "a"), ("from", "10m")], LIMITS).since == "10m"
    with pytest.raises(Problem) as refused:
        read_wish([("filter", "a"), ("from", "")], LIMITS)
    assert (refused.value.code, refused.value.where) == ("MESH-E011", "from")
