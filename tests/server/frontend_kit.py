"""A server for the tests that speak raw bytes to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dodici.server.address import Address
from dodici.server.config import GatewayConfig
from dodici.server.frontend import Frontend, open_sockets

Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@asynccontextmanager
async def serving(app: Any, *, drain: float = 5.0, **limits: Any) -> AsyncIterator[tuple[Frontend, Open]]:
    config = GatewayConfig(**limits)
    [(address, listener)] = open_sockets((Address("127.0.0.1", 0),), 16)
    frontend = Frontend(app, config, drain)
    await frontend.start([listener])
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
        writers.append(writer)
        return reader, writer

    try:
        yield frontend, connect
    finally:
        for writer in writers:
            writer.close()
        frontend.cut()
        await frontend.stop()
        for writer in writers:
            try:
                await writer.wait_closed()
            except OSError:
                pass


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, await reader.readexactly(length)
