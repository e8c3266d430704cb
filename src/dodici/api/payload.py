"""The body arguments of `request()`: `body`, `data`, `json`, `form` and `files`, of which one makes the body."""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONEncoder
from typing import Any, Final, NamedTuple

from ..core.errors import InvalidArgumentError
from ..core.headers import Headers
from ..core.options import encode_query
from .multipart import encode as encode_multipart


class Unset:
    """The type of `UNSET`, which stands for "no JSON", since None is a JSON value."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()

# NaN and infinities are not JSON; compact, because nobody reads it on the way.
dumps = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Payload(NamedTuple):
    """A body, and what goes with it."""

    body: Any
    method: str
    """The method if the caller names none: PUT for a bare `body` as in undici, POST for what is posted."""
    content_type: str | None = None
    length: int | None = None
    """Bytes, where the length is known but not evident from the body."""


def make_payload(*, body: Any, data: Any, json: Any, form: Any, files: Any, headers: Headers) -> Payload:
    """Make the body out of the one argument that was given, or of `files` with fields.

    Raises:
        InvalidArgumentError: arguments that contradict each other, or a value that cannot be encoded.
        TypeError, ValueError: `json` has something that JSON cannot express.
    """
    given = [
        name
        for name, value in (("body", body), ("data", data), ("form", form), ("files", files))
        if value is not None
    ]
    if json is not UNSET:
        given.append("json")
    _check_conflicts(given, data)
    if not given:
        return Payload(None, "GET")
    if body is not None:
        return Payload(body, "PUT")
    if json is not UNSET:
        return Payload(dumps(json).encode("utf-8"), "POST", "application/json")
    if files is not None:
        encoded = encode_multipart(form if data is None else data, files, boundary=_own_boundary(headers))
        length = None if isinstance(encoded.body, bytes) else encoded.length
        return Payload(encoded.body, "POST", encoded.content_type, length)
    fields = form if data is None else data
    if form is not None or is_form(data):
        return Payload(_urlencoded(fields), "POST", "application/x-www-form-urlencoded")
    return Payload(data, "POST")


def is_form(data: Any) -> bool:
    """Whether `data` holds fields, as a mapping or a list of pairs, and is not a body itself."""
    if isinstance(data, Mapping):
        return True
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(item, tuple) for item in data)


def _check_conflicts(given: list[str], data: Any) -> None:
    if len(given) < 2:
        return
    if given == ["form", "files"]:
        return
    if given == ["data", "files"]:
        if is_form(data):
            return
        raise InvalidArgumentError(
            "data= beside files= must be a mapping or a list of pairs: the other fields"
        )
    raise InvalidArgumentError(f"{'= and '.join(given)}= contradict each other: give one of them")


def _urlencoded(fields: Any) -> bytes:
    if isinstance(fields, str):
        raise InvalidArgumentError("form must be a mapping or pairs, not a str: encoded forms go into data=")
    try:
        return encode_query(fields).encode("ascii")
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message.replace("query", "form", 1)) from None


def _own_boundary(headers: Headers) -> str | None:
    """The boundary of a content-type that the caller has set."""
    stated = headers.get("content-type")
    if stated is None:
        return None
    kind, _, parameters = stated.partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary" and kind.strip().lower().startswith("multipart/"):
            return value.strip('"')
    raise InvalidArgumentError(
        "files= sets the content-type itself; one of your own needs multipart/* and a boundary"
    )
