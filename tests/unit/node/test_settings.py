from __future__ import annotations

import dataclasses

import pytest

from mesh.model.limits import Limits
from mesh.node.settings import NodeSettings


def test_a_node_needs_five_values_and_has_the_designs_defaults_for_the_rest() -> None:
    one = NodeSettings("eu", "n1", "i", 5, "hopmesh/1")
    two = NodeSettings("eu", "n2", "j", 6, "hopmesh/1")
    assert (one.accept, one.address, one.merge_budget, one.limits) == ("any", "", 4_096, Limits())
    assert one.bridges is not two.bridges
    assert one.labels is not two.labels


def test_settings_do_not_change_while_a_node_runs() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeSettings("eu", "n1", "i", 5, "hopmesh/1").region = "us"  # type: ignore[misc]
