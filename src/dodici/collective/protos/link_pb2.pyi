from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNARY_UNARY: _ClassVar[CallKind]
    UNARY_STREAM: _ClassVar[CallKind]
    STREAM_UNARY: _ClassVar[CallKind]
    STREAM_STREAM: _ClassVar[CallKind]
UNARY_UNARY: CallKind
UNARY_STREAM: CallKind
STREAM_UNARY: CallKind
STREAM_STREAM: CallKind

class LinkFrame(_message.Message):
    __slots__ = ("hello", "announcement", "acknowledgement", "goodbye", "ping", "calls", "answers", "cancelled")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    announcement: Announcement
    acknowledgement: Acknowledgement
    goodbye: Goodbye
    ping: Ping
    calls: _containers.RepeatedCompositeFieldContainer[LinkCall]
    answers: _containers.RepeatedCompositeFieldContainer[LinkAnswer]
    cancelled: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., announcement: _Optional[_Union[Announcement, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., calls: _Optional[_Iterable[_Union[LinkCall, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[LinkAnswer, _Mapping]]] = ..., cancelled: _Optional[_Iterable[int]] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("code", "message", "last_call")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_CALL_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    last_call: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., last_call: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("answer",)
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    answer: bool
    def __init__(self, answer: _Optional[bool] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "collector_id", "address", "epoch", "namespaces", "max_calls", "connection_id", "successor", "message")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COLLECTOR_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    SUCCESSOR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    version: int
    collector_id: str
    address: str
    epoch: int
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    max_calls: int
    connection_id: str
    successor: bool
    message: int
    def __init__(self, version: _Optional[int] = ..., collector_id: _Optional[str] = ..., address: _Optional[str] = ..., epoch: _Optional[int] = ..., namespaces: _Optional[_Iterable[str]] = ..., max_calls: _Optional[int] = ..., connection_id: _Optional[str] = ..., successor: _Optional[bool] = ..., message: _Optional[int] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("namespace", "service", "method", "kind", "idempotent", "hops", "path", "weight")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    service: str
    method: str
    kind: CallKind
    idempotent: bool
    hops: int
    path: _containers.RepeatedScalarFieldContainer[str]
    weight: float
    def __init__(self, namespace: _Optional[str] = ..., service: _Optional[str] = ..., method: _Optional[str] = ..., kind: _Optional[_Union[CallKind, str]] = ..., idempotent: _Optional[bool] = ..., hops: _Optional[int] = ..., path: _Optional[_Iterable[str]] = ..., weight: _Optional[float] = ...) -> None: ...

class Announcement(_message.Message):
    __slots__ = ("collector_id", "epoch", "version", "namespaces", "routes", "draining", "more")
    COLLECTOR_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    collector_id: str
    epoch: int
    version: int
    namespaces: _containers.RepeatedScalarFieldContainer[str]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    draining: bool
    more: bool
    def __init__(self, collector_id: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., namespaces: _Optional[_Iterable[str]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., draining: _Optional[bool] = ..., more: _Optional[bool] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("epoch", "version")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    version: int
    def __init__(self, epoch: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class MetadataEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class LinkCall(_message.Message):
    __slots__ = ("id", "path", "metadata", "payload", "timeout_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    id: int
    path: str
    metadata: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    payload: bytes
    timeout_us: int
    def __init__(self, id: _Optional[int] = ..., path: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[MetadataEntry, _Mapping]]] = ..., payload: _Optional[bytes] = ..., timeout_us: _Optional[int] = ...) -> None: ...

class LinkAnswer(_message.Message):
    __slots__ = ("id", "code", "message", "payload", "initial", "trailing")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    TRAILING_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: int
    message: str
    payload: bytes
    initial: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    trailing: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    def __init__(self, id: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., payload: _Optional[bytes] = ..., initial: _Optional[_Iterable[_Union[MetadataEntry, _Mapping]]] = ..., trailing: _Optional[_Iterable[_Union[MetadataEntry, _Mapping]]] = ...) -> None: ...
