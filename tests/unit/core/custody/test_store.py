"""A node without a journal takes nothing at least once, and says so."""

from __future__ import annotations

import pytest
from unit.node.wired_machines import settings

from mesh.core.custody.store import NoStore, StoreRefusedError
from mesh.model.event import NewEvent
from mesh.model.reasons import Refuse
from mesh.node.machine import NodeMachine


def test_whatever_is_to_be_kept_is_refused_with_one_reason() -> None:
    store = NoStore()
    assert store.refusal(0) is Refuse.NO_JOURNAL
    with pytest.raises(StoreRefusedError) as refused:
        store.append(("r/eu",), b"", b"")
    assert refused.value.reason is Refuse.NO_JOURNAL
    with pytest.raises(KeyError):
        store.read(1)


def test_small_state_is_forgotten_and_nothing_is_left_to_take_up() -> None:
    store = NoStore()
    store.note("a", b"1")
    assert (dict(store.notes), list(store.outstanding()), store.settle(1, "a")) == ({}, [], False)


def test_a_node_that_was_given_none_publishes_at_most_once_alone() -> None:
    import random

    machine = NodeMachine(settings("eu", "n1", alone=True), random.Random(1), 0.0)
    event = NewEvent("t", "", 0, (), b"x")
    with pytest.raises(StoreRefusedError) as refused:
        machine.publish_kept([event], 0.0)
    assert refused.value.reason is Refuse.NO_JOURNAL
    assert machine.publish([event], 0.0).first_seq == 1
