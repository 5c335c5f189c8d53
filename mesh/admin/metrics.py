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
from mesh.node.inspect import Counters, Inspect

REFUSAL_SERIES: Final = 64
"""Refusals are named by the code of many places: beyond so many (port, reason) pairs the rest is summed up as "other"."""


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
