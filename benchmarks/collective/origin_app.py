"""The app behind the collective's origin: it answers everything with 100 bytes."""

from __future__ import annotations

from typing import Any

BODY = bytes(range(100))
HEADERS = [(b"content-type", b"application/octet-stream"), (b"content-length", b"100")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
