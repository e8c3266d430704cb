"""The app that every worker in Python serves: dodici's, uvicorn's and granian's.

* ``/``: 17 bytes of JSON; ``/1m``: 1 MiB in one piece; both with a content-length;
* ``/1g``: 1 GiB in pieces of 64 KiB;
* ``/slow``: answers after 50 ms, unless the client goes away before;
* ``/accepting``: stops accepting and begins again; answers how many seconds the first took;
* ``/pid``: who answered.

worker.mjs is the same for Node, as far as Node has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

SMALL = b'{"hello":"world"}'
PIECE = bytes(range(256)) * 256
LARGE = PIECE * 16
HUGE_PIECES = 16 * 1024
PATIENCE = 0.05  # seconds


def _start(kind: bytes, length: int) -> dict[str, Any]:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % length)]
    return {"type": "http.response.start", "status": 200, "headers": headers}


# Made once, as a framework would not: what is measured is the way to the app and back.
_BYTES, _JSON = b"application/octet-stream", b"application/json"
_FIXED = {
    "/": (_start(_JSON, len(SMALL)), {"type": "http.response.body", "body": SMALL}),
    "/1m": (_start(_BYTES, len(LARGE)), {"type": "http.response.body", "body": LARGE}),
}


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """An ASGI app of the plainest kind."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    fixed = _FIXED.get(scope["path"])
    if fixed is not None:
        await send(fixed[0])
        await send(fixed[1])
    elif scope["path"] == "/1g":
        await send(_start(_BYTES, HUGE_PIECES * len(PIECE)))
        for left in range(HUGE_PIECES - 1, -1, -1):
            await send({"type": "http.response.body", "body": PIECE, "more_body": left > 0})
    else:
        body = await _ANSWERS[scope["path"]](receive)
        # Who has gone away gets nothing; some servers say so by raising.
        with contextlib.suppress(OSError):
            await send(_start(_JSON, len(body)))
            await send({"type": "http.response.body", "body": body})


async def _slow(receive: Receive) -> bytes:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while (await receive())["type"] != "http.disconnect":
                pass
    return SMALL


async def _accepting(_: Receive) -> bytes:
    from dodici.mesh import current

    worker = current()
    started = time.perf_counter()
    await worker.set_accepting(False)
    seconds = time.perf_counter() - started
    await worker.set_accepting(True)
    return json.dumps(seconds).encode()


async def _pid(_: Receive) -> bytes:
    return b"%d" % os.getpid()


_ANSWERS = {"/slow": _slow, "/accepting": _accepting, "/pid": _pid}
