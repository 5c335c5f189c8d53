"""The example files of docs/policy.md, run as they stand there: what the page says of them happens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from federation.core.policy.rewriting import in_clear
from mesh.core.opening import Terms
from mesh.model.event import Event, NewEvent
from mesh.testing.sim_node import SimNode
from mesh.testing.world import World, events_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "policy.md").read_text()
FILES = sorted(path.name for path in (DOCS / "policy").glob("*.rules"))
OPEN = "export to * allow topic #\nimport from * allow topic #"
KEYS = {"eu-2026": bytes(range(32))}


class Pair:
    """Two regions of one node each, with the rules of a file at the first and those of another one at the second."""

    def __init__(self, near: str, far: str, rules: str, other: str | None, role: str = "transit") -> None:
        self.world = World(3)
        self.near, self.far = self.world.node(near, "n1"), self.world.node(far, "f1")
        self.near.policy = (DOCS / "policy" / rules).read_text()
        self.far.policy = other
        for node in (self.near, self.far):
            node.keys = KEYS
            node.subscribe(1, 1, "#")
        self.near.bridges = {far: Terms(far, role)}
        self.world.seed_link(self.near, self.far, Terms(far, role))
        self.near.start()
        self.far.start()
        self.world.run(4.0)

    def sent(
        self, source: SimNode, topic: str, data: object, type: str = "t", **attributes: str
    ) -> Event | None:
        """Publish one event; how it came to the other region, None if it did not."""
        target = self.far if source is self.near else self.near
        begun = len(self.world.delivered)
        head = {"specversion": "1.0", "id": "1", "source": "urn:s", "type": type, **attributes}
        flat = tuple(part for pair in head.items() for part in pair)
        source.machine.publish([NewEvent(topic, "", 0, flat, json.dumps(data).encode())], source.now)
        source.machine.flush(source.now)
        source.after()
        self.world.run(0.5)
        came = events_of(one for one in self.world.delivered[begun:] if one.node == target.key)
        return came[0] if came else None


def topic_of(event: Event | None) -> str | None:
    return None if event is None else event.topic


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_the_file_word_for_word(name: str) -> None:
    shown = re.search(rf"<!-- file: policy/{re.escape(name)} -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert shown[1] == (DOCS / "policy" / name).read_text()


def test_a_dmz_before_the_internal_network() -> None:
    pair = Pair("internal", "dmz", "dmz.rules", OPEN, "dmz")
    came = pair.sent(pair.near, "orders/7", {"card": "4111", "n": 1}, subject="who")
    assert came is not None
    attributes, data = in_clear(came)
    assert json.loads(data) == {"card": "***", "n": 1}
    assert "subject" not in attributes
    assert pair.sent(pair.near, "orders/internal/7", {}) is None
    assert pair.sent(pair.near, "salaries/7", {}) is None
    assert topic_of(pair.sent(pair.far, "tickets/7", {})) == "outside/tickets/7"
    assert pair.sent(pair.far, "orders/7", {}) is None
    # The stock is asked for outside, and its reply comes back.
    pair.far.replies = True
    pair.near.request("rpc/stock", 3.0)
    pair.world.run(1.0)
    [ended] = pair.near.ended
    assert ended.event is not None


def test_two_clouds_with_a_data_protection_rule() -> None:
    us = (DOCS / "policy" / "clouds-us.rules").read_text()
    person = {"who": {"email": "a@b", "birthday": "1890-09-15", "n": 1}}
    pair = Pair("eu", "us", "clouds-eu.rules", us)
    came = pair.sent(pair.near, "people/1", person, dataclass="personal", datacontenttype="application/json")
    assert came is not None
    attributes, data = in_clear(came)
    assert json.loads(data) == {"who": {"email": "***", "n": 1}}
    assert attributes["datacontenttype"] == "application/json"
    assert "meshkeyid" not in attributes
    assert pair.sent(pair.near, "people/1", person, dataclass="special-health") is None
    assert pair.sent(pair.near, "sport/1", person, dataclass="special-health") is None
    assert pair.sent(pair.near, "people/1", person) is None
    assert topic_of(pair.sent(pair.near, "weather/1", person)) == "weather/1"
    assert topic_of(pair.sent(pair.far, "people/1", person)) == "people/1"
    # A region without the key carries what it cannot read.
    pair = Pair("eu", "us", "clouds-eu.rules", None)
    came = pair.sent(pair.near, "people/1", person, dataclass="personal")
    assert came is not None
    assert dict(in_clear(came)[0])["meshkeyid"] == "eu-2026"
    assert b"email" not in came.data
    # What comes in clear, or under another key, does not come in.
    pair = Pair("us", "eu", "clouds-us.rules", None)
    assert pair.sent(pair.far, "people/1", person) is None
    assert pair.sent(pair.far, "people/1", person, meshkeyid="eu-2026") is None


def test_a_partner_company() -> None:
    pair = Pair("acme", "partner", "partner.rules", None)
    shipment = "com.acme.shipment.sent"
    assert topic_of(pair.sent(pair.near, "acme/shipments/1", {}, shipment)) == "shipments/1"
    assert pair.sent(pair.near, "acme/shipments/1", {}, "com.acme.price") is None
    assert pair.sent(pair.near, "acme/prices/1", {}, shipment) is None
    order = "com.partner.order.new"
    assert topic_of(pair.sent(pair.far, "orders/1", {}, order)) == "partner/orders/1"
    assert pair.sent(pair.far, "orders/1", {"x": "y" * 300_000}, order) is None
    assert pair.sent(pair.far, "invoices/1", {}, order) is None
    begun = len(pair.world.delivered)
    pair.world.run(2.0)
    event = NewEvent(
        "orders/2", "", 0, ("specversion", "1.0", "id", "1", "source", "s", "type", order), b"{}"
    )
    pair.far.machine.publish([event] * 50, pair.far.now)
    pair.far.machine.flush(pair.far.now)
    pair.far.after()
    pair.world.run(0.5)
    came = [one for one in pair.world.delivered[begun:] if one.node == pair.near.key]
    assert len(came) == 20, "above the rate they fall to the last line"
