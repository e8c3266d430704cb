"""Makes the call of `dodici call`.

    types known      the transparent face: a message of the method's own type, gRPC status codes
    not known        the envelope: values in `google.protobuf.Any`, the outcome in its Status
    and --stream     the transparent face with Any for payloads

Who knows types: the collector's reflection, which has what it serves itself; then a registry, which has what others
serve, too. A collector that has neither says UNIMPLEMENTED to the question, and that is no failure.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import click
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2

from ..collective import metadata as hop
from ..collective.codes import from_envelope
from ..collective.contracts import Pairs
from ..collective.data_plane import Channel
from ..collective.errors import CollectiveError, call_error
from ..collective.names import CallKind
from ..collective.protos import collector_pb2
from ..collective.reflection import DISPATCHER, VERSIONS
from ..collective.registry.client import RemoteRegistry
from ..collective.registry.server import SERVICE as REGISTRY
from ..collective.registry.types import ServiceTypes, TypeSet, with_imports
from ..collective.values import from_any, parse_any, to_any
from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .collector_client import ClientSecurity, channel_to, exit_status, security_of, tell
from .console import clean, json_text

_NOT_TOLD = {GrpcStatus.UNIMPLEMENTED, GrpcStatus.NOT_FOUND, GrpcStatus.INVALID_ARGUMENT}
"""What those who know nothing of a service answer."""


_STREAMS = re.compile(r" is (unary_stream|stream_unary|stream_stream): it cannot be called").search


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    address: str
    namespace: str
    service: str
    method: str
    inputs: tuple[Any, ...]
    metadata: Pairs
    timeout: float
    target: str | None
    stream: bool
    envelope: bool
    registry: str | None
    verbose: bool
    cacert: str | None
    cert: str | None
    key: str | None
    server_name: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """A method whose types are known, under the service's full name."""

    service: str
    kind: CallKind
    types: TypeSet
    input: type[Message]
    output: type[Message]


def run(wanted: Wanted) -> int:
    """Make the call and print what comes. Returns the exit status."""
    try:
        asyncio.run(_Calling(wanted).run())
    except CollectiveError as error:
        print(f"dodici: {tell(error)}", file=sys.stderr)
        if wanted.verbose:
            for name, value in error.details.items():
                print(clean(f"  {name}: {value}"), file=sys.stderr)
        return exit_status(error)
    except InvalidArgumentError as error:
        raise click.UsageError(error.message) from error
    return 0


