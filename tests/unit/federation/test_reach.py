"""The index of other regions' interest against a union worked out from scratch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.core.reach import Reach, group_key, split_group_key
from mesh.core.interest import Destinations, InterestIndex

REGIONS = ("us", "ap")
BRIDGES = ("1", "2", "3")
KEYS = ("fa", "fb/#", "f#", "ggroup/a", "ggroup/b/#")


class Naive:
    """What is wanted, by the definition: union over the bridges that count."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, int]]] = {}
        self.live: dict[str, frozenset[str]] = {}

    def union(self, region: str) -> dict[str, int]:
        tables = self.tables.get(region, {})
        counted = [b for b in tables if b in self.live.get(region, ())] or list(tables)
        union: dict[str, int] = {}
        for bridge in counted:
            for key, value in tables[bridge].items():
                union[key] = max(value, union.get(key, 0))
        return union


def shown(region: str, destinations: Destinations, interest: InterestIndex) -> dict[str, int]:
    bit = destinations.find("r/" + region)
    found = {key: 1 for key in KEYS if key[0] == "f" and bit and interest.holders(key[1:]) & bit}
    for key in KEYS:
        if key[0] == "g" and bit:
            members = interest.group_members(*split_group_key(key)).get(bit, 0)
            if members:
                found[key] = members
    return found


STEP = st.one_of(
    st.tuples(
        st.just("set"),
        st.sampled_from(REGIONS),
        st.sampled_from(BRIDGES),
        st.sampled_from(KEYS),
        st.none() | st.integers(0, 8),
    ),
    st.tuples(st.just("live"), st.sampled_from(REGIONS), st.frozensets(st.sampled_from(BRIDGES))),
    st.tuples(st.just("forget"), st.sampled_from(REGIONS), st.sampled_from(BRIDGES)),
)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(st.lists(STEP, max_size=30))
def test_the_index_equals_the_union_of_the_bridges_that_count_after_every_step(
    steps: list[tuple[object, ...]],
) -> None:
    destinations, interest = Destinations(), InterestIndex()
    reach, naive = Reach(destinations, interest), Naive()
    for step in steps:
        match step:
            case ("set", str(region), str(bridge), str(key), value):
                assert value is None or isinstance(value, int)
                reach.set_entry(region, bridge, key, value)
                table = naive.tables.setdefault(region, {}).setdefault(bridge, {})
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
            case ("live", str(region), frozenset() as bridges):
                reach.set_live(region, bridges)  # type: ignore[arg-type]
                naive.live[region] = bridges  # type: ignore[assignment]
            case ("forget", str(region), str(bridge)):
                reach.forget(region, bridge)
                tables = naive.tables.get(region, {})
                tables.pop(bridge, None)
                if not tables:
                    naive.tables.pop(region, None)
                    naive.live.pop(region, None)
        for region in REGIONS:
            wanted = {k: (1 if k[0] == "f" else v) for k, v in naive.union(region).items()}
            assert shown(region, destinations, interest) == {k: v for k, v in wanted.items() if v}
        assert set(reach.regions()) == set(naive.tables)
        assert reach.filters == sum(len(naive.union(region)) for region in REGIONS)
        assert reach.kept == {region for region in naive.tables if not naive.live.get(region)}


def bench() -> tuple[Reach, Destinations, InterestIndex]:
    destinations, interest = Destinations(), InterestIndex()
    return Reach(destinations, interest), destinations, interest


def test_interest_of_a_region_that_is_cut_off_is_kept_and_equals_the_truth_again_after_healing() -> None:
    reach, destinations, interest = bench()
    reach.set_live("us", frozenset({"1"}))
    reach.set_entry("us", "1", "fa", 0)
    reach.set_live("us", frozenset())
    assert reach.kept == {"us"}
    assert interest.holders("a") == destinations.find("r/us")
    reach.set_live("us", frozenset({"1"}))
    reach.set_entry("us", "1", "fa", None)
    assert not reach.kept
    assert interest.holders("a") == 0


def test_a_bridge_without_a_table_does_not_hide_those_that_have_one() -> None:
    reach, destinations, interest = bench()
    reach.set_entry("us", "1", "fa", 0)
    reach.set_live("us", frozenset({"2"}))
    assert interest.holders("a") == destinations.find("r/us")
    reach.set_entry("us", "2", "fb", 0)
    assert (interest.holders("a"), interest.holders("b")) == (0, destinations.find("r/us"))


def test_two_bridges_with_the_same_entry_need_both_to_drop_it() -> None:
    reach, destinations, interest = bench()
    reach.set_live("us", frozenset({"1", "2"}))
    for bridge in ("1", "2"):
        reach.set_entry("us", bridge, "fa", 0)
    reach.set_entry("us", "1", "fa", None)
    assert interest.holders("a") == destinations.find("r/us")
    reach.forget("us", "2")
    assert interest.holders("a") == 0


def test_forgetting_the_last_bridge_of_a_region_gives_its_bit_to_the_next_region_empty() -> None:
    reach, destinations, interest = bench()
    reach.set_entry("us", "1", "fa", 0)
    bit = destinations.find("r/us")
    reach.forget("us", "1")
    assert "r/us" not in destinations
    assert destinations.bit("r/ap") == bit
    assert interest.filters_of(bit) == frozenset()


def test_a_group_and_its_filter_survive_the_way_through_a_table_key() -> None:
    assert split_group_key(group_key("workers", "jobs/+/done")) == ("workers", "jobs/+/done")


def test_a_live_bridge_that_exports_nothing_ends_the_interest_that_only_a_lost_bridge_told() -> None:
    destinations, interest = Destinations(), InterestIndex()
    reach = Reach(destinations, interest)
    reach.set_live("us", frozenset({"1", "2"}))
    reach.set_entry("us", "1", "f#", 0)
    reach.told("us", "2")
    assert shown("us", destinations, interest) == {"f#": 1}
    reach.set_live("us", frozenset({"2"}))
    assert shown("us", destinations, interest) == {}
    reach.set_live("us", frozenset())
    assert shown("us", destinations, interest) == {"f#": 1}  # cut off: everything known is kept
