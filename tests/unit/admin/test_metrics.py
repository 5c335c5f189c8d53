from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families
from unit.admin.fake_inspect import FakeInspect

from mesh.admin.metrics import DESTINATION_SERIES, REFUSAL_SERIES, Metrics
from mesh.node.inspect import Counters, CustodyReading, JournalReading, PolicyReading, RegistryCounters


def scrape(inspect: FakeInspect) -> dict[tuple[str, tuple[str, ...]], float]:
    body, content_type = Metrics(inspect).render("")
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_every_counter_has_its_name_and_labels() -> None:
    inspect = FakeInspect()
    inspect.reading = Counters(
        published=10,
        delivered=20,
        forwarded=30,
        drops={"no_route": 4},
        refusals={("events", "slow_sender"): 5},
        links={("bridge", "open"): 2},
        members={"alive": 3, "suspect": 1},
        routes={"in_use": 6},
        sessions={"sse": 7},
        subscriptions=8,
        remote_filters=9,
        queued_bytes=11,
        bytes_in=12,
        bytes_out=13,
        batches_in=14,
        batches_out=15,
        watch_lost=16,
        policy=PolicyReading(17, 18, 19, 20),
        registries={"all": RegistryCounters(True, 17, 18)},
        custody=CustodyReading(
            records=19,
            waiting={"r/us": 20},
            refused={"full": 21},
            died={"expired": 22},
            letters=23,
            letter_bytes=24,
            under_way_bytes={"us/us-1": 25},
            passed_window=26,
            journal=JournalReading("no_space", 27, 28, 29, 30),
        ),
    )
    found = scrape(inspect)
    expected = {
        ("mesh_events_published_total", ()): 10,
        ("mesh_events_delivered_total", ()): 20,
        ("mesh_events_forwarded_total", ()): 30,
        ("mesh_drops_total", ("no_route",)): 4,
        ("mesh_refusals_total", ("events", "slow_sender")): 5,
        ("mesh_links", ("bridge", "open")): 2,
        ("mesh_members", ("alive",)): 3,
        ("mesh_members", ("suspect",)): 1,
        ("mesh_routes", ("in_use",)): 6,
        ("mesh_sessions", ("sse",)): 7,
        ("mesh_subscriptions", ()): 8,
        ("mesh_remote_filters", ()): 9,
        ("mesh_queued_bytes", ()): 11,
        ("mesh_link_bytes_total", ("in",)): 12,
        ("mesh_link_bytes_total", ("out",)): 13,
        ("mesh_link_batches_total", ("in",)): 14,
        ("mesh_link_batches_total", ("out",)): 15,
        ("mesh_watch_lost_total", ()): 16,
        ("mesh_policy_denied_total", ()): 17,
        ("mesh_policy_denials_lost_total", ()): 18,
        ("mesh_policy_requests_forgotten_total", ()): 19,
        ("mesh_policy_interest_refused_total", ()): 20,
        ("mesh_registry_reachable", ("all",)): 1,
        ("mesh_registry_calls_total", ("all",)): 17,
        ("mesh_registry_failures_total", ("all",)): 18,
        ("mesh_custody_records", ()): 19,
        ("mesh_custody_waiting", ("r/us",)): 20,
        ("mesh_custody_refused_total", ("full",)): 21,
        ("mesh_dead_letters_total", ("expired",)): 22,
        ("mesh_dead_letters_kept", ()): 23,
        ("mesh_dead_letters_kept_bytes", ()): 24,
        ("mesh_custody_under_way_bytes", ("us/us-1",)): 25,
        ("mesh_custody_passed_window_total", ()): 26,
        ("mesh_journal_state", ("no_space",)): 1,
        ("mesh_journal_state", ("ok",)): 0,
        ("mesh_journal_records", ()): 27,
        ("mesh_journal_bytes", ()): 28,
        ("mesh_journal_commits_total", ()): 29,
        ("mesh_journal_committed_bytes_total", ()): 30,
        ("mesh_ready", ()): 1,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["mesh_info", ("0.1.0", "eu", "eu-1")] == 1
    assert ("process_resident_memory_bytes", ()) in found


def test_refusals_cannot_grow_a_scrape_without_bound() -> None:
    inspect = FakeInspect()
    inspect.reading = Counters(refusals={("link", f"reason{n}"): n + 1 for n in range(500)})
    series = {key: value for key, value in scrape(inspect).items() if key[0] == "mesh_refusals_total"}
    assert len(series) == REFUSAL_SERIES + 1
    assert sum(series.values()) == sum(range(1, 501))
    assert series["mesh_refusals_total", ("link", "other")] > 0


def test_a_scraper_that_accepts_openmetrics_gets_it() -> None:
    body, content_type = Metrics(FakeInspect()).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_operating_page_names_every_metric() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    body, _ = Metrics(FakeInspect()).render("")
    names = set(re.findall(r"^# TYPE (mesh_\w+)", body.decode(), re.M))
    assert not [name for name in names if f"`{name}" not in page]


def test_destinations_beyond_a_bound_are_summed_up() -> None:
    inspect = FakeInspect()
    waiting = {f"r/{n}": n for n in range(1, DESTINATION_SERIES + 11)}
    inspect.reading = Counters(custody=CustodyReading(waiting=waiting))
    found = {
        labels[0]: value
        for (name, labels), value in scrape(inspect).items()
        if name == "mesh_custody_waiting"
    }
    assert len(found) == DESTINATION_SERIES + 1
    assert found["other"] == sum(range(1, 11))
    assert sum(found.values()) == sum(waiting.values())
