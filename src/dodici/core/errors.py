"""Every error that dodici raises or reports, in one tree.

    DodiciError                              UND_ERR
    ├── InvalidArgumentError  (ValueError)   UND_ERR_INVALID_ARG
    │   └── LoopMismatchError (RuntimeError) DODICI_ERR_LOOP_MISMATCH
    ├── InvalidReturnValueError (TypeError)  UND_ERR_INVALID_RETURN_VALUE
    ├── NotSupportedError (NotImplementedError)  UND_ERR_NOT_SUPPORTED
    ├── AbortError                           UND_ERR_ABORT
    │   └── RequestAbortedError              UND_ERR_ABORTED
    ├── InformationalError                   UND_ERR_INFO
    ├── ClientClosedError                    UND_ERR_CLOSED
    ├── ClientDestroyedError                 UND_ERR_DESTROYED
    ├── MaxOriginsReachedError               UND_ERR_MAX_ORIGINS_REACHED
    ├── BalancedPoolMissingUpstreamError     UND_ERR_BPL_MISSING_UPSTREAM
    ├── ConnectTimeoutError (TimeoutError)   UND_ERR_CONNECT_TIMEOUT
    ├── HeadersTimeoutError (TimeoutError)   UND_ERR_HEADERS_TIMEOUT
    ├── BodyTimeoutError    (TimeoutError)   UND_ERR_BODY_TIMEOUT
    ├── RequestTimeoutError (TimeoutError)   DODICI_ERR_REQUEST_TIMEOUT
    ├── SocketError         (ConnectionError)  UND_ERR_SOCKET
    │   ├── HTTP2Error                       DODICI_ERR_HTTP2
    │   │   └── StreamResetError             DODICI_ERR_HTTP2_STREAM
    │   ├── ConnectError                     the errno's name, or DODICI_ERR_CONNECT
    │   │   ├── ConnectionRefused (ConnectionRefusedError)  ECONNREFUSED
    │   │   ├── NameResolutionError (socket.gaierror)       ENOTFOUND
    │   │   └── TLSError                     DODICI_ERR_TLS
    │   ├── LinkError                        DODICI_ERR_LINK
    │   ├── WorkerExitedError                DODICI_ERR_WORKER_EXITED
    │   └── BodyAbortedError                 DODICI_ERR_BODY_ABORTED
    ├── MeshError                            DODICI_ERR_MESH
    │   ├── NoTargetError                    DODICI_ERR_NO_TARGET
    │   ├── TargetChangedError               DODICI_ERR_TARGET_CHANGED
    │   ├── MeshTimeoutError (TimeoutError)  DODICI_ERR_MESH_TIMEOUT
    │   ├── WorkerStartError                 DODICI_ERR_WORKER_START
    │   └── RemoteAppError                   DODICI_ERR_REMOTE_APP
    ├── CollectiveError                      DODICI_ERR_COLLECTIVE, in dodici.collective
    ├── WebSocketError (ConnectionError)     DODICI_ERR_WEBSOCKET
    │   └── WebSocketClosedError             DODICI_ERR_WEBSOCKET_CLOSED
    ├── ProxyConnectionError (ConnectionError)  UND_ERR_PRX_CONN
    ├── SecureProxyConnectionError (ConnectionError)  UND_ERR_PRX_TLS
    ├── HTTPParserError                      HPE_*
    ├── HeadersOverflowError                 UND_ERR_HEADERS_OVERFLOW
    ├── RequestContentLengthMismatchError    UND_ERR_REQ_CONTENT_LENGTH_MISMATCH
    ├── ResponseContentLengthMismatchError   UND_ERR_RES_CONTENT_LENGTH_MISMATCH
    ├── ResponseExceededMaxSizeError         UND_ERR_RES_EXCEEDED_MAX_SIZE
    ├── RequestRetryError                    UND_ERR_REQ_RETRY
    ├── ResponseError                        UND_ERR_RESPONSE
    ├── BodyUnusableError (RuntimeError)     DODICI_ERR_BODY_UNUSABLE
    ├── DecompressionError (ValueError)      DODICI_ERR_DECOMPRESSION
    └── GrpcError                            DODICI_ERR_GRPC
        └── GrpcDeadlineError (TimeoutError) DODICI_ERR_GRPC

Codes that undici defines keep its spelling. Each class is also the builtin that Python programs already
catch. What is needed to act on an error travels with it, and survives pickling.
"""

from __future__ import annotations

import copy
import errno as _errno
import socket as _socket
from typing import TYPE_CHECKING, Any

