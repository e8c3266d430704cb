"""The registry of a collective: which services there are in which namespace, and what their methods take.

`Registry` is what callers see. `LocalRegistry` keeps it in a store, `RemoteRegistry` (client.py) asks another process.

What is registered is checked first, whole: names, and descriptors together with what they import and with what
imports them. What is refused leaves nothing behind. A service that is registered again with other methods, or a file
with another content, is an update with the next version; with the same, it keeps its version.

Reading changes nothing, and asking about a method is reading.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto
from google.protobuf.message import Message

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..errors import CollectiveError, call_error
from ..names import checked_name
from ..protos import registry_pb2 as pb
from .catalogue import (
    Draft,
    Kind,
    ServiceRecord,
    file_content,
    message_names,
    service_content,
    with_methods,
)
from .store import MemoryStore, Store
from .types import Files, ServiceTypes, TypeSet, is_well_known, with_imports

log = logging.getLogger("dodici.collective")


@dataclass(frozen=True, slots=True)
class RegisteredProto:
    """A registered file."""

    id: str
    messages: tuple[str, ...]
    """Full names of what it defines."""
    version: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a method may be called, and if not, why."""

    valid: bool
    message: str = ""


@runtime_checkable
class Registry(Protocol):
    """A registry, here or elsewhere. Names are checked: InvalidArgumentError for one that cannot be."""

    async def start(self) -> None:
        """Begin.

        Raises:
            CollectiveError: the store cannot be used.
        """

    async def stop(self) -> None: ...

    async def register_proto(
        self, namespace: str, file: FileDescriptorProto, dependencies: Iterable[FileDescriptorProto] = ()
    ) -> RegisteredProto:
        """Register a file, and with it those that it imports. protobuf's own are there, and are not kept again.

        Raises:
            CollectiveError: INVALID_ARGUMENT: the descriptors are wrong, or an import is not to be had.
                FAILED_PRECONDITION: registered files could not import it any more. RESOURCE_EXHAUSTED: over a limit.
        """

    async def register_service(
        self,
        namespace: str,
        service: ServiceDescriptorProto,
        file: FileDescriptorProto | None = None,
        *,
        add: bool = False,
    ) -> pb.RegisteredService:
        """Register a service. `file`, which defines it, gives its package, and the types of its methods.

        Imports of the file may be missing: types that they would define are not known then.

        With `add`, and without a file, methods that others have registered under the name stay, and those are added that it
        lacks: of all that add at the same moment nothing is lost.

        Raises:
            InvalidArgumentError: `add`, and a file.
            CollectiveError: as `register_proto`. FAILED_PRECONDITION: a registered descriptor lacks what is to be added.
        """

    async def lookup(self, namespace: str, service: str) -> pb.RegisteredService:
        """The service of that full or short name.

        Raises:
            CollectiveError: NOT_FOUND.
        """

    async def validate(self, namespace: str, service: str, method: str) -> Verdict:
        """Whether the method is registered.

        Raises:
            CollectiveError: nobody can say.
        """

    async def services(self, namespace: str = "") -> Sequence[pb.RegisteredService]:
        """Every service of a namespace, or of all."""

    async def types(self, namespace: str, service: str) -> ServiceTypes:
        """Typed conversion for a service.

        Raises:
            CollectiveError: NOT_FOUND.
        """


