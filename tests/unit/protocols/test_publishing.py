"""From what a client sent to events of the mesh, and back to the answer."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from mesh.model.ids import MeshId, NodeKey
from mesh.model.limits import Limits
from mesh.node.service import Answer, Outcome, Outcomes, RegionReason
from mesh.protocols.problem import Problem
from mesh.protocols.publishing import (
    Envelope,
    nobody_interested,
    outcome_objects,
    outcomes_json,
    take_all,
    take_http,
    take_structured,
    ttl_ms,
    unanswered,
)

LIMITS = Limits()
NODE = NodeKey("eu", "eu-1")
EVENT = b'{"specversion":"1.0","id":"1","source":"/","type":"t","topic":"own","partitionkey":"k"}'


def test_the_call_names_topic_and_key_before_the_event_does() -> None:
    own = take_structured(EVENT, Envelope(), LIMITS).event
    assert (own.topic, own.key, own.attributes, own.data) == ("own", "k", None, EVENT)
    named = take_structured(EVENT, Envelope("a/b", "q", 250), LIMITS).event
    assert (named.topic, named.key, named.ttl_ms) == ("a/b", "q", 250)


@pytest.mark.parametrize("topic", ["$mesh/x", "$mesh", "a/#", "+", "a\0"])
def test_no_client_publishes_on_what_is_no_topic_of_its_own(topic: str) -> None:
    with pytest.raises(Problem) as refused:
        take_structured(EVENT, Envelope(topic), LIMITS)
    assert refused.value.code == "MESH-E001"


def test_a_reply_may_carry_the_topic_of_the_mesh() -> None:
    assert take_structured(EVENT, Envelope("$mesh/reply"), LIMITS, reserved=True).event.topic == "$mesh/reply"


def test_a_lifetime_is_never_rounded_to_none() -> None:
    assert [ttl_ms(s) for s in (0, 0.0001, 0.25, 5)] == [0, 1, 250, 5_000]


def test_the_largest_event_is_the_limit() -> None:
    limits = replace(LIMITS, event_bytes=len(EVENT))
    assert take_structured(EVENT, Envelope(), limits).id == "1"
    with pytest.raises(Problem) as refused:
        take_structured(EVENT + b" ", Envelope(), limits)
    assert refused.value.status == 413


def test_a_bad_one_of_several_is_named_by_its_place() -> None:
    with pytest.raises(Problem) as refused:
        take_all([EVENT, EVENT, b"{}"], Envelope(), LIMITS)
    assert (refused.value.code, refused.value.more) == ("MESH-E004", {"index": 2})


def test_a_plain_body_gets_an_identity_and_a_new_one_each_time() -> None:
    headers = [(b"content-type", b"text/plain; charset=latin-1")]
    (one,) = take_http(headers, b"\xe4", Envelope("t"), NODE, LIMITS)
    (other,) = take_http([], b"", Envelope("t"), NODE, LIMITS)
    assert one.id != other.id
    assert one.event.data == b"\xe4"
    assert one.event.attributes is not None
    assert one.event.attributes[-2:] == ("datacontenttype", "text/plain; charset=latin-1")
    assert other.event.attributes == (
        "specversion",
        "1.0",
        "id",
        other.id,
        "source",
        "mesh://eu/eu-1",
        "type",
        "mesh.raw",
    )


def test_a_coded_body_is_refused_and_identity_is_none() -> None:
    with pytest.raises(Problem) as refused:
        take_http([(b"content-encoding", b"br")], b"x", Envelope("t"), NODE, LIMITS)
    assert refused.value.status == 415
    assert take_http([(b"content-encoding", b"Identity")], b"x", Envelope("t"), NODE, LIMITS)


def test_an_outcome_says_groups_and_reasons_only_where_there_are_any() -> None:
    taken = take_structured(EVENT, Envelope(), LIMITS)
    bare = Outcome(("us",), 2, (), ())
    rich = bare._replace(groups=(("g", "us"),), reasons=(RegionReason("ap", "no_route"),))
    outcomes = Outcomes(MeshId("eu", "eu-1", 7, 1), [bare, rich])
    assert outcome_objects([taken, taken], outcomes) == [
        {"id": "1", "mesh_id": "eu/eu-1/7/1", "regions": ("us",), "local": 2},
        {
            "id": "1",
            "mesh_id": "eu/eu-1/7/2",
            "regions": ("us",),
            "local": 2,
            "groups": [{"group": "g", "region": "us"}],
            "reasons": [{"region": "ap", "reason": "no_route"}],
        },
    ]
    assert outcome_objects([taken], outcomes, 1)[0]["mesh_id"] == "eu/eu-1/7/2"
    objects = outcome_objects([taken, taken], outcomes)
    assert outcomes_json(["1", "1"], outcomes) == msgspec.json.encode(objects)
    alike = outcomes._replace(each=[bare, bare])
    assert outcomes_json(["1", "1"], alike) == msgspec.json.encode(outcome_objects([taken, taken], alike))
    nobody = bare._replace(regions=(), local=0)
    assert [nobody_interested(one) for one in (bare, rich, nobody)] == [False, False, True]


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        (Answer(None, (), "no_responders", (RegionReason("", "no_interest"),)), "MESH-E013", 404),
        (Answer(None, (), "no_responders", ()), "MESH-E013", 404),
        (Answer(None, (), "no_responders", (RegionReason("ap", "unreachable"),)), "MESH-E014", 503),
        (Answer(None, (), "no_members", ()), "MESH-E014", 503),
        (Answer(None, (), "timeout", ()), "MESH-E015", 504),
    ],
)
def test_a_request_without_a_reply_says_whether_trying_again_may_help(
    answer: Answer, code: str, status: int
) -> None:
    problem = unanswered(answer, "svc", 5.0)
    assert (problem.code, problem.status, problem.more["reason"]) == (code, status, answer.problem)
