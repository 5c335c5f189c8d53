"""The page between client protocols and the node: who implements it does so in the same way."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node.fake_service import FakeService

from mesh.model.errors import ERRORS
from mesh.model.ids import MeshId
from mesh.node.clients import Clients
from mesh.node.service import Answer, Outcome, Outcomes, RefusedError, Service, Sink
from mesh.protocols.session import ClientSession

ROOT = Path(__file__).parents[2]
CALLS = [name for name, one in vars(Service).items() if inspect.isfunction(one) and not name.startswith("_")]
SINKS = [name for name, one in vars(Sink).items() if inspect.isfunction(one) and not name.startswith("_")]


def shape(call: Callable[..., Any]) -> list[tuple[str, object, object]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(call).parameters.values()]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", [Clients, FakeService], ids=lambda kind: kind.__name__)
def test_the_node_and_the_fake_of_the_tests_are_called_as_the_page_says(kind: type, name: str) -> None:
    """Or what is tested before the fake would not be what runs before the node."""
    assert shape(getattr(kind, name)) == shape(getattr(Service, name))
    assert inspect.iscoroutinefunction(getattr(kind, name)) == inspect.iscoroutinefunction(
        getattr(Service, name)
    )


def test_only_the_calls_that_wait_are_asynchronous() -> None:
    waiting = [name for name in CALLS if inspect.iscoroutinefunction(getattr(Service, name))]
    assert waiting == ["kept", "wait_installed", "request"]


@pytest.mark.parametrize("name", SINKS)
def test_a_clients_connection_is_a_sink(name: str) -> None:
    assert shape(getattr(ClientSession, name)) == shape(getattr(Sink, name))
    waits = inspect.iscoroutinefunction(getattr(ClientSession, name))
    assert waits == inspect.iscoroutinefunction(getattr(Sink, name)) == (name == "room"), "it must not block"


def test_a_refusal_is_printed_with_its_code_and_is_a_bad_request_unless_it_says_otherwise() -> None:
    refused = RefusedError("MESH-E002", "bad filter")
    assert (str(refused), refused.status) == ("MESH-E002: bad filter", 400)
    assert RefusedError("MESH-E016", "leaving", status=503).status == 503


def test_every_refusal_of_the_node_has_a_row_in_the_table_of_errors() -> None:
    raised = set()
    for path in (ROOT / "mesh" / "node").glob("*.py"):
        raised |= set(re.findall(r'RefusedError\(\s*"([^"]+)"', path.read_text()))
    assert len(raised) > 5
    assert raised <= set(ERRORS)


def test_what_was_told_of_a_publish_cannot_be_changed_by_who_shares_it() -> None:
    """Events that went to the same places share one outcome."""
    outcome = Outcome(("us",), 1, (), ())
    outcomes = Outcomes(MeshId("eu", "n", 1, 2), [outcome, outcome])
    for value, name in (
        (outcome, "local"),
        (outcomes, "first"),
        (Answer(None, (), "timeout", ()), "problem"),
    ):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    assert hash(outcome) == hash(Outcome(("us",), 1, (), ()))
