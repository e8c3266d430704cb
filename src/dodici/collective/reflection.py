"""Server reflection, v1 and v1alpha: which services there are, and the descriptors of those that have one.

The two versions differ in their package's name alone. Services that were registered without a descriptor have none
to show, and are not listed.

Source: grpc/doc/server-reflection.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ..core.grpc_status import GrpcStatus
from .grpc_server import ServerCall, stream_stream
from .health import SERVICE as HEALTH
from .names import LocalServices
from .protos import published

VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
DISPATCHER = "collector.CollectiveDispatcher"


class Reflection:
    """Answers from the descriptors of the local services, and of the collective's own."""

    def __init__(self, services: LocalServices) -> None:
        self._services = services
        self.own: list[str] = [DISPATCHER, HEALTH]
        """Full names of the services of the collector itself; a registry adds its own."""

    def handlers(self) -> dict[str, Any]:
        """The handlers of its methods by path."""
        handler = stream_stream(
            self._info,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
            lasting=True,
        )
        return {f"/{version}/ServerReflectionInfo": handler for version in VERSIONS}

    async def _info(self, requests: AsyncIterator[Any], call: ServerCall) -> None:
        async for request in requests:
            await call.write(self._answer(request))

    def _answer(self, request: Any) -> Any:
        asked = request.WhichOneof("message_request")
        answer = reflection_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
        if asked == "list_services":
            for name in sorted({*self.own, *VERSIONS, *self._services.descriptors}):
                answer.list_services_response.service.add().name = name
        elif asked == "file_by_filename":
            self._give(answer, self._file(request.file_by_filename), request.file_by_filename)
        elif asked == "file_containing_symbol":
            self._give(answer, self._holder(request.file_containing_symbol), request.file_containing_symbol)
        elif asked in {"file_containing_extension", "all_extension_numbers_of_type"}:
            self._give(answer, None, "extensions")
        else:
            answer.error_response.error_code = int(GrpcStatus.INVALID_ARGUMENT)
            answer.error_response.error_message = "nothing was asked"
        return answer

    def _give(self, answer: Any, file: FileDescriptor | None, asked: str) -> None:
        if file is None:
            answer.error_response.error_code = int(GrpcStatus.NOT_FOUND)
            answer.error_response.error_message = f"not found: {asked}"
        else:
            answer.file_descriptor_response.file_descriptor_proto.extend(
                each.serialized_pb for each in _with_imports(file).values()
            )

    def _pools(self) -> Iterator[Any]:
        for descriptor in self._services.descriptors.values():
            yield descriptor.file.pool
        yield published()
        yield health_pb2.DESCRIPTOR.pool
        yield descriptor_pool.Default()

    def _file(self, name: str) -> FileDescriptor | None:
        for pool in self._pools():
            try:
                return pool.FindFileByName(name)  # type: ignore[no-any-return]
            except KeyError:
                continue
        return None

    def _holder(self, symbol: str) -> FileDescriptor | None:
        service, _, method = symbol.rpartition(".")
        for pool in self._pools():
            try:
                return pool.FindFileContainingSymbol(symbol)  # type: ignore[no-any-return]
            except KeyError:
                pass
            try:  # pools do not count methods among their symbols, and clients ask for them
                found = pool.FindServiceByName(service)
            except KeyError:
                continue
            if method in found.methods_by_name:
                return found.file  # type: ignore[no-any-return]
        return None


def _with_imports(file: FileDescriptor) -> dict[str, FileDescriptor]:
    found: dict[str, FileDescriptor] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop()
        if each.name not in found:
            found[each.name] = each
            waiting.extend(each.dependencies)
    return found
