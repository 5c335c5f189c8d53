from __future__ import annotations

from pathlib import Path

from mesh.cli.errors import LETTERS, errors_page
from mesh.model.errors import ERRORS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_errors_page_is_the_table_word_for_word() -> None:
    assert (DOCS / "errors.md").read_text() == errors_page(), "run: mesh errors --page > docs/errors.md"


def test_every_row_of_the_table_is_on_the_page() -> None:
    page = errors_page()
    assert all(f"| {code} |" in page for code in ERRORS)
    assert {code[5] for code in ERRORS} <= set(LETTERS)
