from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("head", "data", "end", "rest", "upgrade", "parts")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    data: bytes
    end: bool
    rest: bytes
    upgrade: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, head: _Optional[bytes] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., rest: _Optional[bytes] = ..., upgrade: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("informational", "head", "data", "end", "trailers", "rest", "upgraded", "protocol", "parts")
    class Upgraded(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        HTTP: _ClassVar[Response.Upgraded]
        BYTES: _ClassVar[Response.Upgraded]
        MESSAGES: _ClassVar[Response.Upgraded]
    HTTP: Response.Upgraded
    BYTES: Response.Upgraded
    MESSAGES: Response.Upgraded
    INFORMATIONAL_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TRAILERS_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    UPGRADED_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    informational: _containers.RepeatedScalarFieldContainer[bytes]
    head: bytes
    data: bytes
    end: bool
    trailers: bytes
    rest: bytes
    upgraded: Response.Upgraded
    protocol: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, informational: _Optional[_Iterable[bytes]] = ..., head: _Optional[bytes] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., trailers: _Optional[bytes] = ..., rest: _Optional[bytes] = ..., upgraded: _Optional[_Union[Response.Upgraded, str]] = ..., protocol: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("kind", "data", "more")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BINARY: _ClassVar[Part.Kind]
        TEXT: _ClassVar[Part.Kind]
        CLOSE: _ClassVar[Part.Kind]
        PING: _ClassVar[Part.Kind]
        PONG: _ClassVar[Part.Kind]
    BINARY: Part.Kind
    TEXT: Part.Kind
    CLOSE: Part.Kind
    PING: Part.Kind
    PONG: Part.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    kind: Part.Kind
    data: bytes
    more: bool
    def __init__(self, kind: _Optional[_Union[Part.Kind, str]] = ..., data: _Optional[bytes] = ..., more: _Optional[bool] = ...) -> None: ...
