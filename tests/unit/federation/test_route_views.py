from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from unit.federation.route_tester import OneNode, gone, update

from federation.core.route_views import RouteState, RouteView
from mesh.cli.routes import _STATES, mark
from mesh.model.reasons import RouteReason

SHOWN = ["region", "next_hop", "via", "metric", "seqno", "path", "age_s", "state", "reason", "detail"]
"""The fields of a route as the design page names them."""


@pytest.fixture
def node() -> OneNode:
    """z over three neighbours, one of them with an older seqno; y over one; x was taken back."""
    node = OneNode()
    for link, region in ((1, "m"), (2, "n"), (3, "o")):
        node.up(link, region)
    node.tell(1, update("z", 5, 40, "m,z"), update("x", 5, 7, "m,x"))
    node.tell(2, update("z", 5, 10, "n,z"), update("y", 1, 3, "n,y"))
    node.tell(3, update("z", 4, 1, "o,z"))
    node.tell(1, gone("x"))
    return node


def test_routes_are_shown_by_region_and_then_by_how_far_they_got(node: OneNode) -> None:
    order = list(RouteState)
    rows = [(row.region, order.index(row.state)) for row in node.machine.rib(node.now)]
    assert rows == sorted(rows)
    assert {state for region, state in rows if region == "z"} >= {order.index(RouteState.SELECTED)}


def test_each_region_that_is_reached_has_one_selected_route_and_it_is_the_one_in_use(node: OneNode) -> None:
    fib = node.machine.fib
    rows = node.machine.rib(node.now)
    for region in {row.region for row in rows}:
        selected = [row for row in rows if row.region == region and row.state is RouteState.SELECTED]
        assert len(selected) == (region in fib)
        for row in selected:
            assert row.metric == fib[region].metric
            assert row.via == f"bridge#{fib[region].hops[0].link}"


def test_a_row_has_the_fields_of_the_design_and_is_a_value(node: OneNode) -> None:
    row, *_ = node.machine.rib(node.now)
    assert [field.name for field in fields(RouteView)][: len(SHOWN)] == SHOWN
    assert isinstance(row.reason, RouteReason)
    with pytest.raises(FrozenInstanceError):
        row.metric = 0  # type: ignore[misc]
    before = str(row)
    node.tell(2, update("y", 6, 99, "n,y"))
    assert str(row) == before, "what was handed out does not follow the table"


def test_the_command_knows_every_state_by_its_own_mark() -> None:
    assert tuple(state.value for state in RouteState) == _STATES
    marks: dict[str, Any] = {state.value: mark({"state": state.value}) for state in RouteState}
    assert len(set(marks.values())) == len(marks)


def test_counts_are_those_of_the_rows(node: OneNode) -> None:
    counts, rows = node.machine.statistics(), node.machine.rib(node.now)
    assert counts.neighbours == 3
    assert counts.routes == len(rows)
    assert counts.regions == len(node.machine.fib)
    assert counts.updates_received == 6
    assert counts.refused == {}
