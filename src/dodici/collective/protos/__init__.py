"""The schemas of the collective, and the code made of them by `scripts/make_protos.py`.

The `.proto` files are what is published: clients in any language compile them, with this folder as the root.

The Python modules beside them are dodici's own copy. Their messages are the same on the wire, but are named
`dodici.collective.NAME.Message` in protobuf's descriptor pool instead of `collector.Message`: a program may hold
stubs of its own, made of the same files (or of etcd's), and two definitions of one name in a process are an
error of protobuf's. `published()` describes the schemas under their real names, in a pool of its own.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

PUBLISHED = ("link", "collector", "registry")
"""The schemas of package `collector`, each before those that import it."""
OWN_FOLDER = "dodici/collective/protos/"
OWN_PACKAGE = "dodici.collective."


@cache
def published() -> DescriptorPool:
    """A descriptor pool with the published schemas under their published names, and what they import."""
    from google.protobuf import any_pb2, descriptor_pb2, empty_pb2, struct_pb2
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    for imported in (any_pb2, descriptor_pb2, empty_pb2, struct_pb2):
        pool.AddSerializedFile(imported.DESCRIPTOR.serialized_pb)
    for name in PUBLISHED:
        own = importlib.import_module(f".{name}_pb2", __name__)
        file = descriptor_pb2.FileDescriptorProto.FromString(own.DESCRIPTOR.serialized_pb)
        _give_published_names(file)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _give_published_names(file: FileDescriptorProto) -> None:
    file.name = file.name.removeprefix(OWN_FOLDER)
    file.package = file.package.removeprefix(OWN_PACKAGE)
    for position, imported in enumerate(file.dependency):
        file.dependency[position] = imported.removeprefix(OWN_FOLDER)
    for message in file.message_type:
        _rename_fields(message)
    for service in file.service:
        for method in service.method:
            method.input_type = _renamed(method.input_type)
            method.output_type = _renamed(method.output_type)


def _rename_fields(message: DescriptorProto) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = _renamed(field.type_name)
    for nested in message.nested_type:
        _rename_fields(nested)


def _renamed(name: str) -> str:
    own = f".{OWN_PACKAGE}"
    return f".{name.removeprefix(own)}" if name.startswith(own) else name
