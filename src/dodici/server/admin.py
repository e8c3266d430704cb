"""Metrics for Prometheus and the status as JSON, at an address of their own; off unless it is configured.

    GET /metrics    the text format of Prometheus, or OpenMetrics to those who ask for it
    GET /status     what `dodici ps --json` prints
    GET /healthz    200 while requests are taken, 503 while it starts or drains, or a service has failed

Who may read this is decided by who can reach the address. At a loopback address the Host field must name one, too:
a web page could else read it through a name that it makes point here.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .tally import BUCKETS, Tally

if TYPE_CHECKING:
    from .. import collective

Status = Callable[[], dict[str, Any]]


class Admin:
    """The ASGI app.

    Args:
        status: gives the present status.
        tallies: what the gateway counts, by service.
        local: whether only names of this machine are answered.
        collector: whose figures are told, too.
    """

    def __init__(
        self,
        status: Status,
        tallies: Mapping[str, Tally],
        *,
        local: bool = True,
        collector: collective.Collector | None = None,
    ) -> None:
        self._status = status
        self._local = local
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(status, tallies))
        if collector is not None:
            from ..collective.metrics import CollectiveMetrics

            self._registry.register(CollectiveMetrics(collector))

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """ASGI 3."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status, kind, body = self._answer(scope)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, scope: dict[str, Any]) -> tuple[int, str, bytes]:
        text = "text/plain; charset=utf-8"
        fields = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._local and not _names_loopback(fields.get(b"host", "")):
            return 403, text, b"403: the Host field names another machine\n"
        if scope["method"] not in {"GET", "HEAD"}:
            return 405, text, b"405: GET and HEAD alone\n"
        match scope["path"]:
            case "/metrics":
                encode, kind = choose_encoder(fields.get(b"accept", ""))
                return 200, kind, encode(self._registry)
            case "/status":
                return 200, "application/json", json.dumps(self._status(), indent=2).encode() + b"\n"
            case "/healthz":
                status = self._status()
                failed = [each["name"] for each in status["services"] if each["state"] == "failed"]
                if status["state"] != "running":
                    return 503, text, f"503: {status['state']}\n".encode()
                if failed:
                    return 503, text, f"503: failed: {', '.join(failed)}\n".encode()
                return 200, text, b"200: running\n"
        return 404, text, b"404: there are /metrics, /status and /healthz\n"


def _names_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class _Figures(Collector):
    """Reads the figures when they are asked for: nothing is counted twice."""

    def __init__(self, status: Status, tallies: Mapping[str, Tally]) -> None:
        self._status = status
        self._tallies = tallies

    def collect(self) -> Iterable[Metric]:
        yield from self._of_gateway()
        yield from self._of_workers()

    def _of_gateway(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "dodici_gateway_requests", "Requests that have ended", labels=["service", "status"]
        )
        running = GaugeMetricFamily(
            "dodici_gateway_running", "Requests that are being answered", labels=["service"]
        )
        sockets = GaugeMetricFamily(
            "dodici_gateway_websockets", "WebSockets that are open", labels=["service"]
        )
        durations = HistogramMetricFamily(
            "dodici_gateway_request_seconds",
            "From the request's head to the response's last byte",
            labels=["service"],
        )
        for service, tally in list(self._tallies.items()):
            for status, count in tally.statuses.items():
                requests.add_metric([service, str(status)], count)
            running.add_metric([service], tally.running)
            sockets.add_metric([service], tally.websockets)
            total = 0
            buckets = []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), tally.buckets, strict=True):
                total += count
                buckets.append((bound, float(total)))
            durations.add_metric([service], buckets, tally.seconds)
        yield from (requests, running, sockets, durations)
        yield GaugeMetricFamily(
            "dodici_gateway_connections", "Connections that are open", self._status()["connections"]
        )

    def _of_workers(self) -> Iterable[Metric]:
        labels = ["service", "worker"]
        wanted = GaugeMetricFamily(
            "dodici_service_workers_wanted", "Workers that the configuration says", labels=["service"]
        )
        ready = GaugeMetricFamily("dodici_service_workers_ready", "Workers that run", labels=["service"])
        failed = GaugeMetricFamily(
            "dodici_service_failed", "1 if its workers crash again and again", labels=["service"]
        )
        restarts = CounterMetricFamily(
            "dodici_service_restarts", "Workers that were started again after a crash", labels=["service"]
        )
        gauges = {
            "running": GaugeMetricFamily(
                "dodici_worker_running", "Requests that the app works on", labels=labels
            ),
            "websockets": GaugeMetricFamily(
                "dodici_worker_websockets", "WebSockets of the app", labels=labels
            ),
            "rss": GaugeMetricFamily("dodici_worker_rss_bytes", "Resident memory", labels=labels),
            "loop_lag": GaugeMetricFamily(
                "dodici_worker_loop_lag_seconds", "How late its event loop is", labels=labels
            ),
            "uptime": GaugeMetricFamily(
                "dodici_worker_uptime_seconds", "Since the worker was ready", labels=labels
            ),
            "paused": GaugeMetricFamily("dodici_worker_paused", "1 while it is paused", labels=labels),
        }
        counters = {
            "requests": CounterMetricFamily(
                "dodici_worker_requests", "Requests that the app has begun", labels=labels
            ),
            "errors": CounterMetricFamily(
                "dodici_worker_errors", "Requests in which the app failed", labels=labels
            ),
        }
        for service in self._status()["services"]:
            name = service["name"]
            wanted.add_metric([name], service["workers"])
            ready.add_metric([name], sum(each["pid"] is not None for each in service["slots"]))
            failed.add_metric([name], service["state"] == "failed")
            restarts.add_metric([name], sum(each["restarts"] for each in service["slots"]))
            for slot in service["slots"]:
                for key, gauge in gauges.items():
                    if slot[key] is not None:
                        gauge.add_metric([name, str(slot["index"])], slot[key])
                for key, counter in counters.items():
                    if slot[key] is not None:
                        counter.add_metric([name, str(slot["index"])], slot[key])
        yield from (wanted, ready, failed, restarts, *gauges.values(), *counters.values())
