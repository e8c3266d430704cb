"""The metadata of a hop, and what of a call's metadata belongs to the application.

From anybody:
    x-dodici-namespace    the namespace, on the transparent face
    x-dodici-target       id of the collector that has to run it
    x-dodici-payload      "any": messages are serialized `google.protobuf.Any`, both ways
    x-dodici-kind         such as "unary_stream": the kind of a call whose method does not tell (a wildcard's)

From collectors alone; what others put there is dropped unseen:
    x-dodici-connection   the id that Connect gave to the sender's connection: what makes it a collector
    x-dodici-path         ids of the collectors passed, the entry first, separated by commas
    x-dodici-attempt      how often the entry had tried before
    x-dodici-caller       names of the end caller, percent-encoded, separated by commas
    x-dodici-span         id of the sender's span in the call's trace

In answers:
    x-dodici-handled-by   id of the collector that ran it, in the trailing metadata
    x-dodici-unsent       to a collector, with a failure: nobody has begun to run it, so that it may go elsewhere

Every name in `x-dodici-` is a hop's own and goes no further, and so does what belongs to one connection. All else
is the application's and survives any number of hops, with its order, repetitions and binary values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..wire.grpc.metadata import GrpcMetadata, MetadataInput, encode_binary
from .contracts import Call, Identity, Pairs
from .errors import CollectiveError, call_error
from .names import CallKind
from .trace import begin, passing

PREFIX = "x-dodici-"
NAMESPACE = "x-dodici-namespace"
TARGET = "x-dodici-target"
PAYLOAD = "x-dodici-payload"
KIND = "x-dodici-kind"
CONNECTION = "x-dodici-connection"
PATH = "x-dodici-path"
ATTEMPT = "x-dodici-attempt"
CALLER = "x-dodici-caller"
SPAN = "x-dodici-span"
HANDLED_BY = "x-dodici-handled-by"
UNSENT = "x-dodici-unsent"
BEHIND = "x-dodici-behind"

HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-type",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-previous-rpc-attempts",
        "grpc-timeout",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_KINDS = {str(kind): kind for kind in CallKind}
_MAX_PATH = 64
"""More collectors than any limit of hops lets a call pass."""


def split(metadata: Iterable[Any]) -> tuple[dict[str, str], Pairs]:
    """What arrived, as the hop's part by name (the first value of each), and the application's part."""
    hop: dict[str, str] = {}
    rest: list[tuple[str, str | bytes]] = []
    for name, value in metadata:
        if name.startswith(PREFIX):
            if isinstance(value, str):
                hop.setdefault(name, value)
        elif name not in HOP_BY_HOP:
            rest.append((name, value))
    return hop, tuple(rest)


def kind_of(hop: dict[str, str]) -> CallKind | None:
    """The kind that the sender names; None if it names none, or one that there is not."""
    named = hop.get(KIND)
    return None if named is None else _KINDS.get(named)


def believe(call: Call, hop: dict[str, str]) -> None:
    """Take over what only a collector may say. The call has come from one.

    Raises:
        CollectiveError: INVALID_ARGUMENT: it is not what a collector says.
    """
    path = hop.get(PATH)
    if path:
        call.path = tuple(path.split(","))
        if len(call.path) > _MAX_PATH or "" in call.path:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not a path: {path[:200]!r}")
    attempt = hop.get(ATTEMPT, "0")
    if not attempt.isdecimal() or not attempt.isascii() or len(attempt) > 6:
        raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not a number of attempts: {attempt[:20]!r}")
    call.attempt = int(attempt)
    caller = hop.get(CALLER)
    if caller is not None:
        call.caller = Identity(tuple(unquote(name) for name in caller.split(",")), tls=True)
    call.parent = hop.get(SPAN, "")[:16]


def check_path(call: Call, own_id: str, max_hops: int) -> None:
    """Refuse a call that has been here before, or has come too far.

    Raises:
        CollectiveError: FAILED_PRECONDITION, with the path in `details["path"]`.
    """
    if not call.path:
        return
    if own_id in call.path:
        what = "the call has come back"
    elif len(call.path) > max_hops:
        what = f"the call has passed more than {max_hops} collectors"
    else:
        return
    path = (*call.path, own_id)
    raise call_error(
        GrpcStatus.FAILED_PRECONDITION,
        f"{what}: {' -> '.join(path)}",
        details={"path": ",".join(path)},
        path=path,
    )


def outgoing(call: Call, own_id: str, connection: str | None = None) -> Pairs:
    """The metadata with which a call goes on to the next collector, from the collector `own_id`."""
    hop: list[tuple[str, str | bytes]] = [
        (NAMESPACE, call.key.namespace),
        (PATH, ",".join((*call.path, own_id))),
    ]
    if connection is not None:
        hop.append((CONNECTION, connection))
    if call.target:
        hop.append((TARGET, call.target))
    if call.encoding == "any":
        hop.append((PAYLOAD, "any"))
    if call.kind is not None and call.kind is not CallKind.UNARY_UNARY:
        hop.append((KIND, call.kind))
    if call.attempt:
        hop.append((ATTEMPT, str(call.attempt)))
    if call.caller is not None:
        hop.append((CALLER, ",".join(quote(name, safe="/:@.-_~") for name in call.caller.names)))
    here = passing(call)
    if here is None and not any(name == "traceparent" for name, _ in call.metadata):
        # One trace for all collectors on the way, if only for their logs.
        here = call.span = begin()
        call.metadata = (*call.metadata, ("traceparent", here.traceparent))
    if here is not None:
        hop.append((SPAN, here.span_id))
    return (*hop, *call.metadata)


def answered(call: Call, trailing: Iterable[Any]) -> None:
    """Take the trailing metadata of an answer over into the call: the hop's part, and the application's."""
    hop, call.trailing = split(trailing)
    call.handled_by = hop.get(HANDLED_BY, call.handled_by)


def of_answer(call: Call) -> Pairs:
    """The trailing metadata of an answer: the application's part, and who has run it."""
    return (*call.trailing, (HANDLED_BY, call.handled_by)) if call.handled_by else call.trailing


def of_failure(call: Call, error: CollectiveError) -> Pairs:
    """The trailing metadata of a failure."""
    trailing = of_answer(call)
    if call.from_collector is not None:
        if error.request_not_processed:
            return (*trailing, (UNSENT, "1"))
        if error.behind:
            return (*trailing, (BEHIND, "1"))
    return trailing


def given(metadata: MetadataInput) -> Pairs:
    """Check what an application wants sent, and make pairs of it.

    Raises:
        InvalidArgumentError: a name or value that may not be sent, or one that is a hop's.
    """
    if metadata is None:
        return ()
    pairs = GrpcMetadata(metadata).multi_items()
    for name, _ in pairs:
        if name.startswith(PREFIX):
            raise InvalidArgumentError(f"metadata in {PREFIX!r} is dodici's own: {name!r}")
    return tuple(pairs)


def as_mapping(pairs: Pairs) -> GrpcMetadata:
    """Pairs that arrived, as a multi-mapping."""
    return GrpcMetadata.from_raw(
        tuple(
            (
                name.encode(),
                encode_binary(value) if isinstance(value, bytes) else value.encode("latin-1", "replace"),
            )
            for name, value in pairs
        )
    )
