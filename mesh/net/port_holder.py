"""Who holds a port, so that "port in use" can name the process.

Decides nothing; looks into /proc where there is one. What it cannot see (another user's process, another system) it leaves out.
Source: proc(5), /proc/net/tcp and /proc/PID/fd.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def port_holder(port: int) -> str:
    """The process listening on a TCP port as "pid 4121 (mesh)", or "" when it cannot be told.

    Cost: a look at every open file of this user's processes: for error texts only. Never raises.
    """
    with suppress(OSError, ValueError):
        inodes = _inodes(port)
        if inodes:
            wanted = {f"socket:[{inode}]" for inode in inodes}
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and _holds(process, wanted):
                    return f"pid {process.name} ({_name(process)})"
    return ""


def _inodes(port: int) -> set[str]:
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _holds(process: Path, wanted: set[str]) -> bool:
    with suppress(OSError):
        for entry in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(entry) in wanted:
                    return True
    return False


def _name(process: Path) -> str:
    with suppress(OSError):
        return (process / "comm").read_text().strip()
    return "unknown"
