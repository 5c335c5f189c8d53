"""What a journal tells."""

from __future__ import annotations

from dataclasses import fields, replace

from mesh.model.journal import (
    Damage,
    DamageReason,
    JournalDamaged,
    JournalLimits,
    JournalRefused,
    JournalState,
    Refusal,
)
from mesh.model.limits import Limits


def test_every_state_that_refuses_is_a_reason_of_a_refusal() -> None:
    assert {state.value for state in JournalState} - {"ok"} <= {reason.value for reason in Refusal}


def test_its_limits_are_those_of_the_node() -> None:
    assert JournalLimits.of(Limits()) == JournalLimits()
    names = [field.name for field in fields(JournalLimits)]
    for name in names:
        key = name if name.startswith("segment") else f"journal_{name.removeprefix('total_')}"
        limits = replace(Limits(), **{key: 12_345})
        assert [each for each in names if getattr(JournalLimits.of(limits), each) == 12_345] == [name]


def test_errors_carry_their_reason() -> None:
    assert JournalRefused(Refusal.FULL).reason is Refusal.FULL
    error = JournalDamaged(7, Damage(3, 128, DamageReason.BAD_RECORD, 40))
    assert str(error) == "record 7: bad_record at 128 of segment 3"
