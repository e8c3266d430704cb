"""The gRPC face of a collector: what arrives at its server, and what is answered.

    /collector.CollectiveDispatcher/*     the envelope: Connect, Serve, Dispatch; and Link, between collectors
    /grpc.health.v1.Health/*, reflection  about the collector itself
    anything else                         the transparent face: a method of the namespace that the metadata names

A unary method of this collector is answered by a handler of its own. Everything else on the transparent face goes
through one handler for all kinds of call, as raw bytes: measured, that costs no more than one for each kind, and a
call that is sent on has no kind before its answer is there.

The envelope's own gRPC status is OK whatever becomes of the call, trailing metadata and binary details included.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage

from ..core.closing import aclose
from ..core.grpc_status import GrpcStatus
from . import metadata as _metadata
from .admission import Admission
from .codes import http_status
from .contracts import Call, Connecting, Identity, NoPeers, PeerBook, Router
from .details import STATUS_DETAILS
from .errors import CollectiveError, call_error
from .grpc_server import Handler, ServerCall, stream_stream, unary_unary
from .grpc_server.head import RequestHead
from .link import BARRIER
from .local import LocalExecutor, answer_any, decode, encode, wrong_kind
from .names import ANY, CallKind, LocalServices, RouteKey
from .protos import collector_pb2 as pb
from .reflection import DISPATCHER
from .stats import Figures, Passing
from .values import from_any, parse_any

if TYPE_CHECKING:
    from .names import MethodSpec

log = logging.getLogger("dodici.collective")
_NOBODY = Identity()


class CollectiveService:
    """A `ServerFace`. `router` and `peers` may be exchanged before the server starts; `address`, `epoch` and
    `link_port` are what Connect tells.
    """

    def __init__(
        self,
        collector_id: str,
        services: LocalServices,
        local: LocalExecutor,
        admission: Admission,
        router: Router,
        *,
        default_timeout: float | None,
        max_hops: int,
        tls: bool = False,
    ) -> None:
        self.router = router
        self.peers: PeerBook = NoPeers()
        self.address = ""
        self.epoch = 0
        self.link_port = 0
        self._id = collector_id
        self._services = services
        self._local = local
        self._admission = admission
        self._default_timeout = default_timeout
        self._max_hops = max_hops
        self._tls = tls
        self.figures = Figures(
            collector_id,
            lambda key: services.find(*key) is not None,
            lambda key: self.router.known_as(key),  # noqa: PLW0108 - the router may be exchanged
        )
        """What is counted of the calls that pass through here."""
        self._own: dict[str, Handler] = {
            f"/{DISPATCHER}/Connect": unary_unary(
                self._connect, pb.ConnectRequest.FromString, pb.ConnectResponse.SerializeToString
            ),
            f"/{DISPATCHER}/Serve": unary_unary(
                self._serve, pb.ServeRequest.FromString, pb.ServeResponse.SerializeToString
            ),
            f"/{DISPATCHER}/Dispatch": unary_unary(
                self._dispatch, pb.DispatchRequest.FromString, pb.DispatchResponse.SerializeToString
            ),
            f"/{DISPATCHER}/Link": stream_stream(self._link, lasting=True),
            BARRIER: unary_unary(self._barrier),
        }

    def add_handlers(self, handlers: Mapping[str, Handler]) -> None:
        """Serve methods of the collector's own, by path."""
        self._own.update(handlers)

    # -- the transparent face ------------------------------------------------------------------------------

    def method(self, head: RequestHead) -> Handler | None:
        """See `ServerFace.method`."""
        path = head.path
        own = self._own.get(path)
        if own is not None:
            return own
        service, _, name = path[1:].rpartition("/")
        hop, rest = _metadata.split(head.metadata)
        namespace = hop.get(_metadata.NAMESPACE)
        if namespace is None:
            if service.startswith("grpc."):
                return None  # a client that asks what there is: UNIMPLEMENTED is what it knows
            if len(self._services.namespaces) != 1:
                return _refusal(
                    "the metadata x-dodici-namespace is missing, and there is not just one namespace"
                )
            namespace = self._services.namespaces[0]
        if not namespace or not service or not name:
            return _refusal(f"the {'namespace' if not namespace else 'service or method'} is empty")
        if name == ANY:
            return _refusal(f"{name!r} is no method")
        call = Call(
            RouteKey(namespace, service, name),
            metadata=rest,
            encoding="any" if hop.get(_metadata.PAYLOAD) == "any" else "raw",
            target=hop.get(_metadata.TARGET) or None,
        )
        if self.router.runs_here(call):
            spec = self._services.find(namespace, service, name)
            if spec is not None:
                kind: CallKind | None = spec.kind
                if spec.wildcard:
                    kind = call.kind = _metadata.kind_of(hop)
                if kind is CallKind.UNARY_UNARY:
                    return unary_unary(partial(self._unary_here, spec, call, hop))
        else:
            kind = self.router.kind_of(call.key)
            if kind is None:
                kind = call.kind = _metadata.kind_of(hop)
            if kind is CallKind.UNARY_UNARY:
                return unary_unary(partial(self._unary_elsewhere, call, hop))
        return stream_stream(partial(self._stream, call, hop))

    async def _unary_here(
        self, spec: MethodSpec, call: Call, hop: dict[str, str], payload: bytes, server_call: ServerCall
    ) -> bytes:
        try:
            with Passing(self.figures, call):
                self._arrived(call, hop, server_call)
                if not self._admission.free:
                    await self._admission.check(call)
                answer = encode(
                    await self._local.run_unary(spec, call, decode(payload, call, spec)), call, spec
                )
        except CollectiveError as error:
            await server_call.fail(error, _metadata.of_failure(call, error))
            raise
        if call.initial:
            await server_call.send_initial(call.initial)
        server_call.set_trailing(_metadata.of_answer(call))
        return answer

    async def _unary_elsewhere(
        self, call: Call, hop: dict[str, str], payload: bytes, server_call: ServerCall
    ) -> bytes:
        call.kind = CallKind.UNARY_UNARY
        try:
            with Passing(self.figures, call):
                self._arrived(call, hop, server_call)
                if not self._admission.free:
                    await self._admission.check(call)
                executor = await self.router.route(call)
                answer = await executor.unary(call, payload)
        except CollectiveError as error:
            await server_call.fail(error, _metadata.of_failure(call, error))
            raise
        if call.initial:
            await server_call.send_initial(call.initial)
        server_call.set_trailing(_metadata.of_answer(call))
        return answer

    async def _stream(
        self, call: Call, hop: dict[str, str], payloads: AsyncIterator[bytes], server_call: ServerCall
    ) -> None:
        try:
            with Passing(self.figures, call):
                self._arrived(call, hop, server_call)
                if not self._admission.free:
                    await self._admission.check(call)
                executor = await self.router.route(call)
                answers = executor.stream(call, payloads)
                try:
                    async for answer in answers:
                        if call.initial:
                            await server_call.send_initial(call.initial)
                            call.initial = ()
                        await server_call.write(answer)
                finally:
                    await aclose(answers)
        except CollectiveError as error:
            await server_call.fail(error, _metadata.of_failure(call, error))
        server_call.set_trailing(_metadata.of_answer(call))

    def _arrived(self, call: Call, hop: dict[str, str], server_call: ServerCall) -> None:
        """Fill in where a call comes from, and how long it may take.

        Raises:
            CollectiveError: it has passed here before, or too many collectors; or says what no collector says.
        """
        remaining = server_call.time_remaining()
        if remaining is None:
            remaining = self._default_timeout
        if remaining is not None:
            call.deadline = time.monotonic() + remaining
        call.peer = server_call.peer
        identity = server_call.identity() if self._tls else _NOBODY
        call.caller = identity if identity.names else None
        connection = hop.get(_metadata.CONNECTION)
        if connection is not None or self._tls:
            call.from_collector = self.peers.recognise(connection, call.peer, identity)
            if call.from_collector is not None:
                _metadata.believe(call, hop)
                _metadata.check_path(call, self._id, self._max_hops)

    # -- the envelope --------------------------------------------------------------------------------------

    async def _serve(self, request: pb.ServeRequest, server_call: ServerCall) -> pb.ServeResponse:
        status, output, executor = await self._enveloped(request, server_call, None, forwardable=False)
        return pb.ServeResponse(status=status, output=output, executor_id=executor)

    async def _dispatch(self, request: pb.DispatchRequest, server_call: ServerCall) -> pb.DispatchResponse:
        target = request.target_collector_id or None
        status, output, handler = await self._enveloped(request, server_call, target, forwardable=True)
        return pb.DispatchResponse(status=status, output=output, handled_by_collector_id=handler)

    async def _enveloped(
        self,
        request: pb.ServeRequest | pb.DispatchRequest,
        server_call: ServerCall,
        target: str | None,
        *,
        forwardable: bool,
    ) -> tuple[pb.Status, AnyMessage | None, str]:
        hop, rest = _metadata.split(server_call.metadata())
        call = Call(
            RouteKey("", "", ""),
            CallKind.UNARY_UNARY,
            rest,
            encoding="any",
            target=target,
            forwardable=forwardable,
        )
        output = None
        try:
            with Passing(self.figures, call):
                call.key = _asked(request)
                self._arrived(call, hop, server_call)
                if not self._admission.free:
                    await self._admission.check(call)
                if not forwardable or self.router.runs_here(call):
                    output = await self._run_here(call, request.input)
                else:
                    executor = await self.router.route(call)
                    output = parse_any(
                        await executor.unary(call, request.input.SerializeToString()), GrpcStatus.INTERNAL
                    )
                status = pb.Status(code=200)
        except CollectiveError as error:
            status = status_of(error)
            if error.binary_details is not None:
                call.trailing = (*call.trailing, (STATUS_DETAILS, error.binary_details))
        if call.trailing:
            server_call.set_trailing(call.trailing)
        return status, output, call.handled_by

    async def _run_here(self, call: Call, given: AnyMessage) -> AnyMessage:
        spec = self._services.find(*call.key)
        if spec is None:
            raise self._services.missing(*call.key)
        if spec.kind is not CallKind.UNARY_UNARY:
            raise wrong_kind(spec)
        return answer_any(await self._local.run_unary(spec, call, from_any(given, spec.input_type)), spec)

    # -- between collectors --------------------------------------------------------------------------------

    async def _connect(self, request: pb.ConnectRequest, server_call: ServerCall) -> pb.ConnectResponse:
        answer = pb.ConnectResponse(
            target_collector_id=self._id, epoch=self.epoch, address=self.address, link_port=self.link_port
        )
        try:
            for field in ("collector_id", "address"):
                if not getattr(request, field):
                    raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{field} is empty")
            connected = await self.peers.connect(
                Connecting(
                    request.collector_id,
                    request.address,
                    tuple(dict.fromkeys(request.namespaces)),
                    request.epoch,
                    server_call.peer,
                    server_call.identity() if self._tls else _NOBODY,
                )
            )
        except CollectiveError as error:
            answer.status.CopyFrom(status_of(error))
            return answer
        answer.status.code = 200
        answer.connection_id = connected.connection_id
        answer.shared_namespaces.extend(connected.shared_namespaces)
        return answer

    async def _barrier(self, request: bytes, server_call: ServerCall) -> bytes:
        return b""

    async def _link(self, frames: AsyncIterator[bytes], server_call: ServerCall) -> None:
        hop, _ = _metadata.split(server_call.metadata())
        identity = server_call.identity() if self._tls else _NOBODY
        try:
            answers = self.peers.link(hop.get(_metadata.CONNECTION), server_call.peer, identity, frames)
            try:
                async for answer in answers:
                    await server_call.write(answer)
            finally:
                await aclose(answers)
        except CollectiveError as error:
            await server_call.fail(error)


def status_of(error: CollectiveError) -> pb.Status:
    """The envelope's status of a failure."""
    details = {str(name): str(value) for name, value in error.details.items()}
    details["grpc-status"] = error.grpc_status.name
    text = error.message.encode("utf-8", "replace").decode()
    return pb.Status(code=http_status(error.grpc_status), message=text, details=details)


def _asked(request: pb.ServeRequest | pb.DispatchRequest) -> RouteKey:
    named, named_again = request.namespace, request.service.namespace
    if named and named_again and named != named_again:
        raise call_error(
            GrpcStatus.INVALID_ARGUMENT, f"namespace is {named!r}, and service.namespace is {named_again!r}"
        )
    key = RouteKey(named or named_again, request.service.service_name, request.method_name)
    for field, value in zip(("namespace", "service.service_name", "method_name"), key, strict=True):
        if not value:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{field} is empty")
    if key.method == ANY or "/" in key.method:
        raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{key.method[:100]!r} is no method")
    return key


def _refusal(text: str) -> Handler:
    async def refuse(_: AsyncIterator[bytes], server_call: ServerCall) -> None:
        await server_call.fail(call_error(GrpcStatus.INVALID_ARGUMENT, text))

    return stream_stream(refuse)
