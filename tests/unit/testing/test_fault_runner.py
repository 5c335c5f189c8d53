"""A command line that cannot be meant is one line and status 2, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.testing.fault_runner import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--plans", "0"], "1 or more"),
        (["--kinds", "kill,rain"], "'rain' is not a valid FaultKind"),
        (["--topology", "star"], "invalid choice"),
        (["--plan", "/nowhere/plan.json"], "No such file"),
    ],
)
def test_wrong_words(words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--keep", str(tmp_path)])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