class LocalRegistry:
    """A registry over a store of this process.

    Args:
        store: where it is kept; in memory if None.
        max_services: how many services there may be, and how many files.
        max_file: bytes of one file, and of one service.
    """

    def __init__(
        self, store: Store | None = None, *, max_services: int = 100_000, max_file: int = 1024 * 1024
    ) -> None:
        for name, most in (("max_services", max_services), ("max_file", max_file)):
            if type(most) is not int or most < 1:
                raise InvalidArgumentError(f"{name} must be an int of at least 1, not {most!r}")
        self.store: Store = MemoryStore() if store is None else store
        self._max_services = max_services
        self._max_file = max_file
        self._types: dict[tuple[str, str], tuple[int, Files, TypeSet]] = {}
        self._service_types: dict[tuple[str, str], tuple[ServiceRecord, int, ServiceTypes]] = {}

    async def start(self) -> None:
        await self.store.start()

    async def stop(self) -> None:
        await self.store.stop()

    # -- writing -------------------------------------------------------------------------------------------

    async def register_proto(
        self, namespace: str, file: FileDescriptorProto, dependencies: Iterable[FileDescriptorProto] = ()
    ) -> RegisteredProto:
        checked_name("namespace", namespace)
        given: dict[str, FileDescriptorProto] = {}
        for each in (*dependencies, file):
            if is_well_known(each.name):
                continue
            if given.setdefault(_checked_file(each).name, each) is not each and given[each.name] != each:
                raise call_error(GrpcStatus.INVALID_ARGUMENT, f"two files are named {each.name!r}")
        missing = self._check_types(namespace, given)
        if missing:
            raise call_error(
                GrpcStatus.INVALID_ARGUMENT,
                f"{file.name} imports what is not registered, here or as a dependency: {', '.join(missing)}",
            )
        drafts = [self._file_draft(namespace, each) for each in given.values()]
        self._check_room(drafts)
        entries = await self.store.put(drafts) if drafts else ()
        version = next((entry.version for entry in entries if entry.name == file.name), 1)
        return RegisteredProto(f"{namespace}/{file.name}", tuple(message_names(file)), version)

    async def register_service(
        self,
        namespace: str,
        service: ServiceDescriptorProto,
        file: FileDescriptorProto | None = None,
        *,
        add: bool = False,
    ) -> pb.RegisteredService:
        checked_name("namespace", namespace)
        check_addition(file, add)
        name = _full_name(service, file)
        _check_methods(name, service)
        drafts: list[Draft] = []
        if file is not None:
            _check_same(service, file)
            if file.name:
                self._check_types(namespace, {_checked_file(file).name: file})
                drafts.append(self._file_draft(namespace, file))
            elif file.message_type or file.enum_type:
                raise call_error(GrpcStatus.INVALID_ARGUMENT, "file_descriptor.name is empty")
        merge = partial(self._merged, service) if add else None
        drafts.append(Draft(Kind.SERVICE, namespace, name, service_content(namespace, service, file), merge))
        self._check_size(drafts[-1])
        self._check_room(drafts)
        await self.store.put(drafts)
        record = self.store.catalogue.service(namespace, name)
        assert record is not None, "a store's catalogue has what was put"
        return record.message

    def _merged(self, service: ServiceDescriptorProto, known: bytes) -> bytes:
        """See `Draft.merge`: together they may be too large."""
        content = with_methods(known, service)
        self._check_length(f"service {service.name}", content)
        return content

    def _file_draft(self, namespace: str, file: FileDescriptorProto) -> Draft:
        draft = Draft(Kind.FILE, namespace, file.name, file_content(file))
        self._check_size(draft)
        return draft

    def _check_size(self, draft: Draft) -> None:
        self._check_length(f"{draft.kind} {draft.name}", draft.content)

    def _check_length(self, what: str, content: bytes) -> None:
        if len(content) > self._max_file:
            raise call_error(
                GrpcStatus.RESOURCE_EXHAUSTED, f"{what} has {len(content)} bytes, more than {self._max_file}"
            )

    def _check_room(self, drafts: list[Draft]) -> None:
        catalogue = self.store.catalogue
        new = [draft.kind for draft in drafts if not catalogue.holds(draft)]
        for what, count, more in (
            ("files", catalogue.file_count, new.count(Kind.FILE)),
            ("services", catalogue.service_count, new.count(Kind.SERVICE)),
        ):
            if more and count + more > self._max_services:
                raise call_error(
                    GrpcStatus.RESOURCE_EXHAUSTED, f"the registry is full: it has {count} {what}"
                )

    def _check_types(self, namespace: str, given: Mapping[str, FileDescriptorProto]) -> tuple[str, ...]:
        """Build the types of new files, and those of what imports them. Returns the imports that are missing."""
        catalogue = self.store.catalogue

        def find(name: str) -> FileDescriptorProto | None:
            if name in given:
                return given[name]
            record = catalogue.file(namespace, name)
            return None if record is None else record.descriptor

        files = with_imports(list(given), find)
        TypeSet(files)
        known = [name for name in given if catalogue.file(namespace, name) is not None]
        if known:
            for importer in sorted(catalogue.importers(namespace, known) - set(given)):
                try:
                    TypeSet(with_imports([importer], find))
                except Exception as error:
                    raise call_error(
                        GrpcStatus.FAILED_PRECONDITION,
                        f"{importer}, which is registered, could not import this any more: {error}",
                    ) from error
        return files.missing

    # -- reading -------------------------------------------------------------------------------------------

    async def lookup(self, namespace: str, service: str) -> pb.RegisteredService:
        checked_name("namespace", namespace)
        checked_name("service", service)
        if not self.store.current or self.store.catalogue.service(namespace, service) is None:
            await self.store.refresh()
        record = self.store.catalogue.service(namespace, service)
        if record is None:
            raise call_error(
                GrpcStatus.NOT_FOUND, f"service {service!r} is not registered in namespace {namespace!r}"
            )
        return record.message

    def known(self, namespace: str, service: str, method: str) -> bool:
        """Whether the method is certainly registered, at once. False does not mean that it is not."""
        return self.store.current and self.store.catalogue.has(namespace, service, method)

    async def validate(self, namespace: str, service: str, method: str) -> Verdict:
        checked_name("namespace", namespace)
        checked_name("service", service)
        checked_name("method", method)
        if not self.known(namespace, service, method):
            await self.store.refresh()
        catalogue = self.store.catalogue
        if catalogue.has(namespace, service, method):
            return Verdict(True)
        return Verdict(False, catalogue.refusal(namespace, service, method))

    async def services(self, namespace: str = "") -> Sequence[pb.RegisteredService]:
        if namespace:
            checked_name("namespace", namespace)
        try:
            await self.store.refresh()
        except CollectiveError:
            if not self.store.current:
                raise
        return tuple(self.store.catalogue.services(namespace))

    async def types(self, namespace: str, service: str) -> ServiceTypes:
        await self.lookup(namespace, service)
        catalogue = self.store.catalogue
        record = catalogue.service(namespace, service)
        assert record is not None
        place = (namespace, record.message.service_name)
        known = self._service_types.get(place)
        if known is not None and known[0] is record and known[1] == catalogue.revision:
            return known[2]

        def find(message: str) -> type[Message] | None:
            file = self.store.catalogue.file_of(namespace, message)
            return None if file is None else self._type_set(namespace, file).message(message)

        types = self._type_set(namespace, record.file)
        found = ServiceTypes(record.message.service_descriptor, record.package, types, find)
        self._service_types[place] = (record, catalogue.revision, found)
        return found

    def files_of(self, namespace: str, service: str) -> tuple[FileDescriptorProto, ...]:
        """The file of a service and what it imports, each after its imports; none if they are not known."""
        record = self.store.catalogue.service(namespace, service)
        if record is None or not record.file:
            return ()
        return self._files(namespace, record.file).found

    def _files(self, namespace: str, name: str) -> Files:
        def find(file: str) -> FileDescriptorProto | None:
            record = self.store.catalogue.file(namespace, file)
            return None if record is None else record.descriptor

        return with_imports([name] if name else [], find)

    def _type_set(self, namespace: str, file: str) -> TypeSet:
        revision = self.store.catalogue.revision
        known = self._types.get((namespace, file))
        if known is not None and known[0] == revision:
            return known[2]
        files = self._files(namespace, file)
        # Classes stay what they are while nothing of theirs has changed: a new version is a new descriptor.
        if known is not None and _same(known[1], files):
            types = known[2]
        else:
            try:
                types = TypeSet(files)
            except CollectiveError as error:
                # Two that registered at the same time can have put together what does not fit together.
                log.warning("no types of %s in namespace %s: %s", file, namespace, error)
                types = TypeSet(Files((), ()))
        self._types[namespace, file] = (revision, files, types)
        return types


