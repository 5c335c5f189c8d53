"""`/v1/dlq`: the dead letters of the whole region, one of them, published again, or dropped.

Decides paths and parameters, and what a page is made of: dead letters by node and number, so that a cursor is a place and a page is
right whatever came or went meanwhile. Passes writes on to the node that holds the dead letter, so that any node can be asked.
Invariant: a dead letter that nothing was done about is named with the reason.
Source: design page "What a person sees", Admin API.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from mesh.model.errors import MeshError
from mesh.model.reasons import Drop, NoReplay, Refuse
from mesh.model.topic import TopicError, check_filter
from mesh.node.inspect import Inspect, Item, MissingNode, What
from mesh.node.letters import AT_ONCE, PAGE, Act, Query

PATH: Final = "/v1/dlq"
FILTERS: Final = ("topic", "reason", "part", "region")
_WHY: Final[Mapping[str, str]] = {
    NoReplay.NOBODY: "nobody in the mesh wants its topic any more; it stays",
    NoReplay.UNDER_WAY: "it is being published again already",
    NoReplay.DRAINING: "the node is leaving; it stays",
    Refuse.STARTING: "the node has just started and does not know yet who wants what; it stays",
    Refuse.SPOOL_FULL: "as much waits under its [[topic]] as may, and the rule says block; it stays",
}


class Place(NamedTuple):
    """Where a path leads. node, lsns: whose dead letters; node "" is the list. act: the last segment, if there is one."""

    node: str = ""
    lsns: tuple[int, ...] = ()
    act: str = ""


def place_of(path: str) -> Place:
    """Read a path that begins with PATH. Raises: MeshError MESH-A005, MESH-A007."""
    parts = path.removeprefix(PATH).strip("/").split("/")
    if parts == [""]:
        return Place()
    if len(parts) not in (2, 3) or not parts[0]:
        raise MeshError("MESH-A005", path[:200], "no such path", f"Use {PATH}/NODE/NUMBER.")
    act = parts[2] if len(parts) == 3 else ""
    if act not in ("", Act.REPLAY):
        raise MeshError("MESH-A005", path[:200], "no such path", f"Use {PATH}/NODE/NUMBER/replay.")
    return Place(parts[0], _numbers(parts[1], path), act)


def _numbers(text: str, path: str) -> tuple[int, ...]:
    words = text.split(",")
    if len(words) > AT_ONCE:
        raise MeshError("MESH-A007", path[:80], f"{len(words)} numbers in one call, {AT_ONCE} are allowed")
    if not all(word.isascii() and word.isdigit() and 0 < len(word) < 19 for word in words):
        raise MeshError("MESH-A007", path[:80], f"{text[:40]!r} is not a number, or several with commas")
    return tuple(dict.fromkeys(map(int, words)))


def method_of(place: Place) -> tuple[str, ...]:
    """The methods that a path knows."""
    if not place.node:
        return ("GET",)
    return ("POST",) if place.act else ("GET", "DELETE")


class LetterCalls:
    """The calls of one node's admin port."""

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect

    async def page(
        self, given: Mapping[str, str], *, limit: int, cursor: str, node: str, here: bool, timeout_s: float
    ) -> tuple[list[Item], list[str], list[MissingNode], str | None]:
        """One page: (items, answered, missing, cursor of the next). Raises: MeshError MESH-A005, MESH-A007."""
        me = self._inspect.key.node
        limit = min(limit, PAGE)
        begin, after = _read_cursor(cursor)
        query = msgspec.json.encode(
            Query(
                topic=_topic(given.get("topic", "")),
                reason=_reason(given.get("reason", "")),
                part=_part(given),
                node=begin,
                after=after,
                limit=limit,
            )
        )
        said: dict[str, Item] = {}
        missing: list[MissingNode] = []
        if here or node in ("", me):
            [said[me]] = self._inspect.view(What.DEAD_LETTERS, query)
        if not here and node != me:
            answer = await self._inspect.ask_region(What.DEAD_LETTERS, timeout_s, query)
            for name, items in answer.answered.items():
                if len(items) == 1 and node in ("", name):
                    said[name] = items[0]
            missing = [entry for entry in answer.missing if node in ("", entry.node)]
            if node and node not in said and not missing:
                raise MeshError("MESH-A005", "node", f"no member {node!r}")
        items, next = _joined(said, limit)
        return items, sorted(said), missing, next

    async def act(self, place: Place, act: Act, timeout_s: float) -> list[Item]:
        """One item for each dead letter named, in order; one with `code` says that nothing was done about it.

        Raises: MeshError when only one was named and nothing was done about it, or its node does not answer.
        """
        items = await self._inspect.letters(place.node, act, place.lsns, timeout_s)
        for item in items:
            item["node"] = place.node
            why = str(item.get("why") or "")
            if why:
                code, detail = _problem(why)
                if len(place.lsns) == 1:
                    raise MeshError(code, str(item["id"]), detail)
                item |= {"code": code, "detail": detail}
        return items


def _problem(why: str) -> tuple[str, str]:
    if why == NoReplay.UNKNOWN:
        return "MESH-A005", "there is no such dead letter, or its disk lost it"
    if why in (NoReplay.NOBODY, NoReplay.UNDER_WAY, NoReplay.DRAINING):
        return "MESH-A022", _WHY[why]
    return "MESH-E050", _WHY.get(why, f"the journal says {why}; it stays")


def _joined(said: Mapping[str, Item], limit: int) -> tuple[list[Item], str | None]:
    """The pages of the nodes one after the other, up to `limit`, and where the next one begins."""
    found: list[Item] = []
    last = ("", 0)
    for name, page in sorted(said.items()):
        letters, more = page.get("letters"), page.get("more")
        for item in letters if isinstance(letters, list) else []:
            if len(found) == limit:
                return found, _write_cursor(*last)
            item = {**item, "node": name, "id": f"{name}/{item['lsn']}"}
            found.append(item)
            last = (name, int(item["lsn"]))
        if isinstance(more, int):
            return found, _write_cursor(name, more)
    return found, None


def _topic(text: str) -> str:
    if text:
        try:
            check_filter(text)
        except TopicError as error:
            raise MeshError("MESH-A007", "topic", str(error)) from None
    return text


def _reason(text: str) -> str:
    text = text.replace("-", "_")
    if text and text not in set(Drop):
        raise MeshError("MESH-A007", "reason", f"{text[:40]!r} is no reason", "See docs/operating.md.")
    return text


def _part(given: Mapping[str, str]) -> str:
    region, part = given.get("region", ""), given.get("part", "")
    if region and part:
        raise MeshError("MESH-A007", "part", "region and part exclude each other")
    return f"r/{region}" if region else part


def _write_cursor(node: str, lsn: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([node, lsn]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[str, int]:
    if not cursor:
        return "", 0
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        place = None
    match place:
        case [str(node), int(lsn)] if not isinstance(lsn, bool):
            return node, lsn
    raise MeshError("MESH-A007", "cursor", "it is none of this list", "Begin again without a cursor.")
