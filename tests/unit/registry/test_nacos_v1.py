"""What the library for old servers does to a process is undone. The registry itself is in the contract suite, on real servers."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging, sys
from registry.nacos import NacosSettings
assert "nacos" not in sys.modules and "grpc" in sys.modules
from registry.nacos_v1 import NacosV1Registry
assert "nacos" not in sys.modules
root = logging.getLogger()
before = (list(root.handlers), root.level)
registry = NacosV1Registry(NacosSettings(servers=("127.0.0.1:1",), user="u", password="hush"))
assert (list(root.handlers), root.level) == before, root.handlers
import nacos.client
assert nacos.client.logger is not root
logging.basicConfig(level=logging.DEBUG)
import trio
from registry.base import RegistryUnavailable
async def main():
    try:
        await registry.list("eu")
    except RegistryUnavailable as error:
        assert error.code == "MESH-R001", error
        print(error.what)
trio.run(main)
"""


def test_the_root_logger_stays_as_it_was_and_no_password_is_logged() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:1" in done.stdout
    assert "hush" not in done.stdout + done.stderr
