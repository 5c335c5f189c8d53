"""From what a client published to events of the mesh, and from what became of them to the answer: for every protocol alike.

Decides the topic, key and lifetime an event gets, and which refusal answers one that breaks a rule. Never changes a byte of an
event that came in the structured form.
Invariant: a batch is published whole or not at all. Source: CloudEvents 1.0.2 HTTP binding and JSON format; design page "What a
person sees", Publishing and subscribing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, repeat
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from mesh.model.event import NewEvent
from mesh.model.ids import MeshId, NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import NotDelivered
from mesh.model.topic import TopicError, check_topic
from mesh.model.topic_rules import Level
from mesh.node.service import Answer, Outcome, Outcomes
from mesh.protocols.problem import Problem, region_reasons
from mesh.wire.cloudevents import BATCH_TYPE, CloudEventError, Fault, from_http, wrap
from mesh.wire.structured import Parsed, common_batch, inspect_structured

REPLY_TOPIC: Final = "$mesh/reply"
"""The topic of a reply that names none: it travels to an inbox, so no filter is asked."""
_BATCH_TYPE: Final = BATCH_TYPE.encode()
_KNOWN_TOPICS: Final = 8_192
_known_topics: Final[dict[tuple[int, int], set[str]]] = {}
"""Topics that were found good lately, by the limits they were judged by: asking again costs as much as all else of a batch."""
_id: Final = attrgetter("id")
_partitionkey: Final = attrgetter("partitionkey")
_new: Final = tuple.__new__  # a NamedTuple without its Python-level constructor: a quarter of the cost
_CODES: Final = {
    Fault.MALFORMED: "MESH-E005",
    Fault.MISSING: "MESH-E004",
    Fault.ATTRIBUTE: "MESH-E003",
    Fault.MEDIA_TYPE: "MESH-E008",
    Fault.TOO_MANY: "MESH-E007",
}


class Taken(NamedTuple):
    """An event ready to be published, and the CloudEvent's id for the answer."""

    id: str
    event: NewEvent


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a call says beside its events. topic "" and key "": each event's own `topic` and `partitionkey` extensions."""

    topic: str = ""
    key: str = ""
    ttl_ms: int = 0


def ttl_ms(deadline_s: float) -> int:
    """A lifetime in whole milliseconds, at least 1; 0 for none."""
    return max(1, round(deadline_s * 1_000)) if deadline_s else 0


def checked_topic(topic: str, limits: Limits) -> str:
    """The topic if a client may publish on it. Raises: Problem MESH-E001."""
    try:
        return check_topic(topic, limits, from_client=True)
    except TopicError as error:
        raise Problem("MESH-E001", str(error), where="topic") from None


def take(parsed: Parsed, envelope: Envelope, limits: Limits, *, reserved: bool = False) -> Taken:
    """An event that was judged a CloudEvent, with the topic, key and lifetime it gets.

    Args: reserved: the envelope's topic is the mesh's own. Raises: Problem MESH-E001, MESH-E007.
    """
    _check_size(parsed.data, limits)
    topic = envelope.topic or parsed.topic
    if not topic:
        raise Problem(
            "MESH-E001", "the event has no extension 'topic', and the call names none", where="topic"
        )
    if not reserved:
        topic = checked_topic(topic, limits)
    key = envelope.key or parsed.key
    return Taken(parsed.id, NewEvent(topic, key, envelope.ttl_ms, parsed.attributes, parsed.data))


def _check_size(data: bytes, limits: Limits) -> None:
    if len(data) > limits.event_bytes:
        raise Problem("MESH-E007", f"an event of {len(data)} bytes; {limits.event_bytes} are allowed")


