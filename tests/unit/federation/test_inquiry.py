"""Asking for seqnos and answering: by one node between a neighbour a (link 1), a neighbour b (link 2) and a sibling n2."""

from __future__ import annotations

from unit.federation.route_tester import OneNode, gone, update

from federation.core.route_settings import RouteSettings
from mesh.model.limits import Limits
from mesh.wire.frames import Routes, SeqnoRequest

SETTINGS = RouteSettings()


def between() -> OneNode:
    """Two neighbours, z behind each of them; the route by a is selected and announced to b."""
    node = OneNode()
    node.up(1, "a")
    node.up(2, "b", cost=5)
    node.tell(1, update("z", 5, 10, "a,z"))
    node.tell(2, update("z", 5, 12, "b,z"))
    node.wait(1.0)
    node.take(Routes)
    return node


def own_seqno(node: OneNode) -> int:
    return node.machine.statistics().seqno


def test_a_request_for_the_own_origin_moves_its_seqno_by_one_whatever_was_asked() -> None:
    node = between()
    node.receive(1, SeqnoRequest("h", "n0", 1_000, 900, 9))
    assert own_seqno(node) == 2
    assert [told.seqno for told in node.updates(1) if told.region == "h"] == []
    node.wait(0.0)
    assert [(told.region, told.seqno) for told in node.updates(1)] == [("h", 2)]


def test_many_requests_at_once_move_it_once_and_a_further_one_a_little_later() -> None:
    node = between()
    for seqno in (2, 2, 3, 3):
        node.receive(1, SeqnoRequest("h", "n0", 1_000, seqno, 9))
    assert own_seqno(node) == 2
    node.wait(SETTINGS.seqno_bump_min_s)
    assert own_seqno(node) == 3


def test_a_request_for_another_epoch_or_a_seqno_it_has_leaves_it() -> None:
    node = between()
    node.receive(1, SeqnoRequest("h", "n0", 999, 5, 9))
    node.receive(1, SeqnoRequest("h", "n0", 1_000, 1, 9))
    node.receive(1, SeqnoRequest("h", "n0", 1_000, -4, 9))
    node.wait(1.0)
    assert own_seqno(node) == 1
    assert node.machine.statistics().refused["seqno_request"] == 3


def test_a_request_is_passed_on_along_the_route_and_not_back() -> None:
    node = between()
    node.receive(2, SeqnoRequest("z", "o", 1, 6, 9))
    assert node.take(SeqnoRequest, 1) == [SeqnoRequest("z", "o", 1, 6, 8)]
    node.receive(1, SeqnoRequest("z", "o", 1, 7, 9))
    assert node.take(SeqnoRequest, 2) == [SeqnoRequest("z", "o", 1, 7, 8)]
    assert node.machine.statistics().requests_passed == 2


def test_a_request_this_node_can_answer_is_not_passed_on() -> None:
    node = between()
    node.tell(1, update("z", 6, 10, "a,z"))
    node.receive(2, SeqnoRequest("z", "o", 1, 6, 9))
    node.wait(0.0)
    assert [told.seqno for told in node.updates(2)] == [6]
    assert node.machine.statistics().requests_passed == 0


def test_an_answer_that_somebody_waits_for_does_not_wait_with_ordinary_renewals() -> None:
    node = between()
    node.tell(1, update("z", 6, 10, "a,z"))
    node.wait(SETTINGS.coalesce_s + 0.01)
    assert node.updates(2) == []
    node.wait(1.0)
    assert [told.seqno for told in node.updates(2)] == [6]
    node.receive(2, SeqnoRequest("z", "o", 1, 7, 9))
    node.tell(1, update("z", 7, 10, "a,z"))
    node.wait(SETTINGS.coalesce_s + 0.01)
    assert [told.seqno for told in node.updates(2)] == [7]


def test_a_siblings_request_goes_out_over_an_own_link() -> None:
    node = between()
    node.machine.sibling_link("n2", True, 1, node.now)
    node.machine.sibling_entry("n2", "z", "o", (1, 5, 2, ("c", "z"), "transit"), node.now)
    node.machine.receive_sibling("n2", SeqnoRequest("z", "o", 1, 6, 9), node.now)
    node.collect()
    assert node.take(SeqnoRequest) == [SeqnoRequest("z", "o", 1, 6, 8)]


def test_a_request_may_go_through_a_sibling() -> None:
    node = between()
    node.machine.sibling_link("n2", True, 1, node.now)
    node.machine.sibling_entry("n2", "z", "o", (1, 5, 2, ("c", "z"), "transit"), node.now)
    node.wait(1.0)
    node.receive(2, SeqnoRequest("z", "o", 1, 6, 9))
    assert node.take(SeqnoRequest, "n2") == [SeqnoRequest("z", "o", 1, 6, 8)]


def test_a_starved_node_asks_whoever_has_a_route_until_the_answer_comes() -> None:
    node = between()
    node.tell(1, gone("z"))
    assert node.hop("z") is None
    assert node.take(SeqnoRequest, 2) == [SeqnoRequest("z", "o", 1, 6, SETTINGS.request_hops)]
    node.wait(3.5)
    assert len(node.take(SeqnoRequest, 2)) == 2
    node.tell(2, update("z", 6, 10, "b,z"))
    assert node.hop("z") == (2, "b1")
    node.wait(40.0)
    assert node.take(SeqnoRequest) == []


def test_a_held_route_is_dropped_after_three_unanswered_requests() -> None:
    node = between()
    node.tell(2, gone("z"))
    node.tell(1, update("z", 5, 40, "a,z"))
    assert node.hop("z") == (1, "a1")
    (row,) = node.routes("z")
    assert row.reason.value == "metric_rose"
    node.wait(6.9)
    assert node.hop("z") == (1, "a1")
    assert len(node.take(SeqnoRequest, 1)) == 3
    node.wait(0.2)
    assert node.hop("z") is None
    (row,) = node.routes("z")
    assert (row.state.value, row.reason.value, row.detail) == (
        "infeasible",
        "metric_not_feasible",
        "40 >= 11",
    )
    node.tell(1, update("z", 6, 40, "a,z"))
    assert node.hop("z") == (1, "a1")


def test_requests_beyond_the_links_pace_wait_for_the_next_try() -> None:
    node = OneNode(limits=Limits(updates_burst=20, updates_per_s=1))
    node.up(1, "a")
    node.up(2, "b")
    for n in range(6):
        node.tell(1, update(f"z{n}", 5, 10, f"a,z{n}"))
        node.tell(2, update(f"z{n}", 5, 30, f"b,z{n}"))
    node.wait(30.0)
    node.take(Routes)
    for n in range(30):
        node.receive(2, SeqnoRequest("z0", "o", 1, 100 + n, 9))
    assert 10 <= len(node.take(SeqnoRequest, 1)) <= 20
