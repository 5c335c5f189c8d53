"""What the bench makes of its measurements. The chain itself is started by tests/e2e."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mesh.testing import bench
from mesh.testing.fleet import RunningNode


class Watched:
    """A node whose processor time is told."""

    def __init__(self, name: str, cpu_s: float) -> None:
        self.name = name
        self._cpu_s = cpu_s

    def cpu_s(self) -> float:
        return self._cpu_s


def chain(*cpu_s: float) -> list[RunningNode]:
    return [cast(RunningNode, Watched(f"n{number}", used)) for number, used in enumerate(cpu_s)]


TOLD: dict[str, Any] = {
    "published": 1_000,
    "received": 990,
    "lost": 10,
    "duplicates": 0,
    "load_cpu_s": 0.5,
    "seconds": 1.0,
}


def test_costs_are_microseconds_of_each_nodes_processor_for_each_published_event() -> None:
    run = bench._costs(chain(1.5, 2.25), [1.0, 2.0], TOLD)
    assert run["nodes"] == {"n0": 500.0, "n1": 250.0}
    assert run["cpu_us_per_event"] == 750.0
    assert (run["load_cpu_us_per_event"], run["load_cpu_share"]) == (500.0, 0.5)
    assert (run["published"], run["received"], run["lost"], run["duplicates"]) == (1_000, 990, 10, 0)


def test_a_summary_has_median_and_spread_and_nodes_by_their_own_medians() -> None:
    runs = [{"x": value, "nodes": {"a": value, "b": 2.0 * value}} for value in (3.0, 1.0, 2.0)]
    found = bench._summary(runs, ("x",))
    assert found == {"x": {"median": 2.0, "min": 1.0, "max": 3.0}, "nodes": {"a": 2.0, "b": 4.0}}
    assert bench._summary([], ("x",)) == {}


async def test_full_speed_tells_when_the_load_is_what_limits_it() -> None:
    class Load:
        def __init__(self, cpu_s: float) -> None:
            self.cpu_s = cpu_s

        async def do(self, **command: object) -> dict[str, Any]:
            assert command == {"do": "closed", "events": 1_000}
            return {**TOLD, "load_cpu_s": self.cpu_s}

    slow = await bench._full_speed(cast(Any, Load(0.5)), chain(1.0), 1_000)
    busy = await bench._full_speed(cast(Any, Load(0.9)), chain(1.0), 1_000)
    assert (slow["load_limits"], busy["load_limits"]) == (False, True)
    assert slow["events_per_s"] == 990


async def test_a_fixed_rate_tells_latencies_from_when_each_event_was_due() -> None:
    class Load:
        async def do(self, **command: object) -> dict[str, Any]:
            assert command == {"do": "open", "rate": 100.0, "seconds": 2.0}
            return {**TOLD, "latency_us": {"p50": 10.4, "p99": 99.6}, "late_us": {"p99": 3.2}}

    run = await bench._fixed_rate(cast(Any, Load()), chain(0.0), bench.Wish(rate=100.0, rate_s=2.0))
    assert (run["p50_us"], run["p99_us"], run["late_p99_us"]) == (10, 100, 3)


def test_memory_is_told_in_megabytes() -> None:
    assert bench._mb(79_960_000) == pytest.approx(80.0)
