"""A package of the same name that is not ours is told by name, in a real process and before anything of it is missed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.installation import PACKAGES, check_installation
from mesh.model.errors import MeshError

ROOT = Path(__file__).parents[2]

START = """
import sys
# As it is where the packages lie in a site folder: no finder of an editable installation helps out.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ditable" not in repr(finder)]
from mesh.cli.main import main
sys.exit(main(["run", "--events", "none", "--link", "none", "--admin", "none", "--data", sys.argv[1]]))
"""


def stranger(folder: Path, name: str, *, with_init: bool = True) -> Path:
    """A folder with a package of this name that has nothing of ours in it."""
    (folder / name).mkdir()
    if with_init:
        (folder / name / "__init__.py").write_text("")
    return folder


def test_this_installation_is_one() -> None:
    check_installation()


@pytest.mark.parametrize("name", ["federation", "registry"])
def test_a_strangers_package_on_the_path_stops_the_start_with_both_places(name: str, tmp_path: Path) -> None:
    first = stranger(tmp_path, name)
    done = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path / "data")],
        env=os.environ | {"PYTHONPATH": f"{first}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("MESH-C021 installation: ")
    assert done.stderr.count("\n") == 1
    assert f"{name} from {first}" in done.stderr
    assert f"mesh from {ROOT}" in done.stderr
    assert not (tmp_path / "data").exists(), "nothing was begun"


@pytest.mark.parametrize("with_init", [True, False], ids=["package", "folder"])
@pytest.mark.parametrize("name", PACKAGES)
def test_wherever_one_of_the_three_comes_from_elsewhere_it_is_named(
    name: str, with_init: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mere folder of that name, without __init__.py, is no rival of a package that is found."""
    monkeypatch.syspath_prepend(stranger(tmp_path, name, with_init=with_init))
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    if with_init:
        with pytest.raises(MeshError, match=f"MESH-C021 installation: .*{name} from {tmp_path}"):
            check_installation()
    else:
        check_installation()


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "registry", None)
    with pytest.raises(MeshError, match="MESH-C021 registry: the package registry of this installation"):
        check_installation()
