"""The servers of one run: all in one folder, each kind once, started by whoever asks first and found by all others.

The folder is HOPMESH_SERVICES, or one in the system's temporary folder that has the user's number in its name. Runs with
different folders know nothing of each other. A run with an owner (a process) ends with it, however it ends: a keeper waits
for the owner's end and takes everything down.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.servers.etcd import Etcd
from services.servers.etcd_group import EtcdGroup
from services.servers.nacos import Nacos2, Nacos3
from services.servers.process import Pid, ServerFailed, ServerProcess

Server = Etcd | EtcdGroup | Nacos2 | Nacos3
KINDS: dict[str, type[Etcd] | type[EtcdGroup] | type[Nacos2] | type[Nacos3]] = {
    "etcd": Etcd,
    "etcd3": EtcdGroup,
    "nacos2": Nacos2,
    "nacos3": Nacos3,
}
VARIABLE = "HOPMESH_SERVICES"
# Servers that a test made for itself are below this name.
OWN = "own"


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of one kind: `state` is running, starting (or hanging), stopped (it was there) or none."""

    kind: str
    state: str
    addresses: tuple[str, ...] = ()
    rss_bytes: int = 0


def run_folder() -> Path:
    """Where this run's servers are; it need not be there yet.

    Raises:
        ServerFailed: somebody else owns it.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named or f"{tempfile.gettempdir()}/hopmesh-services-{os.getuid()}").absolute()
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise ServerFailed(f"{folder} belongs to somebody else; name another folder with {VARIABLE}")
    return folder


def up(folder: Path, kind: str) -> Server:
    """This kind's running server; started when it does not run.

    Raises:
        ServerFailed: with its log's last lines.
    """
    prepare(folder)
    with _locked(folder, kind):
        server = _there(folder, kind) or KINDS[kind](folder / kind)
        server.start()
        return server


def status(folder: Path, kind: str) -> Status:
    server = _there(folder, kind)
    if server is None:
        return Status(kind, "none")
    if not server.running():
        state = "stopped"
    else:
        state = "running" if server.ready() else "starting"
    return Status(kind, state, tuple(server.addresses), server.rss_bytes())


def down(folder: Path, kinds: tuple[str, ...] = ()) -> None:
    """Stop these kinds (none named: everything) and remove what they wrote; the folder too when nothing is left in it."""
    for kind in kinds or (*KINDS, OWN):
        if not (folder / kind).exists():
            continue
        with _locked(folder, kind):
            for file in sorted((folder / kind).rglob("*.pid")):
                ServerProcess(file.parent, file.stem).stop()
            shutil.rmtree(folder / kind, ignore_errors=True)
    if not kinds:
        # Nothing else is removed: the folder may be one that its user has other things in.
        for name in ("owner", "keeper", *(f"{kind}.lock" for kind in (*KINDS, OWN))):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def new_run() -> Path:
    """A folder for a run that ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="hopmesh-services-"))
    owner = Pid.of(os.getpid())
    assert owner is not None
    (folder / "owner").write_text(f"{owner.number} {owner.started_ticks}\n")
    return folder


def keep(folder: Path) -> None:
    """Wait until the owner of this run has ended, then take down what it left. The keeper's main."""
    number, ticks = (folder / "owner").read_text().split()
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(int(number))
        if Pid.of(int(number)) == Pid(int(number), int(ticks)):
            select.select([handle], [], [])
    if folder.exists():
        down(folder)


def prepare(folder: Path) -> None:
    """See that a run with an owner has its keeper; before any server is started in it."""
    if not (folder / "owner").exists():
        return
    try:
        os.close(os.open(folder / "keeper", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    root = Path(__file__).resolve().parents[2]
    null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)]
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "services.servers", "keep", str(folder)],
        {**os.environ, "PYTHONPATH": str(root)},
        file_actions=null,
        setsid=True,
    )


def _there(folder: Path, kind: str) -> Server | None:
    """The server that was made in this run, running or not."""
    mark = folder / kind / ("member1/server.json" if kind == "etcd3" else "server.json")
    if not mark.exists():
        return None
    server = KINDS[kind].open(folder / kind)
    assert isinstance(server, (Etcd, EtcdGroup, Nacos2, Nacos3))
    return server


@contextlib.contextmanager
def _locked(folder: Path, kind: str) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