def take_structured(raw: bytes, envelope: Envelope, limits: Limits, *, reserved: bool = False) -> Taken:
    """One structured CloudEvent, kept byte for byte. Cost: about 3 us. Raises: Problem MESH-E001, E003, E004, E005, E007."""
    _check_size(raw, limits)  # before looking at it, which costs more the longer it is
    try:
        return take(inspect_structured(raw), envelope, limits, reserved=reserved)
    except CloudEventError as error:
        raise refused_event(error) from None


def take_all(pieces: Sequence[bytes], envelope: Envelope, limits: Limits) -> list[Taken]:
    """The structured CloudEvents of one batch. Raises: as `take_structured`, with `index`; MESH-E007 on too many."""
    if len(pieces) > limits.batch_request_events:
        raise Problem(
            "MESH-E007", f"{len(pieces)} events in one batch, {limits.batch_request_events} are allowed"
        )
    taken = []
    for place, piece in enumerate(pieces):
        try:
            taken.append(take_structured(piece, envelope, limits))
        except Problem as problem:
            problem.more["index"] = place
            raise
    return taken


def take_http(
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    envelope: Envelope,
    node: NodeKey,
    limits: Limits,
    *,
    reserved: bool = False,
) -> list[Taken]:
    """The events of an HTTP request in any content mode; a body without a ce- header becomes an event of its own.

    Args: headers: names in lower case. node: names the source of such an event. reserved: as in `take`.
    Raises: Problem MESH-E001, E003 to E008; nothing of the request was taken then.
    """
    content_type = b""
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise Problem(
                "MESH-E008", "the body has a Content-Encoding: send it plain", where="content-encoding"
            )
        if name == b"content-type":
            content_type = value
    try:
        events = from_http(headers, body, limits.batch_request_events, limits.event_bytes)
        if events is None:
            plain_type = content_type.decode("latin-1").strip()
            events = [wrap(body, plain_type, str(uuid.uuid4()), f"mesh://{node}")]
    except CloudEventError as error:
        raise refused_event(error, whole_batch=b"batch" in content_type) from None
    if len(events) == 1:
        return [take(events[0], envelope, limits, reserved=reserved)]
    taken = []
    for place, parsed in enumerate(events):
        try:
            taken.append(take(parsed, envelope, limits))
        except Problem as problem:
            problem.more["index"] = place
            raise
    return taken


def take_common_batch(
    headers: Sequence[tuple[bytes, bytes]], body: bytes, envelope: Envelope, limits: Limits
) -> tuple[list[str], list[NewEvent]] | None:
    """The ids and events of a batch in which nothing is out of the ordinary; None: `take_http` reads it, and refuses what is bad.

    Cost: 1.3 us an event of 450 bytes, a third of `take_http`.
    """
    batched = False
    for name, value in headers:
        if name == b"content-type":
            batched = value == _BATCH_TYPE
        elif name == b"content-encoding":
            return None
    found = common_batch(body, limits.batch_request_events) if batched else None
    if found is None:
        return None
    commons, pieces = found
    topics = [envelope.topic] * len(commons) if envelope.topic else [event.topic or "" for event in commons]
    if len(body) > limits.event_bytes and max(map(len, pieces)) > limits.event_bytes:
        return None
    if not _are_topics(topics, limits):
        return None
    keys: Iterable[str] = repeat(envelope.key)
    if not envelope.key and any(map(_partitionkey, commons)):
        keys = [event.partitionkey or "" for event in commons]
    fields = zip(topics, keys, repeat(envelope.ttl_ms), repeat(None), pieces, strict=False)
    return list(map(_id, commons)), list(map(_new, repeat(NewEvent), fields))


def _are_topics(topics: Sequence[str], limits: Limits) -> bool:
    """Whether a client may publish on all of them. Cost: 0.05 us for each one seen lately."""
    known = _known_topics.setdefault((limits.topic_levels, limits.topic_bytes), set())
    if known.issuperset(topics):
        return True
    if len(known) > _KNOWN_TOPICS:
        known.clear()
    try:
        for topic in set(topics) - known:
            known.add(check_topic(topic, limits, from_client=True))
    except TopicError:
        return False
    return True


