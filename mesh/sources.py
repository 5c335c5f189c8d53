"""Where settings come from: one TOML file, MESH_ environment variables, flags. Each becomes a list of entries.

Decides which keys exist in a source, that every value has its key's form, and how an error names the place ("mesh.toml:3
listen.events", "MESH_LISTEN__EVENTS", "--events"). Never decides which source wins.
Invariant: every key of a source is an entry or a problem; nothing is passed over in silence.
Source: design page "What a person sees", section Configuration; TOML 1.0.0.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from mesh.keys import BY_NAME, KEYS, LISTS, TABLES, BadValue, Key
from mesh.model.errors import MeshError

ENV_PREFIX: Final = "MESH_"
ENV_SEPARATOR: Final = "__"
MAX_FILE_BYTES: Final = 1 << 20


FLAGS: Final = {
    "node.id": "--id",
    "node.region": "--region",
    "node.data": "--data",
    "listen.events": "--events",
    "listen.link": "--link",
    "listen.admin": "--admin",
    "registry.seeds": "--seed",
    "bridge": "--bridge",
    "telemetry.log_level": "--log-level",
    "telemetry.log_format": "--log-format",
}
"""Keys with a flag of their own; every other is `--set KEY=VALUE`."""

Where: TypeAlias = Callable[[str], str]
"""Says where in its source a key stands."""


class Entry(NamedTuple):
    """One setting of one source. name: dotted, list tables with their index ("bridge.0.to"). where: its place, for errors."""

    name: str
    key: Key
    value: Any
    where: str


class Source(NamedTuple):
    """What one source says. origin: flag | env | file. problems: everything wrong with it, in its order."""

    origin: str
    entries: list[Entry]
    problems: list[MeshError]


# -- the file -----------------------------------------------------------------------------------------------------

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.-]+)\s*\]")
_ASSIGNED: Final = re.compile(r"\s*\"?([A-Za-z0-9_.-]+)\"?\s*=")


_LAST_WORDS: Final = frozenset(key.last for key in KEYS)


def _lines_of(text: str) -> dict[str, int]:
    """Line number of each key that is written plainly; inline tables and the like have none."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = header[2]
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = f"{table}.{counts[table]}"
            found.setdefault(table, number)
        elif assigned := _ASSIGNED.match(line):
            found.setdefault(f"{table}.{assigned[1]}" if table else assigned[1], number)
    return found


def from_file(path: Path) -> Source:
    """Read a TOML file. Problems: MESH-C008 (unreadable), C009 (not TOML), C001 (no such key), and those of values."""
    source = Source("file", [], [])
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        source.problems.append(MeshError("MESH-C008", str(path), error.strerror or str(error)))
        return source
    if len(raw) > MAX_FILE_BYTES:
        source.problems.append(MeshError("MESH-C008", str(path), f"it is larger than {MAX_FILE_BYTES} bytes"))
        return source
    try:
        text = raw.decode()
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        source.problems.append(MeshError("MESH-C009", str(path), what))
        return source
    lines = _lines_of(text)

    def where(name: str) -> str:
        return f"{path}:{lines[name]} {name}" if name in lines else f"{path} {name}"

    for name, value in tables.items():
        if name in LISTS:
            _read_list(source, name, value, where)
        elif name in TABLES and isinstance(value, dict):
            _read_table(source, name, name, value, where)
        else:
            is_table = isinstance(value, dict) or (isinstance(value, list) and name not in _LAST_WORDS)
            source.problems.append(_unknown(where(name), name, is_table=is_table))
    return source


def _read_list(source: Source, name: str, value: Any, where: Where) -> None:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        source.problems.append(
            MeshError("MESH-C002", where(name), f"it is a list of tables: write [[{name}]]")
        )
        return
    is_built = any(key.built and key.table == name for key in KEYS)
    for index, table in enumerate(value):
        if not table:
            code, what = (
                ("MESH-C011", "it is empty") if is_built else ("MESH-C010", f"not built yet: [[{name}]]")
            )
            source.problems.append(MeshError(code, where(f"{name}.{index}"), what))
        _read_table(source, f"{name}.{index}", name, table, where)


def _read_table(source: Source, name: str, schema: str, table: Mapping[str, Any], where: Where) -> None:
    for last, value in table.items():
        flat, full = f"{name}.{last}", f"{schema}.{last}"
        if full in TABLES and isinstance(value, dict):
            _read_table(source, flat, full, value, where)
        elif full in BY_NAME:
            _read_value(source, flat, BY_NAME[full], value, where(flat))
        else:
            source.problems.append(_unknown(where(flat), full, is_table=isinstance(value, dict)))


