"""A running `dodici collector`: signals, connections, what `dodici collectors` asks, and metrics.

SIGTERM and SIGINT drain it: health says NOT_SERVING, the peers are told, running calls have `drain_timeout` to end;
then it stops and ends with status 0. A second signal ends it now.

The addresses of `connect` are tried until they answer, in any order of starting. From then on the collector itself
finds its peers again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import __version__
from ..collective.balance import Backoff
from ..collective.logs import TraceFilter
from ..collective.policies import Reconnect
from ..core.errors import DodiciError, InvalidArgumentError, MeshTimeoutError
from ..core.grpc_status import GrpcStatus
from ..server.control import ControlError, ControlServer, folder

if TYPE_CHECKING:
    from ..collective import Collector
    from .collector_config import CollectorConfig

log = logging.getLogger("dodici.collective")

SUFFIX: Final = ".collector"
"""Of the control sockets, beside those of `dodici up`."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_NEWEST: Final = 100


def socket_of(collector_id: str, address: str) -> Path:
    """Where a collector's control socket is.

    Raises:
        ControlError: there is no folder for it.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", collector_id).strip("-")[:24] or "collector"
    mark = hashlib.sha256(f"{collector_id}\n{address}".encode()).hexdigest()[:8]
    return folder() / f"{readable}-{mark}{SUFFIX}"


class Commands:
    """What is answered at the control socket."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """``"stats"``: the figures and the newest records."""
        if name != "stats":
            raise InvalidArgumentError(f"unknown command: {name!r}")
        records = self._collector.history[-int(arguments.get("history", _NEWEST)) :]
        return {
            "stats": {
                **self._collector.stats().as_dict(),
                "history": [record.as_dict() for record in records],
            }
        }

    async def logs(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """None: a collector's log is its standard error."""
        raise InvalidArgumentError("a collector keeps no log")
        yield {}


class Running:
    """A collector as a program."""

    def __init__(self, config: CollectorConfig, collector: Collector) -> None:
        self._config = config
        self._collector = collector
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal. Returns the exit status.

        Raises:
            DodiciError: it cannot be started.
        """
        loop = asyncio.get_running_loop()
        collector = self._collector
        await collector.start()
        for each in _SIGNALS:
            loop.add_signal_handler(each, self._signalled)
        connecting: list[asyncio.Task[None]] = []
        control = metrics = None
        try:
            control = await self._open_control()
            metrics, shown = self._open_metrics(loop)
            print(
                f"dodici {__version__}, collector {collector.id}, process {os.getpid()}, "
                f"listening at {collector.address}{shown}",
                flush=True,
            )
            connecting = [asyncio.create_task(self._connect(address)) for address in self._config.connect]
            await self._stop.wait()
            await self._drain()
        finally:
            for task in connecting:
                task.cancel()
            await asyncio.gather(*connecting, return_exceptions=True)
            if metrics is not None:
                metrics.shutdown()
                metrics.server_close()
            if control is not None:
                await control.stop()
            await collector.stop(0.0 if self._cut.is_set() else 5.0)
            for each in _SIGNALS:
                loop.remove_signal_handler(each)
        return 0

    def _signalled(self) -> None:
        (self._cut if self._stop.is_set() else self._stop).set()

    async def _drain(self) -> None:
        log.info("%s drains", self._collector.id)
        draining = asyncio.create_task(self._collector.drain(self._config.drain_timeout))
        cut = asyncio.create_task(self._cut.wait())
        await asyncio.wait((draining, cut), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, cut):
            task.cancel()
        [outcome, _] = await asyncio.gather(draining, cut, return_exceptions=True)
        if isinstance(outcome, MeshTimeoutError):
            log.warning("%s: %s", self._collector.id, outcome.message)
        elif isinstance(outcome, Exception):
            raise outcome

    async def _connect(self, address: str) -> None:
        backoff = Backoff(Reconnect(initial=0.1, cap=2.0))
        told = False
        while True:
            try:
                found = await self._collector.connect_to(address, timeout=self._config.connect_timeout)
            except DodiciError as error:
                lasting = getattr(error, "grpc_status", None) not in {
                    GrpcStatus.UNAVAILABLE,
                    GrpcStatus.DEADLINE_EXCEEDED,
                }
                if not told or lasting:
                    log.warning("%s is tried again: %s", address, error.message)
                    told = True
            else:
                names = ", ".join(found.shared_namespaces) or "no namespace"
                log.info("connected to %s at %s, sharing %s", found.target_collector_id, address, names)
                return
            await asyncio.sleep(backoff.next())

    async def _open_control(self) -> ControlServer | None:
        try:
            control = ControlServer(
                socket_of(self._collector.id, self._collector.address), Commands(self._collector)
            )
            await control.start()
        except ControlError as error:
            log.warning("`dodici collectors` will not see this one: %s", error.message)
            return None
        return control

    def _open_metrics(self, loop: asyncio.AbstractEventLoop) -> tuple[Any, str]:
        address = self._config.metrics
        if address is None:
            return None, ""
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.registry import Collector as MetricsSource

        from ..collective.metrics import CollectiveMetrics

        figures = CollectiveMetrics(self._collector)

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
            server, _ = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise ControlError(
                f"metrics cannot listen at {address}: {error.strerror or error}", errno=error.errno
            ) from error
        return server, f", metrics at http://{host}:{server.server_port}/metrics"


def run(config: CollectorConfig, collector: Collector) -> int:
    """Run a collector until it is told to end. Returns the exit status.

    Raises:
        DodiciError: it cannot be started.
    """
    set_up_logging(config.log_level)
    loop_factory = None
    try:
        import uvloop
    except ImportError:
        pass
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(Running(config, collector).run())


def set_up_logging(level: str) -> None:
    """Log to standard error, each line with the trace that it belongs to."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(TraceFilter())
    handler.setFormatter(_Format("%(asctime)s %(levelname)s %(name)s%(in_trace)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        trace = getattr(record, "trace_id", "")
        record.in_trace = f" trace={trace}" if trace else ""
        return super().format(record)
