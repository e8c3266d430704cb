"""The socket that an upgrade or CONNECT hands over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

from ..core.errors import socket_error


class UpgradedSocket:
    """A connection that is no longer HTTP's, as an async reader and writer.

    The dispatcher has let go of it: reading, writing and closing are yours. Bytes that came right behind the
    response head are read first. `transport`, `reader` and `writer` are asyncio's, for those who need them.

    Raises (every method): SocketError: the connection was lost.
    """

    def __init__(self, transport: asyncio.Transport, early: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.reader = asyncio.StreamReader(limit=256 * 1024, loop=loop)
        protocol = asyncio.StreamReaderProtocol(self.reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        self.transport = transport
        self.writer = asyncio.StreamWriter(transport, protocol, self.reader, loop)
        if early:
            self.reader.feed_data(early)
        transport.resume_reading()

    async def read(self, limit: int = -1) -> bytes:
        """At most `limit` bytes, as soon as there are some; all up to the end without a limit; b"" at the end."""
        try:
            return await self.reader.read(limit)
        except OSError as error:
            raise socket_error(error, "read failed") from error

    async def read_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises `asyncio.IncompleteReadError` if the stream ends before."""
        try:
            return await self.reader.readexactly(count)
        except OSError as error:
            raise socket_error(error, "read failed") from error

    async def read_until(self, separator: bytes = b"\n") -> bytes:
        """Everything up to and including `separator`."""
        try:
            return await self.reader.readuntil(separator)
        except OSError as error:
            raise socket_error(error, "read failed") from error

    async def write(self, data: bytes) -> None:
        """Write, and return when the transport can take more."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError as error:
            raise socket_error(error, "write failed") from error

    def write_eof(self) -> None:
        """Half-close: no more will be written."""
        self.writer.write_eof()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The transport's extra information, such as ``"peername"``."""
        return self.transport.get_extra_info(name, default)

    def close(self) -> None:
        """Begin to close; what was written is still sent."""
        self.writer.close()

    async def wait_closed(self) -> None:
        """Return when the connection is closed, however it ended."""
        try:
            await self.writer.wait_closed()
        except OSError:
            return

    def abort(self) -> None:
        """Close now, whatever is unsent."""
        self.transport.abort()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(64 * 1024):
            yield chunk

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()
