"""Deadlines in order of time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.agenda import Agenda


def test_an_empty_agenda_has_no_next_deadline() -> None:
    agenda: Agenda[str] = Agenda()
    assert agenda.next() is None
    assert agenda.pop(1e9) is None
    assert len(agenda) == 0


def test_nothing_is_given_before_its_time() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.push(2.0, "b")
    agenda.push(1.0, "a")
    assert agenda.next() == 1.0
    assert agenda.pop(0.999) is None
    entry = agenda.pop(1.0)
    assert entry is not None
    assert entry.kind == "a"
    assert agenda.pop(1.5) is None


def test_equal_times_come_in_the_order_they_were_set_whatever_their_keys() -> None:
    agenda: Agenda[str] = Agenda()
    for key in (object(), object(), None, 3):
        agenda.push(1.0, "same", key)
    numbers = []
    while (entry := agenda.pop(1.0)) is not None:
        numbers.append(entry.n)
    assert numbers == sorted(numbers)
    assert len(numbers) == 4


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0, 100))
def test_what_is_due_comes_in_order_of_time_and_the_rest_stays(times: list[float], now: float) -> None:
    agenda: Agenda[int] = Agenda()
    for kind, at in enumerate(times):
        agenda.push(at, kind)
    taken = []
    while (entry := agenda.pop(now)) is not None:
        taken.append(entry.at)
    assert taken == sorted(at for at in times if at <= now)
    assert len(agenda) == len(times) - len(taken)
