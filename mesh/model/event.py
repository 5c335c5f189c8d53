"""One event as the mesh carries it: an opaque CloudEvent with the little that routing needs beside it.

Decides how a CloudEvent's bytes are kept: in the form they were published in, never re-encoded on the way.
`mesh.wire.cloudevents` converts where a subscriber asked for the other form.
Source: CloudEvents 1.0.2, HTTP binding section 3 (content modes); design page "Wire and speed", rule 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple


class Event(NamedTuple):
    """One event inside a batch body, in the order of its fields on the wire.

    seq: number at its origin node, inside the origin's epoch; with the batch's origin it is the mesh_id.
    topic: where it was published. key: ordering key, "" for none.
    deadline_ms: exact remaining time in milliseconds when the batch header's remaining time was stamped at ingress; 0 means none.
    extra: None, or what few events carry: `Extra`.
    attributes: None for the structured form (then `data` is the whole JSON CloudEvent as published), else the
        binary form: a flat tuple name, value, name, value, ... of attributes in the order they were published,
        values as strings (`datacontenttype` included), and `data` is the payload alone.
    data: see attributes.
    """

    seq: int
    topic: str
    key: str
    deadline_ms: int
    extra: tuple[str, ...] | None
    attributes: tuple[str, ...] | None
    data: bytes


# Event.extra, when it is not None: (reply_to, correlation[, before]). `reply_to` is REGION/NODE/INBOX of a waiting request,
# or "" ; `correlation` ties a reply, a `no_responders` or a `no_members` to its request, or ""; `before` is there on ordered
# topics: what came before it (mesh.core.custody.order).
EXTRA_REPLY_TO = 0
EXTRA_CORRELATION = 1


class NewEvent(NamedTuple):
    """An event a client hands in, before this node gave it a seq. Fields as in `Event`; ttl_ms 0 means no deadline."""

    topic: str
    key: str
    ttl_ms: int
    attributes: tuple[str, ...] | None
    data: bytes


class Logged(NamedTuple):
    """One event as an event log keeps it.

    position: its place in this node's log, from 1; an event that this node's sessions got later has a higher one. received_ms:
    wall clock, milliseconds since 1970; never below that of the event before. expires_ms: when it need not be kept any longer.
    origin, path: as of its Delivery. event: without deadline and `extra`: who reads it later replies to nobody.
    """

    position: int
    received_ms: int
    expires_ms: int
    origin: tuple[str, str, int]
    path: tuple[str, ...]
    event: Event


class Told(NamedTuple):
    """What a replay says between events. name: "live" (what follows was not replayed) or "gap" (events are missing here).
    fields: what it says, by name."""

    name: str
    fields: Mapping[str, object]


class Delivery(NamedTuple):
    """Events that came one way for the same subscriptions of one client session. Sessions share the events.

    events: in order, never changed. sids: the session's own numbers of the subscriptions that matched (a queue-group delivery has
    exactly one). origin: (region, node, epoch): with an event's seq its mesh_id. path: regions crossed, oldest first, without this
    one. size_bytes: what they count for in a queue (`queue_bytes`). deliveries: 0, or, for events that wait for the client's
    acknowledgement, how often they were sent, this time included. replayed: they come from an event log. told: there are no
    events; it says something of the replay between them.
    """

    events: Sequence[Event]
    sids: tuple[int, ...]
    origin: tuple[str, str, int]
    path: tuple[str, ...]
    redelivered: bool
    size_bytes: int
    deliveries: int = 0
    replayed: bool = False
    told: Told | None = None


QUEUE_OVERHEAD_BYTES: Final = 200
"""The envelope an event gets in any client form, and its object."""


def queue_bytes(events: Iterable[Event]) -> int:
    """What events count for in a client's queue. Cost: 0.1 us an event."""
    size = 0
    for _, topic, _, _, _, attributes, data in events:
        size += QUEUE_OVERHEAD_BYTES + len(topic) + len(data)
        if attributes is not None:
            size += sum(map(len, attributes))
    return size
