"""Who of this node gets the events of one batch: consumers by part, plain sessions directly, groups by name.

Decides into which of these each event goes. Changes nothing and delivers nothing.
Invariant: each (event, session of its audience) is in exactly one of `parts` and `direct`; each assigned group in `parts` or in
`unserved`.
Source: design page "Routing", Forwarding and Delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple, Protocol

from mesh.core.handover import Audience
from mesh.core.plan import PlanMemory
from mesh.model.event import Event
from mesh.wire.frames import BatchHeader, Flag

_topic = itemgetter(1)
"""An event's."""


class Wanted(NamedTuple):
    """Who of this node gets the events of one batch.

    parts: part -> places of its events. direct: (audience, events) for `Handover`. unserved: (group, filter) without a member here.
    nobody: places of events that nobody here wants.
    """

    parts: dict[str, list[int]]
    direct: list[tuple[Audience, list[Event]]]
    unserved: list[tuple[str, str]]
    nobody: list[int]


class PartOf(Protocol):
    """The part of a session, "" for one that is served directly."""

    def __call__(self, session: int, *, receipt: bool = False) -> str: ...


def sort(
    header: BatchHeader,
    events: Sequence[Event],
    plans: PlanMemory,
    *,
    part_of: PartOf,
    member_count: Callable[[str, str], int],
    receipt: bool,
) -> Wanted:
    """Sort a LOCAL batch, deduped and with sound topics.

    Args: plans: of this region. receipt: the publisher waits for `delivered`, so that every session is a consumer.
    Cost: 0.3 us an event and consumer.
    """
    wanted = Wanted({}, [], [], [])
    parts = wanted.parts
    found_plans = None if header.groups else plans.known_all(map(_topic, events))
    if found_plans is not None and len(found_plans) == 1:
        # All lead to the same sessions, as most batches do.
        names, plain = _split(found_plans[0].local, part_of, receipt=receipt)
        parts.update((name, list(range(len(events)))) for name in names)
        if plain:
            wanted.direct.append((plain, list(events)))
        elif not names:
            wanted.nobody.extend(range(len(events)))
    elif not header.flags & Flag.GROUP_ONLY:
        split: dict[Audience, tuple[tuple[str, ...], Audience]] = {}
        last: Audience | None = None
        for index, event in enumerate(events):
            local = plans.of(event.topic).local
            found = split.get(local)
            if found is None:
                found = split[local] = _split(local, part_of, receipt=receipt)
            names, plain = found
            for part in names:
                parts.setdefault(part, []).append(index)
            if plain:
                if plain != last:
                    wanted.direct.append((plain, []))
                    last = plain
                wanted.direct[-1][1].append(event)
            elif not names and not header.groups:
                wanted.nobody.append(index)
    for group, filter, _ in header.groups:
        if member_count(group, filter):
            parts[group_part(group, filter)] = list(range(len(events)))
        else:
            wanted.unserved.append((group, filter))
    return wanted


def _split(local: Audience, part_of: PartOf, *, receipt: bool) -> tuple[tuple[str, ...], Audience]:
    """An audience as (parts of its consumers, plain sessions)."""
    named = [(part_of(session, receipt=receipt), (session, sids)) for session, sids in local]
    parts = tuple(part for part, _ in named if part)
    return parts, tuple(entry for part, entry in named if not part) if parts else local


def group_part(group: str, filter: str) -> str:
    """The part of a queue group."""
    return f"g/{group}/{filter}"


def split_group_part(part: str) -> tuple[str, str]:
    """(group, filter) of a part made by `group_part`."""
    group, _, filter = part[2:].partition("/")
    return group, filter