def _same(one: Files, other: Files) -> bool:
    return (
        one.missing == other.missing
        and len(one.found) == len(other.found)
        and all(first is second for first, second in zip(one.found, other.found, strict=True))
    )


def check_addition(file: FileDescriptorProto | None, add: bool) -> None:
    """Raises InvalidArgumentError for methods to be added that come with a file."""
    if add and file is not None:
        raise InvalidArgumentError("methods are added to a service without a file: register the whole of it")


async def register_descriptor(registry: Registry, namespace: str, descriptor: Any) -> pb.RegisteredService:
    """Register a service by the descriptor that its stubs have, with its file and what that imports.

    Raises:
        InvalidArgumentError: it is no ServiceDescriptor.
        CollectiveError: see `Registry.register_proto`.
    """
    if not isinstance(descriptor, ServiceDescriptor):
        raise InvalidArgumentError(
            "descriptor must be a ServiceDescriptor, such as shop_pb2.DESCRIPTOR.services_by_name['OrderService']; "
            f"not {type(descriptor).__name__}"
        )
    files: dict[str, FileDescriptorProto] = {}
    waiting = [descriptor.file]
    while waiting:
        each = waiting.pop()
        if each.name not in files and not is_well_known(each.name):
            files[each.name] = FileDescriptorProto.FromString(each.serialized_pb)
            waiting.extend(each.dependencies)
    file = files.pop(descriptor.file.name)
    await registry.register_proto(namespace, file, files.values())
    service = ServiceDescriptorProto()
    descriptor.CopyToProto(service)
    return await registry.register_service(namespace, service, file)


