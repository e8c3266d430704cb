"""Values of calls as bodies of HTTP, and back.

| value | content type |
|---|---|
| None | no body; of an answer also 204 |
| bool, int, float, str, list, dict | application/json |
| a message | application/json by protobuf's JSON mapping; with ``codec="protobuf"`` application/x-protobuf |
| an Any of a type that is not known here | application/x-protobuf; messageType="pkg.Type" |
| bytes | application/octet-stream; of a transparent call without a type application/x-protobuf |
| a stream of these | application/x-ndjson: a JSON value a line |
| a stream of messages as protobuf | application/x-protobuf; delimited=true: each after its length, a varint |

Answers are read by what their content type says, the same table backwards; ``text/*`` is a str, and what is not in the
table is bytes. A field of an answer's JSON that the method's type does not have is passed over, as protobuf does with
those that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from ...api.decode import decode_text
from ...api.payload import dumps
from ...core.grpc_status import GrpcStatus
from ...core.headers import Headers
from ..errors import CallAbortedError
from ..values import PREFIX

if TYPE_CHECKING:
    from ..contracts import Encoding

JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
PROTOBUF: Final = b"application/x-protobuf"
DELIMITED: Final = b"application/x-protobuf; delimited=true"
OCTETS: Final = b"application/octet-stream"

_PROTOBUF: Final = frozenset(
    {"application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf"}
)
_LINES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})


def refused(status: GrpcStatus, message: str) -> CallAbortedError:
    """A failure whose text is for the caller, and which the log need not have."""
    return CallAbortedError(message, grpc_status=status)


# -- to the origin ----------------------------------------------------------------------------------------


def encode_one(value: Any, encoding: Encoding, protobuf: bool) -> tuple[bytes | None, bytes]:
    """The content type and the body of a value that is sent alone; (None, b"") for None.

    Raises:
        CollectiveError: INVALID_ARGUMENT: it has no form.
    """
    if value is None:
        return None, b""
    if isinstance(value, AnyMessage):
        name = value.type_url.rpartition("/")[2]
        return PROTOBUF + f'; messageType="{name}"'.encode(), value.value
    if isinstance(value, Message):
        return (PROTOBUF, value.SerializeToString()) if protobuf else (JSON, _message_json(value))
    if isinstance(value, bytes):
        return PROTOBUF if encoding == "raw" else OCTETS, value
    return JSON, _json(value)


def encode_item(value: Any, content_type: bytes) -> bytes:
    """A value in a stream of NDJSON or DELIMITED.

    Raises:
        CollectiveError: INVALID_ARGUMENT: it has no form there.
    """
    if content_type is DELIMITED:
        if not isinstance(value, bytes | Message):
            _refuse(f"a {type(value).__name__} has no place in a stream of messages")
        data: bytes = value if isinstance(value, bytes) else value.SerializeToString()
        return _varint(len(data)) + data
    if isinstance(value, Message) and not isinstance(value, AnyMessage):
        return _message_json(value) + b"\n"
    if isinstance(value, bytes | Message):
        what = value.type_url if isinstance(value, AnyMessage) else "bytes"
        _refuse(
            f"{what or 'an empty Any'} cannot be written as JSON: streams to this origin are of JSON values"
        )
    return _json(value) + b"\n"


def _json(value: Any) -> bytes:
    try:
        return dumps(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        _refuse(f"the input cannot be written as JSON: {error}", error)


def _message_json(message: Message) -> bytes:
    try:
        # Numbers that are 0 are there, too: a program that reads JSON does not know what is left out.
        text = json_format.MessageToJson(
            message, indent=None, ensure_ascii=False, always_print_fields_with_no_presence=True
        )
    except (TypeError, ValueError, json_format.Error) as error:
        _refuse(f"no JSON for a {message.DESCRIPTOR.full_name}: {error}", error)
    return text.encode()


def _refuse(message: str, cause: Exception | None = None) -> NoReturn:
    raise refused(GrpcStatus.INVALID_ARGUMENT, message) from cause


# -- from the origin --------------------------------------------------------------------------------------


class Form(Enum):
    """How a body is to be read."""

    JSON = auto()
    LINES = auto()
    MESSAGE = auto()
    DELIMITED = auto()
    TEXT = auto()
    BYTES = auto()


class BodyType(NamedTuple):
    """What a response says of its body."""

    form: Form
    stated: str | None
    """The content-type field."""
    message: str
    """Full name of the message's type, if it is said."""

    @property
    def streams(self) -> bool:
        """The body is a stream of values."""
        return self.form is Form.LINES or self.form is Form.DELIMITED


_PLAIN_JSON: Final = BodyType(Form.JSON, "application/json", "")


