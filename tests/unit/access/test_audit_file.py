from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.access.audit_file import AuditFile


def line(number: int, size: int = 100) -> bytes:
    return str(number).encode().ljust(size - 1, b".") + b"\n"


def all_lines(folder: Path) -> list[bytes]:
    paths = sorted(
        folder.glob("audit*"), key=lambda path: -int(path.suffix[1:] if path.suffix[1:].isdigit() else 0)
    )
    return [one for path in paths for one in path.read_bytes().splitlines(keepends=True)]


def test_files_are_whole_lines_and_bounded_in_size_and_number(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit", 1_000, 3)
    for begin in range(0, 50, 7):
        file.write(b"".join(map(line, range(begin, begin + 7))))
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit", "audit.1", "audit.2"]
    assert all(path.stat().st_size <= 1_000 for path in tmp_path.iterdir())
    found = all_lines(tmp_path)
    last = len(found)
    assert found == [line(number) for number in range(56 - last, 56)]
    assert last >= 21


def test_one_file_is_begun_anew(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit", 250, 1)
    for number in range(5):
        file.write(line(number))
    file.close()
    assert all_lines(tmp_path) == [line(4)]


def test_a_line_longer_than_a_file_is_a_file(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit", 250, 3)
    file.write(line(1) + line(2, 900) + line(3))
    file.close()
    assert all_lines(tmp_path) == [line(1), line(2, 900), line(3)]


def test_it_goes_on_behind_a_line_that_a_crash_cut_and_after_others_moved_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_bytes(line(1) + b'{"cut')
    file = AuditFile(path, 10_000, 3)
    file.write(line(2))
    assert path.read_bytes() == line(1) + b'{"cut\n' + line(2)
    path.rename(tmp_path / "moved")
    file.write(line(3))
    assert path.read_bytes() == line(3)
    path.unlink()
    file.write(line(4))
    assert path.read_bytes() == line(4)
    assert path.stat().st_mode & 0o777 == 0o600
    file.close()


def test_a_write_that_fails_half_way_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AuditFile(tmp_path / "audit", 10_000, 3)
    file.write(line(1))
    write, calls = os.write, 0

    def failing(fd: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        return write(fd, data[:30])

    monkeypatch.setattr("mesh.access.audit_file.os.write", failing)
    with pytest.raises(OSError, match="No space"):
        file.write(line(2) + line(3))
    monkeypatch.undo()
    assert (tmp_path / "audit").read_bytes() == line(1)
    file.write(line(2) + line(3))
    file.close()
    assert all_lines(tmp_path) == [line(1), line(2), line(3)]
