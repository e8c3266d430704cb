"""What callers get: a status, an output, and who has made it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..core.closing import aclose
from ..core.grpc_status import GrpcStatus
from ..wire.grpc.metadata import GrpcMetadata
from .codes import http_status
from .errors import CollectiveError, call_error


class Status(int):
    """How a call ended: an HTTP-like number that knows more.

    ``result.status == 200``, ``result.status.code``, ``.message``, ``.details`` (texts by name) and ``.grpc_status``.
    """

    message: str
    details: Mapping[str, str]
    grpc_status: GrpcStatus

    def __new__(
        cls,
        grpc_status: GrpcStatus = GrpcStatus.OK,
        message: str = "",
        details: Mapping[str, str] | None = None,
    ) -> Self:
        self = super().__new__(cls, http_status(grpc_status))
        self.message = message
        self.details = dict(details or {})
        self.grpc_status = grpc_status
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Status, (self.grpc_status, self.message, self.details)

    @property
    def code(self) -> int:
        """The number itself."""
        return int(self)

    @property
    def ok(self) -> bool:
        """The call succeeded."""
        return self.grpc_status is GrpcStatus.OK

    def __repr__(self) -> str:
        return f"Status({int(self)}, {self.grpc_status.name}, {self.message!r})"

    def __str__(self) -> str:
        return str(int(self))


OK = Status()


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """How a dispatch ended.

    Attributes:
        status: 200, or what failed.
        output: a value (see `dodici.collective.values`), None if it failed. An `Any` whose type is not known here
            stays one.
        handled_by_collector_id: who ran it; empty if nobody did.
        metadata: the trailing metadata that came with the answer or the failure.
        initial_metadata: what came before the answer: header fields of an origin, say.
    """

    status: Status
    output: Any = None
    handled_by_collector_id: str = ""
    metadata: GrpcMetadata = field(default_factory=GrpcMetadata)
    initial_metadata: GrpcMetadata = field(default_factory=GrpcMetadata)
    error: CollectiveError | None = field(default=None, repr=False, compare=False)

    def raise_for_status(self) -> DispatchResult:
        """Return itself if the call succeeded.

        Raises:
            CollectiveError: it failed; `DeadlineExceededError` and `PeerUnavailableError` for theirs.
        """
        if self.status.ok:
            return self
        if self.error is not None:
            raise self.error
        raise call_error(self.status.grpc_status, self.status.message, details=self.status.details)


class DispatchStream:
    """A dispatch of one of the streaming kinds: iterate over its outputs, or await its result.

    ``async for output in stream`` raises `CollectiveError` if the call fails, after the outputs that came before.
    ``await stream.result()`` reads what is left and returns a `DispatchResult`, whose output is the last one; it
    raises nothing for a failure. ``async with stream`` cancels the call on the way out.

    Nothing is sent before the first of them.
    """

    def __init__(
        self, outputs: AsyncIterator[Any], finish: Callable[[CollectiveError | None, Any], DispatchResult]
    ) -> None:
        self._outputs = outputs
        self._finish = finish
        self._last: Any = None
        self._result: DispatchResult | None = None
        self.started = time.time()

    def __aiter__(self) -> DispatchStream:
        return self

    async def __anext__(self) -> Any:
        if self._result is not None:
            raise StopAsyncIteration
        try:
            self._last = await anext(self._outputs)
        except StopAsyncIteration:
            self._result = self._finish(None, self._last)
            raise
        except CollectiveError as error:
            self._result = self._finish(error, None)
            raise
        except BaseException as error:
            # The caller's own: an input that fails, a task that is cancelled. The call has ended by it.
            if not getattr(self._outputs, "ag_running", False):
                text = f"the call was given up: {type(error).__name__}"
                self._result = self._finish(call_error(GrpcStatus.CANCELLED, text), None)
            raise
        return self._last

    async def result(self) -> DispatchResult:
        """Read to the end, and say how the call ended."""
        while self._result is None:
            try:
                await anext(self)
            except (StopAsyncIteration, CollectiveError):
                pass
        return self._result

    def __await__(self) -> Generator[Any, None, DispatchResult]:
        return self.result().__await__()

    async def aclose(self) -> None:
        """Cancel the call if it still runs."""
        await aclose(self._outputs)
        if self._result is None:
            self._result = self._finish(call_error(GrpcStatus.CANCELLED, "the stream was closed"), None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
