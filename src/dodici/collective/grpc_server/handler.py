"""What a face gives for a call that arrives: how it is run, and how its bytes become messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ...core.grpc_status import GrpcStatus
from ..errors import call_error

if TYPE_CHECKING:
    from .call import ServerCall


class Handler:
    """What a face gives for a call. Made by `unary_unary` and `stream_stream`."""

    __slots__ = ("lasting", "read", "run", "streams", "write")

    def __init__(self, run: Any, read: Any, write: Any, *, streams: bool, lasting: bool = False) -> None:
        self.run = run
        self.read = read
        self.write = write
        self.streams = streams
        self.lasting = lasting


def unary_unary(
    run: Callable[[Any, ServerCall], Awaitable[Any]], read: Any = None, write: Any = None
) -> Handler:
    """A handler with one message in and one out. `read` and `write` turn bytes into messages and back."""
    return Handler(run, read, write, streams=False)


def stream_stream(
    run: Callable[[AsyncIterator[Any], ServerCall], Awaitable[None]],
    read: Any = None,
    write: Any = None,
    *,
    lasting: bool = False,
) -> Handler:
    """A handler of any kind of call, which on the wire are all the same. It answers by `ServerCall.write()`.

    `lasting`: it ends when its client leaves, and not before: a server that stops does not wait for it.
    """
    return Handler(run, read, write, streams=True, lasting=lasting)


def ending(status: GrpcStatus, text: str) -> Handler:
    """A handler that ends any call with this status."""

    async def end(_: AsyncIterator[Any], call: ServerCall) -> None:
        await call.fail(call_error(status, text))

    return stream_stream(end)
