from __future__ import annotations

import json

import pytest

from mesh import __version__
from mesh.cli.main import main
from mesh.wire.frames import PROTOCOL


def test_version_tells_release_and_protocol_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"mesh {__version__} (link protocol {PROTOCOL}, Python ")
    assert main(["--version", "-o", "name"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main(["version", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["protocol"], told["apiVersion"]) == (__version__, PROTOCOL, "mesh/v1")
