"""The policy file on the disk: its keys, its mistakes, and when it is another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.model.errors import MeshError
from mesh.policies import FILE_BYTES, changed, parse_policy, read_policy, stamp_of

GOOD = "key k file sub/k.key\nexport to p allow topic a encrypt k\n"


def write(folder: Path, text: str = GOOD, key: bytes = b"k" * 32) -> Path:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "k.key").write_bytes(key)
    file = folder / "policy.rules"
    file.write_text(text)
    return file


@pytest.mark.parametrize("key", [b"k" * 32, b"6b" * 32 + b"\n"])
def test_keys_are_beside_the_file_as_bytes_or_digits(tmp_path: Path, key: bytes) -> None:
    policy = read_policy(write(tmp_path, key=key))
    assert policy.keys == {"k": b"k" * 32}
    assert len(policy.rule_file.rules) == 1


def test_a_change_of_any_of_its_files_is_seen(tmp_path: Path) -> None:
    file = write(tmp_path)
    policy = read_policy(file)
    assert not changed(policy)
    (tmp_path / "sub" / "k.key").write_bytes(b"k" * 31 + b"zz")
    assert changed(policy)
    assert not changed(policy._replace(stamp=stamp_of(file, policy)))
    file.unlink()
    assert changed(policy)


@pytest.mark.parametrize(
    ("text", "key", "code", "says"),
    [
        ("export to p permit\n", b"k" * 32, "MESH-F021", "policy.rules:1: 'permit'"),
        (GOOD, b"short", "MESH-F022", "policy.rules:1: "),
        ("key k file none.key\n", b"k" * 32, "MESH-F022", "none.key: no such file"),
        ("#" * (FILE_BYTES + 1), b"k" * 32, "MESH-F020", "more than"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    tmp_path: Path, text: str, key: bytes, code: str, says: str
) -> None:
    with pytest.raises(MeshError) as caught:
        read_policy(write(tmp_path, text, key))
    assert caught.value.code == code
    assert says in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="MESH-F020"):
        read_policy(tmp_path / "none")
    with pytest.raises(MeshError, match="MESH-F021 p:2: it is not UTF-8"):
        parse_policy(b"# fine\n\xff\n", "p")


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "policy.rules").mkdir()
        with pytest.raises(MeshError, match="MESH-F020"):
            read_policy(tmp_path / "policy.rules")
    else:
        file = write(tmp_path)
        file.chmod(0)
        with pytest.raises(MeshError, match="MESH-F020"):
            read_policy(file)
