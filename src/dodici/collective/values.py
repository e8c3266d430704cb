"""Values of handlers and callers, and what they are on the wire.

| Python | in an envelope's `Any` |
|---|---|
| None | google.protobuf.Empty |
| bool | BoolValue |
| int | Int64Value |
| float | DoubleValue |
| str | StringValue |
| bytes | BytesValue |
| dict | Struct |
| list, tuple | ListValue |
| a message | itself |
| an Any | as it is |

Backwards the same, and an `Any` whose type this process does not know stays an `Any`. Numbers in a Struct or a
ListValue are doubles: whole ones come back as int, and an int that a double cannot hold is refused.

On the transparent face a payload is a message of the type that the method has. Where that is not known it is bytes,
both ways.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import descriptor_pool, json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

from ..core.errors import InvalidArgumentError, InvalidReturnValueError
from ..core.grpc_status import GrpcStatus
from .errors import call_error

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool

PREFIX = "type.googleapis.com/"
_EXACT = 2**53
"""Every whole number up to here is a double."""
_DEPTH = 32
"""How deep a Struct or ListValue may be: protobuf's parsers stop at 100 messages, three of which make a level."""
_DEEPEST = 100
"""How deep protobuf's parser of JSON goes."""
_WRAPPERS = {
    f"google.protobuf.{kind.DESCRIPTOR.name}": kind
    for kind in (
        BoolValue,
        BytesValue,
        DoubleValue,
        FloatValue,
        Int32Value,
        Int64Value,
        StringValue,
        UInt32Value,
        UInt64Value,
    )
}
_M = TypeVar("_M", bound=Message)


# -- out ------------------------------------------------------------------------------------------------


def to_message(value: Any) -> Message:
    """The message that stands for a value.

    Raises:
        InvalidArgumentError: there is none for it; the text says where in it and why.
    """
    if isinstance(value, Message):
        return value
    if value is None:
        return Empty()
    if isinstance(value, bool):
        return BoolValue(value=value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgumentError(f"an int must fit in 64 bits, and {value} does not: send it as a str")
        return Int64Value(value=value)
    if isinstance(value, float):
        return DoubleValue(value=value)
    if isinstance(value, str):
        return StringValue(value=_text(value, "the value"))
    if isinstance(value, bytes | bytearray | memoryview):
        return BytesValue(value=bytes(value))
    if isinstance(value, dict):
        struct = Struct()
        _fill_struct(struct, value, "value", 0)
        return struct
    if isinstance(value, list | tuple):
        items = ListValue()
        _fill_list(items, value, "value", 0)
        return items
    raise InvalidArgumentError(
        f"no value for the wire: {type(value).__name__}; use None, bool, int, float, str, bytes, dict, list "
        "or a protobuf message"
    )


def to_any(value: Any) -> AnyMessage:
    """A value in an `Any`.

    Raises:
        InvalidArgumentError: see `to_message`.
    """
    if isinstance(value, AnyMessage):
        return value
    message = to_message(value)
    if message.DESCRIPTOR.full_name == "google.protobuf.Any":  # of another descriptor pool
        return AnyMessage.FromString(message.SerializeToString())
    return AnyMessage(type_url=PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString())


def to_bytes(value: Any, kind: type[Message] | None) -> bytes:
    """A value as a payload of the transparent face.

    `kind` is the method's type, None if it is not known. A dict becomes a message of that type by protobuf's JSON
    mapping, None an empty one.

    Raises:
        InvalidReturnValueError: it is not of that type; or no bytes, where there is none.
    """
    if isinstance(value, Message):
        if kind is not None and value.DESCRIPTOR.full_name != kind.DESCRIPTOR.full_name:
            raise InvalidReturnValueError(
                f"a {kind.DESCRIPTOR.full_name} is due, not a {value.DESCRIPTOR.full_name}"
            )
        return value.SerializeToString()
    if value is None:
        return b""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if kind is not None:
        if isinstance(value, dict):
            return of_json(value, kind).SerializeToString()
        if kind.DESCRIPTOR.full_name in _WRAPPERS or kind in {Struct, ListValue}:
            message = to_message(value)
            if message.DESCRIPTOR.full_name == kind.DESCRIPTOR.full_name:
                return message.SerializeToString()
        due = f"a {kind.DESCRIPTOR.full_name}"
    else:
        due = "bytes or a message, where the method's type is not known,"
    raise InvalidReturnValueError(f"{due} is due, not {type(value).__name__}")


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            f"{where} has characters without an encoding in UTF-8: {value!r}"
        ) from None
    return value


def _fill_struct(struct: Struct, value: dict[Any, Any], where: str, depth: int) -> None:
    for name, item in value.items():
        if not isinstance(name, str):
            raise InvalidArgumentError(f"keys must be str, and {where} has {name!r}")
        _fill(struct.fields[_text(name, f"a key of {where}")], item, f"{where}[{name!r}]", depth)


def _fill_list(items: ListValue, value: list[Any] | tuple[Any, ...], where: str, depth: int) -> None:
    for position, item in enumerate(value):
        _fill(items.values.add(), item, f"{where}[{position}]", depth)


