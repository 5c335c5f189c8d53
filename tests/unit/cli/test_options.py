from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mesh.cli.context import Contexts
from mesh.cli.options import DEFAULT_ADMIN, DEFAULT_EVENTS, Options, common, new_parser, options_of, parse
from mesh.model.errors import MeshError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MESH_ADMIN", "MESH_EVENTS", "MESH_CONTEXT", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def options(*words: str) -> Options:
    parser = new_parser("mesh test", "a test", ())
    common(parser, watch=True)
    return options_of(parse(parser, words, ""))


def test_without_anything_a_command_talks_to_this_machine() -> None:
    assert options() == Options("table", False, 5.0, False, DEFAULT_ADMIN, DEFAULT_EVENTS)


def test_every_option_is_understood() -> None:
    found = options(
        "-o",
        "json",
        "--watch",
        "--timeout",
        "200ms",
        "--no-color",
        "--node",
        "http://a:1/",
        "--events",
        "http://b:2",
    )
    assert found == Options("json", True, 0.2, False, "http://a:1", "http://b:2")


def test_a_node_is_found_by_flag_then_context_flag_then_variable_then_context_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Contexts(
        "used",
        {"used": {"node": "http://used:1", "events": "http://used:2"}, "named": {"node": "http://named:1"}},
    ).write()
    assert options().admin == "http://used:1"
    assert options().events == "http://used:2"
    monkeypatch.setenv("MESH_CONTEXT", "named")
    assert (options().admin, options().events) == ("http://named:1", DEFAULT_EVENTS)
    monkeypatch.setenv("MESH_ADMIN", "http://variable:1")
    assert options().admin == "http://variable:1"
    assert options("--context", "named").admin == "http://named:1"
    assert options("--context", "named", "--node", "http://flag:1").admin == "http://flag:1"


def test_a_context_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MeshError, match="MESH-A013"):
        options("--context", "nowhere")


@pytest.mark.parametrize(
    "words", [("--timeout", "5"), ("--timeout", "0s"), ("-o", "xml"), ("--timout", "5s"), ("stray",)]
)
def test_a_wrong_option_is_one_error_with_the_usage_code(words: tuple[str, ...]) -> None:
    with pytest.raises(MeshError) as caught:
        options(*words)
    assert caught.value.code == "MESH-A001"


def test_an_abbreviated_option_is_not_guessed() -> None:
    with pytest.raises(MeshError, match=r"no option --time\. Did you mean --timeout\?"):
        options("--time", "5s")


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert options().color
    assert not options("--no-color").color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not options().color


def test_errors_of_a_parser_do_not_exit() -> None:
    parser = new_parser("mesh test", "a test", ())
    parser.add_argument("needed")
    with pytest.raises(MeshError, match="MESH-A001 mesh test"):
        parser.parse_args([])
    assert isinstance(parser, argparse.ArgumentParser)
