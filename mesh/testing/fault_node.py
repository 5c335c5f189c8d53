"""A node's program as it is, but that it tells others a proxy's address instead of its own: `python -m mesh.testing.fault_node
HOST:PORT run ...`.

Peers learn each other's link ports by gossip and dial them directly, which would be a way around every fault of a line. Nothing
but the told address differs from the `mesh` command. Decides nothing; never used outside of the fault runner.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import mesh.app
from mesh.cli.main import main


def tell(address: str) -> None:
    """Let the nodes of this process say that they are reached at `address`."""

    async def told_address(listening: str, towards: Sequence[str] = ()) -> str:
        return address

    assert hasattr(mesh.app, "told_address"), "the program asks somebody else for its address now"
    mesh.app.told_address = told_address


if __name__ == "__main__":
    tell(sys.argv.pop(1))
    sys.exit(main())
