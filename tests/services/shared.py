"""Fixtures of real servers, for every test below `tests/` (`tests/conftest.py` names them).

`etcd_server`, `etcd3_server`, `nacos2_server` and `nacos3_server` are one running server each for the whole run, also over
several workers: a test must not stop, pause or wipe it, and keeps its data under a `unique_name` (prefix, namespace). A test
that breaks its server makes one with `own_server`. A server that does not start is an error of every test that needs it.

The first test that needs any shared server starts all that the run needs, at the same time. A test that asks for one by
`request.getfixturevalue` tells so with the mark `servers("nacos2")`.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from services.servers import run
from services.servers.etcd import Etcd
from services.servers.etcd_group import EtcdGroup
from services.servers.nacos import Nacos2, Nacos3

# Seconds for the test itself: what a server needs to be fetched and to start is bounded by its class.
TEST_S = 120
FIXTURES = {f"{kind}_server": kind for kind in run.KINDS}


class SharedServers:
    """What of the shared servers this run needs, and has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.needed: set[str] = set()
        self.started: dict[str, run.Server] = {}
        self.failed: dict[str, Exception] = {}

    def get(self, kind: str) -> Any:
        self.needed.add(kind)
        threads = [threading.Thread(target=self._start, args=(each,)) for each in self._missing()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if kind in self.failed:
            raise self.failed[kind]
        return self.started[kind]

    def _missing(self) -> set[str]:
        return self.needed - set(self.started) - set(self.failed)

    def _start(self, kind: str) -> None:
        try:
            self.started[kind] = run.up(self.folder, kind)
        except Exception as failed:
            self.failed[kind] = failed


_servers = pytest.StashKey[SharedServers]()
_owned = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "servers(*kinds): real servers that the test asks for while it runs")
    if not os.environ.get(run.VARIABLE):
        # The workers of this run inherit it.
        config.stash[_owned] = run.new_run()
        os.environ[run.VARIABLE] = str(config.stash[_owned])
    config.stash[_servers] = SharedServers(run.run_folder())


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_owned, None)
    if folder is not None:
        run.down(folder)
        os.environ.pop(run.VARIABLE, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (
            _kinds(item) or "own_server" in getattr(item, "fixturenames", ())
        ) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_S, func_only=True))


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        session.config.stash[_servers].needed |= _kinds(item)


def _kinds(item: pytest.Item) -> set[str]:
    named = {kind for mark in item.iter_markers("servers") for kind in mark.args}
    return named | {FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES}


@pytest.fixture(scope="session")
def etcd_server(request: pytest.FixtureRequest) -> Etcd:
    return request.config.stash[_servers].get("etcd")


@pytest.fixture(scope="session")
def etcd3_server(request: pytest.FixtureRequest) -> EtcdGroup:
    return request.config.stash[_servers].get("etcd3")


@pytest.fixture(scope="session")
def nacos2_server(request: pytest.FixtureRequest) -> Nacos2:
    return request.config.stash[_servers].get("nacos2")


@pytest.fixture(scope="session")
def nacos3_server(request: pytest.FixtureRequest) -> Nacos3:
    return request.config.stash[_servers].get("nacos3")


@pytest.fixture
def unique_name() -> str:
    """A name that no other test uses: a prefix, a namespace."""
    return f"t{secrets.token_hex(6)}"


_numbers = itertools.count(1)


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """`own_server(KIND, options)`: a server of the test's own, not started; stopped and removed at the test's end."""
    made: list[run.Server] = []

    def make(kind: str, options: Any = None, **more: Any) -> Any:
        name = f"{kind}-{os.getpid()}-{next(_numbers)}"
        folder = request.config.stash[_servers].folder
        run.prepare(folder)
        server = run.KINDS[kind](folder / run.OWN / name, options, **more)
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
