"""The tables of docs/protocol.md, read from the code that they describe.

Decides what stands between the `<!-- tables: NAME -->` marks of the page; the prose around them is written by hand.
Run `.venv/bin/python -m tests.protocol_page` to bring the page up to date; tests/unit/wire/test_protocol_page.py fails when it is
not.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from mesh.core import session
from mesh.model import event, limits, reasons
from mesh.wire import codec, frames

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"
COMMAND = ".venv/bin/python -m tests.protocol_page"

BODY = {
    "seq": "number at its origin node, inside the origin's epoch; with the header's origin it is the event's mesh_id",
    "topic": "where it was published",
    "key": 'ordering key, "" for none',
    "deadline_ms": "exact remaining time when it was published, 0 for none; the header carries it rounded up",
    "extra": 'nil, or two strings: reply_to (REGION/NODE/INBOX or "") and correlation (or "")',
    "attributes": "nil: structured form. Else the binary form: name, value, name, value, ... in the order published",
    "data": "structured form: the JSON CloudEvent as published. Binary form: the data alone",
}
LINK_LIMITS = (
    "frame_bytes", "batch_target_bytes", "batch_events", "open_timeout_s", "hello_interval_s", "hello_missed", "clock_skew_s",
    "control_queue_frames", "control_queue_bytes", "data_queue_bytes", "credit_bytes", "credit_events", "ack_batches",
    "ack_interval_s", "half_open_links", "peer_links", "path_regions", "hop_limit",
)  # fmt: skip


class Field(NamedTuple):
    name: str
    type: str
    meaning: str


class Described(NamedTuple):
    """A class of a module: its docstring, the section comment it stands under, and its fields or members."""

    name: str
    text: str
    section: str
    fields: tuple[Field, ...]


def described(module: ModuleType) -> dict[str, Described]:
    """Every class of a module, in order of the source."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            found[node.name] = Described(
                node.name, text, section(lines, node.lineno), tuple(fields(node, lines))
            )
    return found


def section(lines: Sequence[str], line: int) -> str:
    for above in reversed(lines[:line]):
        if title := re.match(r"# -- (.+?) -+$", above):
            return title[1]
    return ""


def fields(node: ast.ClassDef, lines: Sequence[str]) -> Iterator[Field]:
    """Annotated fields with the comment behind them; enum members with their comment or the string below them."""
    for place, one in enumerate(node.body):
        _, _, comment = lines[one.lineno - 1].partition("  # ")
        below = node.body[place + 1] if place + 1 < len(node.body) else None
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            comment = comment or " ".join(str(below.value.value).split())
        match one:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                yield Field(name, wire_type(annotation), comment)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                yield Field(name, str(value), comment)


def wire_type(annotation: ast.expr) -> str:
    """A field's type in words of MessagePack."""
    match annotation:
        case ast.Name(id=name):
            words = {
                "UInt": "uint",
                "int": "uint",
                "str": "string",
                "bytes": "binary",
                "Position": "(owner: string, epoch: uint, n: uint)",
                "Entry": "(key: string, n: uint, value: binary or nil)",
                "Refused": "(batch: uint, why: string, regions: array of string)",
            }
            return words.get(name, name)
        case ast.Constant(value=None):
            return "nil"
        case ast.BinOp(left=left, right=right):
            return f"{wire_type(left)} or {wire_type(right)}"
        case ast.Subscript(slice=ast.Tuple(elts=[one, ast.Constant()])):
            return f"array of {wire_type(one)}"
        case ast.Subscript(slice=ast.Tuple(elts=several)):
            return f"({', '.join(map(wire_type, several))})"
        case ast.Subscript(value=ast.Name(id="Sequence"), slice=one):
            return f"array of {wire_type(one)}"
    raise AssertionError(ast.unparse(annotation))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z)`])\. ", text, maxsplit=1)[0].rstrip(".")


def described_frame(one: Described) -> Described:
    assert one.text, f"{one.name} has no docstring"
    for field in one.fields:
        assert field.meaning, f"{one.name}.{field.name} has no comment behind it"
    return one


def kinds() -> str:
    classes = described(frames)
    rows = [
        [
            str(kind), f"[{frame.__name__}](#{frame.__name__.lower()})", "data" if frame is frames.Data else "control",
            first_sentence(described_frame(classes[frame.__name__]).text),
        ]
        for kind, frame in frames.KINDS.items()
    ]  # fmt: skip
    return table(["kind", "frame", "lane", "meaning"], rows)


def frame_fields() -> str:
    """Every frame, and every struct inside one, under the headings of the source."""
    numbers = {frame.__name__: kind for kind, frame in frames.KINDS.items()}
    parts, heading = [], ""
    for one in described(frames).values():
        if one.section != heading:
            heading = one.section
            parts.append(f"### {heading[0].upper()}{heading[1:]}")
        struct = getattr(frames, one.name)
        if one.name.startswith("_"):
            continue
        if issubclass(struct, frames._Frame):
            described_frame(one)
            kind = f"kind {numbers[one.name]}" if one.name in numbers else "inside other frames"
            parts.append(f"#### {one.name}\n\n{one.text} ({kind})")
            if one.fields:
                rows = [[f"`{field.name}`", field.type, field.meaning] for field in one.fields]
                parts.append(table(["field", "type", "meaning"], rows))
    return "\n\n".join(parts)


def enums() -> str:
    rows = []
    for one in described(frames).values():
        if one.fields and not issubclass(getattr(frames, one.name), frames._Frame):
            rows += [[one.name, field.type, f"`{field.name}`", field.meaning] for field in one.fields]
    return table(["enum", "value", "name", "meaning"], rows)


def body() -> str:
    annotated = described(event)["Event"].fields
    assert [field.name for field in annotated] == list(BODY)
    return table(
        ["field", "type", "meaning"], [[f"`{name}`", kind, BODY[name]] for name, kind, _ in annotated]
    )


def limit_values() -> str:
    values, comments = (
        limits.Limits(),
        {field.name: field.meaning for field in described(limits)["Limits"].fields},
    )
    rows = [[f"`{name}`", f"{getattr(values, name):,}", comments[name]] for name in LINK_LIMITS]
    rows.append(["batch header", f"{codec.HEADER_MAX_BYTES:,}", "bytes; what its length field can say"])
    rows.append(
        [
            "body",
            f"frame_bytes + {codec.BODY_ALLOWANCE_BYTES:,}",
            "bytes; the room for attributes and company of one event of frame_bytes",
        ]
    )
    return table(["limit", "default", "meaning"], rows)


def closes() -> str:
    members = described(reasons)["Close"].fields
    return table(["reason", "meaning"], [[f"`{field.type}`", field.meaning] for field in members])


def states() -> str:
    return table(["state", "what holds"], [[state.value, text] for state, text in session.STATES.items()])


TABLES: dict[str, Callable[[], str]] = {
    "kinds": kinds, "fields": frame_fields, "enums": enums, "body": body, "session-states": states, "limits": limit_values,
    "closes": closes,
}  # fmt: skip


def render(page: str) -> str:
    """The page with every table as the code has it now."""
    marks = re.findall(r"<!-- tables: (\S+) -->", page)
    assert sorted(marks) == sorted(TABLES), f"the page marks {marks}, the code has {list(TABLES)}"
    for name, make in TABLES.items():
        mark = f"<!-- tables: {name} -->"
        before, _, rest = page.partition(mark)
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"no end mark after {mark}"
        page = f"{before}{mark}\n\n{make()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")
