from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("head", "data", "end", "rest")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    data: bytes
    end: bool
    rest: bytes
    def __init__(self, head: _Optional[bytes] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., rest: _Optional[bytes] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("informational", "head", "data", "end", "trailers", "rest")
    INFORMATIONAL_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TRAILERS_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    informational: _containers.RepeatedScalarFieldContainer[bytes]
    head: bytes
    data: bytes
    end: bool
    trailers: bytes
    rest: bytes
    def __init__(self, informational: _Optional[_Iterable[bytes]] = ..., head: _Optional[bytes] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ..., trailers: _Optional[bytes] = ..., rest: _Optional[bytes] = ...) -> None: ...
