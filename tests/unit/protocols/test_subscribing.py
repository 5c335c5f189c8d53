"""What the parameters of a subscription mean together."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.model.ids import SessionId
from mesh.model.limits import Limits
from mesh.node.service import Missing, Receipt, RefusedError, Resumed, Wait
from mesh.protocols.problem import Problem
from mesh.protocols.receiving import Receiving
from mesh.protocols.subscribing import Wish, read_wish, receipt_object, resubscribe

LIMITS = Limits()
LIVE = Receiving("", False, None)


def test_the_defaults_wait_for_this_node_alone() -> None:
    assert read_wish([("filter", "a/#")], LIMITS) == Wish(("a/#",), "", Wait.NODE, (), 5.0, LIVE)


def test_everything_given_is_taken_and_a_filter_given_twice_counts_once() -> None:
    pairs = [
        ("filter", "a"),
        ("filter", "b"),
        ("filter", "a"),
        ("group", "g"),
        ("wait", "region"),
        ("wait_timeout", "2s"),
    ]
    assert read_wish(pairs, LIMITS) == Wish(("a", "b"), "g", Wait.REGION, (), 2.0, LIVE)


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


def test_a_durable_client_may_leave_its_filters_out() -> None:
    wish = read_wish([("client", "shop"), ("durable", "true")], LIMITS)
    assert (wish.filters, wish.receiving.client, wish.receiving.durable) == ((), "shop", True)


class Subscribed:
    """What `resubscribe` asks of a service."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def subscribe(self, session: int, sid: int, filter: str, group: str) -> None:
        self.calls.append(("+", sid, filter, group))

    def unsubscribe(self, session: int, sid: int) -> None:
        self.calls.append(("-", sid))


def test_a_durable_clients_subscriptions_become_those_of_its_request() -> None:
    service: Any = Subscribed()
    resumed = Resumed(SessionId(9), ((1, "a", ""), (2, "b", ""), (4, "c", "g")), 0)
    wish = read_wish(
        [("client", "x"), ("durable", "true"), *(("filter", one) for one in ("b", "c", "d"))], LIMITS
    )
    assert resubscribe(service, resumed, wish) == (2, 3, 5)
    assert service.calls == [("+", 3, "c", ""), ("+", 5, "d", ""), ("-", 1), ("-", 4)]
    service.calls.clear()
    assert resubscribe(service, resumed, wish._replace(filters=())) == (1, 2, 4)
    assert service.calls == []


def test_a_request_of_which_one_filter_is_refused_changes_nothing() -> None:
    class Full(Subscribed):
        def subscribe(self, session: int, sid: int, filter: str, group: str) -> None:
            if filter == "d":
                raise RefusedError("MESH-E044", "full", status=503)
            super().subscribe(session, sid, filter, group)

    service: Any = Full()
    resumed = Resumed(SessionId(9), ((1, "a", ""), (2, "b", "")), 0)
    wish = read_wish(
        [("client", "x"), ("durable", "true"), *(("filter", one) for one in ("b", "c", "d"))], LIMITS
    )
    with pytest.raises(RefusedError):
        resubscribe(service, resumed, wish)
    assert service.calls == [("+", 3, "c", ""), ("-", 3)]


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
