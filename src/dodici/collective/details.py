"""Details of a failure: texts by name in the envelope, a `google.rpc.Status` in binary on the transparent face.

Texts cross the transparent face as a `google.rpc.ErrorInfo` of the domain "dodici" within that status, so that a
failure passes through any number of hops, and from one face to the other, without losing them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .errors import CallAbortedError, CollectiveError
from .protos.status_pb2 import ErrorInfo, RpcStatus
from .values import PREFIX, to_any

DOMAIN = "dodici"
STATUS_DETAILS = "grpc-status-details-bin"
_ERROR_INFO = PREFIX + "google.rpc.ErrorInfo"


def aborted(grpc_status: GrpcStatus, message: str, details: Any) -> CallAbortedError:
    """The error of `context.abort()`.

    Raises:
        InvalidArgumentError: the details are of no kind that can be sent.
    """
    if not isinstance(message, str):
        raise InvalidArgumentError(f"the message must be a str, not {type(message).__name__}")
    error = CallAbortedError(message, grpc_status=grpc_status)
    error.args = (message,)  # an empty one stays empty
    if details is None:
        return error
    if isinstance(details, Mapping):
        texts = {str(name): str(value) for name, value in details.items()}
        error.details = texts
    elif isinstance(details, bytes):
        error.binary_details = details
    elif isinstance(details, Message) and details.DESCRIPTOR.full_name == "google.rpc.Status":
        error.binary_details = details.SerializeToString()
    else:
        messages: list[Any] = [details]
        if isinstance(details, Iterable) and not isinstance(details, str | Message):
            messages = list(details)
        if not all(isinstance(one, Message) for one in messages):
            raise InvalidArgumentError(
                "details must be a mapping of texts, a google.rpc.Status or its bytes, or messages for it; "
                f"not {type(details).__name__}"
            )
        status = RpcStatus(code=int(grpc_status), message=message, details=[to_any(one) for one in messages])
        error.binary_details = status.SerializeToString()
    return error


def binary(error: CollectiveError) -> bytes | None:
    """What `grpc-status-details-bin` is for an error: its own bytes, or its texts in a status; None without both."""
    if error.binary_details is not None or not error.details:
        return error.binary_details
    info = ErrorInfo(domain=DOMAIN, metadata=dict(error.details))
    status = RpcStatus(code=int(error.grpc_status), message=error.message)
    status.details.append(AnyMessage(type_url=_ERROR_INFO, value=info.SerializeToString()))
    return status.SerializeToString()


def texts(details: bytes | None) -> dict[str, str]:
    """The texts that a failure came with over the transparent face."""
    found: dict[str, str] = {}
    if details:
        try:
            for packed in RpcStatus.FromString(details).details:
                if packed.type_url == _ERROR_INFO:
                    info = ErrorInfo.FromString(packed.value)
                    if info.domain == DOMAIN:
                        found.update(info.metadata)
        except DecodeError:
            pass  # bytes of the application's own
    return found
