"""A report names what it was measured on."""

from __future__ import annotations

import json
import os
import platform

from mesh.testing import bench_machine


def test_the_machine_is_described_for_a_report() -> None:
    told = bench_machine.describe()
    assert told["python"].endswith(platform.python_version())
    assert told["cores"] == os.cpu_count()
    assert set(told["versions"]) == set(bench_machine.PACKAGES)
    assert "unknown" not in told["versions"].values()
    assert json.loads(json.dumps(told)) == told


def test_what_cannot_be_told_is_unknown() -> None:
    assert bench_machine._first("/nowhere", "x") == "unknown"
    assert bench_machine._first("/proc/self/status", "No such line") == "unknown"
    assert bench_machine._version("no-such-distribution-of-anybody") == "unknown"


def test_a_line_of_a_proc_file_is_its_value() -> None:
    assert bench_machine._first("/proc/self/status", "Pid") == str(os.getpid())
