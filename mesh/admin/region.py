"""Answers that cover the region: what this node knows, joined with what every other member says about itself.

Decides who has answered and who is missing, and how a node's own word and the membership's are joined. Never decides why a
member is missing: the node that asked it does.
Invariant: every member asked is either in `answered` or in `missing`, never in both.
Source: design page "What a person sees" ("clusters answer, not single servers").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from mesh.model.errors import MeshError
from mesh.node.inspect import Inspect, Item, MissingNode, What

_BELIEVED: Final = ("state", "age_s", "reason", "detail", "spooled")
"""Of a member these are the word of the node that is asked, also when the member speaks for itself."""


class Gathered(NamedTuple):
    """Items of every node that answered, each node's in its own order."""

    items: list[Item]
    answered: tuple[str, ...]
    missing: tuple[MissingNode, ...]


async def gather(inspect: Inspect, what: What, *, node: str, here: bool, timeout_s: float) -> Gathered:
    """Ask the region.

    Args: node: only this member's word ("" for every). here: only this node's, nobody is asked. timeout_s: for the others.
    Raises: MeshError MESH-A005 when `node` is no member; state unaffected. Cost: O(items), one question for each member.
    """
    me = inspect.key.node
    own = _tagged(inspect.view(what), me)
    if here or node == me:
        return Gathered(own, (me,), ())
    answer = await inspect.ask_region(What.SELF if what is What.NODES else what, timeout_s)
    said = {name: _tagged(items, name) for name, items in answer.answered.items() if name != me}
    missing = tuple(entry for entry in answer.missing if entry.node not in said)
    if node and what is not What.NODES:
        missing = tuple(entry for entry in missing if entry.node == node)
        if node not in said and not missing:
            raise MeshError("MESH-A005", "node", f"no member {node!r}")
        return Gathered(said.get(node, []), (node,) if node in said else (), missing)
    answered = tuple(sorted([me, *said]))
    if what is What.NODES:
        return Gathered(_members(own, said), answered, missing)
    return Gathered(
        [item for name in answered for item in (own if name == me else said[name])], answered, missing
    )


def _tagged(items: Sequence[Item], node: str) -> list[Item]:
    """The items with who says them; a member cannot speak in another's name. They were made for us: changed in place."""
    for item in items:
        item["node"] = node
    return list(items)


def _members(own: list[Item], said: dict[str, list[Item]]) -> list[Item]:
    """Every member as the asked node believes it to be, with what the member itself says about the rest."""
    found = []
    for member in own:
        name = str(member.get("id"))
        words = next((item for item in said.get(name, ()) if item.get("id") == name), None)
        if words is not None:
            member = {**words, **{field: member.get(field) for field in _BELIEVED}, "node": name}
        found.append(member)
    return found
