"""Tells when files change, for development (`--reload`)."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from .config import Config


class _Filter:
    """Which changes count: the patterns of the configuration, without what tools and editors write."""

    def __init__(self, config: Config) -> None:
        from watchfiles import DefaultFilter

        self._include = config.reload.include
        self._exclude = config.reload.exclude
        self._default = DefaultFilter()
        self._file = None if config.file is None else str(config.file)

    def __call__(self, change: Any, path: str) -> bool:
        if path == self._file:
            return True
        if not self._default(change, path):
            return False
        name = path.rpartition("/")[2]
        return any(fnmatch.fnmatch(name, pattern) for pattern in self._include) and not any(
            fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(path, pattern) for pattern in self._exclude
        )


async def changes(config: Config, stop: asyncio.Event) -> AsyncIterator[list[Path]]:
    """The files that changed, gathered until nothing changes for a moment; ends with `stop`."""
    from watchfiles import awatch

    paths = set(config.reload.paths or [service.cwd for service in config.services if service.cwd])
    if config.file is not None:
        paths.add(config.file)
    async for batch in awatch(*paths, watch_filter=_Filter(config), stop_event=stop):
        yield sorted({Path(path) for _, path in batch})
