from __future__ import annotations

import shutil
import subprocess

import pytest

from mesh.cli.main import main


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", "bash"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mesh rou", {"routes"}),
        ("mesh routes ", {"list", "show", "watch", "withheld"}),
        ("mesh routes list --reg", {"--region"}),
        ("mesh routes list --region us --w", {"--watch"}),
        ("mesh completion ", {"bash", "zsh", "fish"}),
        ("mesh errors --t", {"--timeout", "--token-file"}),
        ("mesh nonsense x", set()),
    ],
)
def test_bash_completes_commands_subcommands_and_options(script: str, words: str, expected: set[str]) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    parts = words.split(" ")
    line = f"{script}\nCOMP_WORDS=({' '.join(parts[:-1])} '{parts[-1]}'); COMP_CWORD={len(parts) - 1}; _mesh; echo \"${{COMPREPLY[@]}}\""
    done = subprocess.run([bash, "-c", line], capture_output=True, text=True, check=True, timeout=10)
    found = {
        word for word in done.stdout.split() if not word.startswith("-") or words.split()[-1].startswith("-")
    }
    assert found == expected


def test_zsh_and_fish_get_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef mesh\n")
    assert main(["completion", "fish"]) == 0
    fish = capsys.readouterr().out
    assert "complete -c mesh -n '__fish_use_subcommand' -a 'run demo" in fish
    assert (
        "complete -c mesh -n '__fish_seen_subcommand_from routes && __fish_seen_subcommand_from list' -l region"
        in fish
    )


def test_an_unknown_shell_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err.startswith("MESH-A001 mesh completion")
