"""A collector's metrics at an HTTP address of their own, for a program that has no other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector as MetricsSource

from ...collective.metrics import CollectiveMetrics
from ..control import ControlError

if TYPE_CHECKING:
    from ...collective import Collector


class Exposition:
    """Serves them until `close()`. Made on the collector's event loop.

    Args:
        collector: whose they are.
        address: ``"HOST:PORT"``; port 0 is any free one.

    Raises:
        ControlError: the address cannot be listened on.
    """

    def __init__(self, collector: Collector, address: str) -> None:
        loop = asyncio.get_running_loop()
        figures = CollectiveMetrics(collector)

        class OnLoop(MetricsSource):
            """Asked in a thread of the HTTP server's; the figures are the loop's."""

            def describe(self) -> Any:
                return ()

            def collect(self) -> Any:
                async def take() -> list[Any]:
                    return list(figures.collect())

                return asyncio.run_coroutine_threadsafe(take(), loop).result(10.0)

        registry = CollectorRegistry()
        registry.register(OnLoop())
        host, _, port = address.rpartition(":")
        try:
            self._server, _ = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise ControlError(
                f"metrics cannot listen at {address}: {error.strerror or error}", errno=error.errno
            ) from error
        self.url = f"http://{host}:{self._server.server_port}/metrics"
        """Where they are."""

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
