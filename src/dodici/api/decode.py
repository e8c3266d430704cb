"""What bodies and their headers say, read leniently: nothing here raises."""

from __future__ import annotations

from json import loads
from typing import Any

from ..core.headers import Headers


def content_length(headers: Headers) -> int | None:
    """The number in a content-length field."""
    stated = headers.get("content-length")
    return int(stated) if stated is not None and stated.isascii() and stated.isdigit() else None


def decode_text(data: bytes, content_type: str | None) -> str:
    """Decode a body by its content-type's charset, without ever failing."""
    charset = "utf-8"
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset":
            charset = value.strip("\"' ")
            break
    try:
        text = data.decode(charset, "replace")
    except (LookupError, ValueError):
        # No such charset, or one that is not for text, or (such as "idna") cannot replace.
        text = data.decode("utf-8", "replace")
    return text[1:] if text[:1] == "\ufeff" else text


def decode_body(data: bytes, content_type: str | None) -> Any:
    """A body as what its content-type says: parsed JSON, text, or bytes."""
    kind = (content_type or "text/plain").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return loads(data)
        except ValueError:
            return decode_text(data, content_type)
    if kind.startswith("text/") or kind.endswith(("/xml", "+xml", "/x-www-form-urlencoded")):
        return decode_text(data, content_type)
    return data
