"""A collector's figures for Prometheus. Needs prometheus-client, which `dodici[server]` brings.

    text = prometheus_text(collector)                   the text format, for whoever serves it
    registry.register(CollectiveMetrics(collector))     beside the metrics of an application

Figures are read when they are asked for, on the event loop of the collector: `collect()` is for that thread alone.
Labels are bounded by what is bounded in `stats.py`, so that no caller can make them grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as MetricsSource

from .stats import BUCKETS, CollectorStats, PeerStats, Tally

if TYPE_CHECKING:
    from .collector import Collector
    from .history import Role
    from .names import RouteKey

_CALL = ["role", "namespace", "service", "method"]
_STATES = ("closed", "open", "half_open")


def prometheus_text(collector: Collector) -> str:
    """The figures of a collector in the text format of Prometheus (version 0.0.4)."""
    registry = CollectorRegistry()
    registry.register(CollectiveMetrics(collector))
    return generate_latest(registry).decode()


class CollectiveMetrics(MetricsSource):
    """The figures of a collector, as metrics.

    dodici_collective_calls_total{role,namespace,service,method,peer,code}      calls that have ended
    dodici_collective_call_seconds{role,namespace,service,method}               a histogram of their durations
    dodici_collective_in_flight, dodici_collective_serving, dodici_collective_info{collector,address}
    dodici_collective_routes{where="local"|"remote"}, dodici_collective_members
    dodici_collective_peer_connected, _peer_in_flight, _peer_latency_seconds, _peer_ejected {peer}
    dodici_collective_peer_breaker{peer,namespace,state}                        1 for the state that it is in

    `peer` is who it was sent to, or for `role="serve"` the collector that it came from; empty for none. `code` is the
    name of a gRPC status.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would else ask for the figures when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """See prometheus-client. For the thread of the collector's event loop."""
        stats = self._collector.stats()
        yield from _of_calls(self._collector._figures.tallies)
        yield from _of_collector(stats)
        yield from _of_peers(stats.peers.values())


def _of_calls(tallies: dict[tuple[Role, RouteKey], Tally]) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "dodici_collective_calls", "Calls that have ended", labels=[*_CALL, "peer", "code"]
    )
    seconds = HistogramMetricFamily("dodici_collective_call_seconds", "How long they took", labels=_CALL)
    for (role, key), tally in tallies.items():
        labels = [role, *key]
        for (peer, status), count in tally.codes.items():
            calls.add_metric([*labels, peer, status.name], count)
        total = 0
        buckets = []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), tally.buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        seconds.add_metric(labels, buckets, tally.seconds)
    yield from (calls, seconds)


def _of_collector(stats: CollectorStats) -> Iterator[Metric]:
    info = GaugeMetricFamily("dodici_collective_info", "Who it is; always 1", labels=["collector", "address"])
    info.add_metric([stats.id, stats.address], 1)
    routes = GaugeMetricFamily("dodici_collective_routes", "Methods that can be called", labels=["where"])
    routes.add_metric(["local"], sum(route.local for route in stats.routes.values()))
    routes.add_metric(["remote"], sum(bool(route.peers) for route in stats.routes.values()))
    yield from (info, routes)
    yield GaugeMetricFamily(
        "dodici_collective_in_flight", "Calls that run here or pass through", stats.in_flight
    )
    yield GaugeMetricFamily(
        "dodici_collective_serving", "1 while it serves, 0 when it drains", stats.state == "serving"
    )
    yield GaugeMetricFamily(
        "dodici_collective_members", "Other collectors that discovery knows", len(stats.members)
    )


def _of_peers(peers: Iterable[PeerStats]) -> Iterator[Metric]:
    gauges = {
        name: GaugeMetricFamily(f"dodici_collective_peer_{name}", text, labels=["peer"])
        for name, text in (
            ("connected", "1 while it can be called"),
            ("in_flight", "Calls that run there"),
            ("latency_seconds", "How long an answer is expected to take"),
            ("ejected", "1 while it is out of rotation"),
        )
    }
    breakers = GaugeMetricFamily(
        "dodici_collective_peer_breaker",
        "1 for the state that its breaker is in",
        labels=["peer", "namespace", "state"],
    )
    for peer in peers:
        gauges["connected"].add_metric([peer.id], peer.state == "connected")
        gauges["in_flight"].add_metric([peer.id], peer.in_flight)
        gauges["latency_seconds"].add_metric([peer.id], peer.latency)
        gauges["ejected"].add_metric([peer.id], peer.ejected_for > 0)
        for namespace, now in peer.breakers.items():
            for state in _STATES:
                breakers.add_metric([peer.id, namespace, state], state == now)
    yield from (*gauges.values(), breakers)