from .grpc_status import GrpcStatus

if TYPE_CHECKING:
    from ..wire.grpc.metadata import GrpcMetadata
    from .headers import Headers


class DodiciError(Exception):
    """Base of all errors of dodici.

    Attributes:
        code: a stable, documented string to switch on.
        phase: where the exchange was: ``"queue"``, ``"connect"``, ``"request"``, ``"headers"``, ``"body"``.
        origin: the origin that was asked, such as ``"https://example.com"``.
        peer: the address at the other end of the connection, where there was one.
        status_code: the response's status, where there was one.
        reused: whether the connection had carried an exchange before.
        bytes_sent: bytes of this request handed to the transport.
        bytes_read: bytes of this response's body that arrived.
        attempt: how often the request had been begun, 1 for the first time.
        request_not_processed: True if the server cannot have acted on the request, so that repeating
            it is safe whatever its method.
    """

    code: str = "UND_ERR"
    phase: str | None = None
    origin: str | None = None
    peer: Any = None
    status_code: int | None = None
    reused: bool | None = None
    bytes_sent: int | None = None
    bytes_read: int | None = None
    attempt: int | None = None
    request_not_processed: bool = False

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message or _default_message(type(self)))
        for name, value in facts.items():
            setattr(self, name, value)

    @property
    def message(self) -> str:
        """The text, without the facts."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return self.message.replace("\r", "\\r").replace("\n", "\\n")

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if not key.startswith("__")}
        number = getattr(self, "errno", None)
        if number is not None:
            state["errno"] = number
        return _rebuild, (type(self), self.args, state)


def _default_message(kind: type) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def _rebuild(kind: type[DodiciError], args: tuple[Any, ...], state: dict[str, Any]) -> DodiciError:
    error = kind.__new__(kind, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


def annotate(error: BaseException, **facts: Any) -> None:
    """Add facts to an error of ours, keeping those that it has."""
    if isinstance(error, DodiciError):
        for name, value in facts.items():
            if value is not None and name not in error.__dict__:
                setattr(error, name, value)


def twin(error: DodiciError) -> DodiciError:
    """The same error for another handler: raising one twice would tangle the tracebacks."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


class InvalidArgumentError(DodiciError, ValueError):
    """Invalid argument."""

    code = "UND_ERR_INVALID_ARG"


class LoopMismatchError(InvalidArgumentError, RuntimeError):
    """A dispatcher was used on another event loop than the one it was first used on."""

    code = "DODICI_ERR_LOOP_MISMATCH"


class InvalidReturnValueError(DodiciError, TypeError):
    """A callable supplied by the caller returned something unusable."""

    code = "UND_ERR_INVALID_RETURN_VALUE"


class NotSupportedError(DodiciError, NotImplementedError):
    """Not supported."""

    code = "UND_ERR_NOT_SUPPORTED"


class AbortError(DodiciError):
    """The operation was aborted."""

    code = "UND_ERR_ABORT"


class RequestAbortedError(AbortError):
    """Request aborted."""

    code = "UND_ERR_ABORTED"


class InformationalError(DodiciError):
    """Not a failure: why a connection was closed in the ordinary course of things."""

    code = "UND_ERR_INFO"


class ClientClosedError(DodiciError):
    """The client is closed."""

    code = "UND_ERR_CLOSED"
    request_not_processed = True


class ClientDestroyedError(DodiciError):
    """The client is destroyed."""

    code = "UND_ERR_DESTROYED"


class MaxOriginsReachedError(DodiciError):
    """Maximum allowed origins reached."""

    code = "UND_ERR_MAX_ORIGINS_REACHED"
    request_not_processed = True


class BalancedPoolMissingUpstreamError(DodiciError):
    """No upstream has been added to the BalancedPool."""

    code = "UND_ERR_BPL_MISSING_UPSTREAM"
    request_not_processed = True


class ConnectTimeoutError(DodiciError, TimeoutError):
    """Connect timeout."""

    code = "UND_ERR_CONNECT_TIMEOUT"
    phase = "connect"
    request_not_processed = True


class HeadersTimeoutError(DodiciError, TimeoutError):
    """Headers timeout: no response head arrived in time."""

    code = "UND_ERR_HEADERS_TIMEOUT"
    phase = "headers"


class BodyTimeoutError(DodiciError, TimeoutError):
    """Body timeout: the response body stalled."""

    code = "UND_ERR_BODY_TIMEOUT"
    phase = "body"


