"""A request that is a call of a method: `POST /Method` with the input as its body, answered with the output.

| of the request | |
|---|---|
| path | the method's name, percent-encoded where it has to be |
| body | nothing, JSON, application/octet-stream (bytes), or application/x-protobuf; messageType="pkg.Type" |
| application/x-ndjson | the input is a stream: a JSON value a line |
| fields | metadata of the call, but what belongs to the connection or describes the body |

The status of the response is the number that the envelope has for the call's (see `codes.py`); a failure's body is a
problem (RFC 9457) that `Collector.register_origin` reads back as the same failure. An output is JSON; a message is
application/x-protobuf to a caller who asks for it, or has neither sent nor asked for JSON. Outputs that are a stream come
as application/x-ndjson, or as messages each after its length. `x-dodici-handled-by` names the collector that ran the
call.

A call is retried, routed and counted as every other.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ...core.headers import EMPTY, Headers
from ...core.options import NO_BODY
from ..codes import http_status
from ..errors import CollectiveError, call_error
from ..names import CallKind, RouteKey, checked_name
from ..origin.bodies import (
    DELIMITED,
    JSON,
    NDJSON,
    BodyType,
    Form,
    Items,
    body_type,
    encode_item,
    encode_one,
)
from ..origin.failures import PUSHBACK
from ..origin.fields import metadata_of
from ..values import PREFIX
from .failures import heard
from .framing import HANDLED_BY
from .passage import Passage
from .tunnel import CALL_FIELDS

if TYPE_CHECKING:
    from ...core.options import DispatchOptions
    from ..collector import Collector
    from ..results import DispatchResult
    from .hosts import Place
    from .passage import CarriedExchange

_PROBLEM: Final = b"application/problem+json"
_WHERE: Final = "the request"
_FOR_HTTP: Final = frozenset({"accept", "accept-encoding", "expect", "host", "user-agent"})


class _Refused(Exception):
    """The request is no call; `status` and what to say of it."""

    def __init__(self, status: int, detail: str, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.fields = fields


class MethodCall(Passage):
    """A request that is a call, at the caller's end."""

    def __init__(self, exchange: CarriedExchange, timers: Any, collector: Collector, place: Place) -> None:
        super().__init__(exchange, timers)
        self._collector = collector
        self._place = place
        self._limit = collector._limits.message

    async def travel(self) -> None:
        if not self.begin():
            return
        self.send_body()
        try:
            method = _method(self.options)
            key = RouteKey(self._place.namespace, self._place.service, method)
            stated = _body_type(self.options)
            kind = self._collector._router.kind_of(key) or _asked_kind(self.options, stated.form)
            given: Any = self._values(stated) if kind.streams_in else await self._value(stated)
            timeout, metadata = self.options.timeout or None, _metadata(self.options)
            if kind is CallKind.UNARY_UNARY:
                await self._answer(
                    await self._collector.dispatch(*key, given, timeout=timeout, metadata=metadata)
                )
            else:
                await self._stream(
                    self._collector.dispatch_stream(
                        *key, given, kind=kind, timeout=timeout, metadata=metadata
                    )
                )
        except _Refused as refusal:
            await self._problem(refusal.status, str(refusal), refusal.fields)
        except InvalidArgumentError as error:
            if self.exchange.status_code:
                raise
            await self._problem(400, error.message)
        except CollectiveError as error:
            if self.exchange.status_code:
                raise heard(error, begun=True) from error
            await self._failure(error)

    # -- the input -----------------------------------------------------------------------------------------

    def write(self, length: int, parts: list[bytes | memoryview], *, head: bool, end: bool) -> None:
        """As `Passage`."""
        for part in parts:
            self.exchange.bytes_sent += len(part)
            self.upload.put(bytes(part))
        if end:
            self.upload.close()

    async def _value(self, stated: Any) -> Any:
        """The input, of a body that is read to its end."""
        body = bytearray()
        async for piece in self.upload:
            body += piece
            if len(body) > self._limit:
                raise _Refused(413, f"the body has more than {self._limit} bytes (limits.message)")
        if not body:
            return None
        if stated.form is Form.MESSAGE and stated.message:
            return AnyMessage(type_url=PREFIX + stated.message, value=bytes(body))
        if stated.form is Form.JSON:
            return _of_json(bytes(body))
        if (stated.stated or "").partition(";")[0].strip().lower() == "application/octet-stream":
            return bytes(body)
        raise _unreadable(stated.stated)

    async def _values(self, stated: Any) -> AsyncIterator[Any]:
        """The inputs, of a body that streams."""
        if self.options.body_kind == NO_BODY:
            return
        if stated.form is not Form.LINES:
            raise _call_refused(f"the input is a stream: send application/x-ndjson, not {stated.stated}")
        items = Items(stated, self._limit, _WHERE)
        async for piece in self.upload:
            for line in items.feed(piece):
                yield _line(line)
        for line in items.end():
            yield _line(line)

    # -- the output ----------------------------------------------------------------------------------------

    async def _answer(self, result: DispatchResult) -> None:
        fields = _fields(result)
        if not result.status.ok:
            assert result.error is not None
            await self._failure(result.error, fields)
            return
        output = result.output
        try:
            content_type, body = encode_one(output, "any", isinstance(output, Message) and self._protobuf())
        except CollectiveError as error:
            raise call_error(GrpcStatus.INTERNAL, f"the output has no form: {error.message}") from error
        if content_type is None:
            content_type, body = JSON, b"null"
        await self._respond(200, (b"content-type", content_type), fields, body)

    async def _stream(self, outputs: Any) -> None:
        try:
            content_type = NDJSON
            async for output in outputs:
                if not self.exchange.status_code:
                    if isinstance(output, Message) and (self._protobuf() or isinstance(output, AnyMessage)):
                        content_type = DELIMITED
                    if not self.tell_head(200, Headers.from_raw(((b"content-type", content_type),))):
                        return
                if not await self.tell_data(encode_item(output, content_type)):
                    return
            if not self.exchange.status_code and not self.tell_head(
                200, Headers.from_raw(((b"content-type", content_type),))
            ):
                return
            result = await outputs.result()
            await self.tell_end(Headers.from_raw(_fields(result)))
        finally:
            await outputs.aclose()

    def _protobuf(self) -> bool:
        """Whether the caller would rather have a message than JSON."""
        accept = self.options.headers.get("accept", "").lower()
        if "json" in accept:
            return False
        if "protobuf" in accept:
            return True
        return "json" not in self.options.headers.get("content-type", "").lower()

    async def _failure(self, error: CollectiveError, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        if error.grpc_status is GrpcStatus.DEADLINE_EXCEEDED and self.options.timeout:
            # The exchange's own deadline, which a timer here would have told of a moment later.
            raise heard(error, begun=False) from error
        details = {name: value for name, value in error.details.items() if name not in _OWN_MEMBERS}
        details["grpc-status"] = error.grpc_status.name
        await self._problem(http_status(error.grpc_status), error.message, fields, details)

    async def _problem(
        self,
        status: int,
        detail: str,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        members: dict[str, str] | None = None,
    ) -> None:
        problem = {"title": detail, "status": status, "detail": detail, **(members or {})}
        if members:
            problem["title"] = members["grpc-status"]
        body = json.dumps(problem, ensure_ascii=False).encode("utf-8", "replace")
        await self._respond(status, (b"content-type", _PROBLEM), fields, body)

    async def _respond(
        self,
        status: int,
        content_type: tuple[bytes, bytes],
        fields: tuple[tuple[bytes, bytes], ...],
        body: bytes,
    ) -> None:
        raw = (content_type, (b"content-length", b"%d" % len(body)), *fields)
        if (
            self.tell_head(status, Headers.from_raw(raw))
            and self.options.method != "HEAD"
            and not await self.tell_data(body)
        ):
            return
        await self.tell_end(EMPTY)


_OWN_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "instance"})


