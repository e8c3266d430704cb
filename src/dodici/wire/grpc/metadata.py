"""Metadata: what a call carries besides its messages.

On the wire it is header fields. Names that end in ``-bin`` hold bytes, which travel as base64; all others
hold printable ASCII. What a caller supplies is checked here, before it can become a field. What a peer sent
is taken as it is, and a `GrpcMetadata` that came from a peer can be sent on: a proxy never fails over the odd
byte that somebody else let pass. A ``-bin`` value that is not base64 is dropped.

Fields that belong to the protocol (`content-type`, `grpc-status` and their kin) are not metadata.

Source: grpc/doc/PROTOCOL-HTTP2.md, "Custom-Metadata".
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, Union

from ...core.errors import InvalidArgumentError
from ...core.headers import Headers, RawHeaders

MetadataValue: TypeAlias = str | bytes
MetadataInput: TypeAlias = Union[
    "GrpcMetadata",
    Mapping[str, MetadataValue | list[MetadataValue] | tuple[MetadataValue, ...]],
    Iterable[tuple[str, MetadataValue]],
    None,
]

_NAME = re.compile(r"[0-9a-z_.\-]+").fullmatch
_VALUE = re.compile(r"[\x20-\x7e]*").fullmatch
_OWN = frozenset(
    {
        b"connection",
        b"content-length",
        b"content-type",
        b"expect",
        b"grpc-accept-encoding",
        b"grpc-encoding",
        b"grpc-message",
        b"grpc-message-type",
        b"grpc-status",
        b"grpc-timeout",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"user-agent",
    }
)
_RESERVED_YET_USED = frozenset({"grpc-trace-bin", "grpc-tags-bin"})  # by tracing libraries, in all languages


class GrpcMetadata(Mapping[str, MetadataValue]):
    """An ordered multi-mapping from lower-case names to `str`, or to `bytes` where the name ends in ``-bin``.

    ``metadata["x"]`` is the first value of that name, `get_list` gives all of them, and `multi_items` every
    pair in order. Made of a mapping (whose values may be lists) or of pairs. Immutable.

    Raises:
        InvalidArgumentError: a name or value that may not be sent, or a name that belongs to the protocol.
    """

    __slots__ = ("_fields", "_index", "_mixed")

    _fields: RawHeaders
    _mixed: bool
    """Whether fields of the protocol are among them. Few responses are asked for their metadata."""

    def __init__(self, source: MetadataInput = None) -> None:
        self._fields = encode_metadata(source)
        self._mixed = False
        self._index: dict[str, list[MetadataValue]] | None = None

    @classmethod
    def from_headers(cls, headers: Headers) -> GrpcMetadata:
        """What of a head or of trailers is metadata."""
        self = cls.from_raw(headers.raw)
        self._mixed = True
        return self

    @classmethod
    def from_raw(cls, raw: RawHeaders) -> GrpcMetadata:
        """Wrap fields that were checked before."""
        self = cls.__new__(cls)
        self._fields = raw
        self._mixed = False
        self._index = None
        return self

    @property
    def raw(self) -> RawHeaders:
        """The fields as they are on the wire."""
        if self._mixed:
            self._fields = tuple(pair for pair in self._fields if pair[0].lower() not in _OWN)
            self._mixed = False
        return self._fields

    def _lookup(self) -> dict[str, list[MetadataValue]]:
        index = self._index
        if index is None:
            index = {}
            for name, value in self.multi_items():
                index.setdefault(name, []).append(value)
            self._index = index
        return index

    def multi_items(self) -> list[tuple[str, MetadataValue]]:
        """Every pair, in order."""
        items: list[tuple[str, MetadataValue]] = []
        for raw_name, raw_value in self.raw:
            name = raw_name.decode("latin-1").lower()
            if name.endswith("-bin"):
                items.extend((name, value) for value in decode_binary(raw_value))
            else:
                items.append((name, raw_value.decode("latin-1")))
        return items

    def get_list(self, name: str) -> list[MetadataValue]:
        """Every value of the name, in order; an empty list if there is none."""
        return list(self._lookup().get(name.lower(), ()))

    def __getitem__(self, name: str) -> MetadataValue:
        return self._lookup()[name.lower()][0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._lookup()

    def __iter__(self) -> Iterator[str]:
        return iter(self._lookup())

    def __len__(self) -> int:
        return len(self._lookup())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GrpcMetadata):
            return self.multi_items() == other.multi_items()
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.multi_items()))

    def __repr__(self) -> str:
        return f"GrpcMetadata({self.multi_items()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return GrpcMetadata.from_raw, (self.raw,)


def encode_metadata(source: MetadataInput) -> RawHeaders:
    """Check what a caller gave, and make fields of it.

    Raises:
        InvalidArgumentError: see `GrpcMetadata`.
    """
    if not source:
        if source is None or isinstance(source, Mapping | tuple | list):
            return ()
    elif isinstance(source, GrpcMetadata):
        return source.raw
    if isinstance(source, Mapping):
        items: Iterable[Any] = source.items()
    elif isinstance(source, str | bytes) or not isinstance(source, Iterable):
        raise InvalidArgumentError(
            f"metadata must be a mapping, an iterable of (name, value) pairs or GrpcMetadata, not {type(source).__name__}"
        )
    else:
        items = source
    fields: list[tuple[bytes, bytes]] = []
    for item in items:
        try:
            if isinstance(item, str | bytes):
                raise TypeError  # two characters would pass for a pair
            given, value = item
        except (TypeError, ValueError):
            raise InvalidArgumentError(f"metadata must be (name, value) pairs, not {item!r}") from None
        name = _checked_name(given)
        values = value if isinstance(value, list | tuple) else (value,)
        fields.extend((name.encode(), _encoded_value(name, one)) for one in values)
    return tuple(fields)


def _checked_name(given: object) -> str:
    if not isinstance(given, str):
        raise InvalidArgumentError(f"a metadata name must be a str, not {type(given).__name__}")
    name = given.lower()
    if _NAME(name) is None:
        raise InvalidArgumentError(f"invalid metadata name {given!r}: use letters, digits, '_', '-' and '.'")
    if name.encode() in _OWN or (name.startswith("grpc-") and name not in _RESERVED_YET_USED):
        raise InvalidArgumentError(f"metadata name {given!r} belongs to the protocol")
    return name


def _encoded_value(name: str, value: object) -> bytes:
    if name.endswith("-bin"):
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidArgumentError(f"metadata {name!r} must be bytes, not {type(value).__name__}")
        return encode_binary(bytes(value))
    if not isinstance(value, str):
        hint = ": names of binary values end in '-bin'" if isinstance(value, bytes | bytearray) else ""
        raise InvalidArgumentError(f"metadata {name!r} must be a str, not {type(value).__name__}{hint}")
    if _VALUE(value) is None:
        raise InvalidArgumentError(
            f"metadata {name!r} may only have printable ASCII characters: encode it, or use a name in '-bin'"
        )
    return value.strip(" ").encode()


def encode_binary(value: bytes) -> bytes:
    """Base64 without padding."""
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def decode_binary(value: bytes) -> list[bytes]:
    """The values of a ``-bin`` field: joined by commas, each with or without padding. Broken ones are dropped."""
    values = []
    for one in value.split(b","):
        text = one.strip(b" \t").rstrip(b"=")
        try:
            values.append(binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True))
        except binascii.Error:
            continue
    return values
