from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.sources import Source, from_environ, from_file, from_flags, nearest, variable


def read(tmp_path: Path, text: str) -> Source:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    return from_file(path)


def told(source: Source) -> list[tuple[str, str]]:
    return [(problem.code, problem.where.rpartition("/")[2]) for problem in source.problems]


def test_a_file_becomes_entries_with_their_line(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        '[node]\nid = "eu-1"\n\n[[bridge]]\nto = "us"\n[[bridge]]\n"to" = "ap"\nseeds = ["127.0.0.1:7"]\n',
    )
    assert not source.problems
    assert [(entry.name, entry.where.rpartition("/")[2]) for entry in source.entries] == [
        ("node.id", "mesh.toml:2 node.id"),
        ("bridge.0.to", "mesh.toml:5 bridge.0.to"),
        ("bridge.1.to", "mesh.toml:7 bridge.1.to"),
        ("bridge.1.seeds", "mesh.toml:8 bridge.1.seeds"),
    ]


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ('[listen]\nevnts = "none"', "Did you mean listen.events?"),
        ('[listne]\nevents = "none"', "Did you mean [listen]?"),
        ('region = "eu"', "Did you mean node.region?"),
        ('[node]\naccept = "any"', "Did you mean federation.accept?"),
        ("[limits]\nhop_limit = 3", "Did you mean federation.hop_limit?"),
        ("[limits]\nframe_byte = 3", "Did you mean limits.frame_bytes?"),
        ('[[bridges]]\nto = "us"', "Did you mean [[bridge]]?"),
        ('seeds = ["a:1"]', "Did you mean registry.seeds?"),
        ("[node]\nzzzzzzzzz = 1", ""),
    ],
)
def test_an_unknown_key_names_the_nearest_spelling(tmp_path: Path, text: str, near: str) -> None:
    source = read(tmp_path, text)
    assert not source.entries
    assert source.problems[0].code == "MESH-C001"
    assert near in str(source.problems[0])


@pytest.mark.parametrize(
    "text",
    [
        "[listen]\nmqtt = '127.0.0.1:1883'",
        "[[bridge]]\nto = 'us'\nexport = ['orders/#']",
        "[[bridge]]\nto = 'us'\ndeny = ['hr/#']",
        "[[bridge]]\nto = 'us'\nproxy = 'http://proxy:3128'",
        "[telemetry]\notlp = 'http://x:4317'",
        "[telemetry]\nsample = 5",
    ],
)
def test_a_key_of_a_part_not_built_yet_is_an_error_and_not_ignored(tmp_path: Path, text: str) -> None:
    source = read(tmp_path, text)
    assert [problem.code for problem in source.problems] == ["MESH-C010"]
    assert "not built yet" in str(source.problems[0])


def test_a_copy_of_the_default_of_a_part_not_built_yet_promises_nothing(tmp_path: Path) -> None:
    source = read(
        tmp_path, "[listen]\nmqtt = 'none'\n[[bridge]]\nto = 'us'\nexport = ['#']\nimport = ['#']\ndeny = []"
    )
    assert not source.problems
    assert [entry.name for entry in source.entries] == ["bridge.0.to"]


def test_every_problem_of_a_file_is_told(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        "[node]\nid = 'a b'\nregion = 5\n[listen]\nevents = '7222'\n[bridge]\nto = 'us'\n[[topic]]\n",
    )
    assert told(source) == [
        ("MESH-C007", "mesh.toml:2 node.id"),
        ("MESH-C002", "mesh.toml:3 node.region"),
        ("MESH-C005", "mesh.toml:5 listen.events"),
        ("MESH-C002", "mesh.toml:6 bridge"),
        ("MESH-C011", "mesh.toml:8 topic.0"),
    ]


def test_an_empty_bridge_is_a_problem(tmp_path: Path) -> None:
    assert told(read(tmp_path, "[[bridge]]")) == [("MESH-C011", "mesh.toml:1 bridge.0")]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"[node", "MESH-C009"),
        (b"\xff\xfe", "MESH-C009"),
        (b"a = " + b"[" * 5_000, "MESH-C009"),
        (b"#" * (1 << 21), "MESH-C008"),
    ],
    ids=["not toml", "not utf-8", "nested", "too large"],
)
def test_a_file_that_is_no_configuration_is_one_problem(tmp_path: Path, raw: bytes, code: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_bytes(raw)
    assert [problem.code for problem in from_file(path).problems] == [code]


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, name: str) -> None:
    assert [problem.code for problem in from_file(tmp_path / name).problems] == ["MESH-C008"]


def test_variables_name_tables_and_keys_with_two_underscores() -> None:
    source = from_environ(
        {
            "MESH_LISTEN__EVENTS": "none",
            "MESH_BRIDGE__0__TO": "us",
            "MESH_BRIDGE__0__SEEDS": "127.0.0.1:7,127.0.0.1:8",
            "MESH_ADMIN": "http://127.0.0.1:8222",
            "MESHES__X": "1",
            "HOME": "/root",
        }
    )
    assert not source.problems
    assert {entry.name: entry.value for entry in source.entries} == {
        "listen.events": None,
        "bridge.0.to": "us",
        "bridge.0.seeds": (("127.0.0.1", 7), ("127.0.0.1", 8)),
    }


def test_an_unknown_variable_names_the_nearest_one() -> None:
    [problem] = from_environ({"MESH_LISTEN__EVENT": "none"}).problems
    assert str(problem) == "MESH-C001 MESH_LISTEN__EVENT: no such key. Did you mean MESH_LISTEN__EVENTS?"
    assert variable(nearest("listen.event")) == "MESH_LISTEN__EVENTS"


def test_numbered_variables_begin_at_zero() -> None:
    [problem] = from_environ({"MESH_BRIDGE__1__TO": "us"}).problems
    assert problem.code == "MESH-C006"


def test_flags_carry_text_or_values_and_errors_name_the_flag() -> None:
    source = from_flags(
        {
            "listen.events": "none",
            "registry.seeds": ["a:1"],
            "bridge": [{"to": "us"}],
            "node.id": "a b",
            "x.y": "1",
        }
    )
    assert [entry.name for entry in source.entries] == ["listen.events", "registry.seeds", "bridge.0.to"]
    assert [problem.where for problem in source.problems] == ["--id", "--set x.y"]


TOML_LIKE = st.text(alphabet='[]nodelistentbridgekeyaa=".#\n 017', max_size=60)


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(TOML_LIKE)
def test_any_file_is_read_or_told_what_is_wrong(tmp_path: Path, text: str) -> None:
    source = read(tmp_path, text)
    assert all(problem.code.startswith("MESH-C") for problem in source.problems)
