from __future__ import annotations

import inspect
import re
from enum import StrEnum
from pathlib import Path

import pytest

from mesh.model import reasons
from mesh.model.reasons import Close, Drop, NotDelivered

ENUMS = [
    one
    for _, one in inspect.getmembers(reasons, inspect.isclass)
    if issubclass(one, StrEnum) and one is not StrEnum
]
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_a_reason_has_one_value_in_the_form_of_the_api_and_is_named_like_it(enum: type[StrEnum]) -> None:
    values = [name.value for name in enum.__members__.values()]
    assert len(set(values)) == len(values), "an alias would make two reasons one"
    for name, reason in enum.__members__.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason.value)
        assert name == reason.value.upper()
        assert "-" not in reason.value, "tables for people print hyphens: both ways must be one to one"


def test_every_reason_of_a_closed_link_is_on_the_page_that_peers_are_written_after() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    for reason in Close:
        assert re.search(rf"^\| `{reason.value}` \| \S", page, re.MULTILINE), reason


def test_every_drop_is_on_the_operators_page() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    for reason in Drop:
        assert re.search(rf"^\| `{reason.value}` \| \S", page, re.MULTILINE), reason


def test_what_a_publisher_is_told_has_the_word_under_which_it_is_counted() -> None:
    """`link_down` in an answer and `link_down` in the metrics are one thing: so are the others that have the same name."""
    shared = {reason.name for reason in NotDelivered} & {reason.name for reason in Drop}
    assert {"NO_ROUTE", "LINK_DOWN", "NO_CREDIT", "POLICY_DENY"} == shared
    for name in shared:
        assert NotDelivered[name].value == Drop[name].value


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.__name__)
def test_a_reason_formats_as_its_value(enum: type[StrEnum]) -> None:
    for reason in enum:
        assert f"{reason}" == str(reason) == reason.value
