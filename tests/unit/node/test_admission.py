"""Which link stays: between two links of a pair, between two processes of a name, and who is welcome at all."""

from __future__ import annotations

import random

import pytest
from unit.node.wired_machines import Net, Wired, tight

from mesh.core.opening import Terms
from mesh.model.reasons import Close


def pair_of_regions(region_b: str) -> tuple[Net, Wired, Wired]:
    net = Net()
    return net, net.node("eu", "n1"), net.node(region_b, "n2")


@pytest.mark.parametrize("region_b", ["eu", "us"])
@pytest.mark.parametrize("dialled_by", ["ab", "aa", "bb", "aab", "abba"])
def test_a_pair_keeps_the_same_single_link_at_both_ends_whatever_arrives_first(
    region_b: str, dialled_by: str
) -> None:
    for seed in range(12):
        net, a, b = pair_of_regions(region_b)
        for by in dialled_by:
            net.connect(*((a, b) if by == "a" else (b, a)))
        net.settle(random.Random(seed))
        [mine], [theirs] = a.open_links(), b.open_links()
        [pipe] = [p for p in net.pipes if (a, mine.link) in zip(p.ends, p.links, strict=True)]
        assert (b, theirs.link) in zip(pipe.ends, pipe.links, strict=True), f"seed {seed}"
        if set(dialled_by) == {"a", "b"}:
            assert mine.dialled, f"seed {seed}: the link dialled by the smaller name is kept"
        assert len(a.machine.sessions) == len(b.machine.sessions) == 1


def test_a_second_link_of_the_same_end_is_refused_while_the_first_lives() -> None:
    net, a, b = pair_of_regions("eu")
    net.connect(a, b)
    net.settle()
    net.connect(a, b)
    net.settle()
    assert ("eu/n1", "duplicate_link") in b.closed()
    assert len(b.open_links()) == 1


# -- two processes, one name -----------------------------------------------------------------------------------------


def takeover() -> tuple[Net, Wired, Wired, Wired]:
    """A node with a link to a process, and a newer process of the same name."""
    net = Net()
    node, old = net.node("eu", "n1"), net.node("eu", "n2", epoch=5)
    net.connect(old, node)
    net.settle()
    return net, node, old, net.node("eu", "n2", epoch=6)


def test_a_holder_that_shows_no_sign_of_life_loses_its_name_after_a_second() -> None:
    net, node, old, new = takeover()
    old.silent = True
    net.connect(new, node)
    net.run(0.9)
    assert [s.peer.epoch for s in node.open_links() if s.peer] == [5]
    net.run(0.2)
    assert [s.peer.epoch for s in node.open_links() if s.peer] == [6]
    assert node.machine.links.peers["n2"] == node.open_links()[0].link
    assert ("eu/n2", "old_epoch") in node.closed()
    assert len(new.open_links()) == 1


def test_a_holder_that_answers_keeps_its_name_and_the_newcomer_is_told_where_it_runs() -> None:
    net, node, old, new = takeover()
    net.connect(new, node)
    net.run(1.1)
    assert new.closed() == [("link 1", "name_in_use")]
    [notice] = [n for n in new.notices if n.what == "link_closed"]
    assert notice.detail == "eu/n2 is alive at n2:1"
    assert notice.data["by_peer"]
    assert [s.peer.epoch for s in node.open_links() if s.peer] == [5]
    assert len(old.open_links()) == 1


def test_an_older_process_is_refused_at_once() -> None:
    net, node, _, _ = takeover()
    older = net.node("eu", "n2", epoch=4)
    net.connect(older, node)
    net.settle()
    assert older.closed() == [("link 1", "old_epoch")]


def test_of_two_that_started_in_the_same_second_the_first_one_stays_and_the_other_is_told_where_it_runs() -> (
    None
):
    net, node, old, _ = takeover()
    twin = net.node("eu", "n2", epoch=5, instance="twin")
    net.connect(twin, node)
    net.settle()
    assert twin.closed() == [("link 1", "name_in_use")]
    [notice] = [n for n in twin.notices if n.what == "link_closed"]
    assert notice.detail == "eu/n2 runs at n2:1"
    assert len(old.open_links()) == 1


def test_a_process_older_than_one_the_region_knows_is_refused_although_that_one_has_no_link() -> None:
    net = Net()
    node, old = net.node("eu", "n1"), net.node("eu", "n2", epoch=5)
    node.machine.control.membership.introduce("n2", 6, ("n2:1",), net.now)
    third, new = net.node("eu", "n3"), net.node("eu", "n2", epoch=6)
    net.connect(new, third)
    net.connect(third, node)
    net.run(1.0)
    net.connect(old, node)
    net.settle()
    assert old.closed() == [("link 1", "old_epoch")]


