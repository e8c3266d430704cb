"""An app that says itself when it takes no more: while its loop lags, or its memory is high.

Run it as a worker of a mesh (`Worker("examples.load_shedding.app:app")`) or with
`dodici up examples.load_shedding.app:app --workers 4`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import dodici.mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

EVERY = 0.1
"""Seconds between two looks."""
MOST_LAG = 0.2
"""Seconds that the loop may be late before it is called overloaded."""
MOST_MEMORY = int(os.environ.get("MOST_MEMORY") or 512 << 20)
"""Bytes of resident memory."""
CALM = 5
"""Good looks in a row before it accepts again: without them it would flap."""


async def shed_load() -> None:
    """Stop accepting on the first bad look, accept again after `CALM` good ones."""
    wired = dodici.mesh.current()
    loop = asyncio.get_running_loop()
    process = psutil.Process()
    good = 0
    while True:
        due = loop.time() + EVERY
        await asyncio.sleep(EVERY)
        overloaded = loop.time() - due > MOST_LAG or process.memory_info().rss > MOST_MEMORY
        good = 0 if overloaded else good + 1
        if overloaded:
            await wired.set_accepting(False)
        elif good >= CALM:
            await wired.set_accepting(True)  # nothing happens if it accepts already


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    watching = asyncio.create_task(shed_load())
    yield
    watching.cancel()


async def work(request: Request) -> Any:
    """Hold `?bytes=` of memory for `?seconds=`; what is held counts against MOST_MEMORY."""
    held = bytearray(int(request.query_params.get("bytes", 0)))
    await asyncio.sleep(float(request.query_params.get("seconds", 0)))
    return PlainTextResponse(f"{os.getpid()} held {len(held)} bytes\n")


app = Starlette(routes=[Route("/", work)], lifespan=lifespan)
