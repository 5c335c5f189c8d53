"""How the events of one way become records: pieces that a link's frame and a segment of the journal hold.

Decides where a piece ends. Never stores.
Invariant: the pieces together are the events, in order; each is one event, or within both bounds.
Source: design page "Wire and speed", rule 4 (frames near the target).
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.model.event import Event

EVENT_BYTES = 64
"""What an event takes in a body beside its texts and data."""


def size_of(event: Event) -> int:
    """What an event takes in a body, about. Cost: 0.3 us."""
    _, topic, key, _, _, attributes, data = event
    size = EVENT_BYTES + len(topic) + len(key) + len(data)
    return size + sum(map(len, attributes)) if attributes else size


def pieces(events: list[Event], most_events: int, most_bytes: int) -> Iterator[list[Event]]:
    """Cut events into pieces of at most so many events and bytes; a larger event is a piece of its own. Cost: that of `size_of`."""
    begin = size = 0
    for at, event in enumerate(events):
        more = size_of(event)
        if at > begin and (at - begin >= most_events or size + more > most_bytes):
            yield events[begin:at]
            begin, size = at, 0
        size += more
    if begin < len(events):
        yield events[begin:]
