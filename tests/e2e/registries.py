"""Registries for end-to-end tests: what a node is told, and what happens to the service meanwhile.

`Place` is one registry as an operator knows it: flags for `mesh run`, kill -9, return, and return with nothing in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import trio


class Place(Protocol):
    kind: str

    def flags(self, table: str = "registry") -> list[str]:
        """`--set` flags that name it, without any address of a node."""

    async def kill(self) -> None:
        """Gone at once."""

    async def back(self, *, empty: bool) -> None:
        """There again, ready to answer; `empty`: with nothing of what it held."""


class FolderPlace:
    """kind "file": its death is a share that is not mounted any more."""

    kind = "file"

    def __init__(self, share: Path) -> None:
        self._share = share
        self._away = share.with_name(f"{share.name}-unmounted")
        self.folder = share / "mesh"
        self.folder.mkdir(parents=True)

    def flags(self, table: str = "registry") -> list[str]:
        return [f"--set={table}.kind=file", f"--set={table}.path={self.folder}"]

    async def kill(self) -> None:
        os.rename(self._share, self._away)
        self._share.write_text("so that nobody makes the folder anew")

    async def back(self, *, empty: bool) -> None:
        if empty:
            shutil.rmtree(self._away / "mesh")
            (self._away / "mesh").mkdir()
        self._share.unlink()
        os.rename(self._away, self._share)


class ServerPlace:
    """A real server of this test's own. server: of `services.servers`, started."""

    def __init__(self, kind: str, server: Any, folder: Path) -> None:
        self.kind = kind
        self.server = server
        self._password = folder / f"{kind}-password"
        if kind == "nacos":
            self._password.write_text(f"{server.password}\n")

    def flags(self, table: str = "registry") -> list[str]:
        endpoints = ",".join(f"http://{address}" for address in self.server.addresses)
        found = [f"--set={table}.kind={self.kind}", f"--set={table}.endpoints={endpoints}"]
        if self.kind == "nacos":
            found += [
                f"--set={table}.user={self.server.user}",
                f"--set={table}.password_file={self._password}",
            ]
        return found

    async def kill(self) -> None:
        await trio.to_thread.run_sync(self.server.kill)

    async def back(self, *, empty: bool) -> None:
        await trio.to_thread.run_sync(self.server.wipe if empty else self.server.start)


MakePlace = Callable[[str], Any]


def make_place(kind: str, folder: Path, own_server: Callable[..., Any]) -> FolderPlace | ServerPlace:
    """A registry of a kind: "file", "etcd", "nacos2" or "nacos3". Blocks until a server is ready."""
    if kind == "file":
        return FolderPlace(folder / "share")
    server = own_server(kind)
    server.start()
    return ServerPlace(kind.rstrip("23"), server, folder)
