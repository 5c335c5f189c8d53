from __future__ import annotations

import argparse
import subprocess
import sys
import types
from importlib import import_module

import pytest

from mesh.cli.main import COMMANDS, help_text, main
from mesh.cli.options import new_parser, subparsers_of
from mesh.model.errors import MeshError

MESH = f"{sys.executable} -c 'import sys; from mesh.cli.main import main; sys.exit(main())'"
WRITTEN_ELSEWHERE = {"demo", "bench"}


def parsers() -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for name, command in COMMANDS.items():
        if name in WRITTEN_ELSEWHERE:
            continue
        module = import_module(f"mesh.cli.{name}")
        parser = new_parser(f"mesh {name}", command.about, module.EXAMPLES)
        module.build(parser)
        found[name] = parser
        found |= {f"{name} {sub}": inner for sub, inner in subparsers_of(parser).items()}
    return found


def test_every_command_of_the_design_is_there_and_its_subcommands_are_those_of_its_parser() -> None:
    expected = "run demo bench publish subscribe request reply node links routes subs spools dlq log journal policy registry ca config context token errors completion version"
    assert set(COMMANDS) == set(expected.split())
    found = parsers()
    for name, command in COMMANDS.items():
        if name not in WRITTEN_ELSEWHERE:
            assert tuple(subparsers_of(found[name])) == command.subcommands


@pytest.mark.parametrize("name", list(parsers()))
def test_every_help_ends_with_three_examples_of_that_command(name: str) -> None:
    text = parsers()[name].format_help()
    examples = text.rpartition("Examples:\n")[2].rstrip("\n").splitlines()
    assert len(examples) == 3
    first = name.split()[0]
    assert all(f"mesh {first}" in line or line.strip() == "mesh --version" for line in examples)
    if " " in name and first != "context":
        assert any(f"mesh {name}" in line for line in examples)


def test_the_first_help_names_every_command_and_ends_with_three_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text == help_text()
    assert all(f"  {name} " in text for name in COMMANDS)
    assert len(text.rpartition("Examples:\n")[2].splitlines()) == 3
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out == help_text()


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rotues", "list"]) == 2
    assert capsys.readouterr().err == "MESH-A001 mesh: no command 'rotues'. Did you mean 'mesh routes'?\n"
    assert main(["routes"]) == 2
    assert "One of: list, show, watch, withheld." in capsys.readouterr().err


class Command(types.ModuleType):
    """A command whose work raises what it is told."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__("mesh.cli.bench")
        self.error = error
        self.args: argparse.Namespace | None = None

    def build(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--timeout")
        parser.add_argument("--debug", action="store_true")
        parser.set_defaults(run=self.run)

    def run(self, args: argparse.Namespace) -> int:
        self.args = args
        if self.error is not None:
            raise self.error
        return 7


def install(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> Command:
    command = Command(error)
    monkeypatch.setitem(sys.modules, "mesh.cli.bench", command)
    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            MeshError("MESH-A002", "http://x", "connection refused", "Start it."),
            3,
            "MESH-A002 http://x: connection refused. Start it.\n",
        ),
        (
            RuntimeError("two\nlines"),
            1,
            "MESH-A014 mesh bench: RuntimeError: two lines. Run it again with --debug and report what it prints.\n",
        ),
        (KeyboardInterrupt(), 1, "interrupted\n"),
        (BrokenPipeError(), 0, ""),
        (SystemExit(2), 2, ""),
    ],
)
def test_a_failure_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mesh.cli.main._silence_stdout", lambda: None)
    install(monkeypatch, error)
    assert main(["bench"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_code_of_a_newer_node_still_fails_with_its_own_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = MeshError("MESH-A014", "here", "something new")
    error.code = "MESH-Z999"
    install(monkeypatch, error)
    assert main(["bench"]) == 1
    assert "something new" in capsys.readouterr().err


def test_with_debug_an_unexpected_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, RuntimeError("x"))
    with pytest.raises(RuntimeError):
        main(["bench", "--debug"])


def test_common_options_may_stand_before_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = install(monkeypatch, None)
    assert main(["--timeout", "3s", "--debug", "bench", "a", "b"]) == 7
    assert command.args is not None
    assert (command.args.timeout, command.args.words, command.args.debug) == ("3s", ["a", "b"], True)


def test_a_command_that_is_not_part_of_the_release_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mesh.cli.bench", None)
    monkeypatch.delitem(sys.modules, "mesh.cli.bench")
    monkeypatch.setattr("mesh.cli.__path__", [])
    assert main(["bench"]) == 2
    assert capsys.readouterr().err.startswith("MESH-A011 mesh bench: it is not part of this release.")


@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("errors", 0), ("nonsense", 2)])
def test_closed_standard_streams_are_no_crash(words: str, code: int) -> None:
    command = f"{MESH} {words} >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == code


@pytest.mark.parametrize("words", ["--help", "errors"])
def test_a_full_disk_is_one_line_and_no_traceback(words: str) -> None:
    command = f"{MESH} {words} >/dev/full"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("MESH-A0"), done.stderr
    assert done.stderr.count("\n") == 1
