"""Query parameters: what is accepted, and how everything else is refused."""

from __future__ import annotations

import pytest

from mesh.protocols.parameters import Parameters, check_duration_s
from mesh.protocols.problem import Problem


def refusal(pairs: list[tuple[str, str]], call: str = "", *args: object) -> Problem:
    try:
        parameters = Parameters(pairs, ("ack", "key", "deadline", "filter"), repeated=("filter",))
        getattr(parameters, call or "text")(*args or ("key",))
    except Problem as problem:
        return problem
    pytest.fail("nothing was refused")


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    problem = refusal([("deadlin", "5s")])
    assert (problem.code, problem.status, problem.where) == ("MESH-E010", 400, "deadlin")
    assert "did you mean 'deadline'" in problem.detail


def test_an_unknown_name_like_no_other_lists_them_all() -> None:
    assert "ack, deadline, filter, key" in refusal([("zzzz", "")]).detail


def test_a_value_given_twice_is_refused_unless_it_may_repeat() -> None:
    assert refusal([("key", "a"), ("key", "b")]).code == "MESH-E011"
    parameters = Parameters([("filter", "a"), ("filter", "b")], ("filter",), repeated=("filter",))
    assert parameters.texts("filter") == ["a", "b"]


def test_a_choice_is_one_of_those_known_and_501_for_those_promised() -> None:
    assert refusal([("ack", "maybe")], "choice", "ack", ("accepted",), ("region",)).status == 400
    promised = refusal([("ack", "region")], "choice", "ack", ("accepted",), ("region",))
    assert (promised.code, promised.status) == ("MESH-E009", 501)
    assert Parameters([], ("ack",)).choice("ack", ("accepted",)) == "accepted"


@pytest.mark.parametrize("value", ["", "5", "s", "-1s", "1e9s", "301s", "5 parsecs", "nan"])
def test_a_duration_needs_a_unit_and_its_bounds(value: str) -> None:
    assert refusal([("deadline", value)], "duration_s", "deadline", 1.0, 300.0).code == "MESH-E011"


def test_durations_are_read_in_seconds() -> None:
    parameters = Parameters([("deadline", "250ms")], ("deadline", "wait"))
    assert parameters.duration_s("deadline", 1.0, 300.0) == 0.25
    assert parameters.duration_s("wait", 1.5, 300.0) == 1.5
    assert check_duration_s("timeout", 2.5, 10.0) == 2.5


def test_a_number_that_is_no_duration_is_refused() -> None:
    for value in (float("nan"), float("inf"), -1.0, 1e308):
        with pytest.raises(Problem):
            check_duration_s("timeout", value, 10.0)


def test_lists_are_split_at_commas() -> None:
    assert Parameters([("regions", "us,eu,")], ("regions",)).names("regions") == ["us", "eu"]
