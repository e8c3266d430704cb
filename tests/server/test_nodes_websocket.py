"""`dodici up` with a collector: WebSockets from the gateway of one node to a worker of the other."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from tests.server.node_kit import both, nodes, peer
from tests.server.up_kit import PATIENCE, Up

import dodici

for needed in ("click", "grpc", "httptools", "prometheus_client", "psutil", "rich", "uvicorn", "watchfiles"):
    pytest.importorskip(needed)

pytestmark = pytest.mark.timeout(120)  # many processes, which start slowly where many tests do so


def websocket(running: Up, path: str = "/", **options: Any) -> Any:
    url = running.origin.replace("http", "ws", 1)
    return dodici.websocket(url + path, dispatcher=running.agent, **options)


async def ended(ws: Any) -> tuple[int | None, str]:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(dodici.WebSocketClosedError):
            await ws.receive()
    return ws.close_code, ws.close_reason


async def test_websockets_between_nodes() -> None:
    async with nodes() as (a, b), both(a, b) as (first, second):
        await peer(first, "b")
        await first.ask("pause", target="shop")
        async with websocket(first, subprotocols=("a", "b")) as ws:
            assert ws.subprotocol == "b"
            for message in ("text", b"\x00" * 900_000, "ü" * 100_000, ""):
                await ws.send(message)
                assert await ws.receive() == message
            await ws.send("bye")
            assert await ended(ws) == (4001, "as you say")
        async with websocket(first) as ws:
            await ws.close(4002, "enough")
        await second.until("websocket ended with 4002")
        with pytest.raises(dodici.WebSocketError) as refused:
            await websocket(first, "/refused")
        assert refused.value.status_code == 403

        ws = await websocket(first)
        ws.abort()
        await second.until("websocket ended with (1001|1006)")

        # The node of the worker leaves: its WebSockets are told, and new ones go to whoever is left.
        lost = await websocket(first)
        second.signal(signal.SIGTERM)
        assert (await ended(lost))[0] == 1012
        assert await second.wait() == 0
        with pytest.raises(dodici.WebSocketError) as refused:
            await websocket(first)
        assert refused.value.status_code == 503
        await first.ask("resume", target="shop")
        async with websocket(first) as ws:
            await ws.send("home")
            assert await ws.receive() == "home"
        assert "Traceback" not in first.text + second.text
