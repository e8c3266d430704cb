"""Metrics for Prometheus: what is told, in a text that Prometheus reads, and under bounded labels."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.collective.kit import make

from dodici.collective import Collector
from dodici.collective.metrics import CollectiveMetrics, prometheus_text
from dodici.collective.stats import BUCKETS

SAY = {"namespace": "plain", "service": "Echo", "method": "Say"}


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


async def test_figures_over_a_hop() -> None:
    a = Collector("a", "127.0.0.1:0", namespaces=["plain"])
    b, _ = make()
    async with a, b:
        address = a.address
        await a.connect_to(b.address)
        for given in ("x", "y", "abort"):
            await a.dispatch("plain", "Echo", "Say", given)
        told, served = samples(prometheus_text(a)), samples(prometheus_text(b))
    calls = told["dodici_collective_calls_total"]
    assert calls == {
        labels(role="entry", **SAY, peer="kit-1", code="OK"): 2,
        labels(role="entry", **SAY, peer="kit-1", code="ALREADY_EXISTS"): 1,
    }
    assert served["dodici_collective_calls_total"][labels(role="serve", **SAY, peer="a", code="OK")] == 2
    seconds = told["dodici_collective_call_seconds_bucket"]
    assert seconds[labels(role="entry", **SAY, le="+Inf")] == 3
    assert len(seconds) == len(BUCKETS) + 1
    assert told["dodici_collective_call_seconds_count"] == {labels(role="entry", **SAY): 3}
    assert 0 < told["dodici_collective_call_seconds_sum"][labels(role="entry", **SAY)] < 5
    assert told["dodici_collective_info"] == {labels(collector="a", address=address): 1}
    assert told["dodici_collective_serving"] == {(): 1}
    assert told["dodici_collective_in_flight"] == {(): 0}
    assert told["dodici_collective_routes"] == {labels(where="local"): 0, labels(where="remote"): 2}
    assert told["dodici_collective_peer_connected"] == {labels(peer="kit-1"): 1}
    assert told["dodici_collective_peer_ejected"] == {labels(peer="kit-1"): 0}
    assert told["dodici_collective_peer_breaker"] == {
        labels(peer="kit-1", namespace="plain", state=state): float(state == "closed")
        for state in ("closed", "open", "half_open")
    }


async def test_what_callers_invent_makes_no_labels() -> None:
    collector, _ = make()
    async with collector:
        for number in range(50):
            await collector.dispatch("plain", "Echo", f"Guess{number}")
            await collector.dispatch(f"guess{number}", "Echo", "Say")
        told = samples(prometheus_text(collector))["dodici_collective_calls_total"]
    unknown = {"namespace": "(unknown)", "service": "(unknown)", "method": "(unknown)"}
    assert told == {
        labels(role="entry", **unknown, peer="", code="UNIMPLEMENTED"): 50,
        labels(role="entry", **unknown, peer="", code="NOT_FOUND"): 50,
    }


async def test_beside_the_metrics_of_an_application() -> None:
    collector, _ = make()
    registry = CollectorRegistry()
    registry.register(CollectiveMetrics(collector))
    assert "dodici_collective_serving 0.0" in generate_latest(registry).decode()
    async with collector:
        assert "dodici_collective_serving 1.0" in generate_latest(registry).decode()
