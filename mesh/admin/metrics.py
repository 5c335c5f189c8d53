"""Metrics in the Prometheus text format, read from plain counters when somebody scrapes.

Decides names, labels and their bounds: every label has a closed set of values or a cap, so that no peer can make a scrape grow.
Never counts anything itself.
Source: Prometheus exposition format 0.0.4 and OpenMetrics 1.0; docs/operating.md lists the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from mesh import __version__
from mesh.model.journal import JournalState
from mesh.node.inspect import AuditReading, Counters, CustodyReading, Inspect, JournalReading

REFUSAL_SERIES: Final = 64
"""Refusals are named by the code of many places: beyond so many (port, reason) pairs the rest is summed up as "other"."""
DESTINATION_SERIES: Final = 64
"""Destinations and peers that have a series of their own; the rest is summed up as "other"."""


class Metrics:
    """All metrics of one node."""

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text of one scrape and its content type, in the form the scraper accepts. Cost: about 1 ms."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape; called by the registry."""
        key = self._inspect.key
        info = GaugeMetricFamily("mesh_info", "What runs here.", labels=("region", "node", "version"))
        info.add_metric((key.region, key.node, __version__), 1)
        yield info
        counters = self._inspect.counters()
        yield from _totals(counters)
        yield from _gauges(counters)
        yield from _registries(counters)
        yield from _security(counters)
        yield from _custody(counters.custody)
        if counters.custody.journal is not None:
            yield from _journal(counters.custody.journal)
        if counters.audit is not None:
            yield from _audit(counters.audit)
        ready = GaugeMetricFamily("mesh_ready", "1 while clients should be sent here.")
        ready.add_metric((), int(self._inspect.ready()[0]))
        yield ready


def _totals(counters: Counters) -> Iterator[Metric]:
    for name, about, value in (
        ("mesh_events_published", "Events taken in from clients.", counters.published),
        (
            "mesh_events_delivered",
            "Events handed to client sessions, each session counted.",
            counters.delivered,
        ),
        ("mesh_events_forwarded", "Events sent over links, each link counted.", counters.forwarded),
        ("mesh_policy_denied", "Events that a boundary did not let cross.", counters.policy.denied),
        ("mesh_policy_denials_lost", "Denials that no audit took in time.", counters.policy.denials_lost),
        (
            "mesh_policy_requests_forgotten",
            "Requests whose replies a boundary no longer lets back.",
            counters.policy.requests_forgotten,
        ),
        (
            "mesh_policy_interest_refused",
            "Interest entries for which a boundary had no room.",
            counters.policy.interest_refused,
        ),
        ("mesh_watch_lost", "Changes that a slow watcher of the admin port lost.", counters.watch_lost),
    ):
        family = CounterMetricFamily(name, about)
        family.add_metric((), value)
        yield family
    yield _counted("mesh_drops", "Events not delivered, by reason.", "reason", counters.drops)
    refusals = CounterMetricFamily(
        "mesh_refusals", "Refused or broken connections and requests.", labels=("port", "reason")
    )
    for (port, reason), count in _capped(counters.refusals):
        refusals.add_metric((port, reason), count)
    yield refusals
    for name, about, received, sent in (
        ("mesh_link_bytes", "Bytes over links.", counters.bytes_in, counters.bytes_out),
        ("mesh_link_batches", "Batches over links.", counters.batches_in, counters.batches_out),
    ):
        yield _counted(name, about, "direction", {"in": received, "out": sent})


def _gauges(counters: Counters) -> Iterator[Metric]:
    links = GaugeMetricFamily("mesh_links", "Links by kind and state.", labels=("kind", "state"))
    for (kind, state), count in sorted(counters.links.items()):
        links.add_metric((kind, state), count)
    yield links
    for name, about, label, values in (
        ("mesh_members", "Members of the region by state.", "state", counters.members),
        ("mesh_routes", "Routes to other regions by state.", "state", counters.routes),
        ("mesh_sessions", "Client connections by protocol.", "protocol", counters.sessions),
    ):
        family = GaugeMetricFamily(name, about, labels=(label,))
        for value, count in sorted(values.items()):
            family.add_metric((value,), count)
        yield family
    for name, about, number in (
        ("mesh_subscriptions", "Subscriptions of this node's clients.", counters.subscriptions),
        ("mesh_remote_filters", "Filters held for other regions.", counters.remote_filters),
        ("mesh_queued_bytes", "Bytes of batches that wait for links.", counters.queued_bytes),
    ):
        gauge = GaugeMetricFamily(name, about)
        gauge.add_metric((), number)
        yield gauge


def _registries(counters: Counters) -> Iterator[Metric]:
    """Each registry in use, by what it is used for."""
    up = GaugeMetricFamily("mesh_registry_reachable", "1 while the registry answers.", labels=("role",))
    calls = CounterMetricFamily("mesh_registry_calls", "Requests to the registry.", labels=("role",))
    failed = CounterMetricFamily("mesh_registry_failures", "Requests it did not answer.", labels=("role",))
    for role, registry in sorted(counters.registries.items()):
        up.add_metric((role,), int(registry.reachable))
        calls.add_metric((role,), registry.calls)
        failed.add_metric((role,), registry.failures)
    yield from (up, calls, failed)


