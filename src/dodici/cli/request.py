"""From settings to a request: the URL, the method, the fields and the body."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from .. import __version__
from ..api.url import split_url
from ..core.errors import InvalidArgumentError
from ..core.headers import Headers
from .exits import Failure
from .settings import GetSettings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://").match
_PARAMETER: Final = re.compile(r";\s*(type|filename)=").split
_FORM: Final = "application/x-www-form-urlencoded"


def full_url(url: str) -> str:
    """The URL with its scheme, checked.

    Raises:
        Failure: another scheme than http and https, or a malformed URL.
    """
    scheme = _SCHEME(url)
    if scheme is None:
        url = f"http://{url}"
    elif scheme[1].lower() not in {"http", "https"}:
        raise Failure(1, f"scheme {scheme[1]!r} is not supported: use http:// or https://")
    try:
        split_url(url)
    except InvalidArgumentError as error:
        raise Failure(3, error.message) from error
    return url


def remote_name(url: str) -> str:
    """The last segment of the URL's path, as `-O` names its file.

    Raises:
        Failure: it is empty, or is no name for a file in this folder.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    if name in {"", ".", ".."} or os.sep in name or (os.altsep and os.altsep in name):
        raise Failure(23, f"{url} ends in no file name for -O: use -o FILE")
    return name


def request_arguments(settings: GetSettings, stack: ExitStack) -> tuple[str, dict[str, Any]]:
    """The method, and the keyword arguments of `stream()`.

    Args:
        settings: what was asked for.
        stack: closes the files that are sent.

    Raises:
        Failure: a file that cannot be read, or a field that is not ``name: value``.
    """
    fields: dict[str, str] = {"user-agent": settings.user_agent or f"dodici/{__version__}", "accept": "*/*"}
    arguments: dict[str, Any] = {"timeout": settings.timeout}
    method = "HEAD" if settings.head else "GET"
    if settings.data or settings.data_binary:
        method = "POST"
        fields["content-type"] = _FORM
        arguments["body"] = _data(settings, stack)
    elif settings.json:
        method = "POST"
        fields |= {"content-type": "application/json", "accept": "application/json"}
        arguments["body"] = b"".join(_value(item, stack) for item in settings.json)
    elif settings.form:
        method = "POST"
        arguments["files"] = [_part(item, stack) for item in settings.form]
    elif settings.upload_file is not None:
        method = "PUT"
        arguments["body"] = _stream(settings.upload_file, stack)
    if settings.user is not None:
        user, _, password = settings.user.partition(":")
        arguments["auth"] = (user, password)
    arguments["headers"] = _headers(fields, settings.headers)
    return settings.method or method, arguments


def _headers(defaults: dict[str, str], given: tuple[str, ...]) -> Headers:
    pairs: list[tuple[str | bytes, Any]] = []
    dropped = set()
    for item in given:
        name, colon, value = item.partition(":")
        if not colon and item.endswith(";"):
            name, value = item[:-1], ""
        elif not colon:
            raise Failure(2, f"-H wants 'Name: value', not {item!r}")
        elif not value.strip():
            dropped.add(name.strip().lower())
            continue
        dropped.add(name.strip().lower())
        # Bytes, so that what is not latin-1 goes out as the terminal's UTF-8.
        pairs.append((name.strip(), os.fsencode(value.strip())))
    kept: list[tuple[str | bytes, Any]] = [
        (name, value) for name, value in defaults.items() if name not in dropped
    ]
    try:
        return Headers(kept + pairs)
    except InvalidArgumentError as error:
        raise Failure(2, error.message) from error


def _data(settings: GetSettings, stack: ExitStack) -> Any:
    if not settings.data and len(settings.data_binary) == 1 and settings.data_binary[0].startswith("@"):
        # One file is streamed. Several pieces are joined, and for that they have to be in memory.
        return _stream(settings.data_binary[0][1:], stack)
    pieces = [_without_line_ends(item, stack) for item in settings.data]
    pieces += [_value(item, stack) for item in settings.data_binary]
    return b"&".join(pieces)


def _without_line_ends(item: str, stack: ExitStack) -> bytes:
    value = _value(item, stack)
    return value.translate(None, b"\r\n\0") if item.startswith("@") else value


def _value(item: str, stack: ExitStack) -> bytes:
    return _open(item[1:], stack).read() if item.startswith("@") else os.fsencode(item)


def _part(item: str, stack: ExitStack) -> tuple[str, Any]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise Failure(2, f"-F wants NAME=VALUE, not {item!r}")
    value, content_type, filename = _parameters(value)
    if value.startswith("@"):
        path = value[1:]
        shown = filename or ("-" if path == "-" else Path(path).name)
        return name, (shown, _open(path, stack), content_type)
    content = _open(value[1:], stack).read() if value.startswith("<") else os.fsencode(value)
    return name, (filename, content, content_type)


def _parameters(value: str) -> tuple[str, str | None, str | None]:
    """Split ``;type=`` and ``;filename=`` off the end of a form field."""
    value, *rest = _PARAMETER(value)
    found = {key: text.strip('"') for key, text in zip(rest[::2], rest[1::2], strict=True)}
    return value, found.get("type"), found.get("filename")


def _stream(path: str, stack: ExitStack) -> Any:
    """A file as a body: sent with its length if it is a regular one, else as it comes."""
    file = _open(path, stack)
    try:
        descriptor = file.fileno()
    except OSError:
        return file
    return file if stat.S_ISREG(os.fstat(descriptor).st_mode) else _as_it_comes(descriptor)


async def _as_it_comes(descriptor: int) -> AsyncIterator[bytes]:
    """What a pipe or terminal has to give. Unlike a thread that waits in `read()`, this can be interrupted."""
    loop = asyncio.get_running_loop()
    while True:
        readable: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(descriptor, _settle, readable)
        except OSError:
            # Something like /dev/null or /dev/zero, which is always ready and cannot be waited for.
            await asyncio.sleep(0)
        else:
            try:
                await readable
            finally:
                loop.remove_reader(descriptor)
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        yield data


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _open(path: str, stack: ExitStack) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(path).open("rb"))
    except OSError as error:
        raise Failure(26, f"cannot read {path}: {error.strerror or error}") from error
