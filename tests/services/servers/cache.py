"""The user's cache folder for what tests fetch and build: `hopmesh/services/NAME` under XDG_CACHE_HOME or ~/.cache.

An entry is whole or not there: it is made under another name and renamed when it is complete. NAME carries the version (and
the digest of what is ours in it), so an entry is never changed. Whoever wants an entry that somebody makes waits for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hopmesh" / "services"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this entry; `make` fills a new folder with it the first time."""
    parent = cache_folder()
    entry = parent / name
    if entry.is_dir():
        return entry
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not entry.is_dir():
            made = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=parent))
            try:
                make(made)
                made.rename(entry)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
    return entry