# -- checks ----------------------------------------------------------------------------------------------


def _checked_file(file: FileDescriptorProto) -> FileDescriptorProto:
    if not file.name:
        raise call_error(GrpcStatus.INVALID_ARGUMENT, "file_descriptor.name is empty")
    if len(file.name) > 1000 or not file.name.isprintable():
        raise call_error(GrpcStatus.INVALID_ARGUMENT, f"not the name of a file: {file.name[:100]!r}")
    return file


def _full_name(service: ServiceDescriptorProto, file: FileDescriptorProto | None) -> str:
    name = checked_name("service_descriptor.name", service.name)
    package = "" if file is None else file.package
    if not package or name.startswith(f"{package}."):
        return name
    if "." in name:
        raise call_error(
            GrpcStatus.INVALID_ARGUMENT, f"service {name!r} is not of the package of its file, {package!r}"
        )
    return checked_name("service_descriptor.name", f"{package}.{name}")


def _check_methods(name: str, service: ServiceDescriptorProto) -> None:
    seen: set[str] = set()
    for method in service.method:
        checked_name(f"a method of {name}", method.name)
        if method.name in seen:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{name} has two methods {method.name!r}")
        seen.add(method.name)


def _check_same(service: ServiceDescriptorProto, file: FileDescriptorProto) -> None:
    short = service.name.rpartition(".")[2]
    for defined in file.service:
        if defined.name == short:
            if {method.name for method in defined.method} != {method.name for method in service.method}:
                raise call_error(
                    GrpcStatus.INVALID_ARGUMENT,
                    f"service {short!r} has other methods in {file.name!r} than in service_descriptor",
                )
            return
