"""Dedupe windows over a restart: what was delivered is a duplicate to the next process, too."""

from __future__ import annotations

from mesh.core.custody.seen import AT_ONCE, NOTE, NOTE_S, RANGES, SINCE, Seen
from mesh.core.custody.store import StoreRefusedError
from mesh.core.dedupe import Dedupe, Origin
from mesh.core.dedupe import Seen as Is
from mesh.model.limits import Limits
from mesh.model.reasons import Refuse
from mesh.testing.memory_store import MemoryStore

LIMITS = Limits(dedupe_window=64, dedupe_age_s=10.0)
US = Origin("us", "u1", 7, "custody")


class FullNotes(MemoryStore):
    """No room for notes while `full`."""

    full = True

    def note(self, key: str, value: bytes | None) -> None:
        if self.full:
            raise StoreRefusedError(Refuse.NOTES_FULL)
        super().note(key, value)


def test_the_next_process_knows_what_this_one_delivered_and_no_more() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    seen = Seen(store, dedupe, LIMITS, 0.0)
    for seq in (3, 5, 70):
        dedupe.window(US, 0.0).see(seq)
    seen.note(0.0)
    again = Dedupe(LIMITS)
    assert Seen(store, again, LIMITS, 50.0).restore(50.0) == 1
    window = again.window(US, 50.0)
    assert [window.see(seq) for seq in (70, 69, 5)] == [Is.DUPLICATE, Is.FRESH, Is.BELOW_WINDOW]


def test_a_window_is_written_when_it_moved_at_most_once_a_second() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    seen = Seen(store, dedupe, LIMITS, 0.0)
    assert seen.next_deadline() is None
    dedupe.window(US, 0.0).see(1)
    assert seen.next_deadline() == 0.0
    seen.note(0.0)
    first = dict(store.notes)
    assert seen.next_deadline() is None
    dedupe.window(US, 0.5).see(2)
    seen.note(0.5)
    assert (store.notes, seen.next_deadline()) == (first, NOTE_S)
    seen.note(NOTE_S)
    assert store.notes != first


def test_many_windows_take_turns() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    seen = Seen(store, dedupe, LIMITS, 0.0)
    for number in range(AT_ONCE + 1):
        dedupe.window(Origin("us", f"u{number}", 7), 0.0).see(1)
    seen.note(0.0)
    assert (len(store.notes), seen.next_deadline()) == (AT_ONCE, NOTE_S)
    seen.note(NOTE_S)
    assert (len(store.notes), seen.next_deadline()) == (AT_ONCE + 1, None)


def test_a_window_that_is_forgotten_is_forgotten_on_the_disk_also_one_of_an_earlier_process() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    dedupe.window(US, 0.0).see(1)
    Seen(store, dedupe, LIMITS, 0.0).note(0.0)
    again = Dedupe(LIMITS)
    seen = Seen(store, again, LIMITS, 0.0)
    seen.restore(0.0)
    again.expire(LIMITS.dedupe_age_s + 1.0)
    seen.note(LIMITS.dedupe_age_s + 1.0)
    assert store.notes == {}


def test_a_note_that_finds_no_room_is_tried_again() -> None:
    store, dedupe = FullNotes(), Dedupe(LIMITS)
    seen = Seen(store, dedupe, LIMITS, 0.0)
    dedupe.window(US, 0.0).see(1)
    seen.note(0.0)
    assert seen.next_deadline() == NOTE_S
    store.full = False
    seen.note(NOTE_S)
    assert len(store.notes) == 1


def test_notes_that_cannot_be_read_and_windows_of_another_size_make_nothing() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    dedupe.window(US, 0.0).see(1)
    Seen(store, dedupe, LIMITS, 0.0).note(0.0)
    store.notes |= {NOTE + "x": b"\xc1", NOTE + "y": b"\x93\x94\xa0\xa0\x00\xa0\x01\xc4\x01x", "other": b""}
    larger = Limits(dedupe_window=128)
    assert Seen(store, Dedupe(larger), larger, 0.0).restore(0.0) == 0
    assert Seen(store, Dedupe(LIMITS), LIMITS, 0.0).restore(0.0) == 1


def test_ordered_seqs_are_known_to_the_next_process_at_once() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    seen = Seen(store, dedupe, LIMITS, 0.0)
    for seq in (3, 4, 9):
        dedupe.window(US, 0.0).see(seq)
    seen.note_ordered({US: [4, 3]})
    seen.note_ordered({US: [9]})
    again = Dedupe(LIMITS)
    Seen(store, again, LIMITS, 1.0).restore(1.0)
    window = again.window(US, 1.0)
    assert [seq for seq in range(12) if window.knows(seq)] == [3, 4, 9]


def test_a_window_that_is_written_down_makes_them_needless() -> None:
    store, dedupe = MemoryStore(), Dedupe(LIMITS)
    seen = Seen(store, dedupe, LIMITS, 0.0)
    dedupe.window(US, 0.0).see(3)
    seen.note_ordered({US: [3]})
    assert any(key.startswith(SINCE) for key in store.notes)
    seen.note(0.0)
    assert [key[: len(NOTE)] for key in store.notes] == [NOTE]


def test_many_ranges_write_the_window_down() -> None:
    limits = Limits(dedupe_window=1_024)
    store, dedupe = MemoryStore(), Dedupe(limits)
    seen = Seen(store, dedupe, limits, 0.0)
    for seq in range(0, 4 * RANGES, 2):
        dedupe.window(US, 0.0).see(seq)
        seen.note_ordered({US: [seq]})
    assert any(key.startswith(NOTE) for key in store.notes)
    again = Dedupe(limits)
    Seen(store, again, limits, 1.0).restore(1.0)
    window = again.window(US, 1.0)
    assert [seq for seq in range(4 * RANGES) if window.knows(seq)] == list(range(0, 4 * RANGES, 2))


def test_damaged_ones_are_passed_over() -> None:
    store = MemoryStore()
    store.notes[SINCE + "x"] = b"\xff"
    assert Seen(store, Dedupe(LIMITS), LIMITS, 0.0).restore(0.0) == 0
