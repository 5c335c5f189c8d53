"""What is published at least once, at a node of a real mesh in virtual time."""

from __future__ import annotations

import pytest
from unit.core.custody.test_custody import LINE, build

from mesh.core.custody.record import decode_head
from mesh.core.custody.store import StoreRefusedError
from mesh.core.ingress import Published
from mesh.model.event import NewEvent
from mesh.model.reasons import Drop, Refuse
from mesh.model.topic_rules import SpoolPolicy, TopicRule, TopicRules
from mesh.testing.world import SimNode, World
from mesh.wire.codec import decode_body


@pytest.fixture
def mesh() -> tuple[World, SimNode, SimNode]:
    """Node a-1, and b-1 of another region, which wants orders/#."""
    world, nodes = build(LINE[:1])
    nodes["b-1"].subscribe(1, 1, "orders/#")
    world.run(2.0)
    return world, nodes["a-1"], nodes["b-1"]


def events(*topics: str, ttl_ms: int = 0, key: str = "") -> list[NewEvent]:
    return [NewEvent(topic, key, ttl_ms, None, b'{"n":1}') for topic in topics]


def records(node: SimNode) -> list[tuple[tuple[str, ...], list[int]]]:
    """(parts, seqs of the events) of each record of the node's store."""
    found = []
    for entry in node.store.outstanding():
        packed, body = node.store.read(entry.lsn)
        count = decode_head(packed).header.count
        found.append((entry.parts, [event.seq for event in decode_body(body, count)]))
    return found


def taken(node: SimNode, new: list[NewEvent]) -> tuple[Published, int | None]:
    """Publish and flush. Returns what became of them, and the last record."""
    published, ticket, _ = node.machine.custody.publish(new, node.now)
    node.machine.flush(node.now)
    return published, ticket.lsn


def test_calls_that_come_together_share_a_record(mesh: tuple[World, SimNode, SimNode]) -> None:
    _, node, _ = mesh
    custody = node.machine.custody
    tickets = [custody.publish(events("orders/a", "orders/b"), node.now)[1] for _ in range(3)]
    assert records(node) == []
    node.machine.flush(node.now)
    assert records(node) == [(("r/b",), [1, 2, 3, 4, 5, 6])]
    assert [ticket.lsn for ticket in tickets] == [1, 1, 1]


