"""What the conformance suite runs against, `Target`, and what its tests are made with."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..core.errors import (
    InvalidArgumentError,
)
from .app import BoardControl, Control, conformance_app
from .recorder import RecordingHandler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from ..core.dispatcher import Dispatcher

FEATURES: Final[frozenset[str]] = frozenset(
    {
        "app-errors",  # an app that raises before the head is a 500, after it an error
        "backpressure",  # what is not read holds back the sender
        "bodiless-length",  # a content-length with HEAD and 304
        "disconnect",  # the app hears of an exchange that was given up
        "informational",  # 103 through `http.response.early_hint`
        "on-dispatch",  # `on_dispatch(controller)` of a handler is called
        "streamed-requests",  # bodies of unknown length
        "timeouts",  # headers_timeout and body_timeout
        "trailers",  # `http.response.trailers`
        "verbs",  # request() and stream()
    }
)
"""Everything that a layer may leave out."""

TIMEOUT = 10.0
BIG = 8 << 20
ENDLESS = 64 << 20  # more than kernels buffer for a connection
_numbers = itertools.count(1)


class Target:
    """A dispatcher under test, and how to reach the app behind it.

    Args:
        dispatcher: the one under test. The fixture destroys it afterwards.
        origin: goes into every dispatch.
        features: what of `FEATURES` it can do.
        control: reaches the app's board; by default that of `conformance_app` in this process.
        options: for every dispatch.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        origin: str,
        *,
        features: Iterable[str] = FEATURES,
        control: Control | None = None,
        **options: Any,
    ) -> None:
        self.dispatcher = dispatcher
        self.origin = origin
        self.features = frozenset(features)
        unknown = self.features - FEATURES
        if unknown:
            raise InvalidArgumentError(
                f"unknown feature {min(unknown)!r}; there are: {', '.join(sorted(FEATURES))}"
            )
        self.control: Control = control or BoardControl(conformance_app.board)
        self.recorders: list[RecordingHandler] = []
        self._options = options

    def need(self, *features: str) -> None:
        """Skip the running test if the layer lacks one of these."""
        for feature in features:
            if feature not in self.features:
                pytest.skip(f"{type(self.dispatcher).__name__} here has no {feature!r}")

    def token(self) -> str:
        """A name for one request, used by nobody else."""
        return f"t{os.getpid()}-{next(_numbers)}"

    def options(self, path: str, **more: Any) -> dict[str, Any]:
        """Dispatch options for a path of the app."""
        return {"origin": self.origin, "path": path, **self._options, **more}

    def recorder(self, **hooks: Any) -> RecordingHandler:
        """A recorder whose promises are checked at the end of the test, too."""
        recorder = RecordingHandler(**hooks)
        self.recorders.append(recorder)
        return recorder

    def send(self, path: str, recorder: RecordingHandler | None = None, **options: Any) -> RecordingHandler:
        """Dispatch and return the recorder."""
        recorder = recorder or self.recorder()
        recorder.dispatch(self.dispatcher, self.options(path, **options))
        return recorder

    async def fetch(self, path: str, **options: Any) -> RecordingHandler:
        """Dispatch, wait, and require success."""
        recorder = await self.send(path, **options).wait()
        if recorder.error is not None:
            raise AssertionError(f"{path} failed: {recorder.summary()}") from recorder.error
        return recorder

    async def usable(self) -> None:
        """Require that the dispatcher still serves."""
        for _ in range(2):
            assert (await self.fetch("/empty")).status_code == 200

    async def seen(self, name: str) -> None:
        """Wait for an event of the app."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self.control.wait(name)
        except TimeoutError:
            raise TimeoutError(f"the app never told {name!r}") from None

    async def open(self, token: str, *events: str) -> None:
        """Let the app go on."""
        for event in events:
            await self.control.set(f"{token}:{event}")

    async def count(self, token: str, what: str = "count") -> int:
        """A number of the app's."""
        return await self.control.get(f"{token}:{what}")

    async def steady(self, read: Callable[[], Any]) -> int:
        """Wait until what `read()` gives (or an awaitable of it) has stopped changing; that value."""
        last, same = -1, 0
        async with asyncio.timeout(TIMEOUT):
            while same < 5:
                value = read()
                if asyncio.iscoroutine(value):
                    value = await value
                same = same + 1 if value == last else 0
                last = value
                # The one thing that no event tells: that nothing more happens.
                await asyncio.sleep(0.02)
        return last


class Source:
    """An iterable body that counts: `pulled` chunks, `closed` times."""

    def __init__(self, *chunks: bytes, error: BaseException | None = None, endless: bytes = b"") -> None:
        self.pulled = 0
        self.closed = 0
        self._chunks = list(chunks)
        self._error = error
        self._endless = endless

    def next_chunk(self) -> bytes | None:
        """The next chunk; None at the end."""
        self.pulled += 1
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        return self._endless or None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self.next_chunk()
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Count the closing."""
        self.closed += 1


class AsyncSource:
    """The same, asynchronous: closed by `aclose()`."""

    def __init__(self, *chunks: bytes, error: BaseException | None = None, endless: bytes = b"") -> None:
        self._source = Source(*chunks, error=error, endless=endless)

    @property
    def pulled(self) -> int:
        """How many chunks were asked for."""
        return self._source.pulled

    @property
    def closed(self) -> int:
        """How often it was closed."""
        return self._source.closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        chunk = self._source.next_chunk()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Count the closing."""
        self._source.close()


class FileSource(io.BytesIO):
    """A file that counts how often it was closed."""

    closings = 0

    def close(self) -> None:
        """Count the closing."""
        self.closings += 1
        super().close()


SOURCES = pytest.mark.parametrize("source_class", [Source, AsyncSource], ids=["iterable", "async-iterable"])


def raising(error: BaseException) -> Callable[..., None]:
    """A callback that raises `error`."""

    def hook(*_: object) -> None:
        raise error

    return hook


class DeliberateError(Exception):
    """Raised by the tests' own callbacks and sources."""


class LoopComplaints:
    """What the loop's exception handler was told while this is entered."""

    def __enter__(self) -> list[dict[str, Any]]:
        self.contexts: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.contexts.append(context))
        return self.contexts

    def __exit__(self, *_: object) -> None:
        self._loop.set_exception_handler(None)
