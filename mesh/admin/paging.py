"""One page of a list: filtered, in a fixed order, from where the last page ended.

Decides the order of each list and what a cursor is: the place after an item, so that a page is right whatever came or went
meanwhile, and the node keeps nothing for a client that never comes back.
Cost: linear in the items, in slices between which the loop turns: 200,000 rows never stop the node.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from mesh.model.errors import MeshError
from mesh.node.inspect import Item, What

DEFAULT_LIMIT, MOST = 1_000, 10_000
SLICE: Final = 1_000
_LAST: Final = 1 << 62
_ROUTE_STATES: Final = ("in_use", "selected", "feasible", "infeasible", "withheld")

Place = tuple[str | int, ...]
"""Where an item stands in its list; compares with the others of the same list."""


class Page(NamedTuple):
    """next: the cursor of the page behind this one, None at the end."""

    items: list[Item]
    next: str | None


def _of_node(item: Item) -> Place:
    return (str(item.get("region")), str(item.get("id")))


def _of_link(item: Item) -> Place:
    name, _, number = str(item.get("id")).partition("#")
    return (str(item["node"]), name, int(number) if number.isdigit() else _LAST, number)


def _of_route(item: Item) -> Place:
    state, metric = item.get("state"), item.get("metric")
    return (
        str(item["node"]),
        str(item.get("region")),
        _ROUTE_STATES.index(state) if state in _ROUTE_STATES else len(_ROUTE_STATES),
        metric if isinstance(metric, int) else _LAST,
        str(item.get("via")),
        str(item.get("next_hop")),
    )


def _of_subscription(item: Item) -> Place:
    return (str(item["node"]), str(item.get("filter")), str(item.get("group")), str(item.get("client")))


def _of_spool(item: Item) -> Place:
    return (str(item["node"]), str(item.get("id")))


def _of_any(item: Item) -> Place:
    return (str(item["node"]),)


_PLACES: Final[Mapping[What, Callable[[Item], Place]]] = {
    What.NODES: _of_node,
    What.LINKS: _of_link,
    What.ROUTES: _of_route,
    What.SUBSCRIPTIONS: _of_subscription,
    What.SPOOLS: _of_spool,
}


async def page(
    what: What, items: Sequence[Item], filters: Mapping[str, str], *, limit: int, after: Place | None
) -> Page:
    """The first `limit` items behind `after` that have every filter's value.

    Args: filters: field to the text its value must have. after: from `read_cursor`.
    """
    place_of = _PLACES.get(what, _of_any)
    wanted = tuple(filters.items())
    best: list[tuple[Place, int]] = []  # ascending, at most limit + 1; the number finds the item
    worst: Place | None = None
    for start in range(0, len(items), SLICE):
        await trio.lowlevel.checkpoint()
        fresh = []
        for number in range(start, min(start + SLICE, len(items))):
            item = items[number]
            if wanted and not all(_has(item, field, value) for field, value in wanted):
                continue
            # The number keeps items apart that are equal in everything else; lists of one node keep their order.
            place = (*place_of(item), number)
            if (after is None or place > after) and (worst is None or place < worst):
                fresh.append((place, number))
        if fresh:
            best = sorted(best + fresh)[: limit + 1]
            worst = best[-1][0] if len(best) > limit else None
    given = best[:limit]
    cursor = write_cursor(given[-1][0]) if len(best) > limit else None
    return Page([items[number] for _, number in given], cursor)


def _has(item: Item, field: str, value: str) -> bool:
    found = item.get(field)
    if isinstance(found, list):
        return value in found
    return str(found if found is not None else "") == value


def write_cursor(place: Place) -> str:
    """A place as URL-safe text."""
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(what: What, cursor: str) -> Place | None:
    """The place of a cursor this API gave for the same list; None for "". Raises: MeshError MESH-A007."""
    if not cursor:
        return None
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        place = None
    example: Item = {"node": "", "id": "#"}
    shape = [type(part) for part in (*_PLACES.get(what, _of_any)(example), 0)]
    if not isinstance(place, list) or [type(part) for part in place] != shape:
        raise MeshError("MESH-A007", "cursor", "it is none of this list", "Begin again without a cursor.")
    return tuple(place)
