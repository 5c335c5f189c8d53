"""The page between the admin port and the node: who implements it does so in the same way."""

from __future__ import annotations

import inspect as introspect

import pytest
from unit.admin.fake_inspect import FakeInspect

from mesh.node.inspect import Inspect, What
from mesh.node.inspection import Inspection
from mesh.node.views import Views

CALLS = [n for n, one in vars(Inspect).items() if introspect.isfunction(one) and not n.startswith("_")]


def shape(call: object) -> list[tuple[str, object, object]]:
    parameters = introspect.signature(call).parameters.values()  # type: ignore[arg-type]
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", [Inspection, FakeInspect], ids=lambda kind: kind.__name__)
def test_the_node_and_the_fake_of_the_tests_are_called_as_the_page_says(kind: type, name: str) -> None:
    wanted, found = getattr(Inspect, name), getattr(kind, name)
    assert shape(found) == shape(wanted)
    assert introspect.iscoroutinefunction(found) == introspect.iscoroutinefunction(wanted)


def test_only_asking_other_nodes_waits() -> None:
    waiting = [name for name in CALLS if introspect.iscoroutinefunction(getattr(Inspect, name))]
    assert waiting == ["letters", "ask_region"]


def test_what_can_be_asked_is_told_apart_and_the_configuration_is_not_the_nodes() -> None:
    assert len({what.value for what in What}) == len(What)
    with pytest.raises(ValueError, match=r"mesh\.app"):
        Views(None).of(What.CONFIG)  # type: ignore[arg-type]