def body_type(headers: Headers, streams: bool, where: str) -> BodyType:
    """How to read a response's body; `streams` says that the method is known to answer with a stream.

    Raises:
        CollectiveError: INTERNAL: it is encoded, or of events.
    """
    if "content-encoding" in headers:
        coding = headers["content-encoding"].strip().lower()
        if coding not in {"identity", ""}:
            raise refused(
                GrpcStatus.INTERNAL,
                f"{where} answered in {coding[:40]}, which was not asked for: compose the dispatcher with decompress()",
            )
    stated = headers.get("content-type")
    if stated == "application/json":
        return _PLAIN_JSON  # nearly all answers are
    kind, *rest = (stated or "").split(";")
    kind = kind.strip().lower()
    parameters = {}
    for each in rest:
        name, _, value = each.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"')
    message = parameters.get("messagetype", parameters.get("proto", ""))
    if kind == "application/json" or kind.endswith("+json"):
        form = Form.JSON
    elif kind in _LINES:
        form = Form.LINES
    elif kind in _PROTOBUF:
        delimited = parameters.get("delimited") == "true" or parameters.get("encoding") == "delimited"
        form = Form.DELIMITED if delimited or streams else Form.MESSAGE
    elif kind == "text/event-stream":
        raise refused(
            GrpcStatus.INTERNAL, f"{where} answered with {kind}: a stream has to be application/x-ndjson"
        )
    else:
        form = Form.TEXT if kind.startswith("text/") else Form.BYTES
    return BodyType(form, stated, message)


def decode_one(body: bytes, of: BodyType, kind: type[Message] | None, where: str) -> Any:
    """The value of a body, or of one item of a stream. `kind` is the method's output type, if it is known.

    Raises:
        CollectiveError: INTERNAL: it is not what its content type or the method says.
    """
    if of.form is Form.JSON or of.form is Form.LINES:
        return _of_json(body, kind, where)
    if not body and of.form is not Form.DELIMITED:
        return None
    if of.form in {Form.MESSAGE, Form.DELIMITED}:
        if kind is not None:
            try:
                return kind.FromString(body)
            except DecodeError as error:
                _broken(f"{where} answered with no {kind.DESCRIPTOR.full_name}: {error}", error)
        return AnyMessage(type_url=PREFIX + of.message, value=body) if of.message else body
    return decode_text(body, of.stated) if of.form is Form.TEXT else body


class Items:
    """Cuts the body of a stream into its items, as the bytes come.

    Args:
        of: LINES or DELIMITED.
        limit: bytes that an item may have.
        where: who answers.
    """

    def __init__(self, of: BodyType, limit: int, where: str) -> None:
        self._lines = of.form is Form.LINES
        self._limit = limit
        self._where = where
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The items that are complete now.

        Raises:
            CollectiveError: RESOURCE_EXHAUSTED: one is too large. INTERNAL: a length is none.
        """
        self._rest += data
        start = 0
        try:
            while (
                found := self._line(start, len(data)) if self._lines else self._message(start)
            ) is not None:
                begin, end, start = found
                if end - begin > self._limit:
                    self._too_large()
                item = bytes(self._rest[begin:end])
                if not self._lines or item.strip():  # an empty line keeps a connection alive
                    yield item
        finally:
            del self._rest[:start]
        if self._lines and len(self._rest) > self._limit:
            self._too_large()

    def end(self) -> Iterator[bytes]:
        """What is left at the end of the body: a last line without its end.

        Raises:
            CollectiveError: INTERNAL: a message is cut off.
        """
        rest = bytes(self._rest)
        self._rest.clear()
        if not self._lines and rest:
            _broken(f"{self._where} ended in the middle of a message")
        if rest.strip():
            yield rest

    def _line(self, start: int, fresh: int) -> tuple[int, int, int] | None:
        # What was there before the last piece has no end of line in it.
        end = self._rest.find(b"\n", max(start, len(self._rest) - fresh))
        return None if end < 0 else (start, end, end + 1)

    def _message(self, start: int) -> tuple[int, int, int] | None:
        size = shift = 0
        place = start
        while True:
            if place >= len(self._rest):
                return None
            byte = self._rest[place]
            place += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 28:
                _broken(f"{self._where} sent a length of a message that is none")
        if size > self._limit:
            self._too_large()
        return None if place + size > len(self._rest) else (place, place + size, place + size)

    def _too_large(self) -> NoReturn:
        raise refused(
            GrpcStatus.RESOURCE_EXHAUSTED,
            f"{self._where} sent a message of more than {self._limit} bytes (limits.message)",
        )


def _of_json(body: bytes, kind: type[Message] | None, where: str) -> Any:
    if not body:
        return None
    try:
        text = body.decode("utf-8-sig")
        if kind is None:
            return _parse(text)
        if text.strip() == "null":
            return None
        return json_format.Parse(text, kind(), ignore_unknown_fields=True)
    except (ValueError, RecursionError, json_format.ParseError) as error:
        due = "JSON" if kind is None else f"{kind.DESCRIPTOR.full_name} in JSON"
        _broken(f"{where} answered with what is no {due}: {error}", error)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


# json.loads() would make a decoder for each call: 4 us.
_parse: Final = json.JSONDecoder(parse_constant=_no_number).decode


def _broken(message: str, cause: Exception | None = None) -> NoReturn:
    raise refused(GrpcStatus.INTERNAL, message[:1024]) from cause


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
