"""What the caller of a gRPC method with a stream of responses holds."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from ..core.grpc_status import GrpcStatus
from ..wire.grpc.metadata import GrpcMetadata
from .exchange import give_way
from .grpc_handler import CallHandler, Deserializer


class GrpcCall:
    """A call whose responses are a stream: ``async for message in call``.

    Iterating ends when the server said OK, and raises `GrpcError` when it said something else. While nobody
    iterates the server is held back. Leaving an ``async with call`` block, `cancel()`, cancelling the task
    that iterates, and dropping the call all end it, and the server is told.
    """

    __slots__ = ("__weakref__", "_call", "_deserializer")

    def __init__(self, call: CallHandler, deserializer: Deserializer | None) -> None:
        self._call = call
        self._deserializer = deserializer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        while not len(call.decoder):
            if call.ended:
                if call.foreign is None and call.verdict.status is GrpcStatus.OK:
                    raise StopAsyncIteration
                await give_way()
                raise call.error()
            await call.wait()
        return call.take(self._deserializer)

    async def initial_metadata(self) -> GrpcMetadata:
        """Wait for the head of the response; empty if the call ended with a status and nothing before it.

        Raises:
            GrpcError: the call failed before that.
        """
        call = self._call
        while call.head is None and call.trailers is None:
            if call.ended:
                raise call.error()
            await call.wait_for_head()
        return call.initial_metadata

    @property
    def trailing_metadata(self) -> GrpcMetadata | None:
        """What came with the status; None until the call has ended."""
        return self._call.trailing_metadata if self._call.ended else None

    @property
    def status(self) -> GrpcStatus | None:
        """How the call ended; None before. Messages may still wait to be read."""
        return self._call.verdict.status if self._call.ended else None

    def cancel(self) -> None:
        """End the call now; to be used on the event loop's thread. Iterating then raises CANCELLED.

        Does nothing after the end, but for dropping the messages that wait.
        """
        self._call.cancel()

    async def aclose(self) -> None:
        """The same as `cancel()`."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()

    def __del__(self) -> None:
        if not self._call.ended:
            self._call.drop()

    def __repr__(self) -> str:
        status = self.status
        return f"<GrpcCall {self._call.target[1]} {'running' if status is None else status.name}>"
