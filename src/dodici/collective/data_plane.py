"""The data plane: the only module that imports grpc.

What the rest of the collective sees of it are bytes: a server hands arriving calls to one `ServerFace`, and a
`Channel` carries calls of all kinds as raw bytes. Another HTTP/2 engine can take grpcio's place here.

Keepalive. `grpc.keepalive_timeout_ms` alone does not find a peer that is stopped but whose machine still answers:
with grpcio 1.85 nothing happened before the deadline. `grpc.http2.ping_timeout_ms` makes it UNAVAILABLE, 1.3 s after
it stopped with pings each second. A server with default options answers frequent pings with GOAWAY
(too_many_pings), so ours allow one each 500 ms, with or without calls.

Each channel has its subchannels for itself, and never repeats a call: who repeats what is for the router to say.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import grpc
from grpc import aio

from ..core.errors import SocketError
from ..core.grpc_status import GrpcStatus
from .addresses import split_address
from .contracts import AgingSecurity, Identity, Pairs, RenewedSecurity, TransportSecurity
from .details import binary, texts
from .errors import CollectiveError, call_error
from .lines import Line, Lines

OWN_METADATA = frozenset({"user-agent", "grpc-accept-encoding", "grpc-encoding"})
STATUS_DETAILS = "grpc-status-details-bin"

_CUT_OFF = 0.001
"""Seconds in which it shows that input has not ended, but was cut off."""
_LOOKS = 10
"""How often that is waited for at most."""
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


# -- the server's side -----------------------------------------------------------------------------------


def _is_taken(path: str) -> bool:
    """Whether somebody takes connections at a unix socket. grpc would remove it, and listen in his place."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # and has no time
        except (OSError, ValueError):
            return False
    return True


def _why_not(address: str, host: str | None, error: RuntimeError) -> str:
    """What the system has against listening at an address, which grpcio does not say."""
    if host is not None:
        port = int(address.rpartition(":")[2])
        try:
            family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
        except UnicodeError:
            return f"{host!r} is no host name"
        except OSError as reason:
            return (
                "the address is in use"
                if reason.errno == errno.EADDRINUSE
                else str(reason.strerror or reason)
            )
    return str(error)


class ServerCall:
    """An arrived call, as grpc holds it. Wraps what is needed of grpc's own context."""

    __slots__ = ("context",)

    def __init__(self, context: Any) -> None:
        self.context = context

    @property
    def peer(self) -> str:
        """Address of the other end, such as ``"ipv4:127.0.0.1:40456"``."""
        return str(self.context.peer())

    def metadata(self) -> Pairs:
        """What the caller sent, grpc's own included."""
        pairs: Pairs = self.context.invocation_metadata()
        return pairs

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if it set none."""
        remaining: float | None = self.context.time_remaining()
        return remaining

    def identity(self) -> Identity:
        """What the client's certificate says."""
        return identity_of(self.context.auth_context())

    def set_trailing(self, pairs: Pairs) -> None:
        """Metadata for the end of the answer."""
        self.context.set_trailing_metadata(pairs)

    async def write(self, answer: Any) -> None:
        """Send a message of the answer; returns when there is room for another."""
        await self.context.write(answer)

    async def send_initial(self, pairs: Pairs) -> None:
        """Metadata for its beginning, now."""
        await self.context.send_initial_metadata(pairs)

    async def fail(self, error: CollectiveError, trailing: Pairs = ()) -> None:
        """End the call with the status of the error. Always raises what grpc wants raised."""
        details = binary(error)
        if details is not None and not any(name == STATUS_DETAILS for name, _ in trailing):
            trailing = (*trailing, (STATUS_DETAILS, details))
        if trailing:
            self.context.set_trailing_metadata(trailing)
        # grpc-message is percent-encoded by grpc; a lone surrogate has no encoding at all.
        text = error.message.encode("utf-8", "replace").decode()
        await self.context.abort(_CODES[int(error.grpc_status)], text)


MetadataTaker: TypeAlias = Callable[[Literal["initial", "trailing"], Pairs], None]


ServerInterceptor = aio.ServerInterceptor
"""What grpc wants an interceptor to inherit from."""


class ServerFace(Protocol):
    """Takes what arrives at a server."""

    def method(self, path: str, metadata: Pairs) -> Any:
        """The handler of an arriving call, made by one of the functions below; None: UNIMPLEMENTED.

        Called once per call, before anything of its input was read.
        """


class _Handler(grpc.RpcMethodHandler):  # type: ignore[misc]
    """What grpc asks a method for. One is made for each call: grpc's own functions for it take 3 us longer."""

    def __init__(self, read: Any, write: Any, *, unary_unary: Any = None, stream_stream: Any = None) -> None:
        self.request_streaming = self.response_streaming = stream_stream is not None
        self.request_deserializer = read
        self.response_serializer = write
        self.unary_unary = unary_unary
        self.unary_stream = self.stream_unary = None
        self.stream_stream = stream_stream


def unary_unary(run: Callable[[Any, ServerCall], Awaitable[Any]], read: Any = None, write: Any = None) -> Any:
    """A handler with one message in and one out. `read` and `write` turn bytes into messages and back."""

    async def handle(request: Any, context: Any) -> Any:
        return await run(request, ServerCall(context))

    return _Handler(read, write, unary_unary=handle)


