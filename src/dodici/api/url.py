"""From what people write as a URL to an origin and a request target.

The rules are those of the URL standard for `http` and `https`, with three differences, each on the side of
refusing: control characters (tab, CR and LF included) are an error and not dropped, a backslash never
separates anything (in a path it becomes ``%5C``, before the path it is an error), and a host may not hold
percent-escapes. What is already escaped stays as it is.

Most programs talk to few origins and use paths that need no escaping: a known prefix and one regular
expression settle those.

Source: https://url.spec.whatwg.org/, RFC 3986.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from ..core.errors import InvalidArgumentError

CACHE_SIZE: Final = 512

_PLAIN_PATH = re.compile(
    r"/[A-Za-z0-9\-._~!$&'()*+,;=:@/%|\[\]]*(?:\?[A-Za-z0-9\-._~!$&()*+,;=:@/?%^`{|}\\\[\]]*)?"
).fullmatch
_PATH_UNSAFE = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/%|\[\]]+")
_QUERY_UNSAFE = re.compile(r"[^A-Za-z0-9\-._~!$&()*+,;=:@/?%^`{|}\\\[\]]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
_AUTHORITY_END = re.compile(r"[/?]").search
_DOTS = re.compile(r"/(?:\.|%2e)", re.IGNORECASE).search
_HOST = re.compile(r"[a-z0-9._\-~!$&'()*+,;=]+").fullmatch
_PORT = re.compile(r"[0-9]{0,5}").fullmatch
_DEFAULT_PORTS = {"http": 80, "https": 443}

_origins: dict[str, str] = {}


class Target(NamedTuple):
    """Where a URL points."""

    origin: str
    """Scheme, lower-case host and, unless it is the scheme's own, port."""
    path: str
    """Path and query, escaped, beginning with ``/``."""
    userinfo: str | None = None
    """``user:password`` as written, if the URL had one."""

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, unescaped."""
        if self.userinfo is None:
            return None
        user, _, password = self.userinfo.partition(":")
        return unquote(user), unquote(password)


def split_url(url: str) -> Target:
    """Split and normalise an absolute URL.

    Raises:
        InvalidArgumentError: not an absolute ``http`` or ``https`` URL, or one that could be read in two ways.
    """
    end = url.find("/", 8)
    if end > 0:
        origin = _origins.get(url[:end])
        if origin is not None:
            path = url[end:]
            if _PLAIN_PATH(path) is not None and "/." not in path and "/%2" not in path:
                return Target(origin, path)
    return _split(url)


def normal_origin(origin: str) -> str:
    """An origin as `split_url` writes it; as it is if it is not one of ``http`` or ``https``."""
    try:
        return split_url(f"{origin.rstrip('/')}/").origin
    except InvalidArgumentError:
        return origin


def _split(url: str) -> Target:
    if _CONTROL(url) is not None:
        raise InvalidArgumentError(f"invalid url {_shown(url)}: it has a control character")
    whole = url.strip(" ").partition("#")[0]
    scheme, separator, rest = whole.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise InvalidArgumentError(
            f"invalid url {_shown(url)}: it must begin with http:// or https:// "
            "(a path alone goes with a Client or Pool)"
        )
    end = _AUTHORITY_END(rest)
    authority, path = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    userinfo, at, host_port = authority.rpartition("@")
    if "\\" in authority:
        raise InvalidArgumentError(f"invalid url {_shown(url)}: it has a backslash before its path")
    origin = f"{scheme}://{_host_port(scheme, host_port, url)}"
    if not at:
        prefix = whole[: len(whole) - len(path)]
        if len(prefix) <= 256:
            if len(_origins) >= CACHE_SIZE:
                _origins.clear()
            _origins[prefix] = origin
    return Target(origin, escape_target(path), userinfo if at else None)


def _host_port(scheme: str, text: str, url: str) -> str:
    if text.startswith("["):
        literal, bracket, port = text[1:].partition("]")
        if not bracket or (port and port[0] != ":"):
            raise InvalidArgumentError(
                f"invalid url {_shown(url)}: its host is not an IPv6 address in brackets"
            )
        host = f"[{_ipv6(literal, url)}]"
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        host = _host(host, url)
    if _PORT(port) is None or (port and not 0 < int(port) < 65536):
        raise InvalidArgumentError(f"invalid url {_shown(url)}: its port must be a number from 1 to 65535")
    number = int(port) if port else _DEFAULT_PORTS[scheme]
    return host if number == _DEFAULT_PORTS[scheme] else f"{host}:{number}"


def _host(host: str, url: str) -> str:
    if not host.isascii():
        import idna

        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise InvalidArgumentError(
                f"invalid url {_shown(url)}: its host is no domain name: {error}"
            ) from error
    host = host.lower()
    if _HOST(host) is None:
        detail = "it has no host" if not host else f"its host {host!r} has characters that no host name has"
        raise InvalidArgumentError(f"invalid url {_shown(url)}: {detail}")
    return host


def _ipv6(literal: str, url: str) -> str:
    from ipaddress import AddressValueError, IPv6Address

    try:
        address = IPv6Address(literal)
    except AddressValueError as error:
        raise InvalidArgumentError(f"invalid url {_shown(url)}: {error}") from None
    if address.scope_id is not None:
        raise InvalidArgumentError(f"invalid url {_shown(url)}: an address with a zone has no place in a URL")
    return address.compressed


def escape_target(target: str) -> str:
    """Percent-encode what a path and query may not hold, and resolve ``.`` and ``..`` segments.

    Args:
        target: path and query as written, without a fragment; empty means ``/``.

    Raises:
        InvalidArgumentError: a character that UTF-8 cannot encode.
    """
    path, mark, query = target.partition("?")
    if not path.startswith("/"):
        path = f"/{path}"
    if _DOTS(path) is not None:
        path = _without_dots(path)
    return f"{_PATH_UNSAFE.sub(_escaped, path)}{mark}{escape_query(query)}"


def escape_query(query: str) -> str:
    """Percent-encode what a query may not hold; ``#`` included."""
    return _QUERY_UNSAFE.sub(_escaped, query)


def _escaped(match: re.Match[str]) -> str:
    try:
        raw = match[0].encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"invalid url: {match[0]!a} cannot be encoded") from None
    return "".join([f"%{byte:02X}" for byte in raw])


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path[1:].split("/")
    last = len(segments) - 1
    for index, segment in enumerate(segments):
        plain = segment.lower().replace("%2e", ".")
        if plain not in {".", ".."}:
            kept.append(segment)
            continue
        if plain == ".." and kept:
            kept.pop()
        if index == last:
            kept.append("")
    return "/" + "/".join(kept)


def _shown(url: str) -> str:
    """A URL for a message: bounded, one line, without a password."""
    head, at, tail = url[:200].rpartition("@")
    if at and "://" in head and "/" not in head.partition("://")[2]:
        return ascii(f"{head.partition('://')[0]}://[secret]@{tail}"[:120])
    return ascii(url[:120])