class RequestTimeoutError(DodiciError, TimeoutError):
    """The exchange did not end within its total deadline (``timeout=``)."""

    code = "DODICI_ERR_REQUEST_TIMEOUT"


class SocketError(DodiciError, ConnectionError):
    """The connection failed or was closed by the other side."""

    code = "UND_ERR_SOCKET"


class HTTP2Error(SocketError):
    """The peer broke the rules of HTTP/2, or ended the connection with an error.

    `error_code` is the number of RFC 9113 section 7 that was sent or received.
    """

    code = "DODICI_ERR_HTTP2"
    error_code: int = 0


class StreamResetError(HTTP2Error):
    """The server reset this request's stream; the connection goes on. `error_code` says why."""

    code = "DODICI_ERR_HTTP2_STREAM"


class ConnectError(SocketError):
    """No connection could be made."""

    code = "DODICI_ERR_CONNECT"
    phase = "connect"
    request_not_processed = True


class ConnectionRefused(ConnectError, ConnectionRefusedError):
    """The peer refused the connection."""

    code = "ECONNREFUSED"


class NameResolutionError(ConnectError, _socket.gaierror):
    """The host name could not be resolved."""

    code = "ENOTFOUND"


class TLSError(ConnectError):
    """The TLS handshake failed."""

    code = "DODICI_ERR_TLS"


class LinkError(SocketError):
    """The link to another member of the mesh broke the protocol, or could not be made."""

    code = "DODICI_ERR_LINK"


class WorkerExitedError(SocketError):
    """The worker went away before it had sent a response."""

    code = "DODICI_ERR_WORKER_EXITED"
    phase = "headers"


class BodyAbortedError(SocketError):
    """The worker, or the app in it, gave up in the middle of the body."""

    code = "DODICI_ERR_BODY_ABORTED"
    phase = "body"


class MeshError(DodiciError):
    """Base of what only a mesh can report. `name` is the name that was asked for, where there is one."""

    code = "DODICI_ERR_MESH"
    name: str | None = None


class NoTargetError(MeshError):
    """No worker of this name takes requests at the moment. The request was sent to none."""

    code = "DODICI_ERR_NO_TARGET"
    request_not_processed = True


class TargetChangedError(MeshError):
    """The worker that was chosen stopped taking requests before this one reached its app."""

    code = "DODICI_ERR_TARGET_CHANGED"
    request_not_processed = True


class MeshTimeoutError(MeshError, TimeoutError):
    """Members of the mesh did not acknowledge a change in time; it is applied everywhere else.

    `members` names them: `(id, name, pid)` each.
    """

    code = "DODICI_ERR_MESH_TIMEOUT"
    members: tuple[tuple[str, str, int], ...] = ()


class WorkerStartError(MeshError):
    """The worker did not start. `remote_traceback` is what it printed last, as text; may be empty.

    `exit_code` is the process's, where it exited.
    """

    code = "DODICI_ERR_WORKER_START"
    remote_traceback: str = ""
    exit_code: int | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{self.remote_traceback.rstrip()}" if self.remote_traceback else text


class RemoteAppError(MeshError):
    """The app in the worker raised before it answered.

    `type_name` and `remote_traceback` are text: an exception object never crosses a process border.
    """

    code = "DODICI_ERR_REMOTE_APP"
    type_name: str = ""
    remote_traceback: str = ""


class WebSocketError(DodiciError, ConnectionError):
    """The WebSocket could not be opened, or failed.

    If the server refused it: its `status_code`, its `headers`, and the beginning of the `body` as text.
    """

    code = "DODICI_ERR_WEBSOCKET"
    headers: Headers | None = None
    body: str = ""


class WebSocketClosedError(WebSocketError):
    """The WebSocket is closed. `close_code` and `close_reason` say how (RFC 6455 section 7.4)."""

    code = "DODICI_ERR_WEBSOCKET_CLOSED"
    close_code: int = 1006
    close_reason: str = ""


class ProxyConnectionError(DodiciError, ConnectionError):
    """The proxy did not open the connection."""

    code = "UND_ERR_PRX_CONN"


class SecureProxyConnectionError(DodiciError, ConnectionError):
    """The TLS connection to the proxy failed."""

    code = "UND_ERR_PRX_TLS"


class HTTPParserError(DodiciError):
    """The peer sent something that is not HTTP/1.1. `data` holds the first bytes of it."""

    code = "HPE_INVALID"
    data: bytes = b""

    def __init__(
        self, message: str = "", *, code: str = "HPE_INVALID", data: bytes = b"", **facts: Any
    ) -> None:
        super().__init__(message, code=code, data=bytes(data[:128]), **facts)


