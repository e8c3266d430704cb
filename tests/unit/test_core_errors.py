"""The tree of errors: codes, builtin bases, facts, one-line text, pickling."""

from __future__ import annotations

import copy
import errno
import pickle
import re
import socket
import ssl

import pytest

from dodici.core import errors
from dodici.core.errors import (
    DodiciError,
    HTTPParserError,
    SocketError,
    annotate,
    connect_error,
    socket_error,
)

CLASSES = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DodiciError)),
    key=lambda kind: kind.__name__,
)

# reference/undici.md 1.8: class, code, and the builtin that design.md 2.5 asks for.
CODES = {
    "DodiciError": ("UND_ERR", Exception),
    "ConnectTimeoutError": ("UND_ERR_CONNECT_TIMEOUT", TimeoutError),
    "HeadersTimeoutError": ("UND_ERR_HEADERS_TIMEOUT", TimeoutError),
    "HeadersOverflowError": ("UND_ERR_HEADERS_OVERFLOW", DodiciError),
    "BodyTimeoutError": ("UND_ERR_BODY_TIMEOUT", TimeoutError),
    "InvalidArgumentError": ("UND_ERR_INVALID_ARG", ValueError),
    "InvalidReturnValueError": ("UND_ERR_INVALID_RETURN_VALUE", TypeError),
    "AbortError": ("UND_ERR_ABORT", DodiciError),
    "RequestAbortedError": ("UND_ERR_ABORTED", errors.AbortError),
    "InformationalError": ("UND_ERR_INFO", DodiciError),
    "RequestContentLengthMismatchError": ("UND_ERR_REQ_CONTENT_LENGTH_MISMATCH", DodiciError),
    "ResponseContentLengthMismatchError": ("UND_ERR_RES_CONTENT_LENGTH_MISMATCH", DodiciError),
    "ClientDestroyedError": ("UND_ERR_DESTROYED", DodiciError),
    "ClientClosedError": ("UND_ERR_CLOSED", DodiciError),
    "SocketError": ("UND_ERR_SOCKET", ConnectionError),
    "NotSupportedError": ("UND_ERR_NOT_SUPPORTED", NotImplementedError),
    "BalancedPoolMissingUpstreamError": ("UND_ERR_BPL_MISSING_UPSTREAM", DodiciError),
    "ResponseExceededMaxSizeError": ("UND_ERR_RES_EXCEEDED_MAX_SIZE", DodiciError),
    "RequestRetryError": ("UND_ERR_REQ_RETRY", DodiciError),
    "ResponseError": ("UND_ERR_RESPONSE", DodiciError),
    "SecureProxyConnectionError": ("UND_ERR_PRX_TLS", ConnectionError),
    "ProxyConnectionError": ("UND_ERR_PRX_CONN", ConnectionError),
    "MaxOriginsReachedError": ("UND_ERR_MAX_ORIGINS_REACHED", DodiciError),
    "ConnectionRefused": ("ECONNREFUSED", ConnectionRefusedError),
    "NameResolutionError": ("ENOTFOUND", socket.gaierror),
    # ours
    "RequestTimeoutError": ("DODICI_ERR_REQUEST_TIMEOUT", TimeoutError),
    "LoopMismatchError": ("DODICI_ERR_LOOP_MISMATCH", RuntimeError),
    "TLSError": ("DODICI_ERR_TLS", ConnectionError),
    "BodyUnusableError": ("DODICI_ERR_BODY_UNUSABLE", RuntimeError),
    "DecompressionError": ("DODICI_ERR_DECOMPRESSION", ValueError),
    "GrpcError": ("DODICI_ERR_GRPC", DodiciError),
    "GrpcDeadlineError": ("DODICI_ERR_GRPC", TimeoutError),
}


@pytest.mark.parametrize("name", CODES)
def test_1_8_codes_and_bases(name: str) -> None:
    code, base = CODES[name]
    kind = getattr(errors, name)
    assert kind.code == code
    assert issubclass(kind, base)
    assert issubclass(kind, DodiciError)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_in_the_tree_of_the_docstring(kind: type[DodiciError]) -> None:
    line = re.search(rf"^.*\b{kind.__name__}\b.*$", errors.__doc__ or "", re.MULTILINE)
    assert line is not None
    if kind.code.startswith(("UND_ERR", "DODICI_ERR")) and kind is not errors.ConnectError:
        assert line[0].endswith(kind.code)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(kind: type[DodiciError], protocol: int) -> None:
    error = kind(
        "it\r\nfailed",
        phase="body",
        origin="http://a",
        peer=("::1", 80),
        status_code=503,
        reused=True,
        attempt=2,
    )
    if isinstance(error, OSError):
        error.errno = errno.ECONNRESET
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert again.args == error.args
        assert str(again) == "it\\r\\nfailed"
        assert again.__dict__ == error.__dict__
        assert again.code == error.code
        assert (again.phase, again.peer, again.attempt) == ("body", ("::1", 80), 2)
        if isinstance(error, OSError):
            assert again.errno == errno.ECONNRESET


