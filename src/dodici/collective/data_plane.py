"""The client's side of the data plane, and the only module that imports grpc.

What the rest of the collective sees of it are bytes: a `Channel` carries calls of all kinds. The server's side is
`grpc_server`, on dodici's own HTTP/2.

Keepalive. `grpc.keepalive_timeout_ms` alone does not find a peer that is stopped but whose machine still answers:
with grpcio 1.85 nothing happened before the deadline. `grpc.http2.ping_timeout_ms` makes it UNAVAILABLE, 1.3 s after
it stopped with pings each second. A server with default options answers frequent pings with GOAWAY
(too_many_pings); ours takes them.

Each channel has its subchannels for itself, and never repeats a call: who repeats what is for the router to say.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, Literal, TypeAlias

import grpc
from grpc import aio

from ..core.grpc_status import GrpcStatus
from .contracts import Pairs, RenewedSecurity, TransportSecurity
from .details import STATUS_DETAILS, binary, texts
from .errors import CollectiveError, call_error
from .lines import Line, Lines

KEEPALIVE: Final = (1.0, 5.0)
"""Seconds of silence until a ping, and for its answer, on channels to collectors: pings are answered by their event loops,
which may be busy. Their links tell earlier who is gone."""
_WINDOW: Final = 1024 * 1024
"""Bytes that an answer may be ahead of its reader. A quarter of it makes large ones four times as slow."""
OWN_METADATA = frozenset({"user-agent", "grpc-accept-encoding", "grpc-encoding"})
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_STATUSES = {code: GrpcStatus(code.value[0]) for code in grpc.StatusCode}


def keepalive_options(interval: float = 1.0, timeout: float = 0.5) -> list[tuple[str, Any]]:
    """Channel options that find a stopped peer after `interval` + `timeout` seconds, calls or not."""
    return [
        ("grpc.keepalive_time_ms", int(interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", int(timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


MetadataTaker: TypeAlias = Callable[[Literal["initial", "trailing"], Pairs], None]


def _cancels() -> int:
    """How often the current task was cancelled.

    A task that is cancelled in the moment in which its call fails is told of the failure alone by grpc, and would go on.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class Channel:
    """Carries calls to one address, as raw bytes.

    `on_metadata` of its calls is given the metadata of the answer, without what is grpc's own: "initial" and
    "trailing", each at most once.
    """

    def __init__(
        self,
        address: str,
        *,
        security: TransportSecurity | None = None,
        message: int = 16 * 1024 * 1024,
        keepalive: tuple[float, float] = (1.0, 0.5),
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        self.address = address
        self._options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            # Else the window of a stream whose reader stops grows with what its connection could carry: by 4 to 13 MiB.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _WINDOW),
            ("grpc.max_receive_message_length", message),
            ("grpc.max_send_message_length", message),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # Not a wait: the least time that an attempt has for its handshakes. Across an ocean TLS takes half a second.
            ("grpc.min_reconnect_backoff_ms", 2000),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # Whether it is connected says whether the other end lives, however long there is no call.
            ("grpc.client_idle_timeout_ms", 2**31 - 1),
            *keepalive_options(*keepalive),
        ]
        # Of an option that is given twice, grpc takes the first.
        self._options = list({**dict(self._options), **dict(options)}.items())
        self._security = security
        renewed = security.generation if isinstance(security, RenewedSecurity) else None
        self._lines = Lines(address, self._make, renewed)
        self.given_up = False
        """It is about to be closed: nothing may be begun with it."""
        self._began = -math.inf

    async def unary(
        self,
        path: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Pairs = (),
        wait_for_ready: bool = False,
        on_metadata: MetadataTaker | None = None,
    ) -> bytes:
        """One message there, one back.

        Raises:
            CollectiveError: the call failed; `request_not_processed` is True if it was certainly never sent.
        """
        line = self._line()
        method = line.unary.get(path)
        if method is None:
            method = line.unary[path] = line.channel.unary_unary(path)
        call = method(payload, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        line.calls += 1
        self._began = time.monotonic()
        cancels = _cancels()
        try:
            answer: bytes = await call
        except aio.AioRpcError as error:
            if _cancels() > cancels:
                raise asyncio.CancelledError from error
            raise self._failure(error, on_metadata) from error
        except asyncio.CancelledError:
            self._check_closed()
            raise
        finally:
            self._lines.ended(line)
        if on_metadata is not None:
            on_metadata("initial", without_own(await call.initial_metadata()))
            on_metadata("trailing", without_own(await call.trailing_metadata()))
        return answer

    async def stream(
        self,
        path: str,
        payloads: AsyncIterator[bytes],
        *,
        timeout: float | None = None,
        metadata: Pairs = (),
        wait_for_ready: bool = False,
        on_metadata: MetadataTaker | None = None,
    ) -> AsyncIterator[bytes]:
        """A call of any kind. Ending the iteration early cancels it, and closes `payloads`.

        Raises:
            CollectiveError: the call failed.
        """
        line = self._line()
        method = line.streams.get(path)
        if method is None:
            method = line.streams[path] = line.channel.stream_stream(path)
        call = method(payloads, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        line.calls += 1
        self._began = time.monotonic()
        cancels = _cancels()
        try:
            if on_metadata is not None:
                on_metadata("initial", without_own(await call.initial_metadata()))
            while (answer := await call.read()) is not aio.EOF:
                yield answer
                cancels = _cancels()
            if on_metadata is not None:
                on_metadata("trailing", without_own(await call.trailing_metadata()))
        except aio.AioRpcError as error:
            if _cancels() > cancels:
                raise asyncio.CancelledError from error
            raise self._failure(error, on_metadata) from error
        except asyncio.CancelledError:
            self._check_closed()
            task = asyncio.current_task()
            if not call.cancelled() or (task is not None and task.cancelling()):
                raise
            # grpc cancels a call itself whose payloads it cannot write, where it should tell why it cannot.
            raise call_error(
                GrpcStatus.UNAVAILABLE, f"{self.address} was lost while the call was sent", peer=self.address
            ) from None
        finally:
            if not call.done():
                call.cancel()
            self._lines.ended(line)

    def began_within(self, seconds: float) -> bool:
        """Whether a call has begun on it lately."""
        return time.monotonic() - self._began < seconds

    async def ready(self, timeout: float) -> None:
        """Wait until there is a connection.

        Raises:
            PeerUnavailableError: there is none after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._lines.current().channel.channel_ready()
        except TimeoutError:
            raise call_error(
                GrpcStatus.UNAVAILABLE,
                f"{self.address} does not answer",
                peer=self.address,
                request_not_processed=True,
            ) from None

    def check(self) -> None:
        """Return if it is not given up.

        Raises:
            PeerUnavailableError: it is, or is closed.
        """
        if self.given_up or self._lines.closed:
            raise call_error(
                GrpcStatus.UNAVAILABLE,
                f"the connection to {self.address} was closed",
                peer=self.address,
                request_not_processed=True,
            )

    def connected(self) -> bool:
        """Whether there is a connection now; asks for one if not."""
        return not self._lines.closed and self._lines.current().connected()

    async def changed(self, was_connected: bool) -> bool:
        """Wait until `connected()` is not what it was, and return what it is."""
        while True:
            line = self._lines.current()
            state = line.channel.get_state(try_to_connect=True)
            if (now := state is grpc.ChannelConnectivity.READY) is not was_connected:
                return now
            await line.changed(state)

    async def close(self) -> None:
        """Close the connection; calls on it fail with UNAVAILABLE."""
        await self._lines.close()

    def _line(self) -> Line:
        self.check()
        return self._lines.current()

    def _check_closed(self) -> None:
        """Closing cancels the calls, and looks to whoever waits for one as if he had been cancelled himself."""
        task = asyncio.current_task()
        if self._lines.closed and task is not None and not task.cancelling():
            raise call_error(
                GrpcStatus.UNAVAILABLE, f"the connection to {self.address} was closed", peer=self.address
            ) from None

    def _make(self) -> Any:
        if self._security is None:
            return aio.insecure_channel(self.address, options=self._options)
        options = [*self._options, *self._security.channel_options()]
        return aio.secure_channel(self.address, self._security.channel_credentials(), options=options)

    def _failure(self, error: Any, on_metadata: MetadataTaker | None) -> CollectiveError:
        trailing = without_own(error.trailing_metadata() or ())
        if on_metadata is not None:
            on_metadata("trailing", trailing)
        text = error.details() or ""
        status = _STATUSES[error.code()]
        if status is GrpcStatus.INTERNAL and text == "Internal error from Core":
            # What grpc.aio says of a call when one of its messages could not be written, whatever ended the call.
            status, text = GrpcStatus.UNAVAILABLE, f"{self.address} was lost while the call was sent"
        found = next((value for name, value in trailing if name == STATUS_DETAILS), None)
        details = found if isinstance(found, bytes) else None
        return call_error(
            status,
            text,
            peer=self.address,
            binary_details=details,
            details=texts(details),
            # grpc's words for a call that found no connection. There is no flag for it.
            request_not_processed=text.startswith("failed to connect to all addresses"),
        )


def client_tls(ca: bytes | None = None, key: bytes | None = None, cert: bytes | None = None) -> Any:
    """Credentials of a TLS client, of PEM texts. Without `ca`, the authorities that grpc brings are trusted."""
    return grpc.ssl_channel_credentials(ca, key, cert)


def without_own(metadata: Iterable[Any]) -> Pairs:
    """Metadata without what is grpc's own."""
    return tuple((name, value) for name, value in metadata if name not in OWN_METADATA)


# -- for servers of grpc's ---------------------------------------------------------------------------------

ServerInterceptor = aio.ServerInterceptor
"""What grpc wants an interceptor to inherit from."""


def refusal(error: CollectiveError) -> Any:
    """A handler for a server of grpc's that ends any call with the status of the error, before anything is read."""

    # On the wire all kinds of call are the same: one handler refuses them all.
    async def refuse(_: AsyncIterator[bytes], context: Any) -> None:
        details = binary(error)
        if details is not None:
            context.set_trailing_metadata(((STATUS_DETAILS, details),))
        text = error.message.encode("utf-8", "replace").decode()
        await context.abort(_CODES[int(error.grpc_status)], text)

    return grpc.stream_stream_rpc_method_handler(refuse)
