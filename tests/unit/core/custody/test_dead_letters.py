from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.core.custody.memory_store import MemoryStore, event, header

from mesh.core.counters import Counters
from mesh.core.custody import dead_letters
from mesh.core.custody.dead_letters import DEAD, FRESH, DeadLetters
from mesh.model.limits import Limits
from mesh.model.reasons import Drop, Refuse
from mesh.wire.codec import encode_body


def letters_of(store: MemoryStore, **limits: int) -> DeadLetters:
    letters = DeadLetters(store, Limits(**limits), Counters())  # type: ignore[arg-type]
    letters.wall_ms = lambda: 1_700_000_010_000
    return letters


def test_a_dead_letter_keeps_the_event_and_everything_that_is_known_of_its_death() -> None:
    store = MemoryStore()
    letters = letters_of(store)
    dead = event(5, "orders/x", b'{"a":1}', 250)
    lsn = letters.put(header(path=("us", "af")), dead, "r/ap", Drop.EXPIRED, 3, 2.5)
    found = letters.get(lsn)
    assert found is not None
    assert (found.lsn, found.event, found.mesh_id) == (lsn, dead, "us/u1/7/5")
    assert (found.reason, found.part, found.attempts, found.path) == ("expired", "r/ap", 3, ("us", "af"))
    assert (found.died_ms, found.seen_ms) == (1_700_000_010_000, 1_700_000_007_500)
    unknown = letters.get(letters.put(header(), dead, "c/shop", Drop.MAX_DELIVERIES, 5))
    assert unknown is not None
    assert unknown.seen_ms == 0
    assert letters._counters.dead_letters == {Drop.EXPIRED: 1, Drop.MAX_DELIVERIES: 1}


def test_a_new_process_finds_them_by_their_records_alone() -> None:
    store = MemoryStore()
    first = letters_of(store)
    for seq in range(3):
        first.put(header(), event(seq, f"orders/{seq}"), "r/ap", Drop.EXPIRED, 0)
    second = letters_of(store)
    for entry in store.outstanding():
        second.recover(entry.lsn, entry.parts[0], entry.head_bytes + entry.body_bytes)
    assert (len(second), second.size_bytes) == (3, first.size_bytes)
    assert [one.event.seq for one in second.page(0, 10, topic="orders/1").letters] == [1]
    assert second.take_fresh() == ([], {}), "nobody is told again"
    assert second.drop(1)
    assert sorted(store.records) == [2, 3]


def test_one_of_an_older_form_of_record_without_a_topic_is_still_listed() -> None:
    store = MemoryStore()
    letters = letters_of(store)
    letters.put(header(), event(1), "r/ap", Drop.EXPIRED, 0)
    _, head, body = store.records[1]
    letters = letters_of(store)
    letters.recover(1, DEAD + "expired", len(head) + len(body))
    assert [one.lsn for one in letters.page(0, 10, reason="expired").letters] == [1]


def test_dropping_is_once_and_frees_the_record() -> None:
    store = MemoryStore()
    letters = letters_of(store)
    lsn = letters.put(header(), event(1), "r/ap", Drop.EXPIRED, 0)
    assert letters.drop(lsn)
    assert not letters.drop(lsn)
    assert (len(letters), letters.size_bytes, store.records) == (0, 0, {})
    assert letters.get(lsn) is None


def test_what_its_disk_lost_is_none_and_is_left_out_of_pages() -> None:
    store = MemoryStore()
    letters = letters_of(store)
    one, two = (letters.put(header(), event(n), "r/ap", Drop.EXPIRED, 0) for n in (1, 2))
    store.damaged.add(one)
    assert letters.get(one) is None
    assert [letter.lsn for letter in letters.page(0, 10).letters] == [two]


def test_a_store_that_refuses_makes_it_a_counted_drop_that_is_told_all_the_same() -> None:
    store = MemoryStore()
    store.fault = Refuse.NO_SPACE
    letters = letters_of(store)
    assert letters.put(header(), event(1), "r/ap", Drop.EXPIRED, 0) == 0
    assert letters._counters.drops == {Drop.EXPIRED: 1}
    [fresh] = letters.take_fresh()[0]
    assert (fresh.lsn, fresh.reason) == (0, Drop.EXPIRED)
    assert len(letters) == 0


