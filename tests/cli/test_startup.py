"""What the command costs before it does anything: no command may import what it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.cli.main import COMMANDS

HEAVY = (
    "trio", "msgspec", "structlog", "httptools", "prometheus_client", "rich", "typer", "click", "trio_websocket", "wsproto",
    "cloudevents", "hypothesis", "grpc", "asyncio", "argparse", "dataclasses", "http.client", "email", "ssl", "tomllib", "inspect",
)  # fmt: skip
NOT_TO_ASK = tuple(
    name
    for name in HEAVY
    if name not in ("argparse", "dataclasses", "inspect", "http.client", "email", "ssl")
)

SCRIPT = """
import sys
before = set(sys.modules)
from mesh.cli.main import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(",".join(sorted(set(sys.modules) - before)))
"""


def imported(*words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=30, check=False
    )
    return set(done.stderr.rpartition("\n")[2].split(","))


@pytest.mark.parametrize("words", [("--help",), ("-h",), ()])
def test_the_first_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    modules = imported(*words)
    assert "mesh.cli.main" in modules
    assert not [name for name in HEAVY if name in modules]
    assert {name for name in modules if name.startswith("mesh")} == {"mesh", "mesh.cli", "mesh.cli.main"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("demo", "bench")])
def test_the_help_of_a_command_imports_no_library(name: str) -> None:
    modules = imported(name, "--help")
    assert f"mesh.cli.{name}" in modules
    assert not [heavy for heavy in NOT_TO_ASK if heavy in modules]


@pytest.mark.parametrize(
    "words", [("node", "list"), ("routes", "list"), ("errors", "C001"), ("completion", "bash")]
)
def test_asking_a_node_needs_the_standard_library_only(words: tuple[str, ...]) -> None:
    modules = imported(*words, *(() if words[0] == "completion" else ("--node", "http://127.0.0.1:1")))
    assert not [heavy for heavy in NOT_TO_ASK if heavy in modules]


def run_check(*arguments: str) -> set[str]:
    """Modules of a process that opens the registry of a configuration, as `mesh run` does."""
    script = """
import sys
from mesh.config import load
from mesh.app import open_registries
from mesh.secured import Secured
from pathlib import Path
config = load(Path(sys.argv[1]), environ={})
open_registries(config.registry)
Secured(config, None)
sys.stderr.write(",".join(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.rpartition("\n")[2].split(","))


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("", set()),
        ('[registry]\nkind = "file"\npath = "x"', set()),
        ('[registry]\nkind = "etcd"\nendpoints = ["http://127.0.0.1:1"]', {"registry.etcd"}),
        ('[registry]\nkind = "nacos"\nendpoints = ["http://127.0.0.1:1"]', {"registry.nacos"}),
    ],
)
def test_a_node_imports_only_the_registry_it_uses(text: str, needs: set[str], tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    modules = run_check(str(path))
    assert {name for name in ("registry.etcd", "registry.nacos") if name in modules} == needs
    assert ("grpc" in modules) == bool(needs)
    assert "cryptography" not in modules, "only [tls] and 'mesh ca' need it"
