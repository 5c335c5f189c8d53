"""What a bridge's own WORLD table says, and when, as the nodes of its region change their minds."""

from __future__ import annotations

import msgspec
import pytest

from federation.core.advert import EXACT, MERGED, Advertiser
from mesh.core.tables import TableSet
from mesh.model.ids import Version
from mesh.model.limits import Limits
from mesh.wire.frames import Scope

OWNER = "eu/eu-1"
ONE = msgspec.msgpack.encode(1)


class Bench:
    """An advertiser, its table, and a clock that strikes every deadline on the way."""

    def __init__(self, budget: int = 100) -> None:
        self.table = TableSet(Scope.WORLD, OWNER, 1, Limits(), 0.0)
        self.advertiser = Advertiser(self.table, budget)
        self.now = 10.0

    def want(self, node: str, filter: str, present: bool = True, value: bytes = ONE) -> None:
        self.advertiser.entry(node, "f" + filter, value if present else None, self.now)

    def members(self, node: str, count: int, key: str) -> None:
        value = msgspec.msgpack.encode(count) if count else None
        self.advertiser.entry(node, key, value, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.advertiser.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.advertiser.handle_deadline(self.now)
        self.now = end

    def keys(self) -> list[str]:
        return sorted(key for key, _ in self.table.items(OWNER))

    def version(self) -> int:
        position = self.table.position(OWNER)
        return 0 if position is None else position.n


def test_the_first_change_goes_out_at_once_and_those_of_the_next_20_ms_together() -> None:
    bench = Bench()
    bench.want("eu-1", "a")
    bench.run(0.0)
    assert bench.keys() == ["fa"]
    bench.want("eu-1", "b")
    bench.run(0.01)
    bench.want("eu-1", "c")
    assert bench.keys() == ["fa"]
    assert bench.advertiser.next_deadline() == pytest.approx(10.02)
    bench.run(0.011)
    assert bench.keys() == ["fa", "fb", "fc"]
    bench.run(1.0)
    bench.want("eu-1", "d")
    bench.run(0.0)
    assert "fd" in set(bench.keys())


def test_a_filter_goes_5_s_after_its_last_node_dropped_it_and_not_before() -> None:
    bench = Bench()
    bench.want("eu-1", "a")
    bench.want("eu-2", "a")
    bench.run(1.0)
    bench.want("eu-1", "a", False)
    bench.run(20.0)
    assert bench.keys() == ["fa"]
    bench.want("eu-2", "a", False)
    bench.run(4.9)
    assert bench.keys() == ["fa"]
    bench.run(0.2)
    assert bench.keys() == []
    assert bench.advertiser.next_deadline() is None


def test_a_filter_that_comes_back_within_5_s_costs_no_version_and_stays() -> None:
    bench = Bench()
    bench.want("eu-1", "a")
    bench.run(1.0)
    version = bench.version()
    bench.want("eu-1", "a", False)
    bench.run(4.0)
    bench.want("eu-1", "a")
    bench.run(30.0)
    assert bench.keys() == ["fa"]
    assert bench.version() == version


def test_dropping_again_after_a_return_waits_5_s_from_then() -> None:
    bench = Bench()
    bench.want("eu-1", "a")
    bench.run(1.0)
    bench.want("eu-1", "a", False)
    bench.run(4.0)
    bench.want("eu-1", "a")
    bench.run(0.5)
    bench.want("eu-1", "a", False)
    bench.run(4.0)
    assert bench.keys() == ["fa"]
    bench.run(1.1)
    assert bench.keys() == []


def test_a_value_that_was_only_rewritten_never_counts_twice() -> None:
    bench = Bench()
    bench.want("eu-1", "a")
    bench.want("eu-1", "a", value=msgspec.msgpack.encode(7))
    bench.run(1.0)
    bench.want("eu-1", "a", False)
    bench.want("eu-1", "a", False)
    bench.run(6.0)
    assert bench.keys() == []


def test_a_filter_that_another_covers_is_not_told_until_its_coverer_goes() -> None:
    bench = Bench()
    bench.want("eu-1", "orders/#")
    bench.want("eu-2", "orders/eu")
    bench.run(1.0)
    assert bench.keys() == ["forders/#"]
    bench.want("eu-1", "orders/#", False)
    bench.run(0.1)
    # The narrow one is there before the wide one goes: nothing is lost in between.
    assert bench.keys() == ["forders/#", "forders/eu"]
    bench.run(6.0)
    assert bench.keys() == ["forders/eu"]


def test_above_the_budget_entries_are_merged_tagged_and_told_every_200_ms() -> None:
    bench = Bench(budget=4)
    for number in range(20):
        bench.want("eu-1", f"a/{number}/x")
    bench.run(1.0)
    values = dict(bench.table.items(OWNER))
    assert len(values) <= 4
    assert MERGED in values.values()
    bench.want("eu-1", "b")
    bench.run(0.0)
    bench.want("eu-1", "c")
    assert bench.advertiser.next_deadline() == pytest.approx(bench.now + 0.2)


def test_a_merged_entry_turns_exact_in_place_when_the_filters_become_fewer() -> None:
    bench = Bench(budget=1)
    bench.want("eu-1", "a/#")
    bench.run(1.0)
    assert dict(bench.table.items(OWNER)) == {"fa/#": EXACT}
    bench.want("eu-1", "b/#")
    bench.run(1.0)
    assert set(dict(bench.table.items(OWNER)).values()) <= {MERGED, EXACT}
    bench.want("eu-1", "b/#", False)
    bench.run(10.0)
    assert dict(bench.table.items(OWNER)) == {"fa/#": EXACT}


def test_members_of_a_group_are_summed_over_the_nodes_and_told_in_buckets() -> None:
    bench = Bench()
    for node, count in (("eu-1", 4), ("eu-2", 2), ("eu-3", 1)):
        bench.members(node, count, "gworkers/jobs/#")
    bench.run(1.0)
    assert dict(bench.table.items(OWNER)) == {"gworkers/jobs/#": msgspec.msgpack.encode(4)}
    version = bench.version()
    bench.members("eu-3", 0, "gworkers/jobs/#")
    bench.run(1.0)
    assert bench.version() == version, "6 and 7 are one bucket"
    bench.members("eu-3", 2, "gworkers/jobs/#")
    bench.run(1.0)
    assert dict(bench.table.items(OWNER)) == {"gworkers/jobs/#": msgspec.msgpack.encode(8)}


def test_a_group_without_members_goes_after_5_s_and_a_return_cancels_it() -> None:
    bench = Bench()
    bench.members("eu-1", 2, "gworkers/jobs/#")
    bench.run(1.0)
    bench.members("eu-1", 0, "gworkers/jobs/#")
    bench.run(4.0)
    bench.members("eu-2", 2, "gworkers/jobs/#")
    bench.run(10.0)
    assert bench.keys() == ["gworkers/jobs/#"]
    bench.members("eu-2", 0, "gworkers/jobs/#")
    bench.run(5.1)
    assert bench.keys() == []


@pytest.mark.parametrize("count", [-5, -1, 1 << 63])
def test_a_member_that_tells_an_absurd_count_takes_nothing_from_the_others(count: int) -> None:
    bench = Bench()
    bench.members("eu-1", 2, "gworkers/jobs/#")
    bench.members("eu-2", count, "gworkers/jobs/#")
    bench.run(1.0)
    [(key, value)] = bench.table.items(OWNER)
    assert key == "gworkers/jobs/#"
    assert msgspec.msgpack.decode(value) >= 2
    bench.members("eu-2", 1 << 63, "gworkers/jobs/#")
    bench.members("eu-3", 1 << 63, "gworkers/jobs/#")
    bench.run(1.0)
    assert msgspec.msgpack.decode(dict(bench.table.items(OWNER))[key]) <= 1 << 63


def test_what_is_covered_is_written_after_the_interest_it_covers() -> None:
    bench = Bench()
    bench.want("eu-2", "a")
    bench.advertiser.waiting("eu-2", Version(3, 8), bench.now)
    bench.run(0.0)
    written = [key for delta in bench.table.news() for key, _, _ in delta.entries]
    assert written == ["fa", "c"]
    assert msgspec.msgpack.decode(bench.table.get(OWNER, "c")) == {"eu-2": [3, 8]}  # type: ignore[arg-type]


def test_the_covered_vector_goes_5_s_after_nobody_waits_any_more() -> None:
    bench = Bench()
    bench.advertiser.waiting("eu-2", Version(3, 8), bench.now)
    bench.run(1.0)
    bench.advertiser.waiting("eu-2", None, bench.now)
    bench.run(4.0)
    assert bench.keys() == ["c"]
    bench.run(2.0)
    assert bench.keys() == []
    bench.advertiser.waiting("eu-2", Version(3, 9), bench.now)
    bench.run(1.0)
    assert bench.keys() == ["c"]


def test_other_keys_of_a_member_change_nothing() -> None:
    bench = Bench()
    bench.advertiser.entry("eu-2", "rus/us-1", b"\xc1", bench.now)
    bench.run(1.0)
    assert bench.keys() == []