def test_an_event_does_not_overtake_another_of_its_key_that_goes_another_way(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    custody = node.machine.custody
    for ttl_ms in (0, 700, 0):
        custody.publish([event._replace(key="k") for event in events("orders/a", ttl_ms=ttl_ms)], node.now)
    node.machine.flush(node.now)
    assert [seqs for _, seqs in records(node)] == [[1], [2], [3]]


def test_a_disk_that_fails_before_the_flush_is_told_to_every_call(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    _, ticket, _ = node.machine.custody.publish(events("orders/a"), node.now)
    node.store.fault = Refuse.IO_ERROR
    node.machine.flush(node.now)
    assert (ticket.refused, records(node)) == (Refuse.IO_ERROR, [])


def test_events_that_go_one_way_share_a_record_and_their_numbers_follow(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    published, lsn = taken(node, events("orders/a", "orders/b", "orders/c"))
    assert records(node) == [(("r/b",), [1, 2, 3])]
    assert (published.first_seq, len(published.plans), lsn) == (1, 3, 1)
    assert node.machine.counters.published == 3


def test_events_of_other_deadlines_have_records_of_their_own_and_a_rule_gives_one(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    intake = node.machine.custody.intake
    intake._rules = TopicRules([TopicRule("orders/short", deadline_s=1.5)])
    taken(node, [*events("orders/a", "orders/short"), *events("orders/a", ttl_ms=700)])
    assert [seqs for _, seqs in records(node)] == [[1], [2], [3]]
    heads = [decode_head(node.store.read(lsn)[0]).deadline_ms for lsn in (1, 2, 3)]
    assert heads == [0, 1_500, 700]
    held = node.machine.custody.departure.held
    assert [held[lsn].ends_as for lsn in (1, 2, 3)] == [Drop.SPOOL_AGE, Drop.EXPIRED, Drop.EXPIRED]


def test_what_nobody_wants_is_numbered_and_makes_no_record(mesh: tuple[World, SimNode, SimNode]) -> None:
    _, node, _ = mesh
    published, lsn = taken(node, events("mail"))
    assert (lsn, published.first_seq, records(node)) == (0, 1, [])


@pytest.mark.parametrize("reason", [Refuse.NO_SPACE, Refuse.FULL])
def test_a_store_that_refuses_changes_nothing(mesh: tuple[World, SimNode, SimNode], reason: Refuse) -> None:
    _, node, _ = mesh
    node.store.fault = reason
    with pytest.raises(StoreRefusedError) as refused:
        taken(node, events("orders/a", "orders/b"))
    assert refused.value.reason is reason
    node.store.fault = None
    published, _ = taken(node, events("orders/a"))
    assert published.first_seq == 1
    assert node.machine.counters.published == 1


def test_a_node_that_does_not_know_yet_who_wants_what_accepts_nothing(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    node.machine.custody.intake.informed = lambda now: False
    with pytest.raises(StoreRefusedError) as refused:
        taken(node, events("orders/a"))
    assert refused.value.reason is Refuse.STARTING


def test_a_full_spool_blocks_the_whole_call_or_lets_the_oldest_go(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    world, node, far = mesh
    far.crash()
    world.run(10.0)
    intake = node.machine.custody.intake
    intake._rules = TopicRules([TopicRule("orders/+", spool_bytes=60)])
    taken(node, events("orders/a"))
    with pytest.raises(StoreRefusedError) as refused:
        taken(node, events("orders/b", *["orders/c"] * 20))
    assert refused.value.reason is Refuse.SPOOL_FULL
    assert records(node) == [(("r/b",), [1])]
    assert node.machine.counters.published == 1
    intake._rules = TopicRules([TopicRule("orders/+", spool_bytes=60, spool_policy=SpoolPolicy.DEAD_LETTER)])
    for _ in range(5):
        taken(node, events("orders/b"))
    letters = node.machine.custody.letters.page(0, 10).letters
    assert letters
    assert {one.reason for one in letters} == {"spool_full"}
    assert [one.event.seq for one in letters] == list(range(1, len(letters) + 1)), "the oldest first"


def test_a_group_without_any_member_makes_a_dead_letter_at_once(
    mesh: tuple[World, SimNode, SimNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, node, far = mesh
    far.subscribe(2, 2, "jobs", "workers")
    world.run(2.0)
    planner = node.machine.planner
    for name, nothing in (("near_members", []), ("far_members", []), ("member_out_of_reach", None)):
        monkeypatch.setattr(type(planner), name, lambda *args, nothing=nothing: nothing)
    _, lsn = taken(node, events("jobs"))
    [letter] = node.machine.custody.letters.page(0, 10).letters
    assert (letter.lsn, letter.reason, letter.part) == (lsn, "no_members", "g/workers/jobs")
    assert letter.mesh_id == f"a/a-1/{node.epoch}/1"


def test_events_with_a_group_go_to_one_member_and_are_apart_from_those_without(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    world, node, far = mesh
    far.subscribe(2, 2, "orders/jobs", "workers")
    world.run(2.0)
    published, _ = taken(node, events("orders/a", "orders/jobs"))
    assert [seqs for _, seqs in records(node)] == [[1], [2]]
    [chosen] = published.assigned[1]
    assert (chosen.group, chosen.region) == ("workers", "b")
    assert decode_head(node.store.read(2)[0]).header.groups == (("workers", "orders/jobs", "b"),)
    assert decode_head(node.store.read(1)[0]).header.groups == ()


def test_events_of_two_rules_that_go_the_same_way_wait_each_in_its_own_spool(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    intake = node.machine.custody.intake
    intake._rules = TopicRules([TopicRule("orders/a", spool_bytes=1_000), TopicRule("orders/b")])
    taken(node, events("orders/a", "orders/b", "orders/a"))
    rules = [decode_head(node.store.read(lsn)[0]).rule for lsn in (1, 2)]
    assert (rules, [seqs for _, seqs in records(node)]) == (["orders/a", "orders/b"], [[1, 3], [2]])
    assert list(node.machine.custody.spools.waiting()) == ["orders/a"]


def test_what_a_call_needs_of_one_rule_is_summed_up_over_all_its_ways(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    world, node, far = mesh
    far.crash()
    world.run(10.0)
    intake = node.machine.custody.intake
    oldest_go = TopicRule("orders/old", spool_bytes=60, spool_policy=SpoolPolicy.DROP_OLDEST)
    intake._rules = TopicRules([oldest_go, TopicRule("orders/+", spool_bytes=60)])
    taken(node, events(*["orders/old"] * 5))
    taken(node, events(*["orders/a"] * 5))
    kept = records(node)
    with pytest.raises(StoreRefusedError) as refused:  # two ways of one rule, either of which has room alone
        intake.publish(
            [*events(*["orders/old"] * 5), *events("orders/a"), *events("orders/a", ttl_ms=700)], 0, node.now
        )
    assert refused.value.reason is Refuse.SPOOL_FULL
    assert records(node) == kept, "and nothing of another rule had to go for a call that is refused"


def test_a_full_spool_does_not_keep_events_from_who_subscribes_here(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    world, node, far = mesh
    node.subscribe(1, 1, "here/#")
    far.crash()
    world.run(10.0)
    intake = node.machine.custody.intake
    intake._rules = TopicRules([TopicRule("#", spool_bytes=10)])
    taken(node, events("orders/a"))
    with pytest.raises(StoreRefusedError):
        taken(node, events("orders/a"))
    published, _ = taken(node, events("here/x"))
    assert published.first_seq == 2


def test_a_call_that_is_refused_is_nobodys_predecessor(mesh: tuple[World, SimNode, SimNode]) -> None:
    _, node, _ = mesh
    intake = node.machine.custody.intake
    intake._rules = TopicRules([TopicRule("orders/+", ordered=True, spool_bytes=60)])
    taken(node, events("orders/a", key="k"))
    with pytest.raises(StoreRefusedError):
        taken(node, events(*["orders/a"] * 20, key="k"))
    # Two deadlines are two ways: each event comes after the one of its key that was published just before, whatever way that went.
    intake.publish(
        [
            *events("orders/a", key="k"),
            *events("orders/a", key="k", ttl_ms=700),
            *events("orders/a", key="k"),
        ],
        0,
        node.now,
    )
    node.machine.flush(node.now)
    said = {}
    for entry in node.store.outstanding():
        packed, body = node.store.read(entry.lsn)
        for one in decode_body(body, decode_head(packed).header.count):
            assert one.extra is not None
            said[one.seq] = [word.partition("@")[0] for word in one.extra[2].split()]
    assert said == {1: [], 2: ["a=1", "b=1"], 3: ["a=2", "b=2"], 4: ["a=3", "b=3"]}


def test_a_call_whose_second_record_would_find_no_room_is_refused_before_the_first(
    mesh: tuple[World, SimNode, SimNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, node, _ = mesh
    node.subscribe(1, 1, "orders/a")  # so that it goes to b and to somebody here
    room = 1_700  # for one record of an event, not for two
    monkeypatch.setattr(node.store, "refusal", lambda size_bytes: Refuse.FULL if size_bytes > room else None)
    with pytest.raises(StoreRefusedError) as refused:
        node.machine.custody.publish(events("orders/a"), node.now)
    assert refused.value.reason is Refuse.FULL
    assert (records(node), node.machine.counters.published) == ([], 0)
    published, _, _ = node.machine.custody.publish(events("orders/b"), node.now)
    assert published.first_seq == 1


def test_a_full_batch_of_small_events_fits_an_empty_journal(mesh: tuple[World, SimNode, SimNode]) -> None:
    """It is refused for what it takes, not for what so many events could take."""
    _, node, _ = mesh
    limits = node.machine.settings.limits
    asked: list[int] = []
    real = node.store.refusal
    node.store.refusal = lambda size_bytes: asked.append(size_bytes) or real(size_bytes)  # type: ignore[method-assign]
    taken(node, events(*["orders/a"] * limits.batch_request_events))
    entries = list(node.store.outstanding())
    assert sum(len(seqs) for _, seqs in records(node)) == limits.batch_request_events
    assert (
        sum(entry.head_bytes + entry.body_bytes for entry in entries)
        <= max(asked)
        < limits.journal_pending_bytes
    )


@pytest.mark.parametrize("here", [False, True])
def test_a_call_of_megabytes_becomes_records_that_a_frame_holds(
    mesh: tuple[World, SimNode, SimNode], here: bool
) -> None:
    _, node, _ = mesh
    if here:
        node.subscribe(1, 1, "orders/a")
    limits = node.machine.settings.limits
    sizes = [1_000, 200_000, 100_000, limits.event_bytes, 5, 5] + [10_000] * 40
    call = [NewEvent("orders/a", "k", 0, (), b"x" * size) for size in sizes]
    total = sum(sizes)
    bound = limits.batch_target_bytes + 4_096

    def refusal(size_bytes: int) -> Refuse | None:
        return Refuse.TOO_LARGE if size_bytes > limits.event_bytes + 4_096 else None

    node.store.refusal = refusal  # type: ignore[method-assign]
    assert total > limits.event_bytes + 4_096, "more than one record may hold"
    _, ticket, _ = node.machine.custody.publish(call, node.now)
    node.machine.flush(node.now)
    assert ticket.refused is None
    entries = list(node.store.outstanding())
    assert sum(entry.body_bytes for entry in entries) >= total
    assert [entry.body_bytes > bound for entry in entries].count(True) == 1, "the largest event, alone"
    assert [seq for _, seqs in records(node) for seq in seqs] == list(range(1, len(sizes) + 1))


def test_an_event_that_no_record_can_hold_is_refused_before_anything_is_stored(
    mesh: tuple[World, SimNode, SimNode],
) -> None:
    _, node, _ = mesh
    node.store.refusal = lambda size_bytes: Refuse.TOO_LARGE if size_bytes > 300_000 else None  # type: ignore[method-assign]
    with pytest.raises(StoreRefusedError) as refused:
        node.machine.custody.publish(
            [NewEvent("orders/a", "", 0, (), b"x" * size) for size in (10, 400_000)], node.now
        )
    assert refused.value.reason is Refuse.TOO_LARGE
    assert records(node) == []
