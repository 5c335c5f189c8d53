"""From what a client asked to hear to subscriptions of its session, and to the receipt: for every protocol with a query alike.

Decides what the parameters of a subscription mean together. Never sends anything.
Invariant: either every filter of a request is subscribed or the session is refused. Source: design page "What a person sees",
Publishing and subscribing; "Routing", Receipts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

from mesh.model.ids import BadName, SessionId, check_name
from mesh.model.limits import Limits
from mesh.node.service import Receipt, RefusedError, Replaying, Resumed, Service, Wait
from mesh.protocols.parameters import Parameters
from mesh.protocols.problem import Problem
from mesh.protocols.receiving import RECEIVING, Receiving, read_receiving

WAIT_TIMEOUT_S: Final = 5.0
NAMED_REGIONS: Final = 64
"""What one receipt may demand by name: it is looked at again whenever a table moves."""
KNOWN: Final = ("filter", "group", "wait", "wait_timeout", "regions", "from", *RECEIVING)
_WAITS: Final = tuple(Wait)


class Wish(NamedTuple):
    """What a client wants to hear, and how far it must be installed before it is told so. since: where in the event log it
    begins; "": with what comes."""

    filters: tuple[str, ...]
    group: str
    wait: Wait
    regions: tuple[str, ...]
    wait_timeout_s: float
    receiving: Receiving
    since: str = ""


def read_wish(pairs: Sequence[tuple[str, str]], limits: Limits, *, filter_needed: bool = True) -> Wish:
    """The parameters of a subscription; a durable client may leave its filters out. Raises: Problem MESH-E002, E010, E011."""
    parameters = Parameters(pairs, KNOWN, repeated=("filter",))
    receiving = read_receiving(parameters, ops=False)
    filters = parameters.texts("filter")
    if not filters and filter_needed and not receiving.durable:
        raise Problem("MESH-E002", "no filter: add filter=F, several times for several", where="filter")
    regions = check_regions(parameters.names("regions"))
    wait = Wait(parameters.choice("wait", _WAITS))
    if regions and "wait" not in parameters:
        wait = Wait.MESH  # naming regions asks for them
    timeout_s = parameters.duration_s("wait_timeout", WAIT_TIMEOUT_S, limits.request_wait_s)
    since = parameters.text("from")
    if "from" in parameters and not since:
        raise Problem("MESH-E011", "from is empty: leave it out, or say where to begin", where="from")
    if since and receiving.durable:
        raise Problem(
            "MESH-E011",
            "a durable client has what it missed without from; leave one of both out",
            where="from",
        )
    wanted = tuple(dict.fromkeys(filters))
    return Wish(wanted, parameters.text("group"), wait, regions, timeout_s, receiving, since)


def check_regions(names: Sequence[str]) -> tuple[str, ...]:
    """The regions a receipt is demanded of, each once. Raises: Problem MESH-E011 on too many, or on what is no name."""
    if len(names) > NAMED_REGIONS:
        raise Problem("MESH-E011", f"regions: name at most {NAMED_REGIONS}, or none for all", where="regions")
    try:
        return tuple(dict.fromkeys(check_name(name, "region") for name in names))
    except BadName as error:
        raise Problem("MESH-E011", str(error)[:200], where="regions") from None


def subscribe(service: Service, session: SessionId, wish: Wish) -> tuple[int, ...]:
    """Subscribe to every filter, under the sids 1, 2, ... Raises: RefusedError; the caller closes the session then."""
    sids = tuple(range(1, len(wish.filters) + 1))
    for sid, filter in zip(sids, wish.filters, strict=True):
        service.subscribe(session, sid, filter, wish.group)
    return sids


def resubscribe(service: Service, resumed: Resumed, wish: Wish) -> tuple[int, ...]:
    """Make a durable client's subscriptions those of its request; a request without filters leaves them as they are.

    Raises: RefusedError; then they are as they were."""
    if not wish.filters:
        return tuple(sid for sid, _, _ in resumed.subscriptions)
    kept: dict[tuple[str, str], int] = {}
    ended: list[int] = []
    for sid, filter, group in resumed.subscriptions:
        if filter in wish.filters and group == wish.group and (filter, group) not in kept:
            kept[filter, group] = sid
        else:
            ended.append(sid)
    taken = {sid for sid, _, _ in resumed.subscriptions}
    free = (sid for sid in count(1) if sid not in taken)
    made: list[int] = []
    try:
        for filter in wish.filters:
            if (filter, wish.group) not in kept:
                sid = next(free)
                service.subscribe(resumed.session, sid, filter, wish.group)
                made.append(sid)
                kept[filter, wish.group] = sid
    except RefusedError:
        for sid in made:
            service.unsubscribe(resumed.session, sid)
        raise
    for sid in ended:
        service.unsubscribe(resumed.session, sid)
    return tuple(sorted(kept.values()))


def replay(service: Service, session: SessionId, wish: Wish) -> tuple[tuple[int, ...], Replaying]:
    """As `subscribe`, beginning in the event log: what has to be found and run. Raises: RefusedError."""
    sids = tuple(range(1, len(wish.filters) + 1))
    return sids, service.replay(session, list(zip(sids, wish.filters, strict=True)), wish.since, wish.group)


def receipt_object(receipt: Receipt) -> dict[str, object]:
    """A receipt as clients read it."""
    missing = [{"region": entry.region, "why": entry.why} for entry in receipt.missing]
    return {"installed": receipt.installed, "missing": missing, "complete": receipt.complete}
