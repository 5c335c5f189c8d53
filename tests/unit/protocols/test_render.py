"""Events in the forms clients read: right, shared, bounded, and never able to break out of their frame."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core import handover
from mesh.model.event import Delivery, Event, Told
from mesh.model.reasons import Drop
from mesh.protocols import render
from mesh.protocols.render import Renderer, sse_event

RAW = b'{"specversion":"1.0","id":"1","source":"/","type":"t"}'
BINARY = ("specversion", "1.0", "id", "1", "source", "/", "type", "t", "datacontenttype", "text/plain")


class Drops(Counter[str]):
    def count(self, reason: Drop, events: int) -> None:
        self[reason] += events


def delivery(seq: int = 1, data: bytes = RAW, **changes: object) -> Delivery:
    event = Event(seq, "a/b", "", 0, None, None, data)
    return handover.delivery([event], (1,), ("eu", "eu-1", 7), ("ap", "us"))._replace(**changes)


def frames(data: bytes) -> list[dict]:
    """The texts of unmasked frames."""
    found = []
    while data:
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        found.append(json.loads(data[start : start + length]))
        data = data[start + length :]
    return found


def test_an_op_says_all_there_is_to_know() -> None:
    renderer = Renderer(Drops().count)
    request = Event(2, "q", "", 0, ("eu/eu-1/i1", "c1"), BINARY, "ü".encode())
    asked = handover.delivery([request], (3, 4), ("eu", "eu-1", 7), (), True)
    first, second = frames(renderer.op_frames([delivery(), asked]))
    assert first == {
        "op": "event",
        "sids": [1],
        "topic": "a/b",
        "mesh_id": "eu/eu-1/7/1",
        "path": ["ap", "us"],
        "event": json.loads(RAW),
    }
    assert (second["sids"], second["redelivered"]) == ([3, 4], True)
    assert (second["reply_to"], second["correlation"], second["event"]["data"]) == ("eu/eu-1/i1", "c1", "ü")


def test_clients_with_the_same_sids_share_one_frame_and_others_get_their_own() -> None:
    renderer = Renderer(Drops().count)
    one = delivery()
    same = renderer.op_frames([one])
    assert renderer.op_frames([one._replace(sids=(1,))]) == same
    (other,) = frames(renderer.op_frames([one._replace(sids=(9,))]))
    assert other["sids"] == [9]
    assert renderer.op_frames([one]) == same


def test_an_event_is_converted_once_for_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []

    def to_structured(event: Event) -> bytes:
        converted.append(event.seq)
        return RAW

    monkeypatch.setattr(render, "to_structured", to_structured)
    renderer = Renderer(Drops().count)
    some = [delivery(seq) for seq in range(5)]
    some = [one._replace(events=[one.events[0]._replace(attributes=BINARY)]) for one in some]
    for _ in range(10):
        renderer.sse(some)
        renderer.cloudevents_frames(some)
        renderer.op_frames([one._replace(sids=(len(converted),)) for one in some])
    assert sorted(converted) == [*range(5)]


def test_what_is_kept_is_bounded_and_forgetting_changes_no_byte() -> None:
    renderer = Renderer(Drops().count)
    many = [delivery(seq) for seq in range(5_000)]
    once = renderer.sse(many)
    assert renderer.sse(many) == once
    assert len(renderer._sse._young) + len(renderer._sse._old) <= 2 * render._KEPT_FORMS
    large = [delivery(seq, RAW[:-1] + b',"data":"' + b"x" * 100_000 + b'"}') for seq in range(200)]
    renderer.cloudevents_frames(large)
    assert len(renderer._cloudevents._young) + len(renderer._cloudevents._old) < 100


def test_an_id_that_is_reused_by_another_event_is_not_mistaken() -> None:
    renderer = Renderer(Drops().count)
    for seq in range(3_000):
        (frame,) = frames(renderer.op_frames([delivery(seq)]))
        assert frame["mesh_id"].endswith(f"/{seq}")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"1 2", b"[" * 10_000, b'"\n"'])
def test_what_is_no_json_is_dropped_and_counted(data: bytes) -> None:
    drops = Drops()
    renderer = Renderer(drops.count)
    hostile = delivery(1, data)
    for form in (renderer.sse, renderer.cloudevents_frames, renderer.op_frames):
        assert form([hostile]) == b""
        assert form([hostile, delivery(2)]) == form([delivery(2)])
    assert drops == {Drop.MALFORMED: 1}


def test_names_from_another_node_cannot_end_a_line_or_a_string() -> None:
    renderer = Renderer(Drops().count)
    hostile = delivery(origin=('e"u\n', "a\r\nid: 1", 7), path=('"\n',))
    (frame,) = frames(renderer.op_frames([hostile]))
    assert frame["path"] == ['"\n']
    assert renderer.sse([hostile]).count(b"\n") == 4


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"")))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_sse_data_survives_but_for_its_line_ends(data: bytes) -> None:
    event = sse_event(b"event", data, b"1")
    assert event.startswith(b"event: event\nid: 1\ndata: ")
    assert event.endswith(b"\n\n")
    lines = event[:-2].split(b"\n")[2:]
    assert all(line.startswith(b"data: ") for line in lines)
    received = b"\n".join(line.removeprefix(b"data: ") for line in lines)
    assert received.split(b"\n") == (data.splitlines() or [b""])


def test_an_event_without_an_id_has_no_id_line() -> None:
    assert sse_event(b"subscribed", b"{}") == b"event: subscribed\ndata: {}\n\n"


def test_what_is_replayed_says_so_and_is_told_apart_from_what_is_not() -> None:
    renderer = Renderer(Drops().count)
    with renderer.reader("ops"), renderer.reader("ops"), renderer.reader("sse"):
        old, new = frames(renderer.op_frames([delivery(replayed=True), delivery()]))
        assert old == {**new, "replayed": True}
        text = renderer.sse([delivery(replayed=True), delivery()])
        assert text.count(b'"path":["ap","us"],"replayed":true,"event":') == 1
        assert text.count(b'"path":["ap","us"],"event":') == 1


def test_what_a_replay_says_has_a_form_of_its_own() -> None:
    renderer = Renderer(Drops().count)
    told = Delivery(
        (),
        (3, 4),
        ("", "", 0),
        (),
        False,
        0,
        replayed=True,
        told=Told("gap", {"reason": "stopped", "until": None}),
    )
    assert frames(renderer.op_frames([told])) == [{"op": "gap", "sid": 3, "reason": "stopped", "until": None}]
    assert renderer.sse([told]) == b'event: gap\ndata: {"reason":"stopped","until":null}\n\n'
    assert renderer.cloudevents_frames([told]) == b""


def test_one_bad_event_costs_no_other_of_its_delivery() -> None:
    drops = Drops()
    renderer = Renderer(drops.count)
    datas = [(None, RAW), (None, b"1,2"), (BINARY, b"text"), (None, RAW), ((), b"")]
    events = [Event(seq, "t", "", 0, None, attributes, data) for seq, (attributes, data) in enumerate(datas)]
    mixed = handover.delivery(events, (1,), ("eu", "eu-1", 7), ())
    told = frames(renderer.op_frames([mixed]))
    assert [one["mesh_id"].rpartition("/")[2] for one in told] == ["0", "2", "3", "4"]
    assert (told[0]["event"], told[1]["event"]["data"]) == (json.loads(RAW), "text")
    assert drops == {Drop.MALFORMED: 1}


def test_what_may_repeat_says_so_and_how_often_where_that_is_known() -> None:
    renderer = Renderer(Drops().count)
    for render_form in (renderer.op_frames, renderer.sse):
        assert b'"redelivered":true,"event"' in render_form([delivery(redelivered=True)])
        known = render_form([delivery(redelivered=True, deliveries=3)])
        assert b'"redelivered":true,"deliveries":3,"event"' in known
        assert b"redelivered" not in render_form([delivery(deliveries=1)])
