"""A registry in another process, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto
from google.protobuf.message import DecodeError

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..addresses import split_address
from ..codes import from_envelope
from ..contracts import TransportSecurity
from ..data_plane import Channel
from ..errors import call_error
from ..names import checked_name
from ..protos import registry_pb2 as pb
from .registry import RegisteredProto, Verdict, check_addition
from .server import SERVICE
from .types import ServiceTypes, TypeSet, with_imports

_PAGE: Final = 1000
"""Services that are asked for at a time: a few hundred bytes each, far below what a message may have."""
_A = TypeVar(
    "_A",
    pb.RegisterProtoResponse,
    pb.RegisterServiceResponse,
    pb.LookupServiceResponse,
    pb.ValidateMethodResponse,
    pb.ListServicesResponse,
)


class RemoteRegistry:
    """Asks the registry at an address. See `Registry`.

    Every method raises `CollectiveError` with the registry's own status, or UNAVAILABLE and DEADLINE_EXCEEDED where
    it does not answer within `timeout` seconds. The connection is made by the first call.

    Raises:
        InvalidArgumentError: the address is not one.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 5.0,
        security: TransportSecurity | None = None,
        message: int = 64 * 1024 * 1024,
    ) -> None:
        split_address(address)
        if timeout <= 0:
            raise InvalidArgumentError(f"timeout is a number of seconds above 0, not {timeout:g}")
        self.address = address
        self._timeout = timeout
        self._security = security
        self._message = message
        self._channel: Channel | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def register_proto(
        self, namespace: str, file: FileDescriptorProto, dependencies: Iterable[FileDescriptorProto] = ()
    ) -> RegisteredProto:
        request = pb.RegisterProtoRequest(
            namespace=checked_name("namespace", namespace), file_descriptor=file, dependencies=dependencies
        )
        answer = await self._ask("RegisterProto", request, pb.RegisterProtoResponse)
        return RegisteredProto(answer.proto_id, tuple(answer.registered_messages), answer.version)

    async def register_service(
        self,
        namespace: str,
        service: ServiceDescriptorProto,
        file: FileDescriptorProto | None = None,
        *,
        add: bool = False,
    ) -> pb.RegisteredService:
        """See `Registry.register_service`. With `add`, the descriptor in the answer has what was given alone."""
        check_addition(file, add)
        request = pb.RegisterServiceRequest(
            namespace=checked_name("namespace", namespace),
            service_descriptor=service,
            file_descriptor=file,
            add_methods=add,
        )
        answer = await self._ask("RegisterService", request, pb.RegisterServiceResponse)
        package = "" if file is None else file.package
        short = not package or service.name.startswith(f"{package}.")
        return pb.RegisteredService(
            id=answer.service_id,
            namespace=namespace,
            service_name=service.name if short else f"{package}.{service.name}",
            service_descriptor=service,
            method_names=answer.registered_methods,
            version=answer.version,
        )

    async def lookup(self, namespace: str, service: str) -> pb.RegisteredService:
        request = pb.LookupServiceRequest(
            namespace=checked_name("namespace", namespace), service_name=checked_name("service", service)
        )
        return (await self._ask("LookupService", request, pb.LookupServiceResponse)).service

    async def validate(
        self, namespace: str, service: str, method: str, *, timeout: float | None = None
    ) -> Verdict:
        """See `Registry.validate`; `timeout` in seconds, that of the registry if None."""
        request = pb.ValidateMethodRequest(
            namespace=checked_name("namespace", namespace),
            service_name=checked_name("service", service),
            method_name=checked_name("method", method),
        )
        answer = await self._ask("ValidateMethod", request, pb.ValidateMethodResponse, timeout)
        return Verdict(answer.is_valid, answer.message)

    async def services(self, namespace: str = "") -> Sequence[pb.RegisteredService]:
        if namespace:
            checked_name("namespace", namespace)
        request = pb.ListServicesRequest(namespace=namespace, page_size=_PAGE)
        found: list[pb.RegisteredService] = []
        while True:
            answer = await self._ask("ListServices", request, pb.ListServicesResponse)
            found += answer.services
            # A registry that knows no pages has answered with all of them.
            if not answer.next_page_token or answer.next_page_token == request.page_token:
                return tuple(found)
            request.page_token = answer.next_page_token

    async def types(self, namespace: str, service: str) -> ServiceTypes:
        """See `Registry.types`. What is known are the service's own file and its imports, as they are now."""
        found = await self.lookup(namespace, service)
        files: Mapping[str, FileDescriptorProto] = {file.name: file for file in found.files}
        package = found.service_name.rpartition(".")[0]
        return ServiceTypes(
            found.service_descriptor, package, TypeSet(with_imports(list(files), files.get)), lambda _: None
        )

    async def _ask(self, method: str, request: Any, kind: type[_A], timeout: float | None = None) -> _A:
        if self._channel is None:
            self._channel = Channel(self.address, security=self._security, message=self._message)
        payload = await self._channel.unary(
            f"/{SERVICE}/{method}",
            request.SerializeToString(),
            timeout=self._timeout if timeout is None else timeout,
        )
        try:
            answer = kind.FromString(payload)
        except DecodeError as error:
            raise call_error(
                GrpcStatus.INTERNAL,
                f"the registry at {self.address} answers what is none: {error}",
                peer=self.address,
            ) from error
        if answer.status.code != 200:
            details = dict(answer.status.details)
            status = from_envelope(answer.status.code, details.get("grpc-status"))
            if status is GrpcStatus.OK:  # an empty message, or one that contradicts itself
                status = GrpcStatus.UNKNOWN
            raise call_error(
                status,
                answer.status.message or f"the registry at {self.address} answers {answer.status.code}",
                details=details,
                peer=self.address,
            )
        return answer