def stream_stream(
    run: Callable[[AsyncIterator[Any], ServerCall], Awaitable[None]], read: Any = None, write: Any = None
) -> Any:
    """A handler of any kind of call, which on the wire are all the same. It answers by `ServerCall.write()`.

    An async generator would be left where it is when its call is cancelled while an answer is being written.
    """

    async def handle(requests: AsyncIterator[Any], context: Any) -> None:
        await run(requests, ServerCall(context))

    return _Handler(read, write, stream_stream=handle)


def _cancels() -> int:
    """How often the current task was cancelled.

    A task that is cancelled in the moment in which its call fails is told of the failure alone by grpc, and would go on.
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def whole(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """What a client sends, for a call of the current task; it ends when the client has said that this was all.

    To grpc.aio, input that was cut off, by a client that has cancelled or died, ends like input that is complete, and
    that the call was cancelled comes after it: in the same turn of the loop mostly, in the next millisecond always, as
    far as was measured, unless the machine is so busy that a millisecond takes several. A handler that adds up what it is sent must not take half of it for all.
    """
    call = asyncio.current_task()

    async def read() -> AsyncIterator[Any]:
        async for request in requests:
            yield request
        await asyncio.sleep(0)
        for _ in range(_LOOKS):
            began = time.monotonic()
            await asyncio.sleep(_CUT_OFF)
            if time.monotonic() - began < 2 * _CUT_OFF:
                break  # this process gets its turns, and so does grpc's thread, which tells of cancellations
        if call is not None and call.cancelling():
            raise call_error(GrpcStatus.CANCELLED, "the client has not sent all that it was about to")

    return read()


class _Faces(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Asks the face what to do with each arriving call."""

    def __init__(self, face: ServerFace) -> None:
        self._face = face

    def service(self, handler_call_details: Any) -> Any:
        return self._face.method(handler_call_details.method, handler_call_details.invocation_metadata)


class Server:
    """A listening gRPC server.

    Raises:
        InvalidArgumentError: the address is not one.
        SocketError: it cannot be listened on.
    """

    def __init__(
        self,
        face: ServerFace,
        address: str,
        *,
        security: TransportSecurity | None = None,
        message: int = 16 * 1024 * 1024,
        interceptors: Sequence[Any] = (),
    ) -> None:
        host, _ = split_address(address)
        if host is None and _is_taken(address.removeprefix("unix:").removeprefix("//")):
            raise SocketError(f"cannot listen on {address}: the address is in use")
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", message),
            ("grpc.max_send_message_length", message),
            ("grpc.http2.min_ping_interval_without_data_ms", 500),
            ("grpc.http2.max_ping_strikes", 0),
            *keepalive_options(10.0, 5.0),
        ]
        if isinstance(security, AgingSecurity):
            options += security.server_options()
        self._server = aio.server(
            handlers=[_Faces(face)], options=options, interceptors=list(interceptors) or None
        )
        try:
            if security is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, security.server_credentials())
        except RuntimeError as error:
            raise SocketError(f"cannot listen on {address}: {_why_not(address, host, error)}") from error
        self.address = address if host is None else f"{host}:{port}"

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls at once; end those that still run after `grace` seconds, with UNAVAILABLE."""
        await self._server.stop(grace)


# -- the client's side -----------------------------------------------------------------------------------


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


def server_tls(
    given: tuple[bytes, bytes, bytes | None],
    renewed: Callable[[], tuple[bytes, bytes, bytes | None] | None],
    *,
    require_client_cert: bool,
) -> Any:
    """Credentials of a TLS server, of PEM texts: key, certificate, authorities of clients.

    `renewed` is called before each handshake, in threads of grpc's, and gives others to use from then on, or None.
    """

    def configuration(parts: tuple[bytes, bytes, bytes | None]) -> Any:
        key, cert, ca = parts
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    def fetch() -> Any:
        parts = renewed()
        return None if parts is None else configuration(parts)

    return grpc.dynamic_ssl_server_credentials(configuration(given), fetch, require_client_cert)


def client_tls(ca: bytes | None = None, key: bytes | None = None, cert: bytes | None = None) -> Any:
    """Credentials of a TLS client, of PEM texts. Without `ca`, the authorities that grpc brings are trusted."""
    return grpc.ssl_channel_credentials(ca, key, cert)


def without_own(metadata: Iterable[Any]) -> Pairs:
    """Metadata without what is grpc's own."""
    return tuple((name, value) for name, value in metadata if name not in OWN_METADATA)


def identity_of(auth_context: Any) -> Identity:
    """The names in a client's certificate, from what grpc says about its connection.

    The kinds of names are kept apart: whoever may choose a common name could otherwise choose another's URI.
    """
    if not auth_context:
        return Identity()
    names: list[str] = []
    for field in ("peer_uri", "peer_dns", "x509_common_name"):
        for value in auth_context.get(field, ()):
            name = value.decode("utf-8", "replace")
            if name not in names and (field == "peer_uri" or not {":", "/"} & {*name}):
                names.append(name)
    return Identity(tuple(names), tls=b"ssl" in auth_context.get("transport_security_type", ()))
