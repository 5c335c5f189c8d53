"""docs/protocol.md says what the code does."""

from __future__ import annotations

import protocol_page as generator
import pytest

from mesh.core.session import STATES
from mesh.wire.frames import KINDS


def test_the_page_and_the_code_are_equal() -> None:
    page = generator.PAGE.read_text(encoding="utf-8")
    if generator.render(page) != page:
        pytest.fail(f"docs/protocol.md is not what the code says now: run {generator.COMMAND}", pytrace=False)


def test_every_frame_stands_on_the_page_with_its_kind_and_fields() -> None:
    page = generator.PAGE.read_text(encoding="utf-8")
    for kind, frame in KINDS.items():
        assert f"| {kind} | [{frame.__name__}](#{frame.__name__.lower()}) |" in page
        part = page.partition(f"#### {frame.__name__}\n")[2].partition("####")[0]
        assert [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")] == list(
            frame.__struct_fields__
        )


def test_every_session_state_stands_on_the_page() -> None:
    page = generator.PAGE.read_text(encoding="utf-8").partition("<!-- session-states -->")[2]
    assert all(f"| {state.value} | {text} |" in page for state, text in STATES.items())


def test_a_changed_table_is_written_anew_and_the_prose_stays() -> None:
    page = generator.PAGE.read_text(encoding="utf-8")
    stale = page.replace("| 3 | [Hello](#hello) |", "| 7 | [Hello](#hello) |")
    assert stale != page
    assert generator.render(stale) == generator.render(page)


def test_a_page_without_a_table_is_refused() -> None:
    with pytest.raises(AssertionError, match="kinds"):
        generator.render("nothing here")
