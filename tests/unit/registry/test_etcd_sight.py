"""What a client saw last in etcd: each key counted once."""

from __future__ import annotations

import pytest

from registry.base import IGNORED_KEPT
from registry.etcd import sight
from registry.etcd.layout import Span
from registry.etcd.sight import ENTRY, Sight

ALL, EU = Span(b"/n/", b"/n0"), Span(b"/n/eu/", b"/n/eu0")


def test_a_key_counts_as_what_it_was_seen_as_last() -> None:
    seen = Sight()
    seen.saw(b"/n/eu/a", "no_entry")
    seen.saw(b"/n/eu/a", "no_entry")
    assert (seen.entries, seen.ignored) == (0, {"no_entry": 1})
    seen.saw(b"/n/eu/a", ENTRY)
    assert (seen.entries, seen.ignored) == (1, {})
    seen.gone(b"/n/eu/a")
    seen.gone(b"/n/eu/a")
    assert (seen.entries, seen.ignored) == (0, {})


def test_a_list_of_a_part_replaces_what_was_known_of_that_part() -> None:
    seen = Sight()
    seen.listed(ALL, {b"/n/eu/a": ENTRY, b"/n/eu/b": "no_entry", b"/n/us/a": ENTRY}, 7)
    assert (seen.entries, seen.ignored) == (2, {"beyond_limit": 7, "no_entry": 1})
    seen.listed(EU, {b"/n/eu/c": ENTRY}, 1)
    assert (seen.entries, seen.ignored) == (2, {"beyond_limit": 8})
    seen.listed(ALL, {b"/n/eu/c": ENTRY}, 0)
    assert (seen.entries, seen.ignored) == (1, {})


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "KEYS", 2)
    seen = Sight()
    for number in range(5):
        seen.saw(b"/n/%d" % number, ENTRY)
    assert seen.entries == 2


def test_what_is_no_entry_is_kept_for_a_person_with_the_beginning_of_its_value() -> None:
    seen = Sight()
    seen.listed(
        ALL, {b"/n/eu/a": "no_entry", b"/n/eu/b": ENTRY}, 0, {b"/n/eu/a": b"hello\nworld", b"/n/eu/b": b"{}"}
    )
    assert [(one.key, one.reason, one.value) for one in seen.strange()] == [
        ("/n/eu/a", "no_entry", "hello world")
    ]
    seen.gone(b"/n/eu/a")
    assert seen.strange() == []
    for number in range(2 * IGNORED_KEPT):
        seen.saw(b"/n/%d" % number, "no_entry", b"x")
    assert len(seen.strange()) == IGNORED_KEPT