class HeadersOverflowError(DodiciError):
    """The response's head (or trailers) exceed `max_header_size`."""

    code = "UND_ERR_HEADERS_OVERFLOW"


class RequestContentLengthMismatchError(DodiciError):
    """Request body length does not match the content-length header."""

    code = "UND_ERR_REQ_CONTENT_LENGTH_MISMATCH"


class ResponseContentLengthMismatchError(DodiciError):
    """Response body length does not match the content-length header."""

    code = "UND_ERR_RES_CONTENT_LENGTH_MISMATCH"


class ResponseExceededMaxSizeError(DodiciError):
    """The response body exceeds `max_response_size`."""

    code = "UND_ERR_RES_EXCEEDED_MAX_SIZE"


class RequestRetryError(DodiciError):
    """The request failed after its last retry.

    `headers` are those of the response that was refused, `count` is the number of attempts made.
    """

    code = "UND_ERR_REQ_RETRY"
    headers: Headers | None = None
    count: int = 0


class ResponseError(DodiciError):
    """The response's status is an error. Has `status_code`, `headers` and the decoded `body`."""

    code = "UND_ERR_RESPONSE"
    headers: Headers | None = None
    body: Any = None


class BodyUnusableError(DodiciError, RuntimeError):
    """The body was already consumed."""

    code = "DODICI_ERR_BODY_UNUSABLE"


class DecompressionError(DodiciError, ValueError):
    """The compressed body is broken, or larger than allowed once decompressed."""

    code = "DODICI_ERR_DECOMPRESSION"


class GrpcError(DodiciError):
    """The gRPC call ended with a status other than OK.

    Attributes:
        status: the status that the server sent, or that stands for what failed on the way; then
            `__cause__` is what failed.
        message: the server's text, or the reason; may be empty.
        details: `grpc-status-details-bin`, where the server sent it: mostly a `google.rpc.Status`.
        initial_metadata, trailing_metadata: what had arrived.
    """

    code = "DODICI_ERR_GRPC"
    status: GrpcStatus = GrpcStatus.UNKNOWN
    details: bytes | None = None
    initial_metadata: GrpcMetadata | None = None
    trailing_metadata: GrpcMetadata | None = None

    def __init__(self, message: str = "", *, status: GrpcStatus | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        if status is not None:
            self.status = status
            self.args = (message,)  # a server may send no text, and then none is made up

    def __str__(self) -> str:
        text = super().__str__()
        if "status" not in self.__dict__:
            return text
        return f"{self.status.name}: {text}" if text else self.status.name


class GrpcDeadlineError(GrpcError, TimeoutError):
    """The gRPC call's status is DEADLINE_EXCEEDED, whether the server said so or the clock here."""

    status = GrpcStatus.DEADLINE_EXCEEDED


def socket_error(cause: BaseException | None, message: str, **facts: Any) -> SocketError:
    """Turn a transport's exception into a `SocketError` that keeps its errno and cause."""
    number = getattr(cause, "errno", None)
    error = SocketError(f"{message}: {cause}" if cause is not None and str(cause) else message, **facts)
    error.errno = number
    error.__cause__ = cause
    return error


def connect_error(cause: BaseException, target: str, **facts: Any) -> DodiciError:
    """Turn what failed while connecting into the error that is both ours and the matching OSError."""
    if isinstance(cause, DodiciError):
        annotate(cause, **facts)
        return cause
    number = getattr(cause, "errno", None)
    error: DodiciError
    if isinstance(cause, TimeoutError) or number == _errno.ETIMEDOUT:
        error = ConnectTimeoutError(f"connect to {target} timed out: {cause}", **facts)
    elif isinstance(cause, _socket.gaierror):
        error = NameResolutionError(f"cannot resolve {target}: {cause.strerror or cause}", **facts)
    elif isinstance(cause, ConnectionRefusedError) or number == _errno.ECONNREFUSED:
        error = ConnectionRefused(f"connect to {target} refused", **facts)
    elif type(cause).__module__ == "ssl":
        error = TLSError(f"TLS with {target} failed: {cause}", **facts)
    else:
        error = ConnectError(f"connect to {target} failed: {cause}", **facts)
        if isinstance(number, int) and number in _errno.errorcode:
            error.code = _errno.errorcode[number]
    if isinstance(error, OSError):
        error.errno = (
            number
            if number is not None
            else _errno.ECONNREFUSED
            if isinstance(error, ConnectionRefused)
            else None
        )
    error.__cause__ = cause
    return error
