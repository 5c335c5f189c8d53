from __future__ import annotations

import re
from pathlib import Path

from mesh.cli.config import reference_lines
from mesh.keys import KEYS
from mesh.model.errors import ERRORS
from mesh.model.reasons import Drop, Right, Verdict
from mesh.node.comparison import RIGHT

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def test_the_reference_of_keys_is_made_from_the_table_of_keys() -> None:
    found = re.search(r"<!-- keys: [^>]*-->\n(.*)<!-- /keys -->", PAGE, re.DOTALL)
    assert found is not None
    assert found[1].splitlines() == reference_lines(), "put the output of: mesh config show --page"


def test_every_key_is_there_with_its_default_and_what_it_is_for() -> None:
    for key in KEYS:
        assert f"`{key.last}`" in PAGE
    rows = [line for line in reference_lines() if line.startswith("| `") and line.count("|") == 5]
    assert len(rows) == len([key for key in KEYS if key.built])
    assert all(row.split("|")[4].strip() for row in rows)


def test_codes_and_files_that_the_page_names_exist() -> None:
    assert set(re.findall(r"MESH-[A-Z]\d{3}", PAGE)) <= set(ERRORS)
    for name in re.findall(r"\]\(([a-z]+\.md)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / name).exists()


def test_every_reason_of_a_drop_is_explained() -> None:
    section = PAGE.partition("Every drop is counted under one reason:")[2].partition("What to watch")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {reason.value for reason in Drop}


def test_every_verdict_is_explained_with_who_is_right() -> None:
    section = PAGE.partition("Verdicts of `diff`:")[2].partition("### Reload")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", section, re.MULTILINE))
    assert set(rows) == {verdict.value.replace("_", "-") for verdict in Verdict}
    assert set(rows.values()) == {right.value for right in Right}
    for verdict, right in RIGHT.items():
        assert rows[verdict.value.replace("_", "-")] == right.value
