"""One batch at a gate: its bytes, its pieces, what is told of what did not cross."""

from __future__ import annotations

from msgspec.structs import replace

from federation.core.policy.audit import Audit
from federation.core.policy.gate import Gate, Way
from federation.core.policy.passages import GroupNames, Requests
from federation.core.policy.rewriting import Rewriting
from federation.core.policy.rule_file import parse
from federation.core.policy.rulebook import Rulebook
from federation.core.policy.rules import Direction
from mesh.core.inboxes import INBOX, NOTICE
from mesh.model.event import Event
from mesh.model.ids import NodeKey
from mesh.model.reasons import PolicyReason
from mesh.wire.codec import decode_body, encode_body
from mesh.wire.frames import BatchHeader, Flag, Leg

ATTRIBUTES = ("specversion", "1.0", "id", "1", "source", "urn:s", "type", "t", "subject", "s")
HEADER = BatchHeader(
    leg=Leg.BRIDGE, flags=0, region="in", node="i1", epoch=7, regions=("p", "q"), flow=0, hops_left=9, remaining_ms=0,
    path=("in",), batch=0, count=0,
)  # fmt: skip


def event(topic: str, seq: int = 1, *, extra: tuple[str, ...] | None = None, data: bytes = b"{}") -> Event:
    return Event(seq, topic, "", 0, extra, ATTRIBUTES, data)


class Desk:
    """A gate to p/p1 with rules."""

    def __init__(self, text: str, *, open: bool = False) -> None:
        rules = parse(text, "p.rules").rules
        self.books = {direction: Rulebook(rules, direction, "p", "dmz", open=open) for direction in Direction}
        self.names = {direction: GroupNames() for direction in Direction}
        self.requests = Requests(2, 10.0)
        self.audit = Audit(100)
        self.gate = Gate(
            NodeKey("p", "p1"),
            "in",
            export=Way(self.books[Direction.EXPORT], self.names[Direction.EXPORT]),
            import_=Way(self.books[Direction.IMPORT], self.names[Direction.IMPORT]),
            rewriting=Rewriting({}, lambda: bytes(12)),
            requests=self.requests,
            audit=self.audit,
        )


def test_a_batch_of_which_everything_crosses_keeps_its_very_bytes() -> None:
    desk = Desk("export to p allow topic a/#")
    body = encode_body([event("a/1", 1), event("a/2", 2)])
    header = replace(HEADER, count=2)
    judged = desk.gate.outward(header, body, 0.0)
    [piece] = judged.pieces
    assert piece.header is header
    assert piece.body is body
    assert not judged.denied
    assert not len(desk.audit)


def test_what_is_denied_is_told_once_for_each_event_with_its_rule() -> None:
    desk = Desk("export to p deny topic hr/#\nexport to p allow topic a/# strip attribute subject")
    body = encode_body([event("a/1", 1), event("hr/x", 2), event("b", 3)])
    judged = desk.gate.outward(replace(HEADER, count=3), body, 5.0)
    [piece] = judged.pieces
    assert piece.header.count == piece.plain_header.count == 1
    assert decode_body(piece.plain_body, 1) == [event("a/1", 1)]
    [crossed] = decode_body(piece.body, 1)
    assert crossed.attributes == ATTRIBUTES[:-2]
    assert judged.denied_weight == 4
    first, second = desk.audit.take()
    assert (first.mesh_id, first.topic, first.regions, first.where) == (
        "in/i1/7/2",
        "hr/x",
        ("p", "q"),
        "p.rules:1",
    )
    assert (first.direction, first.peer, first.at_s, first.reason) == (
        Direction.EXPORT,
        "p/p1",
        5.0,
        PolicyReason.RULE,
    )
    assert (second.topic, second.reason, second.rule) == ("b", PolicyReason.DEFAULT_DENY, "")
    assert [(hit.allowed, hit.denied) for hit in desk.books[Direction.EXPORT].hits()] == [(0, 1), (1, 0)]


def test_destinations_are_told_apart_where_rules_name_them() -> None:
    desk = Desk("export to p allow topic a destination q")
    judged = desk.gate.outward(replace(HEADER, count=1), encode_body([event("a")]), 0.0)
    assert [piece.header.regions for piece in judged.pieces] == [("q",)]
    assert [one.regions for one in judged.denied] == [("p",)]
    assert judged.denied_regions() == {"p"}


def test_a_body_that_does_not_decode_does_not_cross() -> None:
    judged = Desk("export to p allow topic #").gate.outward(replace(HEADER, count=2), b"\x93", 0.0)
    assert judged.malformed
    assert not judged.pieces


def test_receipts_are_not_asked_for_across_a_gate() -> None:
    header = replace(HEADER, count=1, flags=Flag.CUSTODY | Flag.RECEIPT | Flag.RECEIPT_DELIVERED)
    [piece] = Desk("export to p allow topic a").gate.outward(header, encode_body([event("a")]), 0.0).pieces
    assert piece.header.flags == Flag.CUSTODY
    assert piece.plain_header.flags == header.flags


def test_nobody_outside_speaks_for_this_region() -> None:
    desk = Desk("import from p allow topic #")
    forged = replace(HEADER, count=1, regions=("in",), path=("p",), flags=Flag.CUSTODY | Flag.REDELIVERED)
    judged = desk.gate.inward(forged, encode_body([event("a")]), 0.0)
    assert not judged.pieces
    assert [one.reason for one in desk.audit.take()] == [PolicyReason.OWN_ORIGIN]


