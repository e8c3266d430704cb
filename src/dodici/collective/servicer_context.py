"""The context that methods over a generated base get: what there is of grpc's own, in its shape, and the call's.

It follows `grpc.aio.ServicerContext`, and of `grpc.ServicerContext` what plain methods use (`is_active`, `add_callback`,
`cancel`). What may be awaited there may be awaited here, or not. Compression is not chosen by call: what asks for it does
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Final, NoReturn

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..wire.grpc.metadata import MetadataInput
from . import details as _details, metadata as _metadata
from .codes import chosen
from .context import CallContext
from .errors import CallAbortedError

log = logging.getLogger("dodici.collective")

_IDENTITY_KEY: Final = "x509_subject_alternative_name"


class _Done:
    """What may be awaited, and is done."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


class ServicerContext:
    """A `CallContext` in the shape of `grpc.aio.ServicerContext`.

    `abort` may be awaited or not: it raises. Attributes that are not here are those of `call`.
    """

    def __init__(
        self,
        call: CallContext,
        *,
        given: AsyncIterator[Any] | None = None,
        write: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self.call = call
        self._given = given
        self._write = write
        self._code: Any = None
        self._status: GrpcStatus = GrpcStatus.OK
        self._text = ""
        self._ended = False
        self._cancelled = False
        self._callbacks: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.call, name)

    # -- who calls -----------------------------------------------------------------------------------------

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The caller's metadata, as pairs."""
        return tuple(self.call.metadata.multi_items())

    def peer(self) -> str:
        """The address of whoever sent the call here."""
        return self.call.peer

    def auth_context(self) -> dict[str, list[bytes]]:
        """The names in the end caller's certificate; empty without one."""
        names = self.peer_identities()
        return {} if names is None else {_IDENTITY_KEY: names}

    def peer_identities(self) -> list[bytes] | None:
        """The names in the end caller's certificate; None without one."""
        caller = self.call._call.caller
        return [name.encode() for name in caller.names] if caller is not None and caller.names else None

    def peer_identity_key(self) -> str | None:
        """What `peer_identities` are in `auth_context`; None without any."""
        return None if self.peer_identities() is None else _IDENTITY_KEY

    # -- how long it lasts ---------------------------------------------------------------------------------

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return self.call.time_remaining()

    def done(self) -> bool:
        """Whether the method has ended."""
        return self._ended

    def cancelled(self) -> bool:
        """Whether the caller has given up, or its deadline has passed."""
        task = asyncio.current_task() if not self._ended else None
        return self._cancelled or (task is not None and task.cancelling() > 0)

    def is_active(self) -> bool:
        """Whether somebody waits for the answer."""
        return not (self._ended or self.cancelled())

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Have `callback` called with this context when the method has ended, however."""
        if not self.add_callback(lambda: callback(self)):
            callback(self)

    def add_callback(self, callback: Callable[[], Any]) -> bool:
        """The same without an argument. False, and it is not called, if the method has ended already."""
        if self._ended:
            return False
        self._callbacks.append(callback)
        return True

    def yields(self) -> None:
        """The method yields its output, and writes none: for whoever runs it."""
        self._write = None

    def ended(self, *, cancelled: bool = False) -> None:
        """The method has ended: for whoever runs it."""
        self._cancelled = self._cancelled or cancelled
        self._ended = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of %s failed", self.call._call.key)

    # -- what is answered ----------------------------------------------------------------------------------

    def send_initial_metadata(self, initial_metadata: MetadataInput) -> Awaitable[None]:
        """Set what comes before the answer, and goes out with the first message of it. May be awaited or not.

        Raises:
            InvalidArgumentError: a name or value that cannot be sent.
        """
        self.call._call.initial = _metadata.given(initial_metadata)
        return _Done()

    def set_trailing_metadata(self, trailing_metadata: MetadataInput) -> None:
        """See `CallContext.set_trailing_metadata`."""
        self.call.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What was set to follow the answer."""
        return self.call._call.trailing

    def abort(self, code: Any, details: str = "", trailing_metadata: MetadataInput = ()) -> NoReturn:
        """End the call with a status; see `CallContext.abort`. Details in binary may be in the metadata."""
        binary: bytes | None = None
        if trailing_metadata:
            pairs = _pairs(trailing_metadata)
            rest = [pair for pair in pairs if pair[0] != _details.STATUS_DETAILS]
            binary = next((value for name, value in pairs if name == _details.STATUS_DETAILS), None)
            self.call.set_trailing_metadata(rest)
        raise _details.aborted(_status(code), details, binary)

    def abort_with_status(self, status: Any) -> NoReturn:
        """End the call with a `grpc.Status`, such as `grpc_status.rpc_status.to_status` makes."""
        self.abort(status.code, status.details or "", status.trailing_metadata or ())

    def set_code(self, code: Any) -> None:
        """The status with which the call ends when the method returns or raises."""
        is_ok = code is GrpcStatus.OK or getattr(code, "name", None) == "OK" or code == 0
        self._status = GrpcStatus.OK if is_ok else _status(code)
        self._code = code

    def code(self) -> Any:
        """What was given to `set_code`; None if nothing was."""
        return self._code

    def set_details(self, details: str) -> None:
        """The text that goes with `set_code`."""
        self._text = details

    def details(self) -> str:
        """What was given to `set_details`."""
        return self._text

    def cancel(self) -> None:
        """End the call as cancelled when the method returns or raises."""
        self.set_code(GrpcStatus.CANCELLED)

    def chosen_status(self) -> CallAbortedError | None:
        """The error that `set_code` has asked for."""
        return None if self._status is GrpcStatus.OK else _details.aborted(self._status, self._text, None)

    def set_compression(self, compression: Any) -> None:
        """Nothing."""

    def disable_next_message_compression(self) -> None:
        """Nothing."""

    # -- messages ------------------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message of the input; `grpc.aio.EOF` after the last.

        Raises:
            InvalidArgumentError: the method's input is one message, which it was given.
        """
        if self._given is None:
            raise InvalidArgumentError("the input is one message: there is no stream to read")
        try:
            return await anext(self._given)
        except StopAsyncIteration:
            # Whoever compares with it has imported it.
            return getattr(sys.modules.get("grpc.aio"), "EOF", None)

    async def write(self, message: Any) -> None:
        """Send a message of the output; returns when there is room for another.

        Raises:
            InvalidArgumentError: the method yields its output, or returns one message.
        """
        if self._write is None:
            raise InvalidArgumentError(
                "write() is for methods that stream their output, and yield none of it"
            )
        await self._write(message)


def _status(code: Any) -> GrpcStatus:
    """As `codes.chosen`; grpc takes its own numbers, too."""
    if isinstance(code, int) and not isinstance(code, bool) and code in GrpcStatus._value2member_map_:
        code = GrpcStatus(code)
    return chosen(code)


def _pairs(metadata: Any) -> list[tuple[str, Any]]:
    items = metadata.items() if hasattr(metadata, "items") else metadata
    return [(str(name).lower(), value) for name, value in items]
