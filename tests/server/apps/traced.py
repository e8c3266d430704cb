"""`outer` asks whom ASK names, and answers with the trace's field that it and the other saw."""

from __future__ import annotations

import os
from typing import Any

from dodici.mesh import current


async def _answer(send: Any, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


def _field(scope: Any) -> bytes:
    return dict(scope["headers"]).get(b"traceparent", b"-")


async def inner(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if scope["path"].endswith("/bad"):
            raise ZeroDivisionError("no")
        await _answer(send, 200, _field(scope))


async def outer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        response = await current().request(os.environ["ASK"] + scope["path"])
        await _answer(send, response.status_code, _field(scope) + b" " + await response.bytes())
