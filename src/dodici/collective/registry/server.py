"""The service `collector.CollectorRegistry`: a registry for others to use.

As in the envelope, the outcome is in the answer's `Status` (see `codes.py`), and gRPC's own status is OK.
ValidateMethod answers 200 whether the method is registered or not, which `is_valid` and `message` say; another status
means that nobody could tell.
"""

from __future__ import annotations

import base64
import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from typing import Any

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..contracts import Authorizer
from ..errors import CollectiveError, call_error
from ..grpc_server import ServerCall, unary_unary
from ..protos import registry_pb2 as pb
from ..service import status_of
from .registry import LocalRegistry, Registry

SERVICE = "collector.CollectorRegistry"
log = logging.getLogger("dodici.collective")


class RegistryServer:
    """Serves a registry.

    `authorizer` is asked with the namespace and the method of this service ("RegisterProto" and so on) on behalf of
    whoever the client's certificate names. A list of all namespaces has those that the caller may list.
    """

    def __init__(self, registry: Registry, authorizer: Authorizer | None = None) -> None:
        self._registry = registry
        self._authorizer = authorizer

    def handlers(self) -> dict[str, Any]:
        """The handlers of its methods by path."""
        return {
            f"/{SERVICE}/{name}": unary_unary(
                self._answering(name, answer, fill), request.FromString, answer.SerializeToString
            )
            for name, request, answer, fill in (
                ("RegisterProto", pb.RegisterProtoRequest, pb.RegisterProtoResponse, self._register_proto),
                (
                    "RegisterService",
                    pb.RegisterServiceRequest,
                    pb.RegisterServiceResponse,
                    self._register_service,
                ),
                ("LookupService", pb.LookupServiceRequest, pb.LookupServiceResponse, self._lookup),
                ("ValidateMethod", pb.ValidateMethodRequest, pb.ValidateMethodResponse, self._validate),
                ("ListServices", pb.ListServicesRequest, pb.ListServicesResponse, self._list),
            )
        }

    def _answering(
        self, name: str, kind: Any, fill: Callable[[Any, Any, ServerCall], Awaitable[None]]
    ) -> Callable[[Any, ServerCall], Awaitable[Any]]:
        async def answer(request: Any, call: ServerCall) -> Any:
            response = kind()
            try:
                if name != "ListServices" or request.namespace:
                    self._authorize(call, request.namespace, name)
                await fill(request, response, call)
                response.status.code = 200
            except CollectiveError as error:
                failure = error
            except InvalidArgumentError as error:
                failure = call_error(GrpcStatus.INVALID_ARGUMENT, error.message)
            except Exception:
                log.exception("the registry has failed at %s", name)
                failure = call_error(GrpcStatus.INTERNAL, f"the registry has failed at {name}")
            else:
                return response
            return kind(status=status_of(failure))

        return answer

    def _authorize(self, call: ServerCall, namespace: str, method: str) -> None:
        if self._authorizer is not None:
            self._authorizer.check(call.identity(), namespace, SERVICE, method)

    # -- the methods ---------------------------------------------------------------------------------------

    async def _register_proto(
        self, request: pb.RegisterProtoRequest, response: pb.RegisterProtoResponse, call: ServerCall
    ) -> None:
        done = await self._registry.register_proto(
            request.namespace, request.file_descriptor, request.dependencies
        )
        response.proto_id = done.id
        response.registered_messages.extend(done.messages)
        response.version = done.version

    async def _register_service(
        self, request: pb.RegisterServiceRequest, response: pb.RegisterServiceResponse, call: ServerCall
    ) -> None:
        file = request.file_descriptor if request.HasField("file_descriptor") else None
        done = await self._registry.register_service(
            request.namespace, request.service_descriptor, file, add=request.add_methods
        )
        response.service_id = done.id
        response.registered_methods.extend(done.method_names)
        response.version = done.version

    async def _lookup(
        self, request: pb.LookupServiceRequest, response: pb.LookupServiceResponse, call: ServerCall
    ) -> None:
        found = await self._registry.lookup(request.namespace, request.service_name)
        response.service.CopyFrom(found)
        if isinstance(self._registry, LocalRegistry) and not found.files:
            response.service.files.extend(self._registry.files_of(request.namespace, request.service_name))

    async def _validate(
        self, request: pb.ValidateMethodRequest, response: pb.ValidateMethodResponse, call: ServerCall
    ) -> None:
        verdict = await self._registry.validate(request.namespace, request.service_name, request.method_name)
        response.is_valid = verdict.valid
        response.message = verdict.message

    async def _list(
        self, request: pb.ListServicesRequest, response: pb.ListServicesResponse, call: ServerCall
    ) -> None:
        if request.page_size < 0:
            raise InvalidArgumentError(f"page_size must be 0 or more, not {request.page_size}")
        begin = _place(request.page_token)
        found = sorted(await self._registry.services(request.namespace), key=_place_of)
        if not request.namespace and self._authorizer is not None:
            refused = set()
            for namespace in {service.namespace for service in found}:
                try:
                    self._authorize(call, namespace, "ListServices")
                except CollectiveError:
                    refused.add(namespace)
            found = [service for service in found if service.namespace not in refused]
        first = 0 if begin is None else bisect_right(found, begin, key=_place_of)
        last = min(first + request.page_size, len(found)) if request.page_size else len(found)
        response.services.extend(found[first:last])
        if last < len(found):
            response.next_page_token = _token(found[last - 1])


# -- pages -----------------------------------------------------------------------------------------------


def _place_of(service: pb.RegisteredService) -> tuple[str, str]:
    """By what a list is sorted. A page goes on after a place, and not at a number: what comes and goes moves nothing."""
    return service.namespace, service.service_name


def _token(last: pb.RegisteredService) -> str:
    return base64.urlsafe_b64encode("\0".join(_place_of(last)).encode()).decode()


def _place(token: str) -> tuple[str, str] | None:
    """The place that a page token stands for; None for the beginning.

    Raises:
        InvalidArgumentError: it is none of this registry's.
    """
    if not token:
        return None
    try:
        namespace, name = base64.b64decode(token, b"-_", validate=True).decode().split("\0")
    except ValueError:
        raise InvalidArgumentError(
            f"page_token must be a next_page_token of this registry, not {token[:100]!r}"
        ) from None
    return namespace, name
