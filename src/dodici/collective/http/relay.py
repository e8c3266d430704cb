"""A carried exchange at the origin that has become something else: what the origin has handed over, and the caller.

    messages    a `MessageChannel`, such as that of a worker of the mesh
    connection  an `UpgradedSocket`: its bytes pass as they are, whatever they mean

Both run a task for each direction, each of which waits for the other side before it takes more. However a call ends,
what the origin has handed over is closed: in order, if both sides have said so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final

from ...core.errors import WebSocketClosedError
from ...wire.mesh.frames import close as close_payload
from ..protos import http_pb2 as pb
from .framing import PIECE, MalformedError, read_request
from .parts import Assembly, Outgoing, UnfitError, closing_of, parts_of

if TYPE_CHECKING:
    from ...api.websocket import MessageChannel
    from ...net.upgraded import UpgradedSocket

RESTART: Final = 1012
"""The code of a WebSocket that ends because the collector does."""
_LINGERING: Final = 1.0
"""Seconds for which a caller is read that has not heard yet how it ended."""


class Messages:
    """Passes messages between a caller and a channel to the origin.

    Args:
        channel: to the origin.
        requests: the messages of the call.
    """

    def __init__(self, channel: MessageChannel, requests: AsyncIterator[Any]) -> None:
        self._channel = channel
        self._requests = requests
        self._out = Outgoing(pb.Response)
        self._assembly = Assembly()
        self._parting: asyncio.Task[None] | None = None

    async def run(self) -> AsyncGenerator[bytes, None]:
        """The messages of the answer.

        Raises:
            MalformedError: the caller's end has sent what it may not.
        """
        up, down = asyncio.create_task(self._up()), asyncio.create_task(self._down())
        try:
            async for message in self._out:
                yield message
            await down
            # Whoever is cut off while it writes may lose what it has not read yet.
            await asyncio.wait([up], timeout=_LINGERING)
            if up.done():
                await up
        finally:
            if self._channel.close_code is None:
                self._channel.abort()
            await _ended(up, down, *(() if self._parting is None else (self._parting,)))

    def part(self) -> None:
        """Close it: the collector is about to end."""
        if self._parting is None:
            self._parting = asyncio.create_task(
                self._channel.close(RESTART, "the collector is about to stop")
            )

    async def _up(self) -> None:
        over = False
        try:
            async for payload in self._requests:
                request = read_request(payload)
                if not over:
                    over = await self._pass_on(request.parts)
            if not over:
                self._channel.abort()  # the caller has gone without a word
        except BaseException:
            self._channel.abort()
            raise

    async def _pass_on(self, parts: Iterable[pb.Part]) -> bool:
        """Whether nothing more is to be passed on: the other direction tells how it ended."""
        channel, out = self._channel, self._out
        try:
            for part in parts:
                if part.kind == pb.Part.CLOSE:
                    await channel.close(*closing_of(part))
                    return True
                if part.kind == pb.Part.PING:
                    await out.room()
                    out.put([pb.Part(kind=pb.Part.PONG, data=part.data)])
                elif part.kind == pb.Part.PONG:
                    raise MalformedError("a pong that nobody has asked for")
                else:
                    message = self._assembly.add(part)
                    if message is not None:
                        await channel.send(message)
        except UnfitError as error:
            await channel.close(error.code, error.reason)
            return True
        except WebSocketClosedError:
            return True
        return False

    async def _down(self) -> None:
        channel, out = self._channel, self._out
        try:
            while True:
                message = await channel.receive()
                await out.room()
                out.put(parts_of(message))
        except WebSocketClosedError as closed:
            code, reason = channel.close_code or closed.close_code, channel.close_reason
            out.put([pb.Part(kind=pb.Part.CLOSE, data=close_payload(code, reason))])
        finally:
            out.close()


class Connection:
    """Passes bytes between a caller and a connection to the origin.

    Args:
        socket: the connection.
        requests: the messages of the call.
    """

    def __init__(self, socket: UpgradedSocket, requests: AsyncIterator[Any]) -> None:
        self._socket = socket
        self._requests = requests

    async def run(self) -> AsyncGenerator[bytes, None]:
        """The messages of the answer.

        Raises:
            MalformedError: the caller's end has sent what it may not.
            SocketError: the connection was lost.
        """
        socket = self._socket
        up = asyncio.create_task(self._up())
        in_order = False
        try:
            while data := await socket.read(PIECE):
                yield _response(parts_of(data))
            if up.done():
                await up
            yield _response([pb.Part(kind=pb.Part.CLOSE)])
            await up
            in_order = True
        finally:
            if in_order:
                socket.close()
            else:
                socket.abort()
            await _ended(up)

    async def _up(self) -> None:
        socket = self._socket
        try:
            async for payload in self._requests:
                for part in read_request(payload).parts:
                    if part.kind == pb.Part.CLOSE:
                        if socket.writer.can_write_eof():
                            socket.write_eof()
                        else:
                            socket.close()
                        return
                    if part.kind != pb.Part.BINARY:
                        raise MalformedError("a connection carries bytes")
                    await socket.write(part.data)
            raise MalformedError("the connection ended in the middle of it")
        except BaseException:
            socket.abort()
            raise


def relay(given: Any, requests: AsyncIterator[Any]) -> Messages | Connection:
    """What passes between a caller and what an origin's dispatcher has handed over."""
    return Messages(given, requests) if hasattr(given, "receive") else Connection(given, requests)


def _response(parts: Any) -> bytes:
    return pb.Response(parts=parts).SerializeToString()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
