"""The path of one trace through the collective: who remembers what of it, put together by asking around.

    rpc Trace(google.protobuf.Struct {trace_id, timeout, asked}) returns (google.protobuf.Struct {spans, silent})

A collector answers with its own records, with the spans of its process and of the workers behind it, and with what its
neighbours answer that nobody has asked yet: `asked` has their ids, so that rings end, and a line is asked to its end.
Who does not answer within what is left of the time is named, and the rest is told all the same.

It shows who talks to whom: where there is a policy, it is for those who may call
``collector.CollectiveDispatcher.Trace`` in all namespaces, the collectors among them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from ..core.errors import DodiciError, InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from ..core.spans import MOST, Span, spans
from ..core.trace import is_trace_id
from .contracts import Authorizer
from .errors import CollectiveError, call_error
from .grpc_server import ServerCall, unary_unary
from .reflection import DISPATCHER
from .values import from_message, to_message

if TYPE_CHECKING:
    from .history import DispatchRecord, History
    from .peers import Peers

METHOD: Final = "Trace"
PATH: Final = f"/{DISPATCHER}/{METHOD}"
TIMEOUT: Final = 2.0
"""Seconds that asking around takes at most, where nothing else is said."""
_LEFT: Final = 0.8
"""What of its time a collector gives to those that it asks, so that it can still say who is silent."""
_LONGEST: Final = 30.0
_MOST_ASKED: Final = 256
_AT_ONCE: Final = 8

OfProcess = Callable[[str, float], Awaitable[tuple[list[Span], list[str]]]]
"""(id of a trace, seconds) -> what this process and its workers know, and which of them did not tell, in words."""


class Place(NamedTuple):
    """A span, and where it was."""

    node: str
    """Id of the collector that told of it."""
    span: Span


class Path(NamedTuple):
    """What is known of a trace."""

    places: list[Place]
    silent: list[str]
    """Who did not tell, and why, in words."""


class Tracing:
    """Puts traces together, and answers others who do.

    Args:
        own_id: of this collector.
        history: its calls.
        peers: the others.
        authorizer: says who may ask; None: everybody.
    """

    def __init__(self, own_id: str, history: History, peers: Peers, authorizer: Authorizer | None) -> None:
        self.of_process: OfProcess = _own_process
        """Where the spans come from that are not this collector's. May be replaced."""
        self._own_id = own_id
        self._history = history
        self._peers = peers
        self._authorizer = authorizer
        self._running = 0

    def handlers(self) -> dict[str, Any]:
        """The handler of its method by path."""
        return {PATH: unary_unary(self._answer, Struct.FromString, Struct.SerializeToString)}

    async def find(
        self, trace_id: str, timeout: float = TIMEOUT, asked: Iterable[str] = (), *, around: bool = True
    ) -> Path:
        """What this collector and those around it know of a trace.

        Args:
            trace_id: 32 hexadecimal digits.
            timeout: seconds.
            asked: ids of collectors that have been asked.
            around: False: ask nobody else.

        Raises:
            InvalidArgumentError: that is no id of a trace.
        """
        if not is_trace_id(trace_id):
            raise InvalidArgumentError(f"a trace has an id of 32 hexadecimal digits, not {trace_id!r}")
        done = {*asked, self._own_id}
        peers = [peer for peer in self._peers if peer.id not in done] if around else []
        done |= {peer.id for peer in peers}
        if len(done) > _MOST_ASKED:
            peers = []
        request = to_message({"trace_id": trace_id, "timeout": timeout * _LEFT, "asked": sorted(done)})
        payload = request.SerializeToString()
        own, *others = await asyncio.gather(
            self._own(trace_id, timeout * _LEFT), *(self._ask(peer, payload, timeout) for peer in peers)
        )
        for other in others:
            own.places.extend(other.places)
            own.silent.extend(other.silent)
        return own

    async def _own(self, trace_id: str, timeout: float) -> Path:
        found = [span_of(record) for record in self._history if record.trace_id == trace_id]
        told, silent = await self.of_process(trace_id, timeout)
        return Path(
            [Place(self._own_id, span) for span in (*found[-MOST:], *told)],
            [f"{self._own_id}: {each}" for each in silent],
        )

    async def _ask(self, peer: Any, payload: bytes, timeout: float) -> Path:
        if not peer.source.up:
            return Path([], [f"{peer.id}: it is not connected"])
        try:
            answer = from_message(Struct.FromString(await peer.channel.unary(PATH, payload, timeout=timeout)))
            return path_from(answer)
        except CollectiveError as error:
            if error.grpc_status is GrpcStatus.UNIMPLEMENTED:
                return Path([], [f"{peer.id}: it knows nothing of traces"])
            return Path([], [f"{peer.id}: {error.message}"])
        except (DecodeError, TypeError, ValueError, KeyError, AttributeError):
            return Path([], [f"{peer.id}: its answer is malformed"])

    async def _answer(self, request: Struct, call: ServerCall) -> Any:
        try:
            if self._authorizer is not None:
                self._authorizer.check(call.identity(), "*", DISPATCHER, METHOD)
            if self._running >= _AT_ONCE:
                raise call_error(GrpcStatus.RESOURCE_EXHAUSTED, f"{self._own_id} is looking for other traces")
            trace_id, timeout, asked = _asked(request)
        except CollectiveError as error:
            await call.fail(error)
            raise
        self._running += 1
        try:
            found = await self.find(trace_id, timeout, asked)
        except DodiciError as error:
            failure = call_error(GrpcStatus.INVALID_ARGUMENT, error.message)
            await call.fail(failure)
            raise failure from error
        finally:
            self._running -= 1
        return to_message(path_json(found))


async def _own_process(trace_id: str, _: float) -> tuple[list[Span], list[str]]:
    return spans(trace_id), []


def span_of(record: DispatchRecord) -> Span:
    """A collector's part in a call, as a span."""
    return Span(
        record.role,
        record.trace_id,
        record.span_id,
        record.parent_id,
        f"{record.service}/{record.method} in {record.namespace}",
        "" if record.role == "serve" else record.handled_by or record.target,
        record.started,
        record.duration,
        record.status.grpc_status.name,
        os.getpid(),
    )


def path_json(path: Path) -> dict[str, Any]:
    """A path for JSON and the like."""
    return {"spans": [[node, *span] for node, span in path.places], "silent": path.silent}


def path_from(told: dict[str, Any]) -> Path:
    """The reverse of `path_json`.

    Raises:
        TypeError, ValueError, KeyError: it is no path.
    """
    places = []
    for node, *row in told["spans"]:
        span = Span(*row)
        places.append(
            Place(
                str(node),
                span._replace(
                    started=float(span.started), duration=float(span.duration), process=int(span.process)
                ),
            )
        )
    return Path(places, [str(each) for each in told["silent"]])


def _asked(request: Struct) -> tuple[str, float, list[str]]:
    told = from_message(request)
    try:
        timeout = float(told.get("timeout", TIMEOUT))
        asked = [str(each) for each in told.get("asked", ())]
        trace_id = str(told["trace_id"])
    except (TypeError, ValueError, KeyError) as error:
        raise call_error(
            GrpcStatus.INVALID_ARGUMENT, "a request names a trace_id, and may have a timeout in seconds"
        ) from error
    if not 0 < timeout <= _LONGEST:
        raise call_error(
            GrpcStatus.INVALID_ARGUMENT, f"timeout must be up to {_LONGEST:g} s, not {timeout:g}"
        )
    return trace_id, timeout, asked
