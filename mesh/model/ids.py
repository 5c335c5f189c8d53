"""Names of the things a mesh is made of, and how they are written.

Decides the grammar of region and node names and the text form of ids. Never looks anything up.
Invariant: every id that was parsed prints back to the same text.
Source: design page "Routing", section "Identity and restart".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NewType

LinkId = NewType("LinkId", int)
"""One link of this process; never reused while the process lives, never sent to a peer."""

SessionId = NewType("SessionId", int)
"""One client connection of this process."""

Epoch = NewType("Epoch", int)
"""One process start of a node: max(stored + 1, wall seconds). A newer epoch replaces all earlier state of its owner."""

NAME_MAX: Final = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,19})\Z")
"""As `str` writes it: int() takes spaces, signs, underscores, leading zeros and other scripts' digits too."""


class BadName(ValueError):
    """A region or node name that the grammar does not allow. Carries what to do."""


def check_name(name: str, what: str) -> str:
    """Return `name` if it may name a `what` ("region", "node", "group"), else raise BadName saying what is allowed."""
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise BadName(
            f"{what} name {name!r}: use 1 to {NAME_MAX} letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return name


class NodeKey(NamedTuple):
    """A node: unique in the mesh. Written REGION/NODE. Ordering decides which end's link of a pair is kept."""

    region: str
    node: str

    def __str__(self) -> str:
        return f"{self.region}/{self.node}"

    @classmethod
    def parse(cls, text: str) -> NodeKey:
        """Parse REGION/NODE. Raises BadName."""
        region, _, node = text.partition("/")
        return cls(check_name(region, "region"), check_name(node, "node"))


class MeshId(NamedTuple):
    """One event in the mesh: who took it in, in which epoch, and its number there. Written REGION/NODE/EPOCH/SEQ."""

    region: str
    node: str
    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.region}/{self.node}/{self.epoch}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> MeshId:
        """Parse REGION/NODE/EPOCH/SEQ. Raises BadName or ValueError."""
        parts = text.split("/")
        if len(parts) != 4 or not all(map(_NUMBER.match, parts[2:])):
            raise ValueError(
                f"mesh id {text!r}: expected REGION/NODE/EPOCH/SEQ, the last two as plain numbers"
            )
        return cls(check_name(parts[0], "region"), check_name(parts[1], "node"), int(parts[2]), int(parts[3]))


class Version(NamedTuple):
    """A position in one owner's single-writer history. Compares as (epoch, n)."""

    epoch: int
    n: int
