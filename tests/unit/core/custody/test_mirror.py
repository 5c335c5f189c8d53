from __future__ import annotations

from unit.core.custody.memory_store import MemoryStore

from mesh.core.custody.mirror import CLIENT_BYTES, LOOK_S, Mirror, part_of, split
from mesh.core.effects import Send
from mesh.model.limits import Limits
from mesh.model.reasons import Refuse
from mesh.wire.frames import CopiedClient, CopiesHeld, CopiesOwed, Copy, CopyAck, RecordId

ID = (50, 7)


def copy(id: RecordId = ID, *parts: str, body: bytes = b"body") -> Copy:
    return Copy(id, parts or ("r/us", "c/shop"), b"head", body)


def said(mirror: Mirror) -> list[object]:
    found = [one.frame for one in mirror.effects if isinstance(one, Send)]
    mirror.effects.clear()
    return found


def test_a_copy_is_acknowledged_when_it_is_on_the_disk() -> None:
    store = MemoryStore()
    mirror = Mirror(store, Limits(), 0.0)
    mirror.take("o", copy(), 1.0)
    mirror.acknowledge()
    assert said(mirror) == []
    store.sync()
    mirror.acknowledge()
    assert said(mirror) == [CopyAck((ID,))]
    mirror.take("o", copy(), 2.0)
    mirror.acknowledge()
    assert said(mirror) == [CopyAck((ID,))], "the same one again is not stored again"
    assert len(store.records) == 1


def test_what_is_not_taken_is_refused_with_its_reason() -> None:
    store = MemoryStore()
    mirror = Mirror(store, Limits(copies_bytes=10), 0.0)
    mirror.take("o", copy(body=b"too large"), 0.0)
    store.fault = Refuse.NO_SPACE
    mirror.take("o", copy(body=b""), 0.0)
    mirror.draining = True
    mirror.take("o", copy(body=b""), 0.0)
    mirror.acknowledge()
    assert said(mirror) == [CopyAck((), ((ID, "full"), (ID, "no_space"), (ID, "draining")))]
    assert not mirror.kept


def test_what_the_owner_settled_is_dropped_part_by_part() -> None:
    store = MemoryStore()
    mirror = Mirror(store, Limits(), 0.0)
    mirror.take("o", copy(), 0.0)
    mirror.owed("o", CopiesOwed(((ID, ("c/shop",)), ((50, 99), ())), 40))
    assert mirror.kept["o"][ID].parts == ("c/shop",)
    mirror.owed("o", CopiesOwed(((ID, ()),), 40))
    assert not mirror.kept
    assert not store.records
    assert mirror.size_bytes == 0


def test_an_owner_that_is_away_for_long_enough_or_has_lost_its_journal_is_taken_over() -> None:
    store = MemoryStore()
    mirror = Mirror(store, Limits(copies_takeover_s=10.0), 0.0)
    mirror.take("o", copy(), 0.0)
    mirror.client("o", CopiedClient(50, "shop", b"x"))
    away: dict[str, float] = {}
    mirror.away_since = away.get
    assert list(mirror.orphans(1e6)) == []
    away["o"] = 100.0
    mirror.members_changed()
    assert mirror.next_deadline() == min(110.0, LOOK_S)
    assert list(mirror.orphans(109.0)) == []
    assert list(mirror.orphans(110.0)) == [("o", [ID])]
    away.clear()
    mirror.members_changed()
    mirror.owed("o", CopiesOwed((), 51))
    assert mirror.next_deadline() == 0.0
    assert list(mirror.orphans(0.0)) == [("o", [ID])]
    mirror.client("o", CopiedClient(51, "new", b"y"))
    assert mirror.take_clients("o") == {"shop": b"x"}, "those of the new journal are the owner's"
    for part in ("r/us", "c/shop"):
        mirror.ended("o", ID, part)
    assert list(mirror.orphans(0.0)) == []
    mirror.members_changed()
    assert mirror.next_deadline() is None


def test_parts_that_nobody_could_take_over_are_a_fault_of_the_owner() -> None:
    mirror = Mirror(MemoryStore(), Limits(), 0.0)
    for parts in (("s/1",), ("m/o/1.1/r/us",), ("r/us", "r/us"), ("r/a\0b",)):
        assert mirror.take("o", copy(ID, *parts), 0.0)
    assert not mirror.kept


def test_clients_and_copies_are_there_after_a_restart_and_are_told_on_the_first_link() -> None:
    store = MemoryStore()
    mirror = Mirror(store, Limits(), 0.0)
    mirror.take("o", copy(), 0.0)
    mirror.client("o", CopiedClient(50, "shop", b"x"))
    mirror.client("o", CopiedClient(50, "large", b"x" * (CLIENT_BYTES + 1)))
    again = Mirror(store, Limits(), 0.0)
    assert [again.recover(entry, 3.0) for entry in store.outstanding()] == [True]
    again.greet("o")
    assert said(again) == [CopiesHeld((ID,))]
    assert again.kept["o"][ID].since == 3.0
    assert (again.home_of("shop"), again.home_of("large")) == ("o", None)
    again.greet("nobody")
    assert said(again) == []
    again.client("o", CopiedClient(50, ""))
    assert again.home_of("shop") is None


def test_a_copy_that_is_older_than_anything_may_wait_goes() -> None:
    store = MemoryStore()
    mirror = Mirror(store, Limits(spool_age_s=10.0, durable_age_s=100.0), 0.0)
    mirror.take("o", copy(), 0.0)
    mirror.drop_old(99.0)
    assert mirror.kept
    mirror.drop_old(200.0)
    assert (mirror.dropped, mirror.kept, store.records) == (1, {}, {})


def test_names_of_parts_are_read_as_they_were_written() -> None:
    for part in ("r/us", "c/a-b.c", "g/workers/orders/+/x"):
        assert split(part_of("o-1", (1_700_000_000, 9), part)) == ("o-1", (1_700_000_000, 9), part)
