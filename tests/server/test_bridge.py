"""How the end of a client's WebSocket is told to the service."""

from __future__ import annotations

from typing import Any

import pytest

from dodici.server.bridge import _up


class Socket:
    def __init__(self) -> None:
        self.closed: list[tuple[int, str]] = []

    async def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))


@pytest.mark.parametrize(
    ("message", "closed"),
    [
        ({"code": 4001, "reason": "so"}, (4001, "so")),
        ({"code": 1005, "reason": ""}, (1000, "")),
        ({"code": 1005}, (1001, "")),
        ({"code": 1006}, (1001, "")),
    ],
    ids=["with-a-code", "without", "lost", "never-open"],
)
async def test_end_of_the_client(message: dict[str, Any], closed: tuple[int, str]) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect", **message}

    socket = Socket()
    await _up(receive, socket)
    assert socket.closed == [closed]