def _read_value(source: Source, name: str, key: Key, raw: Any, where: str, *, is_text: bool = False) -> None:
    """Add the entry, or the problem. A key of a part not built yet may only repeat its default."""
    try:
        value = key.form.read(key.form.from_text(raw) if is_text else raw)
    except BadValue as error:
        if key.built:
            source.problems.append(MeshError(error.code, where, str(error)))
            return
        value = None
    else:
        if not key.built and key.default is not None and value == key.default:
            return
        if not key.built and key.table == "listen" and value is None:
            return
    if key.built:
        source.entries.append(Entry(name, key, value, where))
    else:
        source.problems.append(MeshError("MESH-C010", where, f"not built yet: {key.name}"))


def _unknown(where: str, name: str, *, is_table: bool = False) -> MeshError:
    """The error of a key or table that does not exist, with the nearest spelling."""
    near = nearest(name, is_table=is_table)
    remedy = f"Did you mean {near}?" if near else ""
    return MeshError("MESH-C001", where, "no such table" if is_table else "no such key", remedy)


def nearest(name: str, *, is_table: bool = False) -> str:
    """The existing key (or table) most like `name`, or "". The same last word in another table comes first."""
    last = name.rpartition(".")[2]
    table = name.rpartition(".")[0]
    if is_table:
        found = difflib.get_close_matches(name, TABLES, n=1, cutoff=0.6)
        return (f"[[{found[0]}]]" if found[0] in LISTS else f"[{found[0]}]") if found else ""
    built = [key for key in KEYS if key.built]
    same = [key.name for key in built if key.last == last]
    if same:
        return same[0]
    here = difflib.get_close_matches(last, [key.last for key in built if key.table == table], n=1, cutoff=0.5)
    if here:
        return f"{table}.{here[0]}"
    anywhere = difflib.get_close_matches(name, [key.name for key in built], n=1, cutoff=0.6)
    if anywhere:
        return anywhere[0]
    by_last = difflib.get_close_matches(last, [key.last for key in built], n=1, cutoff=0.7)
    return next((key.name for key in built if by_last and key.last == by_last[0]), "")


# -- environment and flags ----------------------------------------------------------------------------------------


def variable(name: str) -> str:
    """The environment variable of a key: listen.events is MESH_LISTEN__EVENTS."""
    return ENV_PREFIX + name.replace(".", ENV_SEPARATOR).upper()


def from_environ(environ: Mapping[str, str]) -> Source:
    """Read every MESH_TABLE__KEY variable; MESH_BRIDGE__0__TO and so on are the bridges."""
    source = Source("env", [], [])
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and ENV_SEPARATOR in name:
            flat = name.removeprefix(ENV_PREFIX).lower().replace(ENV_SEPARATOR, ".")
            key = BY_NAME.get(schema_name(flat))
            if key is None:
                near = nearest(schema_name(flat))
                remedy = f"Did you mean {variable(near)}?" if near else ""
                source.problems.append(MeshError("MESH-C001", name, "no such key", remedy))
            else:
                _read_value(source, flat, key, environ[name], name, is_text=True)
    _check_indexes(source)
    return source


def from_flags(flags: Mapping[str, Any]) -> Source:
    """Read flags: dotted key to text, or to a TOML value; `bridge` to a list of tables."""
    source = Source("flag", [], [])
    for name, value in flags.items():
        where = FLAGS.get(name, f"--set {name}")
        if name in LISTS:
            _read_list(source, name, value, f"{where} {{}}".format)
        elif (key := BY_NAME.get(schema_name(name))) is None:
            source.problems.append(_unknown(where, name))
        else:
            _read_value(source, name, key, value, where, is_text=isinstance(value, str))
    _check_indexes(source)
    return source


def schema_name(flat: str) -> str:
    """The name in the key table: "bridge.0.to" is "bridge.to"."""
    first, _, rest = flat.partition(".")
    index, dot, last = rest.partition(".")
    return f"{first}.{last}" if first in LISTS and dot and index.isdigit() else flat


def _check_indexes(source: Source) -> None:
    """Numbered tables begin at 0 and leave none out."""
    for name in LISTS:
        numbers = {int(index) for index in indexes(source.entries, name)}
        if numbers and numbers != set(range(len(numbers))):
            where = next(entry.where for entry in source.entries if entry.name.startswith(f"{name}."))
            source.problems.append(
                MeshError(
                    "MESH-C006", where, f"{name} numbers are {sorted(numbers)}: begin at 0, leave none out"
                )
            )


def indexes(entries: Iterable[Entry], name: str) -> list[int]:
    """The numbers of the tables of list `name` that have entries, ascending."""
    return sorted({int(entry.name.split(".")[1]) for entry in entries if entry.name.startswith(f"{name}.")})
