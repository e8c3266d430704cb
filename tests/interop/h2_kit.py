"""What the HTTP/2 interop tests share: dispatchers for a peer, and questions to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

from tests.peers.kit import fetch

import dodici
from dodici.testing import RecordingHandler, pattern

MODES = ["tls", "h2c"]
UPLOAD = 10 << 20


class Origins(Protocol):
    """A server that speaks HTTP/2 in both ways."""

    tls: str
    h2c: str


def client(peer: Origins, mode: str, ca: str, **options: Any) -> dodici.Client:
    """A client of one connection, over TLS with ALPN or in the clear with prior knowledge."""
    if mode == "h2c":
        return dodici.H2CClient(peer.h2c, **options)
    return dodici.Client(peer.tls, allow_h2=True, connect={"ca": ca}, **options)


def pool(peer: Origins, mode: str, ca: str, **options: Any) -> dodici.Pool:
    """A pool, over TLS with ALPN or in the clear with prior knowledge."""
    if mode == "h2c":
        return dodici.Pool(peer.h2c, use_h2c=True, **options)
    return dodici.Pool(peer.tls, allow_h2=True, connect={"ca": ca}, **options)


async def good(dispatcher: Any, path: str, **options: Any) -> RecordingHandler:
    """Dispatch and wait for a 200 over HTTP/2."""
    recorder = await fetch(dispatcher, path, **options)
    assert recorder.error is None, recorder.summary()
    assert recorder.status_code == 200, recorder.summary()
    assert recorder.controller.http_version == "2"
    return recorder


async def told(dispatcher: Any, path: str, **options: Any) -> Any:
    """The JSON of a 200."""
    return json.loads((await good(dispatcher, path, **options)).body)


async def streamed(size: int, piece: int = 50_000) -> AsyncIterator[bytes]:
    """`pattern(size)` as a body of unknown length."""
    for at in range(0, size, piece):
        yield pattern(min(piece, size - at), at)
        await asyncio.sleep(0)


def sha256(size: int) -> str:
    """The digest of `pattern(size)`."""
    return hashlib.sha256(pattern(size)).hexdigest()


def pausing(**options: Any) -> RecordingHandler:
    """A recorder that pauses at each piece of the body, for two turns of the loop."""
    loop = asyncio.get_running_loop()

    def hold(controller: Any, _: bytes) -> None:
        controller.pause()
        loop.call_soon(loop.call_soon, controller.resume)

    return RecordingHandler(on_response_data=hold, **options)