def mail(topic: str, *, origin: str = "p", to: str = "in") -> tuple[BatchHeader, bytes]:
    header = replace(
        HEADER, region=origin, regions=(to,), to_node="i1", flags=Flag.TO_NODE, path=(origin,), count=1
    )
    return header, encode_body([event(topic)])


def test_mail_crosses_only_against_a_live_request_and_one_reply_ends_it() -> None:
    desk = Desk("export to p allow topic rpc")
    asked = event("rpc", extra=("in/i1/x1", "x1"))
    assert not desk.gate.inward(*mail(INBOX + "x1"), 0.0).pieces
    assert desk.gate.outward(replace(HEADER, count=1), encode_body([asked]), 0.0).pieces
    assert desk.gate.inward(*mail(NOTICE + "x1"), 1.0).pieces, "one place had nobody: another one may answer"
    assert not desk.gate.inward(*mail(INBOX + "x2"), 1.0).pieces
    assert desk.gate.inward(*mail(INBOX + "x1"), 1.0).pieces
    assert not desk.gate.inward(*mail(INBOX + "x1"), 1.0).pieces
    assert not desk.gate.inward(*mail("$mesh/ask/nodes"), 1.0).pieces
    reasons = [one.reason for one in desk.audit.take()]
    assert reasons == [PolicyReason.NO_REQUEST] * 3 + [PolicyReason.RESERVED_TOPIC]


def test_requests_are_forgotten_with_time_and_number() -> None:
    requests = Requests(2, 10.0)
    for n in range(3):
        requests.crossed(Direction.EXPORT, f"r/n/{n}", 0.0)
    assert requests.live(Direction.EXPORT) == 2
    assert requests.forgotten == 1
    assert not requests.answers(Direction.IMPORT, "r/n/0", 1.0, ends=True)
    assert not requests.answers(Direction.EXPORT, "r/n/2", 1.0, ends=True), "the other direction"
    assert requests.answers(Direction.IMPORT, "r/n/1", 9.9, ends=True)
    assert not requests.answers(Direction.IMPORT, "r/n/2", 10.0, ends=True)


def test_groups_are_named_as_the_other_side_knows_them() -> None:
    desk = Desk("export to p allow topic # ")
    desk.names[Direction.EXPORT].replace({("p", "g", "a/#"): "x/a/#"})
    header = replace(HEADER, count=1, groups=(("g", "a/#", "p"), ("h", "a/#", "p"), ("g", "a/#", "q")))
    [piece] = desk.gate.outward(header, encode_body([event("a/1")]), 0.0).pieces
    assert piece.header.groups == (("g", "x/a/#", "p"),)
    only = replace(header, flags=Flag.GROUP_ONLY)
    assert not desk.gate.outward(only, encode_body([event("a/1")]), 0.0).pieces
    assert {one.reason for one in desk.audit.take()} == {PolicyReason.UNKNOWN_GROUP}


def test_the_audit_keeps_the_newest_and_counts_what_it_lost() -> None:
    desk = Desk("")
    desk.gate.outward(replace(HEADER, count=120), encode_body([event("a", n) for n in range(120)]), 0.0)
    assert (len(desk.audit), desk.audit.total, desk.audit.lost) == (100, 120, 20)
    assert [one.mesh_id for one in desk.audit.newest(1)] == ["in/i1/7/119"]
    assert desk.audit.take()[0].mesh_id == "in/i1/7/20"
    assert not desk.audit.take()
    assert len(desk.audit.newest(1_000)) == 100
    desk.gate.outward(replace(HEADER, count=2), encode_body([event("a", n) for n in range(2)]), 0.0)
    assert [one.mesh_id for one in desk.audit.take()] == ["in/i1/7/0", "in/i1/7/1"]
    assert desk.audit.lost == 20


def test_an_ordered_event_says_nothing_of_regions_that_it_does_not_go_to() -> None:
    desk = Desk("export to p allow topic a destination q\nexport to p allow topic a destination p")
    ordered = event("a", extra=("", "", "p=4@10 hr=3@10 q=2@5"))
    judged = desk.gate.outward(replace(HEADER, count=1), encode_body([ordered]), 0.0)
    said = {piece.header.regions: decode_body(piece.body, 1)[0].extra for piece in judged.pieces}
    assert said == {("p",): ("", "", "p=4@10"), ("q",): ("", "", "q=2@5")}
    open_desk = Desk("export to p allow topic a")
    [piece] = open_desk.gate.outward(replace(HEADER, count=1), encode_body([ordered]), 0.0).pieces
    assert decode_body(piece.body, 1)[0].extra == ("", "", "p=4@10 q=2@5")
    assert decode_body(piece.plain_body, 1) == [ordered]


def test_mail_for_more_than_one_region_is_none() -> None:
    desk = Desk("export to p allow topic rpc")
    desk.requests.crossed(Direction.EXPORT, "in/i1/x1", 0.0)
    header, body = mail(INBOX + "x1")
    assert not desk.gate.inward(replace(header, regions=("in", "q")), body, 1.0).pieces
    assert desk.gate.inward(header, body, 1.0).pieces
