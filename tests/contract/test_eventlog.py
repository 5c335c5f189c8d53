"""What every engine of the event log keeps (`mesh.store.eventlog`): one suite, run on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.core.replay import CHUNK_BYTES, CHUNK_EVENTS, Gap
from mesh.model.event import Event, Logged
from mesh.model.ids import MeshId
from mesh.model.reasons import LogGap
from mesh.model.topic import matches
from mesh.store.eventlog import GAPS, EventLogEngine
from mesh.store.eventlog_memory import MemoryLog
from mesh.store.eventlog_sqlite import SqliteLog

ENGINES = {"memory": lambda folder: MemoryLog(), "sqlite": SqliteLog}
LASTING = {name: engine for name, engine in ENGINES.items() if name != "memory"}
FOREVER = 1 << 50
BIG = 1 << 40


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLogEngine]:
    opened = ENGINES[request.param](tmp_path)
    yield opened
    opened.close()


def logged(
    position: int,
    topic: str = "orders/eu",
    *,
    at_ms: int = 0,
    expires_ms: int = FOREVER,
    seq: int = 0,
    origin: tuple[str, str, int] = ("eu", "eu-1", 7),
    data: bytes = b'{"a":1}',
    attributes: tuple[str, ...] | None = None,
    key: str = "",
    path: tuple[str, ...] = (),
) -> Logged:
    event = Event(seq or position, topic, key, 0, None, attributes, data)
    return Logged(position, at_ms or position * 10, expires_ms, origin, path, event)


def everything(
    engine: EventLogEngine, *filters: str, begin: int = 1, end: int | None = None, now_ms: int = 0
) -> list[Logged]:
    """Read to the end, chunk by chunk."""
    found: list[Logged] = []
    end = engine.next if end is None else end
    while begin < end:
        chunk = engine.read(filters or ("#",), begin, end, now_ms)
        assert chunk.next > begin, "reading goes on"
        assert len(chunk.entries) <= CHUNK_EVENTS
        found += chunk.entries
        begin = chunk.next
    return found


def positions(entries: list[Logged]) -> list[int]:
    return [entry.position for entry in entries]


def test_a_new_log_is_empty(engine: EventLogEngine) -> None:
    counts = engine.statistics()
    assert (counts.events, counts.first, counts.next, counts.oldest, counts.newest) == (0, 1, 1, None, None)
    assert (engine.next, engine.gaps, engine.closed_ms) == (1, (), None)
    assert engine.read(("#",), 1, 10, 0).entries == []
    assert engine.find_time(0) == 1
    assert engine.find(MeshId("eu", "eu-1", 7, 1), 0) is None


def test_what_is_known_is_told_also_when_it_has_expired_but_is_not_trimmed(engine: EventLogEngine) -> None:
    engine.append([logged(1), logged(2, origin=("us", "u1", 3), seq=9), logged(3, expires_ms=5)], synced=True)
    engine.append([logged(4)])
    asked = [MeshId("eu", "eu-1", 7, seq) for seq in (1, 3, 4, 9, 1 << 63)]
    asked += [MeshId("us", "u1", 3, 9), MeshId("us", "u1", 4, 9), MeshId("x", "x", 1, 1)]
    assert engine.known(asked) == {asked[0], asked[1], asked[2], asked[5]}
    engine.trim(10, BIG, 10)
    assert engine.known(asked) == {asked[0], asked[2], asked[5]}
    assert engine.known([]) == set()


def test_events_come_back_as_they_were_and_in_order(engine: EventLogEngine) -> None:
    kept = [
        logged(1, data=b'{"id": "1",\n "x": "\xc3\xbc"}', path=("us", "ap")),
        logged(2, "b", data=bytes(range(256)), attributes=("id", "7", "näme", 'v"'), key="schlüssel"),
        logged(3, "c", data=b"", attributes=()),
        logged(5, "d/é/" + "x" * 500, seq=(1 << 63) - 1, origin=("us", "n.1_x-2", 1 << 40)),
    ]
    engine.append(kept[:2])
    engine.append(kept[2:])
    assert everything(engine) == kept
    assert engine.next == 6, "positions may be left out"
    counts = engine.statistics()
    assert (counts.events, counts.first, counts.next) == (4, 1, 6)
    assert counts.bytes > 0
    assert counts.oldest is not None
    assert counts.newest is not None
    assert str(counts.oldest.mesh_id) == "eu/eu-1/7/1"
    assert counts.newest == (MeshId("us", "n.1_x-2", 1 << 40, (1 << 63) - 1), 50)


def test_a_read_begins_and_ends_where_it_is_told_to(engine: EventLogEngine) -> None:
    engine.append([logged(n) for n in range(1, 11)])
    assert positions(everything(engine, begin=4, end=8)) == [4, 5, 6, 7]
    assert engine.read(("#",), 11, 20, 0).entries == []
    assert engine.read(("#",), 11, 20, 0).next == 20
    assert engine.read(("#",), 1, 4, 0).oldest == 1


def test_only_what_a_filter_matches_is_read(engine: EventLogEngine) -> None:
    topics = ["a", "a/b", "a/b/c", "b", "$mesh/x", "a/c"]
    engine.append([logged(n, topic) for n, topic in enumerate(topics, start=1)])
    assert positions(everything(engine, "a/+")) == [2, 6]
    assert positions(everything(engine, "a/#", "b")) == [1, 2, 3, 4, 6]
    assert positions(everything(engine, "#")) == [1, 2, 3, 4, 6]
    assert positions(everything(engine, "$mesh/#")) == [5]
    assert everything(engine, "none") == []


def test_long_reads_come_in_chunks_bounded_in_events_and_bytes(engine: EventLogEngine) -> None:
    engine.append([logged(n) for n in range(1, 2_001)])
    engine.append([logged(n, data=b"x" * 100_000) for n in range(2_001, 2_011)])
    first = engine.read(("#",), 1, 5_000, 0)
    assert positions(list(first.entries)) == list(range(1, CHUNK_EVENTS + 1))
    large = engine.read(("#",), 2_001, 5_000, 0)
    assert len(large.entries) == -(-CHUNK_BYTES // 100_300)
    assert positions(everything(engine)) == list(range(1, 2_011))


def test_an_event_is_found_by_its_id_and_by_its_time(engine: EventLogEngine) -> None:
    engine.append([logged(n, seq=100 - n, at_ms=1_000 + n // 3) for n in range(1, 10)])
    assert engine.find(MeshId("eu", "eu-1", 7, 95), 0) == 5
    for unknown in (
        ("eu", "eu-1", 7, 5),
        ("eu", "eu-1", 8, 95),
        ("us", "eu-1", 7, 95),
        ("eu", "eu-1", 7, 1 << 70),
    ):
        assert engine.find(MeshId(*unknown), 0) is None
    assert engine.find_time(0) == 1
    assert engine.find_time(1_001) == 3
    assert engine.find_time(1_002) == 6
    assert engine.find_time(1_004) == 10


def test_expired_events_are_read_and_found_no_more(engine: EventLogEngine) -> None:
    engine.append([logged(n, expires_ms=100 if n % 2 else 200) for n in range(1, 7)])
    assert positions(everything(engine, now_ms=99)) == [1, 2, 3, 4, 5, 6]
    assert positions(everything(engine, now_ms=100)) == [2, 4, 6]
    assert engine.find(MeshId("eu", "eu-1", 7, 1), 100) is None
    assert engine.find(MeshId("eu", "eu-1", 7, 2), 100) == 2


def test_a_trim_removes_what_has_expired_in_steps(engine: EventLogEngine) -> None:
    engine.append([logged(n, expires_ms=n) for n in range(1, 101)])
    assert engine.trim(50, BIG, 30) == 30
    assert engine.statistics().first == 31
    assert engine.trim(50, BIG, 30) == 20
    assert engine.trim(50, BIG, 30) == 0
    counts = engine.statistics()
    assert (counts.events, counts.first, counts.next) == (50, 51, 101)
    assert engine.read(("#",), 1, 101, 0).oldest == 51


def test_a_trim_finds_what_expires_behind_what_is_kept_longer(engine: EventLogEngine) -> None:
    engine.append([logged(n, expires_ms=10 if n % 3 else FOREVER) for n in range(1, 101)])
    removed = [engine.trim(10, BIG, 20) for _ in range(20)]
    assert sum(removed) == 67
    assert engine.statistics().events == 33
    assert positions(everything(engine, now_ms=10)) == list(range(3, 101, 3))


def test_a_trim_keeps_the_bound_in_bytes(engine: EventLogEngine) -> None:
    for begin in range(1, 2_001, 200):
        engine.append([logged(n, data=b"x" * 1_000) for n in range(begin, begin + 200)])
    most = engine.statistics().bytes // 2
    while engine.trim(0, most, 100) >= 100:
        pass
    counts = engine.statistics()
    assert counts.bytes <= most
    assert 500 < counts.events < 1_500, "and no more than that"
    assert positions(everything(engine)) == list(range(counts.first, 2_001))


def test_everything_trimmed_leaves_the_next_position(engine: EventLogEngine) -> None:
    engine.append([logged(n, expires_ms=1) for n in range(1, 4)])
    assert engine.trim(1, BIG, 10) == 3
    counts = engine.statistics()
    assert (counts.events, counts.first, counts.next, counts.oldest) == (0, 4, 4, None)
    assert engine.find_time(0) == 4
    engine.append([logged(9)])
    assert positions(everything(engine)) == [9]
    assert engine.read(("#",), 1, 10, 0).oldest == 9


def test_gaps_are_kept_while_the_events_behind_them_are(engine: EventLogEngine) -> None:
    first = Gap(1, 5, 9, None, LogGap.STOPPED)
    second = Gap(3, 20, 25, 17, LogGap.NO_SPACE)
    engine.append([logged(1, expires_ms=1), logged(2, expires_ms=1)], [first])
    engine.append([logged(3)], [second])
    assert engine.gaps == (first, second)
    engine.trim(1, BIG, 10)
    assert engine.gaps == (second,)
    engine.append([], [Gap(4, 30, 31, None, LogGap.STOPPED)])
    assert [gap.position for gap in engine.gaps] == [3, 4]


def test_many_gaps_are_put_together_oldest_first(engine: EventLogEngine) -> None:
    engine.append([logged(1)], [Gap(n, n, n + 1, 1, LogGap.STOPPED) for n in range(1, GAPS + 11)])
    assert len(engine.gaps) == GAPS
    assert engine.gaps[0] == Gap(11, 1, 12, None, LogGap.STOPPED)
    assert engine.gaps[-1].position == GAPS + 10


def test_it_says_until_when_it_is_complete(engine: EventLogEngine) -> None:
    engine.append([logged(1, at_ms=123)])
    assert engine.closed_ms == 123
    engine.note_closed(456)
    assert engine.closed_ms == 456


@pytest.mark.parametrize("kind", sorted(LASTING))
def test_all_of_it_outlives_the_process(kind: str, tmp_path: Path) -> None:
    gap = Gap(2, 5, 9, 3, LogGap.OVERRUN)
    kept = [logged(n, path=("us",), attributes=("id", str(n))) for n in range(1, 50)]
    engine = LASTING[kind](tmp_path)
    engine.append(kept, [gap])
    engine.note_closed(777)
    before = engine.statistics()
    engine.close()
    engine.close()
    again = LASTING[kind](tmp_path)
    assert everything(again) == kept
    assert (again.next, again.gaps, again.closed_ms) == (50, (gap,), 777)
    assert (again.statistics().events, again.statistics().newest) == (before.events, before.newest)
    assert again.find(MeshId("eu", "eu-1", 7, 49), 0) == 49
    again.append([logged(50, origin=("eu", "eu-1", 8))])
    assert len(everything(again)) == 50
    again.close()


@pytest.mark.parametrize("kind", sorted(ENGINES))
@given(seed=st.integers(0, 1 << 32))
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_against_a_list(kind: str, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Random appends, trims, reads and openings, beside a plain list."""
    dice = Random(seed)
    folder = tmp_path_factory.mktemp("log")
    engine: EventLogEngine = ENGINES[kind](folder)
    model: list[Logged] = []
    now_ms, next = 1, 1
    topics = ["a/b", "a/c", "b", "b/x/y"]
    for _ in range(30):
        now_ms += dice.randrange(5)
        what = dice.random()
        if what < 0.5:
            some: list[Logged] = []
            for _ in range(dice.randrange(1, 40)):
                next += dice.choice((0, 0, 0, 3))
                some.append(
                    logged(
                        next, dice.choice(topics), at_ms=now_ms, expires_ms=now_ms + dice.choice((3, 9, 50))
                    )
                )
                next += 1
            engine.append(some)
            model += some
        elif what < 0.7:
            engine.trim(now_ms, BIG, dice.randrange(1, 50))
        elif what < 0.75 and kind in LASTING:
            engine.close()
            engine = LASTING[kind](folder)
        alive = [entry for entry in model if entry.expires_ms > now_ms]
        filters = dice.sample(["a/#", "+", "b/#", "a/c"], dice.randrange(1, 4))
        begin, end = sorted((dice.randrange(1, next + 2), dice.randrange(1, next + 2)))
        assert everything(engine, *filters, begin=begin, end=end, now_ms=now_ms) == [
            entry
            for entry in alive
            if begin <= entry.position < end and any(matches(one, entry.event.topic) for one in filters)
        ]
        if alive:
            one = dice.choice(alive)
            assert engine.find(MeshId(*one.origin, one.event.seq), now_ms) == one.position
            at = engine.find_time(one.received_ms)
            assert not [e for e in alive if e.received_ms >= one.received_ms and e.position < at]
            assert not [e for e in alive if e.received_ms < one.received_ms and e.position >= at]
    engine.close()
