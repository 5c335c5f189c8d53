"""The stubs in the repository are what the .proto files give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROTOS = sorted((ROOT / "registry").rglob("*.proto"))


def test_there_are_such_files() -> None:
    assert ROOT / "registry" / "etcd" / "etcd.proto" in PROTOS


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_stubs_are_made_from_the_proto_file(proto: Path, tmp_path: Path) -> None:
    source = proto.relative_to(ROOT)
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
    ]
    subprocess.run([*command, str(source)], cwd=ROOT, check=True, timeout=30)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        name = source.with_name(source.stem + suffix)
        assert (ROOT / name).read_text() == (tmp_path / name).read_text(), "run: scripts/stubs"


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_their_names_cannot_meet_those_of_another_library(proto: Path) -> None:
    """All generated code of a process shares one pool of names; what the wire needs named otherwise is not made from here."""
    assert "\npackage hopmesh." in proto.read_text()
