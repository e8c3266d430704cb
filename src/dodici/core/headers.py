"""Header fields: an immutable, ordered, case-insensitive multi-mapping, decoded when looked at.

A response that nobody inspects costs one object. `raw` is what was received, in its order and casing; the
index by lower-case name is made at the first look-up. Names and values are latin-1 on the wire
(RFC 9110 §5.5). What callers supply is checked against RFC 9110 §5.1 and §5.5 before it can reach a
serializer: this module is the only door.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from .errors import InvalidArgumentError

RawHeaders: TypeAlias = tuple[tuple[bytes, bytes], ...]
HeaderValue: TypeAlias = "str | bytes | int | float | None"
HeadersInput: TypeAlias = (
    "Headers | Mapping[str, HeaderValue | list[HeaderValue] | tuple[HeaderValue, ...]]"
    " | Iterable[tuple[str | bytes, HeaderValue]] | None"
)

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch
_SECRET = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


class Headers(Mapping[str, str]):
    """Header fields in the order of the wire.

    `headers["content-type"]` is a `str`; repeated fields are joined by ``", "`` (RFC 9110 §5.3), except
    `set-cookie`, of which the first is given: use `get_list("set-cookie")`. Iterating gives each lower-case
    name once; `raw` and `multi_items()` give every line.

    Accepts a mapping (values may be lists; `None` values are dropped), an iterable of pairs, or `Headers`.

    Raises:
        InvalidArgumentError: a name is not a token, or a value has CR, LF, NUL or another control character.
    """

    __slots__ = ("_index", "raw")

    raw: RawHeaders
    _index: dict[str, list[str]] | None

    def __init__(self, source: HeadersInput = None) -> None:
        self.raw = source.raw if isinstance(source, Headers) else checked_pairs(source)
        self._index = None

    @classmethod
    def from_raw(cls, raw: RawHeaders) -> Headers:
        """Wrap pairs that a parser has already checked."""
        self = cls.__new__(cls)
        self.raw = raw
        self._index = None
        return self

    def _lookup(self) -> dict[str, list[str]]:
        index = self._index
        if index is None:
            index = {}
            for name, value in self.raw:
                index.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
            self._index = index
        return index

    def __getitem__(self, name: str) -> str:
        name = name.lower()
        values = self._lookup()[name]
        if len(values) == 1 or name == "set-cookie":
            return values[0]
        return ", ".join(values)

    def get_list(self, name: str) -> list[str]:
        """Every value of the field, in order; an empty list if there is none."""
        return list(self._lookup().get(name.lower(), ()))

    def multi_items(self) -> list[tuple[str, str]]:
        """Every line as (lower-case name, value)."""
        return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in self.raw]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._lookup()

    def __iter__(self) -> Iterator[str]:
        return iter(self._lookup())

    def __len__(self) -> int:
        return len(self._lookup())

    def __bool__(self) -> bool:
        return bool(self.raw)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):
            return self.raw == other.raw or self.multi_items() == other.multi_items()
        if isinstance(other, Mapping):
            return dict(self) == {str(key).lower(): value for key, value in other.items()}
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.multi_items()))

    def __or__(self, other: HeadersInput) -> Headers:
        """These fields, with those of `other` in place of the ones with the same names."""
        new = checked_pairs(other.raw if isinstance(other, Headers) else other)
        names = {name.lower() for name, _ in new}
        return Headers.from_raw(tuple(pair for pair in self.raw if pair[0].lower() not in names) + new)

    def without(self, *names: str) -> Headers:
        """These fields less those named."""
        gone = {name.lower().encode("latin-1", "replace") for name in names}
        return Headers.from_raw(tuple(pair for pair in self.raw if pair[0].lower() not in gone))

    def __repr__(self) -> str:
        shown = [(name, "[secret]" if name in _SECRET else value) for name, value in self.multi_items()]
        return f"Headers({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Headers.from_raw, (self.raw,)


EMPTY = Headers.from_raw(())


def _name(name: object) -> bytes:
    if isinstance(name, str):
        try:
            raw = str.encode(name, "latin-1")
        except UnicodeEncodeError:
            raw = b""
    elif isinstance(name, bytes | bytearray):
        raw = bytes(name)
    else:
        raise InvalidArgumentError(f"header name must be a str, not {type(name).__name__}")
    if TOKEN(raw) is None:
        raise InvalidArgumentError(
            f"invalid header name {name!r}: use letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 5.1)"
        )
    return raw


def _value(name: bytes, value: object) -> bytes:
    if isinstance(value, str):
        try:
            raw = str.encode(value, "latin-1")
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"header {name.decode()!r} has a character outside latin-1: encode it first (RFC 8187 or percent-encoding)"
            ) from None
    elif isinstance(value, bytes | bytearray):
        raw = bytes(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            raw = str(value).encode("latin-1")
        except ValueError:  # an int of thousands of digits, or a subclass that prints itself otherwise
            raise InvalidArgumentError(
                f"header {name.decode()!r} has a number that cannot be written"
            ) from None
    else:
        raise InvalidArgumentError(
            f"header {name.decode()!r} must be a str, bytes or number, not {type(value).__name__}"
        )
    if _VALUE(raw) is None:
        raise InvalidArgumentError(
            f"header {name.decode()!r} has CR, LF, NUL or another control character in its value"
        )
    return raw.strip(b" \t")


def checked_pairs(source: Any) -> RawHeaders:
    """Check and flatten what a caller gave as headers into raw pairs."""
    if source is None:
        return ()
    if isinstance(source, Headers):
        return source.raw
    if isinstance(source, Mapping):
        items: Iterable[Any] = source.items()
    elif isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise InvalidArgumentError(
            f"headers must be a mapping, an iterable of (name, value) pairs or Headers, not {type(source).__name__}"
        )
    else:
        items = source
    pairs: list[tuple[bytes, bytes]] = []
    for item in items:
        try:
            if isinstance(item, str | bytes):
                raise TypeError  # two characters would pass for a pair
            name, value = item
        except (TypeError, ValueError):
            raise InvalidArgumentError(f"headers must be (name, value) pairs, not {item!r}") from None
        raw_name = _name(name)
        if value is None:
            continue
        if isinstance(value, list | tuple):
            pairs.extend((raw_name, _value(raw_name, one)) for one in value if one is not None)
        else:
            pairs.append((raw_name, _value(raw_name, value)))
    return tuple(pairs)