class _Calling:
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._deadline = time.monotonic() + wanted.timeout
        self._handled_by = ""
        self._given = hop.given(list(wanted.metadata))
        self._listed: set[str] | None = None
        """What reflection lists; None if there is none."""

    def _left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    async def run(self) -> None:
        wanted = self._wanted
        security = security_of(wanted.cacert, wanted.cert, wanted.key, wanted.server_name)
        channel = channel_to(wanted.address, security)
        try:
            known = None if wanted.envelope else await self._known(channel, security)
            started = time.monotonic()
            try:
                if known is not None:
                    await self._typed(channel, known)
                elif wanted.stream:
                    await self._untyped_stream(channel)
                else:
                    await self._untyped(channel)
            finally:
                if wanted.verbose:
                    by = f"handled by {self._handled_by}, " if self._handled_by else ""
                    _say(f"* {by}{(time.monotonic() - started) * 1000:.1f} ms")
        finally:
            await channel.close()

    # -- types -------------------------------------------------------------------------------------------

    async def _known(self, channel: Channel, security: ClientSecurity | None) -> Known | None:
        wanted = self._wanted
        sources: list[tuple[str, Callable[[], Awaitable[Known | None]]]] = [
            ("reflection", lambda: self._reflected(channel)),
            ("the registry", lambda: self._registered(wanted.registry or wanted.address, security)),
        ]
        for name, ask in sources[1:] if wanted.registry else sources:
            try:
                found = await ask()
            except CollectiveError as error:
                if wanted.registry or error.grpc_status not in _NOT_TOLD:
                    raise
                continue
            if found is not None:
                self._tell(f"* types of {found.service} from {name}")
                return found
        self._tell("* nobody knows its types")
        return None

    async def _reflected(self, channel: Channel) -> Known | None:
        service = self._wanted.service
        for version in VERSIONS:
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            try:
                listed = await self._reflect(channel, version, request)
            except CollectiveError as error:
                if error.grpc_status is GrpcStatus.UNIMPLEMENTED:
                    continue
                raise
            names = [each.name for each in listed.list_services_response.service]
            self._listed = set(names)
            fitting = [name for name in names if name == service or name.rpartition(".")[2] == service]
            if service in fitting:
                fitting = [service]
            if len(fitting) != 1:
                return None  # a short name that several have says nothing
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=fitting[0])
            answer = await self._reflect(channel, version, request)
            blobs = answer.file_descriptor_response.file_descriptor_proto
            return self._of_files(fitting[0], [FileDescriptorProto.FromString(blob) for blob in blobs])
        return None

    async def _reflect(self, channel: Channel, version: str, request: Any) -> Any:
        # A stream of one question and one answer is what a unary call is, too.
        path = f"/{version}/ServerReflectionInfo"
        data = await channel.unary(path, request.SerializeToString(), timeout=self._left())
        return reflection_pb2.ServerReflectionResponse.FromString(data)

    def _of_files(self, name: str, files: list[FileDescriptorProto]) -> Known | None:
        package, _, short = name.rpartition(".")
        by_name = {file.name: file for file in files}
        for file in files:
            if file.package == package:
                for service in file.service:
                    if service.name == short:
                        types = TypeSet(with_imports(list(by_name), by_name.get))
                        return self._of_types(name, ServiceTypes(service, package, types, lambda _: None))
        return None

    async def _registered(self, address: str, security: ClientSecurity | None) -> Known | None:
        if not self._wanted.registry and self._listed is not None and REGISTRY not in self._listed:
            return None
        registry = RemoteRegistry(address, timeout=self._left(), security=security)
        try:
            found = await registry.lookup(self._wanted.namespace, self._wanted.service)
            types = await registry.types(self._wanted.namespace, self._wanted.service)
        finally:
            await registry.stop()
        return self._of_types(found.service_name, types)

    def _of_types(self, name: str, types: ServiceTypes) -> Known | None:
        method = types.methods.get(self._wanted.method)
        if method is None or method.input is None or method.output is None:
            return None
        return Known(name, method.kind, types.types, method.input, method.output)

    # -- calls -------------------------------------------------------------------------------------------

    async def _typed(self, channel: Channel, known: Known) -> None:
        inputs = self._wanted.inputs or (() if known.kind.streams_in else ({},))
        if len(inputs) != 1 and not known.kind.streams_in:
            raise click.UsageError(f"{self._wanted.method} takes one value, not {len(inputs)}")
        payloads = [known.types.from_json(known.input, value).SerializeToString() for value in inputs]

        def shown(answer: bytes) -> Any:
            return known.types.to_json(known.output.FromString(answer))

        await self._transparent(channel, known.service, payloads, shown, (), known.kind.streams_out)

    async def _untyped(self, channel: Channel) -> None:
        try:
            await self._enveloped(channel)
        except CollectiveError as error:
            if self._wanted.envelope or not _STREAMS(error.message):
                raise
            # Refused before it ran, because it streams: asked again in the way that fits.
            await self._untyped_stream(channel)

    async def _untyped_stream(self, channel: Channel) -> None:
        payloads = [to_any(value).SerializeToString() for value in self._wanted.inputs or (None,)]

        def shown(answer: bytes) -> Any:
            return _plain(from_any(parse_any(answer, GrpcStatus.INTERNAL)))

        await self._transparent(channel, self._wanted.service, payloads, shown, ((hop.PAYLOAD, "any"),), True)

    async def _transparent(
        self,
        channel: Channel,
        service: str,
        payloads: list[bytes],
        shown: Callable[[bytes], Any],
        more: Pairs,
        streams_out: bool,
    ) -> None:
        async def each() -> AsyncIterator[bytes]:
            for payload in payloads:
                yield payload

        target: Pairs = () if self._wanted.target is None else ((hop.TARGET, self._wanted.target),)
        metadata = ((hop.NAMESPACE, self._wanted.namespace), *target, *more, *self._given)
        # On the wire all kinds of calls are the same.
        answers: Any = channel.stream(
            f"/{service}/{self._wanted.method}",
            each(),
            timeout=self._left(),
            metadata=metadata,
            on_metadata=self._on_metadata,
        )
        try:
            async for answer in answers:
                _print(shown(answer), compact=streams_out)
        finally:
            await answers.aclose()

    async def _enveloped(self, channel: Channel) -> None:
        wanted = self._wanted
        if len(wanted.inputs) > 1:
            raise click.UsageError("the envelope takes one value; for a method that streams, add --stream")
        request = collector_pb2.DispatchRequest(
            namespace=wanted.namespace,
            method_name=wanted.method,
            input=to_any(wanted.inputs[0] if wanted.inputs else None),
            target_collector_id=wanted.target or "",
        )
        request.service.namespace, request.service.service_name = wanted.namespace, wanted.service
        data = await channel.unary(
            f"/{DISPATCHER}/Dispatch",
            request.SerializeToString(),
            timeout=self._left(),
            metadata=self._given,
            on_metadata=self._on_metadata,
        )
        answer = collector_pb2.DispatchResponse.FromString(data)
        self._handled_by = answer.handled_by_collector_id
        if answer.status.code != 200:
            details = dict(answer.status.details)
            status = from_envelope(answer.status.code, details.pop("grpc-status", None))
            raise call_error(status, answer.status.message, details=details)
        _print(_plain(from_any(answer.output)), compact=False)

    def _on_metadata(self, when: Literal["initial", "trailing"], pairs: Pairs) -> None:
        found, rest = hop.split(pairs)
        self._handled_by = found.get(hop.HANDLED_BY, self._handled_by)
        for name, value in rest:
            shown = value if isinstance(value, str) else base64.b64encode(value).decode()
            self._tell(f"< {when} {name}: {shown}")

    def _tell(self, text: str) -> None:
        if self._wanted.verbose:
            _say(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print(value: Any, *, compact: bool) -> None:
    print(json_text(value, indent=None if compact else 2), flush=True)


def _plain(value: Any) -> Any:
    """A value of the envelope, for JSON."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        # As in the JSON of protobuf, whose own has no name for them.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, AnyMessage):
        return {"@type": value.type_url, "value": base64.b64encode(value.value).decode()}
    return MessageToDict(value) if isinstance(value, Message) else value