def _custody(custody: CustodyReading) -> Iterator[Metric]:
    """At-least-once delivery: what is kept, where it waits, and what ended."""
    for name, about, number in (
        ("mesh_custody_records", "Records kept for other regions and nodes.", custody.records),
        ("mesh_custody_held_back", "Events that wait here for the one before them.", custody.held_back),
        ("mesh_dead_letters_kept", "Dead letters that wait for a person.", custody.letters),
        ("mesh_dead_letters_kept_bytes", "Bytes of these.", custody.letter_bytes),
        (
            "mesh_copies_alone",
            "Records that are to have a second copy and have none now.",
            custody.copies_alone,
        ),
        (
            "mesh_copies_kept_bytes",
            "Bytes of second copies kept for other nodes.",
            custody.copies_kept_bytes,
        ),
    ):
        gauge = GaugeMetricFamily(name, about)
        gauge.add_metric((), number)
        yield gauge
    for name, about, label, values in (
        ("mesh_custody_waiting", "Records that wait, by destination.", "destination", custody.waiting),
        (
            "mesh_custody_under_way_bytes",
            "Bytes sent to a peer and not stored there yet, as far as it said.",
            "peer",
            custody.under_way_bytes,
        ),
    ):
        family = GaugeMetricFamily(name, about, labels=(label,))
        for value, count in _largest(values):
            family.add_metric((value,), count)
        yield family
    yield _counted(
        "mesh_custody_refused", "Batches a next hop did not take, by its reason.", "reason", custody.refused
    )
    yield _counted(
        "mesh_dead_letters", "Events that ended as dead letters, by reason.", "reason", custody.died
    )
    yield _counted(
        "mesh_copies_short",
        "Events accepted with one copy where a rule wants two, by reason.",
        "reason",
        custody.copies_short,
    )
    taken = CounterMetricFamily("mesh_copies_taken", "Records taken over from nodes that are gone.")
    taken.add_metric((), custody.copies_taken)
    yield taken
    for name, about, number in (
        (
            "mesh_custody_passed_window",
            "Events below the dedupe window: delivered, perhaps again.",
            custody.passed_window,
        ),
        (
            "mesh_custody_order_gaps",
            "Events of ordered topics that went without the one before them.",
            custody.order_gaps,
        ),
    ):
        counter = CounterMetricFamily(name, about)
        counter.add_metric((), number)
        yield counter


def _security(counters: Counters) -> Iterator[Metric]:
    expires = GaugeMetricFamily(
        "mesh_certificate_expires_seconds", "Until the node's own certificate expires.", labels=("use",)
    )
    for use, left_s in sorted(counters.certificates.items()):
        expires.add_metric((use,), round(left_s))
    yield expires
    exposed = GaugeMetricFamily(
        "mesh_exposed",
        "1 while it is open to a network in clear text, because the operator said so.",
        labels=("what",),
    )
    for what, is_open in sorted(counters.exposed.items()):
        exposed.add_metric((what,), int(is_open))
    yield exposed


def _journal(journal: JournalReading) -> Iterator[Metric]:
    state = GaugeMetricFamily("mesh_journal_state", "1 for the state the journal is in.", labels=("state",))
    for each in JournalState:
        state.add_metric((each.value,), int(each.value == journal.state))
    yield state
    for name, about, number in (
        ("mesh_journal_records", "Records that are not settled.", journal.records),
        ("mesh_journal_bytes", "Bytes of the journal's segments.", journal.bytes),
    ):
        gauge = GaugeMetricFamily(name, about)
        gauge.add_metric((), number)
        yield gauge
    for name, about, number in (
        ("mesh_journal_commits", "Commits: writes that were synced.", journal.commits),
        ("mesh_journal_committed_bytes", "Bytes of these.", journal.committed_bytes),
    ):
        counter = CounterMetricFamily(name, about)
        counter.add_metric((), number)
        yield counter


def _audit(audit: AuditReading) -> Iterator[Metric]:
    """Records of who did what: written, and lost because the disk or the queue was full."""
    for name, about, number in (
        ("mesh_audit_writes", "1 while the audit file takes records.", int(audit.writes)),
        ("mesh_audit_waiting", "Records that wait for the disk.", audit.waiting),
    ):
        gauge = GaugeMetricFamily(name, about)
        gauge.add_metric((), number)
        yield gauge
    written = CounterMetricFamily("mesh_audit_written", "Records in the audit file.")
    written.add_metric((), audit.written)
    yield written
    yield _counted("mesh_audit_lost", "Records that no file has, by reason.", "reason", audit.lost)


def _largest(values: Mapping[str, int]) -> list[tuple[str, int]]:
    """The largest DESTINATION_SERIES of them, and the sum of the rest as "other"."""
    ranked = sorted(values.items(), key=lambda entry: (-entry[1], entry[0]))
    rest = sum(count for _, count in ranked[DESTINATION_SERIES:])
    return sorted(ranked[:DESTINATION_SERIES]) + ([("other", rest)] if rest else [])


def _counted(name: str, about: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, about, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family


def _capped(refusals: Mapping[tuple[str, str], int]) -> list[tuple[tuple[str, str], int]]:
    """The largest REFUSAL_SERIES counts, and the sum of the others for each port."""
    ranked = sorted(refusals.items(), key=lambda entry: (-entry[1], entry[0]))
    kept = dict(ranked[:REFUSAL_SERIES])
    for (port, _), count in ranked[REFUSAL_SERIES:]:
        kept[port, "other"] = kept.get((port, "other"), 0) + count
    return sorted(kept.items())
