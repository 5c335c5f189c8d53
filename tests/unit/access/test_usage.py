from __future__ import annotations

import pytest

from mesh.access import usage
from mesh.access.principal import Kind, Principal
from mesh.access.rights import Allowance
from mesh.access.usage import Usage

ANN = Principal("ann", Kind.TOKEN)


def test_events_pass_at_the_rate_and_wait_otherwise() -> None:
    use, allowance = Usage().of(ANN), Allowance(events_per_s=10.0)
    assert [use.wait_s(1, 5, allowance, 100.0) for _ in range(10)] == [0.0] * 10
    assert use.wait_s(1, 5, allowance, 100.0) == pytest.approx(0.1)
    assert use.wait_s(1, 5, allowance, 100.1) == 0.0
    passed = sum(use.wait_s(1, 5, allowance, 101 + step / 1_000) == 0.0 for step in range(10_000))
    assert 100 <= passed <= 110
    assert use.limited > 0


def test_a_call_larger_than_a_second_passes_and_those_behind_it_wait() -> None:
    use, allowance = Usage().of(ANN), Allowance(events_per_s=10.0, bytes_per_s=1_000.0)
    assert use.wait_s(50, 0, allowance, 0.0) == 0.0
    assert use.wait_s(1, 0, allowance, 4.0) == pytest.approx(0.1)
    assert use.wait_s(1, 5_000, allowance, 4.2) == 0.0
    assert use.wait_s(1, 1, allowance, 5.2) == pytest.approx(3.0, abs=0.1)


def test_without_an_allowance_everything_passes_and_is_counted() -> None:
    use = Usage().of(ANN)
    assert all(use.wait_s(1_000, 10**9, Allowance(), 0.0) == 0.0 for _ in range(100))
    assert (use.events, use.bytes) == (100_000, 10**11)


def test_one_principal_is_one_use_whatever_its_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = Usage()
    first = all_of_them.of(ANN)
    assert all_of_them.of(Principal("ann", Kind.TOKEN, frozenset({"new"}))) is first
    assert all_of_them.of(Principal("ann", Kind.JWT)) is not first
    monkeypatch.setattr(usage, "PRINCIPALS", 3)
    first.connections = 1
    for number in range(10):
        all_of_them.of(Principal(f"p{number}", Kind.TOKEN))
    assert len(all_of_them) == 3
    assert all_of_them.of(ANN) is first  # it is connected