def _fill(target: Value, item: Any, where: str, depth: int) -> None:
    if depth >= _DEPTH:
        raise InvalidArgumentError(f"more than {_DEPTH} levels deep, or a circle: {where[:60]}...")
    if item is None:
        target.null_value = 0  # type: ignore[assignment]
    elif isinstance(item, bool):
        target.bool_value = item
    elif isinstance(item, int):
        if not -_EXACT <= item <= _EXACT:
            raise InvalidArgumentError(f"{where} is {item}, which is not exact as a double: send it as a str")
        target.number_value = item
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise InvalidArgumentError(f"{where} is {item}, for which a Struct has no value")
        target.number_value = item
    elif isinstance(item, str):
        target.string_value = _text(item, where)
    elif isinstance(item, dict):
        target.struct_value.SetInParent()
        _fill_struct(target.struct_value, item, where, depth + 1)
    elif isinstance(item, list | tuple):
        target.list_value.SetInParent()
        _fill_list(target.list_value, item, where, depth + 1)
    else:
        raise InvalidArgumentError(
            f"{where} is a {type(item).__name__}: within a dict or list there may be None, bool, int, float, "
            "str, dict and list"
        )


# -- in -------------------------------------------------------------------------------------------------


def from_message(message: Message) -> Any:
    """The value that a message stands for; the message itself where it stands for none."""
    name = message.DESCRIPTOR.full_name
    if not name.startswith("google.protobuf."):
        return message
    if name in _WRAPPERS:
        return message.value  # type: ignore[attr-defined]
    if name == "google.protobuf.Empty":
        return None
    if name == "google.protobuf.Struct":
        return _dict(message)
    if name == "google.protobuf.ListValue":
        return [_item(item) for item in message.values]  # type: ignore[attr-defined]
    if name == "google.protobuf.Value":
        return _item(message)
    return message


def from_any(packed: AnyMessage, kind: type[_M] | None = None) -> Any:
    """What an `Any` holds. With `kind`, a message of it: from a Struct by protobuf's JSON mapping.

    Raises:
        CollectiveError: INVALID_ARGUMENT: it is broken, or not of that kind.
    """
    name = packed.type_url.rpartition("/")[2]
    if kind is not None:
        return _typed(packed, name, kind)
    if not name:
        if packed.value:
            raise call_error(
                GrpcStatus.INVALID_ARGUMENT, "the Any does not say what it holds: type_url is empty"
            )
        return None
    known = message_class(name)
    return packed if known is None else from_message(_parsed(known, packed.value))


def parse_any(payload: bytes, blame: GrpcStatus = GrpcStatus.INVALID_ARGUMENT) -> AnyMessage:
    """A serialized `Any`.

    Raises:
        CollectiveError: `blame`: it is none.
    """
    try:
        return AnyMessage.FromString(payload)
    except DecodeError as error:
        raise call_error(blame, f"not a google.protobuf.Any: {error}") from error


def _typed(packed: AnyMessage, name: str, kind: type[_M]) -> _M:
    due = kind.DESCRIPTOR.full_name
    if name == due:
        return _parsed(kind, packed.value)
    if due == "google.protobuf.Any":
        return kind.FromString(packed.SerializeToString())
    if name in {"", "google.protobuf.Empty"} and not packed.value:
        return kind()
    if name == "google.protobuf.Struct":
        try:
            return of_json(_dict(_parsed(Struct, packed.value)), kind)
        except InvalidReturnValueError as error:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, error.message) from error
    raise call_error(GrpcStatus.INVALID_ARGUMENT, f"a {due} is due, not a {name}")


def from_bytes(payload: bytes, kind: type[Message] | None) -> Any:
    """A payload of the transparent face: a message of the method's type, or the bytes.

    Raises:
        CollectiveError: INVALID_ARGUMENT: it is broken.
    """
    return payload if kind is None else _parsed(kind, payload)


def message_class(name: str) -> type[Message] | None:
    """The class of a message's full name, if this process has its descriptor."""
    known = _classes.get(name)
    if known is None:
        try:
            found: Descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        except KeyError:
            return None
        known = _classes[name] = GetMessageClass(found)
    return known


_classes: dict[str, type[Message]] = {}


def _parsed(kind: type[_M], payload: bytes) -> _M:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise call_error(
            GrpcStatus.INVALID_ARGUMENT, f"not a {kind.DESCRIPTOR.full_name}: {error}"
        ) from error


def of_json(value: Any, kind: type[_M], pool: DescriptorPool | None = None) -> _M:
    """A message of what JSON gives: a dict, mostly.

    Args:
        value: what it is made of.
        kind: its class.
        pool: where the types of an `Any` within are looked for; None: in the default one.

    Raises:
        InvalidReturnValueError: it has no such form.
    """
    due = kind.DESCRIPTOR.full_name
    found = _bytes_in(value, "value", 0)
    if found is not None:
        # The parser would take them for base64, and what of them is none for nothing.
        raise InvalidReturnValueError(f"no {due}: {found} is bytes, which in JSON are a str of base64")
    try:
        return json_format.ParseDict(value, kind(), descriptor_pool=pool)
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise InvalidReturnValueError(f"no {due}: {error}") from error


def _bytes_in(value: Any, where: str, depth: int) -> str | None:
    """Where there are bytes in a value, if there are any. What is too deep the parser refuses."""
    items: Any = ()
    if isinstance(value, bytes | bytearray | memoryview):
        return where
    if depth < _DEEPEST:
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, list | tuple):
            items = enumerate(value)
    for name, item in items:
        if type(item) is not str:
            found = _bytes_in(item, f"{where}[{name!r}]", depth + 1)
            if found is not None:
                return found
    return None


def _dict(struct: Any) -> dict[str, Any]:
    return {name: _item(item) for name, item in struct.fields.items()}


def _item(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number: float = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    if kind == "struct_value":
        return _dict(value.struct_value)
    if kind == "list_value":
        return [_item(item) for item in value.list_value.values]
    return None if kind in {None, "null_value"} else getattr(value, kind)
