"""Methods of an origin: what HTTP request stands for a call.

By default a method is ``POST /METHOD`` with the input as the body. An `OriginMethod` says it otherwise: another verb,
another path, in which the names in braces are fields of the input (``"/inventory/{item}"``). What has no body, GET, HEAD
and DELETE, has the other fields in its query.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from google.protobuf import json_format
from google.protobuf.message import Message

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..names import CallKind, RouteKey
from .bodies import refused

_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE"})
_REPEATABLE: Final = frozenset({"GET", "HEAD"})
_VERB: Final = re.compile(r"[A-Z][A-Z0-9_-]*").fullmatch
_LITERAL: Final = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*").fullmatch
_PLAIN: Final = re.compile(r"[A-Za-z0-9\-_~]+").fullmatch
_FIELD: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_OF_CALL: Final = frozenset({"namespace", "service", "method"})
_DOTS: Final = frozenset({".", ".."})
_MOST_KNOWN: Final = 256
"""Paths that a template remembers: the names of a wildcard's methods are without end."""
_KEPT: Final = "~!$'()*,;:@-._"
"""What is not escaped in a segment of a path or in a value of a query, beside letters and digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginMethod:
    """How one method is asked of an origin.

    Args:
        verb: the method of the request.
        path: its path; None: that of the origin. Names in braces are fields of the input, besides ``{namespace}``,
            ``{service}`` and ``{method}``.
        kind: ``"unary_unary"``, ``"unary_stream"``, ``"stream_unary"`` or ``"stream_stream"``.
        idempotent: calling it twice does no harm; None: if the verb is GET or HEAD.
        input_type: class of the messages that it takes; None: values.
        output_type: likewise, of what it answers.

    Raises:
        InvalidArgumentError: one of them is wrong, or they contradict each other.
    """

    verb: str = "POST"
    path: str | None = None
    kind: str = "unary_unary"
    idempotent: bool | None = None
    input_type: type[Message] | None = None
    output_type: type[Message] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.verb, str) or _VERB(self.verb) is None or self.verb == "CONNECT":
            raise InvalidArgumentError(f"verb must be such as 'POST' or 'GET', not {self.verb!r}")
        if not isinstance(self.kind, str) or self.kind not in set(CallKind):
            raise InvalidArgumentError(f"kind must be one of {', '.join(CallKind)}; not {self.kind!r}")
        if not (self.idempotent is None or isinstance(self.idempotent, bool)):
            raise InvalidArgumentError(f"idempotent must be True, False or None, not {self.idempotent!r}")
        for name in ("input_type", "output_type"):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, type) and issubclass(given, Message)):
                raise InvalidArgumentError(f"{name} must be a class of protobuf messages, not {given!r}")
        fields = () if self.path is None else PathTemplate(self.path).fields
        if CallKind(self.kind).streams_in and (self.verb in _WITHOUT_BODY or fields):
            what = (
                f"{self.verb} has no body"
                if self.verb in _WITHOUT_BODY
                else "its path has fields of the input"
            )
            raise InvalidArgumentError(f"a method of kind {self.kind} sends a stream, and {what}")

    @property
    def repeatable(self) -> bool:
        """Calling it twice does no harm."""
        return self.verb in _REPEATABLE if self.idempotent is None else self.idempotent


class Asked(NamedTuple):
    """What of a call goes where."""

    path: str
    body: Any
    """The value that is left for the body; None for none."""


class PathTemplate:
    """A path with names in braces.

    Raises:
        InvalidArgumentError: it is none.
    """

    def __init__(self, text: object) -> None:
        if not isinstance(text, str) or not text.startswith("/"):
            raise InvalidArgumentError(f"a path must begin with '/', not {text!r}")
        # Text and names by turns: "/a/{b}/c" is "/a/", "b", "/c".
        self._parts = _FIELD.split(text)
        for literal in self._parts[::2]:
            if _LITERAL(literal) is None:
                raise InvalidArgumentError(
                    f"path {text!r} may have letters, digits, '/' and -._~!$&'()*+,;=:@%, and names in braces"
                )
        if not _DOTS.isdisjoint(text.split("/")):
            raise InvalidArgumentError(f"path {text!r} goes up: write it without '.' and '..'")
        names = self._parts[1::2]
        self.text = text
        self._known: dict[RouteKey, str] = {}
        self.fields = tuple(name for name in names if name not in _OF_CALL)
        """Names of those that are fields of the input."""
        self.names_method = "method" in names

    def of_call(self, key: RouteKey) -> str:
        """The path of a call where it has no fields of the input.

        Raises:
            CollectiveError: INVALID_ARGUMENT: the name of the method has no place in a path.
        """
        path = self._known.get(key)
        if path is None:
            path = self.fill(key, {})
            if len(self._known) < _MOST_KNOWN:
                self._known[key] = path
        return path

    def fill(self, key: RouteKey, given: dict[str, Any]) -> str:
        """The path of a call. What is used of `given` is taken out of it.

        Raises:
            CollectiveError: INVALID_ARGUMENT: a field is missing, or has no place in a path.
        """
        parts = list(self._parts)
        for place in range(1, len(parts), 2):
            name = parts[place]
            if name in _OF_CALL:
                value = getattr(key, name)
            else:
                if name not in given:
                    name = _json_name(name)  # that of a message's field
                if name not in given:
                    raise refused(
                        GrpcStatus.INVALID_ARGUMENT, f"the input lacks {name!r}, which is in the path"
                    )
                value = given.pop(name)
            parts[place] = _segment(name, value)
        path = "".join(parts)
        # What a field brings with it must not be a way out of the path that was meant.
        if not _DOTS.isdisjoint(path.split("/")):
            raise refused(GrpcStatus.INVALID_ARGUMENT, f"{key} has no path at its origin")
        return path


def ask(template: PathTemplate, verb: str, key: RouteKey, given: Any) -> Asked:
    """Where a call's input goes. That of a stream is all for the body.

    Raises:
        CollectiveError: INVALID_ARGUMENT: the input has no place in the path or the query.
    """
    if not template.fields and verb not in _WITHOUT_BODY:
        return Asked(template.of_call(key), given)
    fields = _fields(given)
    path = template.fill(key, fields)
    if verb not in _WITHOUT_BODY:
        return Asked(path, fields or None)
    if fields:
        path = f"{path}?{_query(fields)}"
    return Asked(path, None)


def _fields(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Message):
        return dict(json_format.MessageToDict(given, always_print_fields_with_no_presence=True))
    if isinstance(given, dict):
        return dict(given)
    raise refused(GrpcStatus.INVALID_ARGUMENT, f"the input must be a dict, not {type(given).__name__}")


def _json_name(name: str) -> str:
    first, *more = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in more)


def _plain(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise refused(
        GrpcStatus.INVALID_ARGUMENT,
        f"{name!r} goes into the URL, and must be plain, not {type(value).__name__}",
    )


def _segment(name: str, value: Any) -> str:
    text = _plain(name, value)
    if _PLAIN(text) is not None:
        return text
    if not text:
        raise refused(GrpcStatus.INVALID_ARGUMENT, f"{name!r} is empty, and a part of the path")
    return quote(text, safe=_KEPT)


def _query(fields: Mapping[str, Any]) -> str:
    return urlencode(
        [
            (name, _plain(name, each))
            for name, value in fields.items()
            for each in (value if isinstance(value, list) else [value])
            if each is not None
        ]
    )
