from __future__ import annotations

import json

import pytest

from mesh.cli.errors import find
from mesh.cli.main import main
from mesh.model.errors import ERRORS, MeshError


@pytest.mark.parametrize("code", ["MESH-C012", "C012", "c12", "mesh-c012", " C12 "])
def test_a_code_is_found_however_it_is_written(code: str) -> None:
    assert find(code).code == "MESH-C012"


@pytest.mark.parametrize(
    ("code", "words"), [("MESH-C912", "Did you mean"), ("nonsense", "lists all"), ("", "lists all")]
)
def test_a_code_that_is_none_is_told(code: str, words: str) -> None:
    with pytest.raises(MeshError, match="MESH-A015") as caught:
        find(code)
    assert words in str(caught.value)


def test_the_whole_table_is_listed_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == list(ERRORS)
    assert main(["errors", "-o", "json"]) == 0
    assert [item["code"] for item in json.loads(capsys.readouterr().out)["items"]] == list(ERRORS)
