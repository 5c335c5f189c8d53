"""How answers look: tables, JSON, YAML or bare names; colour only on a terminal.

Decides widths, marks of absence ("-"), ages and colours. Never decides what is shown: the API's items are printed as they
came, and `-o json` is the API's answer itself.
Invariant: without colour the output is the same bytes in a pipe and on a terminal.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mesh.cli.options import Options

Item = Mapping[str, Any]

GOOD: Final = frozenset({"alive", "open", "in_use", "ok", "reachable", "both", "sealed"})
DOUBTFUL: Final = frozenset(
    {"suspect", "opening", "dialling", "infeasible", "warning", "waiting", "stale-entry"}
)
BAD: Final = frozenset(
    {
        "dead",
        "closed",
        "withheld",
        "failed",
        "unavailable",
        "name-conflict",
        "foreign-key",
        "damaged",
        "unreadable",
    }
)
_COLORS: Final = {"good": "32", "doubtful": "33", "bad": "31", "dim": "2", "bold": "1"}


class Column(NamedTuple):
    """One column: its title, how a cell is read from an item, and whether only -o wide shows it."""

    title: str
    cell: Callable[[Item], Any]
    wide: bool = False


def field(name: str) -> Callable[[Item], Any]:
    """Reads a field as it is."""
    return lambda item: item.get(name)


def text(value: Any) -> str:
    """A cell's text: "-" for what does not apply, lists joined by commas, whole numbers without a fraction."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
        case list() | tuple():
            return ",".join(map(str, value)) or "-"
        case dict():
            return ",".join(f"{key}={value[key]}" for key in value) or "-"
        case _:
            return _printable(str(value))


def _printable(value: str) -> str:
    """Control characters made visible: a topic must not move somebody's cursor."""
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in value)


def age(seconds: Any) -> str:
    """An age with its largest unit: "40s", "2m", "3h", "5d"; "-" for none."""
    if not isinstance(seconds, (int, float)):
        return "-"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def hyphens(reason: Any) -> str:
    """A reason as people read it: lowest_metric is "lowest-metric"."""
    return str(reason).replace("_", "-") if reason else "-"


def paint(value: str, style: str, color: bool) -> str:
    """The text in a style of _COLORS, or as it is without colour."""
    return f"\x1b[{_COLORS[style]}m{value}\x1b[0m" if color and style else value


def style_of(word: str) -> str:
    """The style of a state's name."""
    if word in GOOD:
        return "good"
    return "doubtful" if word in DOUBTFUL else "bad" if word in BAD else ""


def width(value: str) -> int:
    """Columns that a text takes on a terminal."""
    if value.isascii():
        return len(value)
    return sum(
        0 if unicodedata.combining(ch) else 2 if unicodedata.east_asian_width(ch) in "WF" else 1
        for ch in value
    )


def table(rows: Iterable[Item], columns: Sequence[Column], *, wide: bool, color: bool) -> list[str]:
    """Lines of a table, titles first, columns two spaces apart, nothing behind the last one.

    A first column without a title holds marks and is one space apart.
    """
    shown = [column for column in columns if wide or not column.wide]
    cells = [
        [text(column.cell(row)) if column.title else column.cell(row) for column in shown] for row in rows
    ]
    widths = [
        max(width(column.title), *(width(row[at]) for row in cells), 0) for at, column in enumerate(shown)
    ]
    lines = [_line([column.title for column in shown], widths, shown, "bold", color)]
    lines += [_line(row, widths, shown, "", color) for row in cells]
    return lines


def _line(cells: list[str], widths: list[int], columns: list[Column], style: str, color: bool) -> str:
    parts: list[str] = []
    for at, cell in enumerate(cells):
        last = at == len(cells) - 1
        pad = "" if last else " " * (widths[at] - width(cell) + (2 if columns[at].title else 1))
        parts.append(paint(cell, style or style_of(cell), color and bool(cell)) + pad)
    return "".join(parts).rstrip(" ")


def details(item: Item, fields: Sequence[tuple[str, Callable[[Item], Any]]], *, color: bool) -> list[str]:
    """Lines "NAME  value" of one item, all its fields below each other."""
    widest = max(width(title) for title, _ in fields)
    lines = []
    for title, read in fields:
        value = text(read(item))
        pad = " " * (widest - width(title) + 2)
        lines.append(paint(title, "bold", color) + pad + paint(value, style_of(value), color))
    return lines


def emit(answer: Mapping[str, Any], columns: Sequence[Column], options: Options, *, name: str) -> None:
    """Print a list answer in the form that was asked for. name: the field that `-o name` prints.

    Effects: writes to standard output.
    """
    match options.output:
        case "json":
            lines = [as_json(answer)]
        case "yaml":
            lines = as_yaml(answer)
        case "name":
            lines = [text(item.get(name)) for item in answer["items"]]
        case _:
            lines = table(answer["items"], columns, wide=options.output == "wide", color=options.color)
    write_lines(lines)


def write_lines(lines: Iterable[str]) -> None:
    """Write lines at once, so that a pipe sees whole answers."""
    whole = "".join(f"{line}\n" for line in lines)
    try:
        sys.stdout.write(whole)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(whole.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


API_VERSION: Final = "mesh/v1"


def versioned(told: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the version of its form in front, as every JSON that a command prints has it."""
    return {"apiVersion": API_VERSION, **told}


def json_line(told: Mapping[str, Any]) -> str:
    """One object of a stream on one line."""
    return json.dumps(versioned(told), ensure_ascii=False)


def as_json(value: Any) -> str:
    """JSON for people and machines: indented, in the order of the answer."""
    return json.dumps(value, indent=2, ensure_ascii=False)


# Plain YAML scalars: a word that no YAML version reads as anything else than a string.
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_NOT_PLAIN: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def as_yaml(value: Any, indent: int = 0) -> list[str]:
    """Lines of block-style YAML 1.2; strings that could be read as something else are JSON strings (which YAML reads)."""
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        lines = []
        for key, inner in value.items():
            if isinstance(inner, (Mapping, list, tuple)) and inner:
                lines += [f"{pad}{_scalar(key)}:", *as_yaml(inner, indent + 1)]
            else:
                lines.append(f"{pad}{_scalar(key)}: {_scalar(inner)}")
        return lines
    if isinstance(value, (list, tuple)) and value:
        lines = []
        for inner in value:
            nested = as_yaml(inner, indent + 1)
            lines += [f"{pad}- {nested[0].lstrip()}", *nested[1:]]
        return lines
    return [pad + _scalar(value)]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _NOT_PLAIN:
        return value
    return json.dumps(value, ensure_ascii=False)
