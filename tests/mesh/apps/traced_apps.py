"""Answers with the trace's field."""

from __future__ import annotations

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        body = b"\n".join(name + b": " + value for name, value in scope["headers"] if name == b"traceparent")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
