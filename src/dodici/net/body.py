"""Request bodies on their way out: pulled from their source as the transport takes them.

A streamed body, a large one, or one that waits for `100 Continue` has a task of its own. The head leaves
with the first chunk; the next chunk is asked for when the transport has room. However the exchange ends, the
source is closed once.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import stat
from collections.abc import AsyncIterator
from typing import Any, Protocol

from ..core import diagnostics
from ..core.controller import Exchange, close_source, discard_source
from ..core.options import ASYNC_ITERABLE, BYTES, FILE, ITERABLE, DispatchOptions
from ..wire.body import CHUNKED, NO_LENGTH, LengthCheck, as_chunk, body_length, empty_body_length

PIECE = 128 * 1024
"""Bytes asked of a file at a time."""
SLICE = 512 * 1024
"""Bytes of a large payload handed to the transport at a time; a fourth of this costs twice the CPU."""
CONTINUE_SECONDS = 1.0
"""How long to wait for `100 Continue` before sending the body anyway (RFC 9110 10.1.1)."""


class Framer(Protocol):
    """What a body is wrapped in, and held to its length by."""

    def frame(self, chunk: bytes | memoryview) -> tuple[bytes | memoryview, ...]: ...
    def finish(self) -> bytes: ...


class DataFramer:
    """For wires that frame bodies by themselves: only the length is checked."""

    __slots__ = ("_check",)

    def __init__(self, length: int, *, strict: bool) -> None:
        self._check = LengthCheck(length, strict=strict)

    def frame(self, chunk: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
        self._check.count(len(chunk))
        return (chunk,) if len(chunk) else ()

    def finish(self) -> bytes:
        self._check.finish()
        return b""


class BodyTransport(Protocol):
    """The connection, or the stream of one, as its body's task sees it."""

    def framer(self, length: int) -> Framer: ...
    def write_head(self, exchange: Exchange, length: int, parts: list[bytes | memoryview]) -> None:
        """Write the head, and `parts` of the body behind it."""

    def write_parts(self, exchange: Exchange, parts: list[bytes | memoryview]) -> None: ...
    async def writable(self) -> None: ...
    def body_sent(self, exchange: Exchange) -> None: ...
    def body_failed(self, exchange: Exchange, error: BaseException) -> None: ...


class BodyWriter:
    """The task that writes one exchange's head and body."""

    __slots__ = ("_connection", "_continue", "_exchange", "_loop", "_started", "task")

    def __init__(
        self, connection: BodyTransport, exchange: Exchange, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._loop = loop
        self._started = False
        self._continue: asyncio.Future[None] | None = None
        if exchange.options.expect_continue:
            self._continue = loop.create_future()
        exchange.source_taken = True
        self.task = loop.create_task(self._run())

    def go_on(self) -> None:
        """The server said `100 Continue`."""
        if self._continue is not None and not self._continue.done():
            self._continue.set_result(None)

    @property
    def holding(self) -> bool:
        """Whether the body is still held back, waiting for `100 Continue`."""
        return self._continue is not None and not self._continue.done()

    def cancel(self) -> None:
        """Stop, and close the source."""
        if not self._started:
            # A task that never ran does not run its `finally` either.
            discard_source(self._exchange.options.body, self._loop)
        self.task.cancel()

    async def _run(self) -> None:
        self._started = True
        options = self._exchange.options
        source: Any = None
        finished = False
        try:
            source = _pieces(options)
            await self._write(source)
            finished = True
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await self._close(source)
            source = None
            self._connection.body_failed(self._exchange, error)
            if not isinstance(error, Exception):
                raise
        finally:
            if source is not None and not finished:
                await self._close(source)
        if finished:
            self._connection.body_sent(self._exchange)

    async def _close(self, source: Any) -> None:
        if source is not None:
            await close_source(source)
        if self._exchange.options.body_kind != BYTES and self._exchange.options.body is not source:
            await close_source(self._exchange.options.body)

    async def _write(self, source: AsyncIterator[Any]) -> None:
        connection, exchange = self._connection, self._exchange
        options = exchange.options
        length = body_length(options)
        if options.body_kind == FILE and length == CHUNKED:
            length = file_length(options.body)
        begun = False
        if self._continue is not None:
            connection.write_head(exchange, length, [])
            begun = True
            await asyncio.wait((self._continue,), timeout=CONTINUE_SECONDS)
            if not self._continue.done():
                self._continue.set_result(None)
        framer = connection.framer(length)
        turn = exchange.bytes_sent
        while True:
            if exchange.bytes_sent - turn >= PIECE:
                # Neither a ready source nor a quick peer suspends this task, and others want to run, too: the
                # reader not least, since the server may have answered already.
                turn = exchange.bytes_sent
                await asyncio.sleep(0)
            await connection.writable()
            item = await anext(source, None)
            if item is None:
                break
            chunk = as_chunk(item)
            parts: list[bytes | memoryview] = list(framer.frame(chunk))
            if not parts:
                continue
            if diagnostics.REQUEST_BODY_CHUNK_SENT.subscribers:
                diagnostics.REQUEST_BODY_CHUNK_SENT.publish({"request": exchange, "chunk": chunk})
            if begun:
                connection.write_parts(exchange, parts)
            else:
                begun = True
                connection.write_head(exchange, length, parts)
        if not begun:
            length = empty_body_length(options)
            framer = connection.framer(0 if length == NO_LENGTH else length)
        last = framer.finish()
        if not begun:
            connection.write_head(exchange, length, [last] if last else [])
        elif last:
            connection.write_parts(exchange, [last])


def _pieces(options: DispatchOptions) -> AsyncIterator[Any]:
    kind, body = options.body_kind, options.body
    if kind == ASYNC_ITERABLE:
        return body.__aiter__()  # type: ignore[no-any-return]
    if kind == BYTES:
        return _slices(memoryview(options.payload or b""))
    if kind == FILE:
        return _read(body)
    assert kind == ITERABLE
    return _iterate(body)


async def _slices(payload: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(payload), SLICE):
        yield payload[start : start + SLICE]


async def _iterate(body: Any) -> AsyncIterator[Any]:
    iterator = iter(body)
    try:
        for item in iterator:
            # None would be taken for the end; as_chunk() says what is wrong with it.
            yield item if item is not None else _Nothing()
    finally:
        if callable(getattr(iterator, "close", None)) and iterator is not body:
            iterator.close()


class _Nothing:
    """Stands for a None that a body yielded."""


async def _read(body: Any) -> AsyncIterator[Any]:
    read = body.read
    if inspect.iscoroutinefunction(read):
        while chunk := await read(PIECE):
            yield chunk
    elif isinstance(body, io.BytesIO):
        while chunk := read(PIECE):
            yield chunk
    else:
        # Files block; the loop must not.
        loop = asyncio.get_running_loop()
        while chunk := await loop.run_in_executor(None, read, PIECE):
            yield chunk


def file_length(body: Any) -> int:
    """Bytes left in a file, or CHUNKED where that cannot be known."""
    if hasattr(body, "encoding"):
        return CHUNKED  # text: its bytes are known once encoded
    if isinstance(body, io.BytesIO):
        return len(body.getbuffer()) - body.tell()
    try:
        status = os.fstat(body.fileno())
        if stat.S_ISREG(status.st_mode):
            return max(0, status.st_size - int(body.tell()))
    except (AttributeError, OSError, ValueError, TypeError):
        pass
    return CHUNKED
