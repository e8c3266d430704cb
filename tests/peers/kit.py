"""What the fault tests share: short ways to dispatch, to answer, and to watch events."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from dodici.testing import PeerConnection, RecordingHandler, run_virtual


def ok(body: bytes = b"ok", headers: str = "", status: int = 200) -> bytes:
    """A response with a content-length."""
    return f"HTTP/1.1 {status} Fine\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode("latin-1") + body


def chunked(*chunks: bytes, trailers: str = "", headers: str = "") -> bytes:
    """A chunked response."""
    head = f"HTTP/1.1 200 Fine\r\ntransfer-encoding: chunked\r\n{headers}\r\n".encode()
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + f"0\r\n{trailers}\r\n".encode()


async def answering(connection: PeerConnection) -> None:
    """A script: 200 and `ok` for every request."""
    while await connection.next_request() is not None:
        await connection.send(ok())


def send(
    dispatcher: Any, path: str = "/", recorder: RecordingHandler | None = None, **options: Any
) -> RecordingHandler:
    """Dispatch; the recorder."""
    recorder = recorder or RecordingHandler()
    recorder.dispatch(dispatcher, {"path": path, **options})
    return recorder


async def fetch(dispatcher: Any, path: str = "/", **options: Any) -> RecordingHandler:
    """Dispatch and wait."""
    return await send(dispatcher, path, **options).wait()


class Events:
    """What a dispatcher emits."""

    def __init__(self, dispatcher: Any) -> None:
        self.all: list[tuple[str, tuple[Any, ...]]] = []
        self._changed = asyncio.Event()
        for name in ("connect", "disconnect", "connection_error", "drain"):
            dispatcher.on(name, functools.partial(self._note, name))

    def _note(self, name: str, *args: Any) -> None:
        self.all.append((name, args))
        self._changed.set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.all]

    def count(self, name: str) -> int:
        return self.names.count(name)

    def errors(self, name: str = "disconnect") -> list[Any]:
        """The errors that came with the events of that name."""
        return [args[2] for event, args in self.all if event == name]

    async def wait(self, name: str, count: int = 1, timeout: float = 10.0) -> None:
        async def until() -> None:
            while self.count(name) < count:
                self._changed.clear()
                await self._changed.wait()

        if getattr(asyncio.get_running_loop(), "virtual", False):
            await until()
            return
        async with asyncio.timeout(timeout):
            await until()


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function, run in virtual time: an hour costs milliseconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))  # type: ignore[arg-type]

    # pytest-asyncio would take the wrapped coroutine function for the test.
    del run.__wrapped__
    run.__signature__ = __import__("inspect").signature(test)  # type: ignore[attr-defined]
    return run


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()