@pytest.mark.parametrize("limits", [{"dead_letters": 10}, {"dead_letter_bytes": 1_500}])
def test_beyond_a_bound_the_oldest_go_and_are_counted(limits: dict[str, int]) -> None:
    store = MemoryStore()
    letters = letters_of(store, **limits)
    for seq in range(100):
        letters.put(header(), event(seq, data=b"x" * 40), "r/ap", Drop.EXPIRED, 0)
    kept = list(letters.numbers())
    assert kept == list(range(101 - len(kept), 101))
    assert 1 < len(kept) <= 15
    assert letters.size_bytes <= limits.get("dead_letter_bytes", 1 << 30)
    assert sorted(store.records) == kept
    assert letters._counters.drops == {Drop.DEAD_LETTERS_FULL: 100 - len(kept)}
    assert letters._counters.dead_letters == {Drop.EXPIRED: 100}


def test_the_last_one_is_kept_however_large_it_is() -> None:
    letters = letters_of(MemoryStore(), dead_letter_bytes=100)
    letters.put(header(), event(1, data=b"x" * 5_000), "r/ap", Drop.EXPIRED, 0)
    assert len(letters) == 1


def test_a_batch_becomes_one_for_each_event_and_an_unreadable_one_is_counted() -> None:
    store = MemoryStore()
    letters = letters_of(store)
    events = [event(seq) for seq in range(5)]
    assert letters.put_all(header(5), encode_body(events), "r/ap", Drop.EXPIRED, 2, 1.0) == 5
    assert [one.event for one in letters.page(0, 10).letters] == events
    assert letters.put_all(header(5), b"\xff", "r/ap", Drop.EXPIRED, 2, 1.0) == 0
    assert letters._counters.drops == {Drop.MALFORMED: 5}


def test_there_is_no_dead_letter_of_the_news_of_one() -> None:
    letters = letters_of(MemoryStore())
    assert letters.put(header(), event(1, "$mesh/dlq/expired/orders/x"), "c/shop", Drop.EXPIRED, 0) == 0
    assert (len(letters), letters.born, letters.take_fresh()) == (0, 0, ([], {}))
    assert letters._counters.drops == {Drop.EXPIRED: 1}


def test_of_a_crowd_some_are_told_one_by_one_and_the_others_are_counted_by_reason() -> None:
    letters = letters_of(MemoryStore())
    for seq in range(FRESH + 50):
        letters.put(header(), event(seq), "r/ap", Drop.EXPIRED if seq % 2 else Drop.NO_MEMBERS, 0)
    fresh, untold = letters.take_fresh()
    assert [one.event.seq for one in fresh] == list(range(FRESH))
    assert untold == {Drop.NO_MEMBERS: 25, Drop.EXPIRED: 25}
    assert letters.take_fresh() == ([], {})


TOPICS = ("orders/x", "orders/y", "mail")
PARTS = ("r/ap", "c/shop", "r/ap,r/us")
REASONS = (Drop.EXPIRED, Drop.NO_MEMBERS)


@settings(max_examples=60, deadline=None)
@given(
    made=st.lists(st.tuples(st.sampled_from(TOPICS), st.sampled_from(PARTS), st.sampled_from(REASONS)), max_size=40),
    topic=st.sampled_from(["", "orders/#", "mail", "+"]),
    part=st.sampled_from(["", "r/ap", "r/us", "c/shop"]),
    reason=st.sampled_from(["", "expired"]),
    limit=st.integers(1, 7),
    cost=st.integers(1, 200),
)  # fmt: skip
def test_pages_together_are_the_list_whatever_a_page_may_cost(
    made: list[tuple[str, str, Drop]], topic: str, part: str, reason: str, limit: int, cost: int
) -> None:
    letters = letters_of(MemoryStore())
    for seq, (of, to, why) in enumerate(made):
        letters.put(header(), event(seq, of), to, why, 0)
    wanted = [
        seq
        for seq, (of, to, why) in enumerate(made)
        if (not topic or of in {"orders/#": TOPICS[:2], "mail": ["mail"], "+": ["mail"]}[topic])
        and (not part or part in to.split(","))
        and (not reason or why == reason)
    ]
    found: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead_letters, "PAGE_COST", cost)
        after, pages = 0, 0
        while True:
            page = letters.page(after, limit, topic=topic, part=part, reason=reason)
            assert len(page.letters) <= limit
            found += [one.event.seq for one in page.letters]
            pages += 1
            if page.more is None:
                break
            assert page.more > after
            after = page.more
    assert found == wanted
    assert pages <= len(made) + 1


def test_a_filter_on_topic_or_reason_reads_nothing_that_it_passes_over() -> None:
    store = MemoryStore()
    letters = letters_of(store)
    for seq in range(50):
        letters.put(header(), event(seq, f"orders/{seq}"), "r/ap", Drop.EXPIRED, 0)
    store.reads = 0
    assert len(letters.page(0, 100, topic="orders/7").letters) == 1
    assert letters.page(0, 100, reason="no_members").letters == []
    assert store.reads == 1
