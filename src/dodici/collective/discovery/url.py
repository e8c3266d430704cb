"""The URL of an etcd: ``etcd://[user:password@]host[:port][,host[:port]...][/prefix][?option=value&...]``.

``etcds://`` is the same over TLS. The port is 2379 where none is given, the prefix ``/dodici``. Options: ``ttl`` and
``timeout``, and for TLS ``ca``, ``cert`` and ``key``, which are paths of PEM files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from ...core.errors import InvalidArgumentError
from ..addresses import split_address
from ..data_plane import client_tls

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/dodici"
FORM = "etcd://[user:password@]host[:port][,host[:port]...][/prefix][?ttl=5]"


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Where an etcd is, and how it is spoken to.

    Raises:
        InvalidArgumentError: a value cannot be used.
    """

    endpoints: tuple[str, ...]
    """Addresses of the members of one cluster. Another is tried when one does not answer."""
    prefix: str = DEFAULT_PREFIX
    """What every key begins with."""
    ttl: int = 5
    """Seconds after which a collector that died is gone from etcd; at least 2, which is the least that etcd grants."""
    timeout: float = 2.0
    """Seconds that one endpoint has for one answer."""
    user: str | None = None
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str | None = None
    """Path of the authorities that are trusted; those that grpc brings if None."""
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise InvalidArgumentError(f"no endpoint of etcd is given; use {FORM}")
        for endpoint in self.endpoints:
            if split_address(endpoint)[1] == 0 and not endpoint.startswith("unix:"):
                raise InvalidArgumentError(f"an endpoint of etcd needs its port: {endpoint!r}")
        if not self.prefix.startswith("/") or self.prefix.endswith("/") or "//" in self.prefix:
            raise InvalidArgumentError(f"a prefix is like '/dodici', not {self.prefix!r}")
        if not 2 <= self.ttl <= 3600:
            raise InvalidArgumentError(f"ttl is a number of seconds from 2 to 3600, not {self.ttl}")
        if not 0.01 <= self.timeout <= 60:
            raise InvalidArgumentError(
                f"timeout is a number of seconds from 0.01 to 60, not {self.timeout:g}"
            )
        if (self.cert is None) != (self.key is None):
            raise InvalidArgumentError("cert and key of an etcd client go together: one of them is missing")
        if not self.tls and (self.ca or self.cert):
            raise InvalidArgumentError("ca, cert and key are for TLS: the scheme is etcds://")

    def __str__(self) -> str:
        return f"{'etcds' if self.tls else 'etcd'}://{','.join(self.endpoints)}{self.prefix}"

    def security(self) -> EtcdTLS | None:
        """What its channels are made with; None without TLS.

        Raises:
            InvalidArgumentError: a file cannot be read.
        """
        if not self.tls:
            return None
        return EtcdTLS(_read("ca", self.ca), _read("key", self.key), _read("cert", self.cert))


class EtcdTLS:
    """Credentials of an etcd client, of PEM texts."""

    def __init__(self, ca: bytes | None, key: bytes | None, cert: bytes | None) -> None:
        self._parts = ca, key, cert

    def channel_credentials(self) -> Any:
        return client_tls(*self._parts)

    def channel_options(self) -> list[tuple[str, Any]]:
        return []


def _read(what: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read the {what} of the etcd client: {error}") from error


def parse_etcd_url(url: str) -> EtcdConfig:
    """Read the URL of an etcd.

    Raises:
        InvalidArgumentError: it is not one; the text never has the password.
    """
    if not isinstance(url, str):
        raise InvalidArgumentError(f"the URL of an etcd must be a str, not {type(url).__name__}")
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in {"etcd", "etcds"}:
        raise InvalidArgumentError(f"not the URL of an etcd: {_shown(url)!r}; use {FORM}")
    if "#" in rest:
        raise InvalidArgumentError(f"the URL of an etcd has no '#': {_shown(url)!r}")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if at and not (colon and user and password):
        raise InvalidArgumentError(f"user:password is needed before the '@': {_shown(url)!r}")
    if not hosts:
        raise InvalidArgumentError(f"no host in {_shown(url)!r}; use {FORM}")
    prefix = unquote(path).rstrip("/")
    return EtcdConfig(
        endpoints=tuple(dict.fromkeys(_endpoint(host, url) for host in hosts.split(","))),
        prefix=f"{slash}{prefix}" if prefix else DEFAULT_PREFIX,
        user=unquote(user) if at else None,
        password=unquote(password),
        tls=scheme.lower() == "etcds",
        **_options(query),
    )


def _endpoint(host: str, url: str) -> str:
    if not host:
        raise InvalidArgumentError(f"an empty host in {_shown(url)!r}; use {FORM}")
    bare = host.endswith("]") if host.startswith("[") else ":" not in host
    address = f"{host}:{DEFAULT_PORT}" if bare else host
    try:
        _, port = split_address(address)
    except InvalidArgumentError:
        port = 0
    if not port:
        raise InvalidArgumentError(f"not a host:port of etcd: {host!r} in {_shown(url)!r}")
    return address


_OPTIONS: dict[str, Callable[[str], Any]] = {"ttl": int, "timeout": float, "ca": str, "cert": str, "key": str}


def _options(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidArgumentError(f"not options of an etcd's URL: {query!r}; use ?ttl=5") from None
    for name, text in pairs:
        if name not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise InvalidArgumentError(f"an etcd's URL has no option {name!r}; there are {known}")
        if name in found:
            raise InvalidArgumentError(f"the option {name!r} of an etcd's URL is given twice")
        try:
            found[name] = _OPTIONS[name](text)
        except ValueError:
            raise InvalidArgumentError(f"{name} is a number of seconds, not {text!r}") from None
        if not text:
            raise InvalidArgumentError(f"the option {name!r} of an etcd's URL is empty")
    return found


def _shown(url: str) -> str:
    """The URL without what may be a password."""
    scheme, mark, rest = url.partition("://")
    authority, _, hosts = rest.rpartition("@")
    return f"{scheme}{mark}***@{hosts}" if authority else url
