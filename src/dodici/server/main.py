"""Runs an application to its end, on an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.garbage import look_rarely
from .application import Application
from .config import Config
from .output import LogToOutput, Output

if TYPE_CHECKING:
    from ..collective import Collector


def run(
    config: Config, *, name: str, output: Output | None = None, collector: Collector | None = None
) -> int:
    """Run `dodici up` to its end, on uvloop where it is installed. Returns the exit status.

    Raises:
        OSError, DodiciError: see `Application.run`.
    """
    look_rarely()
    # What the gateway's server has to say of a request that failed is in the answer, and in the metrics.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    shown = output or Output.in_background()

    async def main() -> int:
        log, handler = logging.getLogger("dodici"), LogToOutput(shown)
        log.addHandler(handler)
        if config.collector is not None:
            level = config.collector.log_level.upper()
            logging.getLogger("dodici.collective").setLevel(level)
            handler.setLevel(min(handler.level, logging.getLevelNamesMapping()[level]))
        try:
            return await Application(config, name=name, output=shown, collector=collector).run()
        finally:
            log.removeHandler(handler)

    make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as make_loop
    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(main())
    finally:
        shown.close()
