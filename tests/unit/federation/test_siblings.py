"""Other nodes of the region: what they published counts while there is a link to them."""

from __future__ import annotations

from federation.core.publication import Published
from federation.core.siblings import Siblings
from federation.core.source import Source
from mesh.model.reasons import RouteReason

KEY = ("z", "o")
VALUE: Published = (1, 5, 10, ("m", "z"), "stub")


def taught(siblings: Siblings, node: str = "n2") -> Source:
    source = Source(KEY)
    siblings.teach(node, KEY, source, 0.0)
    source.evaluate()
    return source


def test_a_published_route_costs_what_it_costs_there_and_the_way_to_the_sibling() -> None:
    siblings = Siblings(10)
    siblings.link("n2", True, 3)
    assert siblings.tell("n2", KEY, VALUE)
    selected = taught(siblings).selected
    assert selected is not None
    assert (selected.metric, selected.path, selected.learned.value) == (13, ("m", "z"), "stub")
    assert not selected.external


def test_without_a_link_it_is_known_and_not_used() -> None:
    siblings = Siblings(10)
    siblings.tell("n2", KEY, VALUE)
    source = taught(siblings)
    assert source.selected is None
    assert source.candidates["n2"].refusal is not None
    assert source.candidates["n2"].refusal.reason is RouteReason.NODE_UNREACHABLE


def test_a_change_of_the_link_names_the_sources_concerned_and_no_change_names_none() -> None:
    siblings = Siblings(10)
    siblings.tell("n2", KEY, VALUE)
    assert siblings.link("n2", True, 1) == [KEY]
    assert siblings.link("n2", True, 0) == []  # at least 1
    assert siblings.link("n2", True, 2) == [KEY]
    assert siblings.link("n2", False, 2) == [KEY]


def test_what_a_lost_node_told_is_forgotten_and_its_open_link_is_not() -> None:
    siblings = Siblings(10)
    siblings.link("n2", True, 1)
    siblings.tell("n2", KEY, VALUE)
    assert siblings.gone("n2") == [KEY]
    assert siblings.gone("n2") == []
    assert siblings.gone("never") == []
    siblings.tell("n2", KEY, VALUE)
    assert taught(siblings).selected is not None


def test_entries_are_withdrawn_once_and_bounded() -> None:
    siblings = Siblings(1)
    assert siblings.tell("n2", KEY, VALUE)
    assert not siblings.tell("n2", ("y", "o"), VALUE)
    assert siblings.tell("n2", KEY, VALUE)
    assert siblings.withdraw("n2", KEY)
    assert not siblings.withdraw("n2", KEY)
    assert not siblings.withdraw("n3", KEY)