def test_a_newcomer_that_left_while_the_holder_was_asked_changes_nothing() -> None:
    net, node, old, new = takeover()
    old.silent = True
    pipe = net.connect(new, node)
    net.run(0.5)
    node.machine.link_lost(pipe.links[1], Close.LINK_LOST, "gone", net.now)
    net.take(node)
    net.run(1.0)
    assert [s.peer.epoch for s in node.open_links() if s.peer] == [5]
    assert node.machine.admission.next_deadline() == float("inf")


def test_two_links_of_a_newcomer_leave_one_open_link() -> None:
    """It has two seeds that lead to the same node: both links wait for the same silent holder."""
    for second_after in (0.0, 0.5):
        net, node, old, new = takeover()
        old.silent = True
        net.connect(new, node)
        net.run(second_after)
        net.connect(new, node)
        net.run(3.0)
        assert [s.peer.epoch for s in node.open_links() if s.peer] == [6]
        assert len(new.open_links()) == 1
        assert node.machine.links.peers["n2"] == node.open_links()[0].link


def test_a_holder_lost_meanwhile_makes_way_for_one_link_only_when_a_second_one_comes() -> None:
    net, node, old, new = takeover()
    old.silent = True
    net.connect(new, node)
    net.run(0.2)
    node.machine.link_lost(node.machine.links.peers["n2"], Close.LINK_LOST, "reset", net.now)
    net.take(node)
    net.connect(node, new)
    net.run(2.0)
    assert len(node.open_links()) == len(new.open_links()) == 1


def test_two_newer_processes_that_claim_one_name_leave_one_link_of_one_of_them() -> None:
    net, node, old, new = takeover()
    newest = net.node("eu", "n2", epoch=7)
    old.silent = True
    net.connect(new, node)
    net.connect(newest, node)
    net.run(5.0)
    [kept] = node.open_links()
    assert len(new.open_links()) + len(newest.open_links()) == 1
    assert node.machine.links.peers == {"n2": kept.link}


# -- who is welcome --------------------------------------------------------------------------------------------------


def refused(net: Net, a: Wired, b: Wired) -> list[tuple[str, str]]:
    """Why b refused a's link."""
    net.connect(a, b)
    net.settle()
    return b.closed()


def test_a_process_that_claims_this_nodes_own_name_is_refused() -> None:
    net = Net()
    assert refused(net, net.node("eu", "n1", epoch=2), net.node("eu", "n1")) == [("eu/n1", "name_in_use")]


def test_a_region_without_a_bridge_here_may_dial_in_only_where_any_is_accepted() -> None:
    net = Net()
    listed = net.node("eu", "n1", accept="listed", bridges={"us": Terms("us")})
    assert refused(net, net.node("ap", "n2"), listed) == [("ap/n2", "region_not_listed")]
    assert refused(net, net.node("us", "n3"), listed)[1:] == []
    assert refused(net, net.node("eu", "n4"), listed)[1:] == []
    assert [str(s.peer_key) for s in listed.open_links()] == ["us/n3", "eu/n4"]


def test_a_listed_regions_link_is_held_on_the_terms_of_its_bridge() -> None:
    net = Net()
    node = net.node("eu", "n1", bridges={"us": Terms("us", "stub", 7)})
    refused(net, net.node("us", "n2"), node)
    [session] = node.open_links()
    assert (session.terms.role, session.terms.cost) == ("stub", 7)


def test_a_region_this_node_dialled_is_welcome_although_it_is_not_listed() -> None:
    net = Net()
    node, far = net.node("eu", "n1", accept="listed"), net.node("ap", "n2")
    net.connect(node, far)
    net.settle()
    assert len(node.open_links()) == 1


def test_more_links_than_the_limit_and_links_while_draining_are_refused() -> None:
    net = Net()
    full = net.node("eu", "n1", limits=tight(peer_links=1))
    net.connect(net.node("eu", "n2"), full)
    net.settle()
    assert refused(net, net.node("eu", "n3"), full) == [("eu/n3", "limit")]
    leaving = net.node("us", "n4")
    leaving.machine.leave(net.now)
    assert refused(net, net.node("us", "n5"), leaving) == [("us/n5", "draining")]