@pytest.mark.parametrize("kind", CLASSES)
def test_without_a_message(kind: type[DodiciError]) -> None:
    error = kind()
    assert error.message
    assert "\n" not in str(error)
    assert error.request_not_processed in (True, False)
    assert error.bytes_sent is None
    assert repr(error).startswith(kind.__name__ + "(")


def test_facts_of_the_parser() -> None:
    error = HTTPParserError("bad", code="HPE_X", data=bytearray(b"x" * 500))
    assert (error.code, error.data) == ("HPE_X", b"x" * 128)
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.data) == ("HPE_X", b"x" * 128)


def test_facts_that_cannot_have_been_processed() -> None:
    safe = {kind.__name__ for kind in CLASSES if kind.request_not_processed}
    assert safe == {
        "BalancedPoolMissingUpstreamError",
        "ClientClosedError",
        "ConnectError",
        "ConnectTimeoutError",
        "ConnectionRefused",
        "MaxOriginsReachedError",
        "NameResolutionError",
        "NoTargetError",
        "TLSError",
        "TargetChangedError",
    }


def test_annotate_keeps_what_is_known() -> None:
    error = SocketError("x", phase="body")
    annotate(error, phase="queue", attempt=1, peer=None)
    assert (error.phase, error.attempt) == ("body", 1)
    assert "peer" not in error.__dict__
    annotate(ValueError("not ours"), phase="queue")


def test_socket_error() -> None:
    cause = ConnectionResetError(errno.ECONNRESET, "reset by peer")
    error = socket_error(cause, "connection lost", phase="body")
    assert (error.errno, error.phase, error.__cause__) == (errno.ECONNRESET, "body", cause)
    assert str(error) == "connection lost: [Errno 104] reset by peer" or "reset by peer" in str(error)
    assert str(socket_error(None, "closed")) == "closed"
    assert str(socket_error(OSError(), "closed")) == "closed"


@pytest.mark.parametrize(
    ("cause", "name", "code", "builtin"),
    [
        (ConnectionRefusedError(), "ConnectionRefused", "ECONNREFUSED", ConnectionRefusedError),
        (OSError(errno.ECONNREFUSED, "no"), "ConnectionRefused", "ECONNREFUSED", ConnectionRefusedError),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "NameResolutionError", "ENOTFOUND", socket.gaierror),
        (TimeoutError(), "ConnectTimeoutError", "UND_ERR_CONNECT_TIMEOUT", TimeoutError),
        (OSError(errno.ETIMEDOUT, "late"), "ConnectTimeoutError", "UND_ERR_CONNECT_TIMEOUT", TimeoutError),
        (ssl.SSLCertVerificationError(1, "bad"), "TLSError", "DODICI_ERR_TLS", ConnectionError),
        (OSError(errno.ENETUNREACH, "no way"), "ConnectError", "ENETUNREACH", OSError),
        (OSError("odd"), "ConnectError", "DODICI_ERR_CONNECT", OSError),
        (ValueError("odd"), "ConnectError", "DODICI_ERR_CONNECT", OSError),
    ],
)
def test_connect_error(cause: BaseException, name: str, code: str, builtin: type) -> None:
    error = connect_error(cause, "a:1", origin="http://a:1")
    assert (type(error).__name__, error.code, error.origin) == (name, code, "http://a:1")
    assert isinstance(error, builtin)
    assert error.__cause__ is cause
    assert error.request_not_processed
    assert error.phase == "connect"
    number = getattr(cause, "errno", None)
    if number is not None:
        assert error.errno == number  # type: ignore[attr-defined]
    if name == "ConnectionRefused":
        assert error.errno == errno.ECONNREFUSED  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, getattr(again, "errno", None)) == (code, getattr(error, "errno", None))


def test_connect_error_passes_ours_on() -> None:
    ours = errors.LoopMismatchError("x")
    assert connect_error(ours, "a:1", origin="o") is ours
    assert ours.origin == "o"
