from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mesh.net.port_holder import port_holder

LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_this_process_is_named_while_it_listens_and_not_afterwards(
    family: socket.AddressFamily, host: str
) -> None:
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with open("/proc/self/comm") as name:
            assert port_holder(port) == f"pid {os.getpid()} ({name.read().strip()})"
    assert port_holder(port) == ""


def test_another_process_is_named() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert port_holder(port).startswith(f"pid {other.pid} (")
        other.communicate("")
    assert port_holder(port) == ""


def test_a_connection_is_not_taken_for_a_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert port_holder(client.getsockname()[1]) == ""


@pytest.mark.parametrize("port", [0, -1, 65_536, 1 << 40])
def test_a_port_that_cannot_be_has_no_holder(port: int) -> None:
    assert port_holder(port) == ""


def test_what_cannot_be_looked_into_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's processes, or a system without these files."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def refuse(*_: object) -> str:
            raise PermissionError

        with monkeypatch.context() as patch:
            patch.setattr("mesh.net.port_holder.os.readlink", refuse)
            assert port_holder(port) == ""
        monkeypatch.setattr("mesh.net.port_holder._inodes", refuse)
        assert port_holder(port) == ""