def refused_event(error: CloudEventError, *, whole_batch: bool = False) -> Problem:
    """The refusal of what is no CloudEvent. whole_batch: a fault without an index is the batch's."""
    code = _CODES[error.fault]
    if whole_batch and error.index is None and error.fault is Fault.MALFORMED:
        code = "MESH-E006"
    more = {} if error.index is None else {"index": error.index}
    return Problem(code, error.detail, where=error.attribute, more=more)


def outcome_objects(taken: Iterable[Taken], outcomes: Outcomes, first: int = 0) -> list[dict[str, object]]:
    """What became of each event, as answers carry it; `groups` and `reasons` only where there are any.

    first: the place of the first of `taken` in the call whose outcomes these are.
    """
    origin, seq = _origin_text(outcomes.first), outcomes.first.seq
    return [
        {"id": one.id, "mesh_id": f"{origin}{seq + at}", **_outcome_object(outcomes.each[at])}
        for at, one in enumerate(taken, first)
    ]


def outcomes_json(ids: Sequence[str], outcomes: Outcomes) -> bytes:
    """As `outcome_objects`, as JSON: for ids that need no escape. Cost: 0.16 us an event."""
    before = f'","mesh_id":"{_origin_text(outcomes.first)}'
    each = outcomes.each
    if each.count(each[0]) == len(each):
        afters: Iterable[str] = repeat(_after_id(each[0]), len(each))
    else:
        afters = map(_after_id, each)
    numbered = zip(ids, count(outcomes.first.seq), afters, strict=False)
    parts = [f"{id}{before}{seq}{after}" for id, seq, after in numbered]
    return ('[{"id":"' + ',{"id":"'.join(parts) + "]").encode()


@lru_cache(maxsize=1_024)
def _after_id(outcome: Outcome) -> str:
    """What follows a mesh_id's seq in an answer."""
    return '",' + msgspec.json.encode(_outcome_object(outcome)).decode()[1:]


def _origin_text(mesh_id: MeshId) -> str:
    return f"{mesh_id.region}/{mesh_id.node}/{mesh_id.epoch}/"


def _outcome_object(outcome: Outcome) -> dict[str, object]:
    told: dict[str, object] = {"regions": outcome.regions, "local": outcome.local}
    if outcome.groups:
        told["groups"] = [{"group": group, "region": region} for group, region in outcome.groups]
    if outcome.reasons:
        told["reasons"] = region_reasons(outcome.reasons)
    return told


def check_ack(level: Level, ack: str) -> None:
    """Raises: Problem MESH-E011: an acknowledgement that only at-least-once gives."""
    if level is Level.AT_MOST_ONCE and ack in ("region", "delivered"):
        raise Problem("MESH-E011", f"ack={ack} is for at-least-once; add level=at-least-once", where="ack")


def nobody_interested(outcome: Outcome) -> bool:
    """Whether an event went nowhere at all."""
    return not outcome.regions and not outcome.local and not outcome.groups


def unanswered(answer: Answer, topic: str, timeout_s: float) -> Problem:
    """The refusal of a request that brought no reply.

    MESH-E015 (504) where somebody had time and did not answer; MESH-E013 (404) where nobody subscribes at all; MESH-E014 (503)
    where somebody does, but is out of reach: only that one is worth trying again.
    """
    more = {"reason": answer.problem, "reasons": region_reasons(answer.reasons)}
    if answer.problem == "timeout":
        return Problem("MESH-E015", f"no reply on {topic} within {timeout_s:g} s", more=more)
    if answer.problem == "no_responders" and all(
        one.reason == NotDelivered.NO_INTEREST for one in answer.reasons
    ):
        return Problem("MESH-E013", f"no_responders: nobody subscribes to {topic}", more=more)
    return Problem("MESH-E014", f"{answer.problem}: nobody who answers {topic} can be reached", more=more)
