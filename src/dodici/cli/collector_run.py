"""A running `dodici collector`: signals, and metrics over HTTP.

SIGTERM and SIGINT drain it: health says NOT_SERVING, the peers are told, running calls have `drain_timeout` to end;
then it stops and ends with status 0. A second signal ends it now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from .. import __version__
from ..collective.logs import TraceFilter
from ..core.garbage import look_rarely
from ..server.collector.node import CollectorNode

if TYPE_CHECKING:
    from ..collective import Collector
    from ..server.collector.config import CollectorConfig

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Running:
    """A collector as a program."""

    def __init__(self, config: CollectorConfig, collector: Collector) -> None:
        self._collector = collector
        self._node = CollectorNode(config, collector)
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal. Returns the exit status.

        Raises:
            DodiciError: it cannot be started.
        """
        loop = asyncio.get_running_loop()
        collector, node = self._collector, self._node
        for each in _SIGNALS:
            loop.add_signal_handler(each, self._signalled)
        try:
            await node.start()
            shown = "" if node.metrics is None else f", metrics at {node.metrics.url}"
            print(
                f"dodici {__version__}, collector {collector.id}, process {os.getpid()}, "
                f"listening at {collector.address}{shown}",
                flush=True,
            )
            node.connect()
            await self._stop.wait()
            await node.drain()
        finally:
            await node.stop()
            for each in _SIGNALS:
                loop.remove_signal_handler(each)
        return 0

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._node.cut()
        self._stop.set()


def run(config: CollectorConfig, collector: Collector) -> int:
    """Run a collector until it is told to end. Returns the exit status.

    Raises:
        DodiciError: it cannot be started.
    """
    set_up_logging(config.log_level)
    look_rarely()
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