def _method(options: DispatchOptions) -> str:
    path = options.path.partition("?")[0]
    if options.method != "POST":
        raise _Refused(
            405, f"a method is called with POST, not with {options.method}", ((b"allow", b"POST"),)
        )
    method = unquote(path[1:])
    try:
        checked_name("method", method)
    except InvalidArgumentError as error:
        raise _Refused(404, f"the path of a call is /METHOD, not {path[:200]}: {error.message}") from None
    return method


def _body_type(options: DispatchOptions) -> BodyType:
    """What the request says of its body; JSON where it says nothing."""
    headers = options.headers
    if "content-type" not in headers:
        headers = headers | {"content-type": "application/json"}
    try:
        return body_type(headers, streams=False, where=_WHERE)
    except CollectiveError:
        coding = headers.get("content-encoding")
        if coding is None:
            raise _unreadable(headers["content-type"]) from None
        raise _Refused(
            415,
            f"cannot read a body in {coding[:40]}: send it without content-encoding",
            ((b"accept-encoding", b"identity"),),
        ) from None


def _unreadable(stated: str | None) -> _Refused:
    return _Refused(
        415,
        f"cannot read a body of {stated or 'no content-type'}: send application/json, "
        'application/octet-stream, or application/x-protobuf; messageType="pkg.Type"',
        ((b"accept", b"application/json, application/octet-stream, application/x-protobuf"),),
    )


def _asked_kind(options: DispatchOptions, form: Form) -> CallKind:
    """The kind of a method that nobody has told of, as the request looks."""
    return CallKind.of(form is Form.LINES, "ndjson" in options.headers.get("accept", "").lower())


def _metadata(options: DispatchOptions) -> list[tuple[str, str | bytes]]:
    headers = options.headers
    if not headers:
        return []
    found = [pair for pair in metadata_of(headers) if pair[0] not in _FOR_HTTP]
    for name in CALL_FIELDS - {"baggage", "x-hash-key"}:
        value = headers.get(name)
        if value is not None and value.isascii() and value.isprintable():
            found.append((name, value))
    return found


def _fields(result: DispatchResult) -> tuple[tuple[bytes, bytes], ...]:
    """Fields of a response, of what came with the call's end."""
    fields: list[tuple[bytes, bytes]] = []
    if result.handled_by_collector_id:
        fields.append((HANDLED_BY, result.handled_by_collector_id.encode()))
    metadata = (*result.initial_metadata.raw, *result.metadata.raw)
    told = any(name == b"retry-after" for name, _ in metadata)  # by an origin, whose pushback says the same
    for name, value in metadata:
        if name == PUSHBACK.encode():
            if told:
                continue
            try:
                fields.append((b"retry-after", b"%d" % math.ceil(max(0, int(value)) / 1000)))
            except ValueError:
                pass
        elif not name.startswith(b"grpc-"):
            fields.append((name, value))
    return tuple(fields)


def _of_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _Refused(400, f"the body is no JSON: {error}") from None


def _line(line: bytes) -> Any:
    try:
        return json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _call_refused(f"a line of the input is no JSON: {error}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _call_refused(message: str) -> CollectiveError:
    return call_error(GrpcStatus.INVALID_ARGUMENT, message)
