"""What a figure was measured on: processor, memory, system and the versions that matter.

Reads /proc where there is one; what cannot be told is "unknown". Never measures anything.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("hopmesh", "trio", "msgspec", "httptools")


def describe() -> dict[str, Any]:
    """The machine, as a report shows it."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _first(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "unknown")


def _memory_gb() -> float | None:
    size = _first("/proc/meminfo", "MemTotal").removesuffix(" kB")
    return round(int(size) / 1e6, 1) if size.isdigit() else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
