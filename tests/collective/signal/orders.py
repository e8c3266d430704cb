"""What the workers of `node.py` run.

Every worker writes a line for each request that it begins: the moment, the node, its pid, when the request was sent, from
which node, and what it asks for.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from dodici.mesh import current


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with who it is; `/Chat` a line for each line, `/Close` after it has said that it accepts nothing;
    it does again when there is a file."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    line = f"{time.monotonic()} {os.environ['NODE']} {os.getpid()} {headers['x-sent']} {headers['x-from']} {path}\n"
    os.write(_log(), line.encode())
    chat = path == "/Chat"
    kind = b"application/x-ndjson" if chat else b"application/json"
    await receive_all(receive)
    answer: dict[str, Any] = {"node": os.environ["NODE"], "pid": os.getpid()}
    if path == "/Close":
        answer |= await _close()
    elif not chat:
        await asyncio.sleep(0.002)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    lines = 3 if chat else 1
    for left in reversed(range(lines)):
        body = json.dumps(answer).encode() + (b"\n" if chat else b"")
        await send({"type": "http.response.body", "body": body, "more_body": left > 0})


async def receive_all(receive: Any) -> None:
    while (await receive()).get("more_body"):
        pass


async def _close() -> dict[str, float]:
    called = time.monotonic()
    await current().set_accepting(False)
    returned = time.monotonic()
    task = asyncio.create_task(_open_when_told())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return {"called": called, "returned": returned}


async def _open_when_told() -> None:
    # No request arrives that could say it.
    while not os.path.exists(f"{os.environ['LOG']}.open"):
        await asyncio.sleep(0.01)
    await current().set_accepting(True)


_tasks: set[asyncio.Task[None]] = set()
_descriptor = -1


def _log() -> int:
    global _descriptor
    if _descriptor < 0:
        _descriptor = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return _descriptor
