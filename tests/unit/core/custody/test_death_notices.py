from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from unit.core.custody.memory_store import MemoryStore, event, header

from mesh.core.counters import Counters
from mesh.core.custody.dead_letters import FRESH, DeadLetters
from mesh.core.custody.death_notices import EVENT_BYTES, DeathNotices, notice_topic
from mesh.core.plan import Plan
from mesh.model.event import Event, NewEvent
from mesh.model.ids import NodeKey
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, Refuse
from mesh.model.topic import check_topic, matches
from mesh.wire.cloudevents import inspect_structured

NOBODY = Plan((), (), (), (), (), False)
SOMEBODY = Plan((), ("eu-2",), (), (), (), False)


class Desk:
    """wanted: the filter somebody subscribes to, "" for nobody."""

    def __init__(self, wanted: str = "$mesh/dlq/#") -> None:
        self.store = MemoryStore()
        self.letters = DeadLetters(self.store, Limits(), Counters())
        self.letters.wall_ms = lambda: 1_700_000_000_250
        self.told: list[NewEvent] = []
        self.notices = DeathNotices(
            NodeKey("eu", "eu-1"),
            self.letters,
            plan_of=lambda topic: SOMEBODY if wanted and matches(wanted, topic) else NOBODY,
            announce=self._announce,
            limits=Limits(),
        )

    def _announce(self, events: Sequence[NewEvent], now: float) -> None:
        self.told += events

    def tell(self) -> list[dict[str, object]]:
        self.notices.tell(0.0)
        for one in self.told:
            check_topic(one.topic)
            assert inspect_structured(one.data).type.startswith("mesh.deadletter")
        return [json.loads(one.data) for one in self.told]


def test_the_news_says_what_died_of_what_and_where_and_brings_the_event() -> None:
    desk = Desk()
    dead = event(5, "orders/x", b'{"specversion":"1.0","id":"a","source":"/s","type":"t","data":{"n":1}}')
    lsn = desk.letters.put(header(), dead, "r/ap", Drop.EXPIRED, 3)
    [told] = desk.tell()
    assert desk.told[0].topic == "$mesh/dlq/expired/orders/x"
    assert told == {
        "specversion": "1.0",
        "id": f"us/u1/7/5/{lsn}",
        "source": "mesh://eu/eu-1",
        "type": "mesh.deadletter",
        "subject": "us/u1/7/5",
        "time": "2023-11-14T22:13:20.250Z",
        "datacontenttype": "application/json",
        "data": {
            "reason": "expired",
            "part": "r/ap",
            "attempts": 3,
            "path": ["us"],
            "topic": "orders/x",
            "mesh_id": "us/u1/7/5",
            "node": "eu-1",
            "lsn": lsn,
            "event": {"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "data": {"n": 1}},
        },
    }
    desk.told.clear()
    assert desk.tell() == []


def test_an_event_in_the_binary_form_is_told_in_the_structured_one() -> None:
    desk = Desk()
    attributes = (
        "specversion",
        "1.0",
        "id",
        "b",
        "source",
        "/s",
        "type",
        "t",
        "datacontenttype",
        "text/plain",
    )
    desk.letters.put(header(), Event(1, "x", "", 0, None, attributes, b"hello"), "r/ap", Drop.EXPIRED, 0)
    [told] = desk.tell()
    data = told["data"]
    assert isinstance(data, dict)
    assert data["event"]["data"] == "hello"


@pytest.mark.parametrize("data", [b"\xff no json", b'"' + b"x" * EVENT_BYTES + b'"'])
def test_an_event_that_is_no_json_or_too_large_is_left_out(data: bytes) -> None:
    desk = Desk()
    desk.letters.put(header(), event(1, data=data), "r/ap", Drop.EXPIRED, 0)
    [told] = desk.tell()
    assert isinstance(told["data"], dict)
    assert told["data"]["event"] is None


def test_nothing_is_made_while_nobody_wants_it_and_only_what_is_wanted() -> None:
    quiet = Desk("")
    quiet.letters.put(header(), event(1), "r/ap", Drop.EXPIRED, 0)
    assert quiet.tell() == []
    some = Desk("$mesh/dlq/no_members/#")
    for why in (Drop.EXPIRED, Drop.NO_MEMBERS):
        some.letters.put(header(), event(1), "r/ap", why, 0)
    assert [one.topic for one in some.told] == []
    assert len(some.tell()) == 1
    assert some.letters.take_fresh() == ([], {}), "what nobody wanted is not told later"


def test_of_a_crowd_the_rest_is_one_event_for_each_reason_with_its_number() -> None:
    desk = Desk()
    for seq in range(FRESH + 70):
        desk.letters.put(header(), event(seq), "r/ap", Drop.EXPIRED, 0)
    told = desk.tell()
    assert len(told) == FRESH + 1
    assert desk.told[-1].topic == "$mesh/dlq/expired"
    assert matches("$mesh/dlq/expired/#", desk.told[-1].topic)
    assert (told[-1]["type"], told[-1]["data"]) == (
        "mesh.deadletters",
        {"reason": "expired", "count": 70, "node": "eu-1"},
    )
    assert len({one["id"] for one in told}) == FRESH + 1


def test_one_that_the_store_would_not_have_is_told_without_a_number() -> None:
    desk = Desk()
    desk.store.fault = Refuse.FULL
    desk.letters.put(header(), event(1), "r/ap", Drop.EXPIRED, 0)
    [told] = desk.tell()
    assert isinstance(told["data"], dict)
    assert (told["data"]["lsn"], told["id"]) == (None, "us/u1/7/1/r/ap")


@pytest.mark.parametrize("topic", ["a", "/".join("abcdefghijklmnop"), "x" * 512, "/".join(["é" * 100] * 2)])
def test_the_topic_of_the_news_is_always_a_topic_however_long_the_events_is(topic: str) -> None:
    found = notice_topic(Drop.EXPIRED, topic, Limits())
    check_topic(found)
    assert found.startswith("$mesh/dlq/expired")
    assert topic.startswith(found.removeprefix("$mesh/dlq/expired").removeprefix("/"))
