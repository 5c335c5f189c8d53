from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.cli.render import (
    Column,
    age,
    as_json,
    as_yaml,
    field,
    hyphens,
    style_of,
    table,
    text,
    width,
    write_lines,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        ({}, "-"),
        (0, "0"),
        (0.0, "0"),
        (True, "yes"),
        (False, "no"),
        (1203.4, "1203"),
        (17.5, "17.5"),
        (["us", "ap"], "us,ap"),
        ({"rack": "7"}, "rack=7"),
        ("a\x1b[2Jb\nc", "a\\x1b[2Jb\\nc"),
        ("größe 尺寸", "größe 尺寸"),
    ],
)
def test_a_cell_shows_absence_and_hides_nothing(value: Any, shown: str) -> None:
    assert text(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3_599, "59m"), (3_600, "1h"), (86_400 * 40, "40d")],
)
def test_an_age_has_its_largest_unit(seconds: float | None, shown: str) -> None:
    assert age(seconds) == shown


def test_reasons_are_read_with_hyphens() -> None:
    assert hyphens("lowest_metric") == "lowest-metric"
    assert hyphens(None) == hyphens("") == "-"


COLUMNS = (
    Column("NAME", field("name")),
    Column("STATE", field("state")),
    Column("MORE", field("more"), wide=True),
)


def test_columns_line_up_and_nothing_stands_behind_the_last() -> None:
    rows = [{"name": "尺寸", "state": "alive"}, {"name": "longer", "state": None}]
    assert table(rows, COLUMNS, wide=False, color=False) == ["NAME    STATE", "尺寸    alive", "longer  -"]
    assert table([], COLUMNS, wide=True, color=False) == ["NAME  STATE  MORE"]
    assert width("尺寸") == 4
    assert width("e\u0301") == 1


def test_colour_changes_no_column() -> None:
    rows = [{"name": "alive", "state": "dead"}]
    plain = table(rows, COLUMNS, wide=False, color=False)
    painted = table(rows, COLUMNS, wide=False, color=True)
    assert "\x1b[32malive\x1b[0m" in painted[1]
    assert [
        line.replace("\x1b[1m", "").replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
        for line in painted
    ] == plain
    assert style_of("suspect") == "doubtful"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def read_yaml(lines: list[str], at: int = 0, indent: int = 0) -> tuple[Any, int]:
    """Just enough of YAML to read back what as_yaml writes."""

    def scalar(word: str) -> Any:
        try:
            return json.loads(word)
        except ValueError:
            return word

    def key_of(line: str) -> tuple[str, str]:
        if line.startswith('"'):
            key, end = json.JSONDecoder().raw_decode(line)
            return key, line[end + 1 :].strip()
        key, _, rest = line.partition(":")
        return str(scalar(key)), rest.strip()

    pad = "  " * indent
    if lines[at].startswith(f"{pad}- "):
        items = []
        while at < len(lines) and lines[at].startswith(f"{pad}- "):
            lines[at] = f"{pad}  {lines[at][len(pad) + 2 :]}"
            item, at = read_yaml(lines, at, indent + 1)
            items.append(item)
        return items, at
    line = lines[at][len(pad) :]
    is_key = line.startswith('"') and line[json.JSONDecoder().raw_decode(line)[1] :].startswith(":")
    if not is_key and not (line[:1] not in '"[{' and ":" in line):
        return scalar(line), at + 1
    found = {}
    while at < len(lines) and lines[at].startswith(pad) and not lines[at].startswith(f"{pad} "):
        key, rest = key_of(lines[at][len(pad) :])
        at += 1
        if rest:
            found[key] = scalar(rest)
        else:
            found[key], at = read_yaml(lines, at, indent + 1)
    return found, at


@settings(max_examples=60, derandomize=True)
@given(JSON)
def test_yaml_reads_back_as_what_it_was(value: Any) -> None:
    lines = as_yaml(value)
    found, end = read_yaml(list(lines))
    assert end == len(lines)
    assert found == value


@pytest.mark.parametrize(
    "word",
    [
        "no",
        "Yes",
        "null",
        "1764",
        "0x1f",
        "1e3",
        "~",
        "- a",
        "a: b",
        "#x",
        "",
        " a",
        "bridge#3",
        "y",
        "2026-01-05",
    ],
)
def test_words_that_yaml_could_take_for_something_else_are_quoted(word: str) -> None:
    assert as_yaml({"key": word}) == [f"key: {json.dumps(word)}"]


def test_json_is_in_the_order_of_the_answer() -> None:
    assert json.loads(as_json({"b": 1, "a": ["é"]})) == {"b": 1, "a": ["é"]}
    assert as_json({"b": 1, "a": 2}).index("b") < as_json({"b": 1, "a": 2}).index("a")


def test_a_terminal_that_cannot_show_a_letter_gets_its_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    write_lines(["größe"])
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"
