from dodici.collective.protos import collector_pb2 as _collector_pb2
from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisteredService(_message.Message):
    __slots__ = ("id", "namespace", "service_name", "service_descriptor", "method_names", "version", "files")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAMES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    service_name: str
    service_descriptor: _descriptor_pb2.ServiceDescriptorProto
    method_names: _containers.RepeatedScalarFieldContainer[str]
    version: int
    files: _containers.RepeatedCompositeFieldContainer[_descriptor_pb2.FileDescriptorProto]
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., service_name: _Optional[str] = ..., service_descriptor: _Optional[_Union[_descriptor_pb2.ServiceDescriptorProto, _Mapping]] = ..., method_names: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ..., files: _Optional[_Iterable[_Union[_descriptor_pb2.FileDescriptorProto, _Mapping]]] = ...) -> None: ...

class RegisterProtoRequest(_message.Message):
    __slots__ = ("namespace", "file_descriptor", "dependencies")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    FILE_DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    file_descriptor: _descriptor_pb2.FileDescriptorProto
    dependencies: _containers.RepeatedCompositeFieldContainer[_descriptor_pb2.FileDescriptorProto]
    def __init__(self, namespace: _Optional[str] = ..., file_descriptor: _Optional[_Union[_descriptor_pb2.FileDescriptorProto, _Mapping]] = ..., dependencies: _Optional[_Iterable[_Union[_descriptor_pb2.FileDescriptorProto, _Mapping]]] = ...) -> None: ...

class RegisterProtoResponse(_message.Message):
    __slots__ = ("status", "proto_id", "registered_messages", "version")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PROTO_ID_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    status: _collector_pb2.Status
    proto_id: str
    registered_messages: _containers.RepeatedScalarFieldContainer[str]
    version: int
    def __init__(self, status: _Optional[_Union[_collector_pb2.Status, _Mapping]] = ..., proto_id: _Optional[str] = ..., registered_messages: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ...) -> None: ...

class RegisterServiceRequest(_message.Message):
    __slots__ = ("namespace", "service_descriptor", "file_descriptor", "add_methods")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    FILE_DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    ADD_METHODS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    service_descriptor: _descriptor_pb2.ServiceDescriptorProto
    file_descriptor: _descriptor_pb2.FileDescriptorProto
    add_methods: bool
    def __init__(self, namespace: _Optional[str] = ..., service_descriptor: _Optional[_Union[_descriptor_pb2.ServiceDescriptorProto, _Mapping]] = ..., file_descriptor: _Optional[_Union[_descriptor_pb2.FileDescriptorProto, _Mapping]] = ..., add_methods: _Optional[bool] = ...) -> None: ...

class RegisterServiceResponse(_message.Message):
    __slots__ = ("status", "service_id", "registered_methods", "version")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ID_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_METHODS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    status: _collector_pb2.Status
    service_id: str
    registered_methods: _containers.RepeatedScalarFieldContainer[str]
    version: int
    def __init__(self, status: _Optional[_Union[_collector_pb2.Status, _Mapping]] = ..., service_id: _Optional[str] = ..., registered_methods: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ...) -> None: ...

class LookupServiceRequest(_message.Message):
    __slots__ = ("namespace", "service_name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    service_name: str
    def __init__(self, namespace: _Optional[str] = ..., service_name: _Optional[str] = ...) -> None: ...

class LookupServiceResponse(_message.Message):
    __slots__ = ("status", "service")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    status: _collector_pb2.Status
    service: RegisteredService
    def __init__(self, status: _Optional[_Union[_collector_pb2.Status, _Mapping]] = ..., service: _Optional[_Union[RegisteredService, _Mapping]] = ...) -> None: ...

class ValidateMethodRequest(_message.Message):
    __slots__ = ("namespace", "service_name", "method_name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    service_name: str
    method_name: str
    def __init__(self, namespace: _Optional[str] = ..., service_name: _Optional[str] = ..., method_name: _Optional[str] = ...) -> None: ...

class ValidateMethodResponse(_message.Message):
    __slots__ = ("status", "is_valid", "message")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    IS_VALID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    status: _collector_pb2.Status
    is_valid: bool
    message: str
    def __init__(self, status: _Optional[_Union[_collector_pb2.Status, _Mapping]] = ..., is_valid: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...

class ListServicesRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "page_token")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    page_token: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListServicesResponse(_message.Message):
    __slots__ = ("status", "services", "next_page_token")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    status: _collector_pb2.Status
    services: _containers.RepeatedCompositeFieldContainer[RegisteredService]
    next_page_token: str
    def __init__(self, status: _Optional[_Union[_collector_pb2.Status, _Mapping]] = ..., services: _Optional[_Iterable[_Union[RegisteredService, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
