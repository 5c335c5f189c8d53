"""The Debian packages the servers come from, installed when they are not there.

Needs to be root, or `sudo` without a password; otherwise the failure tells which package is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from services.servers.process import LOG_LINES, ServerFailed

# Another apt-get may be at work: it is waited for.
LOCK_S = 300
INSTALL_S = 600


def program(name: str, package: str) -> str:
    """The path of a program, after installing its package when it is missing.

    Raises:
        ServerFailed: it cannot be installed; the text has apt-get's last lines.
    """
    found = shutil.which(name)
    if found:
        return found
    with (Path(tempfile.gettempdir()) / f"hopmesh-packages-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shutil.which(name):
            _install(package)
    found = shutil.which(name)
    if not found:
        raise ServerFailed(f"the package {package} is installed but has no program {name}")
    return found


def _install(package: str) -> None:
    if not shutil.which("apt-get"):
        raise ServerFailed(f"the package {package} is needed and there is no apt-get to install it")
    root = [] if os.getuid() == 0 else ["sudo", "-n"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    apt = [*root, *environment, "apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_S}"]
    for arguments in (["update"], ["install", "--no-install-recommends", package]):
        done = subprocess.run(
            [*apt, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_S,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            lines = "\n".join(done.stdout.splitlines()[-LOG_LINES:])
            raise ServerFailed(f"apt-get {arguments[0]} for {package} failed:\n{lines}")
