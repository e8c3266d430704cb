"""The certificate of a collector, in both directions, renewed when its files change.

A collector is a server and a client with the same certificate and the same authorities. What changes in the files
is used for connections that begin from then on; those that exist go on with what they began with, so that no call
is lost. For arriving connections they are looked at before each handshake; a channel finds that `generation()` has grown,
connects anew beside its old connection, and drops that when the last call on it has ended.

What a certificate said is looked at in the handshake alone. So that no connection outlives what it was opened with by
more than a known time, the server asks for another after `max_age` seconds, with GOAWAY: calls go on where they are,
those that begin take the new one. What still runs on the old one after `GRACE` more is cut.

A certificate and its key are replaced by two writes. What lies between them is no pair; until they fit, the last
pair that did is used.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..core.errors import InvalidArgumentError
from ..core.options import check_seconds
from ..net.tls import check_key_pair, server_context
from . import data_plane
from .contracts import CollectorSecurity, TransportSecurity

if TYPE_CHECKING:
    import ssl

_log = logging.getLogger("dodici.collective")
GRACE: Final = 600.0
"""Seconds that calls have to end on a connection that has reached its age."""
_LOOK_SECONDS = 1.0
"""How long a channel takes the files for unchanged."""


class _Material(NamedTuple):
    key: bytes
    cert: bytes
    ca: bytes | None


class TLS:
    """The certificate of a collector, and the authorities that it trusts.

    Args:
        cert: a PEM file: the certificate, and those between it and its authority.
        key: a PEM file: its private key, without a password.
        ca: a PEM file: authorities for the certificates of clients and other collectors; None: only servers' are
            checked, by the authorities that grpc brings.
        require_client_cert: refuse clients without a certificate. False: no client is asked for one; there are no identities,
            and no other collector can connect.
        server_name: the name that other collectors' certificates must have; None: the host that is connected to.
        max_age: seconds after which a connection is made anew, give or take a tenth; so an expired certificate is refused.
            None: never.

    Raises:
        InvalidArgumentError: a file cannot be read, is not PEM, or the key is not the certificate's; or there is no `ca`
            for client certificates.
    """

    def __init__(
        self,
        cert: str | os.PathLike[str],
        key: str | os.PathLike[str],
        ca: str | os.PathLike[str] | None = None,
        require_client_cert: bool = True,
        *,
        server_name: str | None = None,
        max_age: float | None = 3600.0,
    ) -> None:
        self.cert, self.key = _path("cert", cert), _path("key", key)
        self.ca = None if ca is None else _path("ca", ca)
        if not isinstance(require_client_cert, bool):
            raise InvalidArgumentError(f"require_client_cert must be a bool, not {require_client_cert!r}")
        if require_client_cert and ca is None:
            raise InvalidArgumentError(
                "client certificates need a ca to be checked with: give ca=, or require_client_cert=False"
            )
        if server_name is not None and (not isinstance(server_name, str) or not server_name):
            raise InvalidArgumentError(f"server_name must be a name, not {server_name!r}")
        if max_age is not None and check_seconds("max_age", max_age) == 0:
            raise InvalidArgumentError("max_age must be more than 0 seconds, or None")
        self.max_age = max_age
        self.require_client_cert = require_client_cert
        self.server_name = server_name
        # grpc asks from threads of its own, several at a time.
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._material = self._read()
        self._generation = 0
        self._contexts: dict[tuple[str, ...], tuple[int, ssl.SSLContext]] = {}
        self._looked = time.monotonic()

    def __repr__(self) -> str:
        return (
            f"TLS({self.cert!r}, {self.key!r}, {self.ca!r}, require_client_cert={self.require_client_cert})"
        )

    def generation(self) -> int:
        """How often the certificate has changed. Looks at the files once a second."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self.reload()
        return self._generation

    def reload(self) -> bool:
        """Look at the files now; whether there is something new in them.

        They need not be asked for: each arriving connection looks, and each second in which a channel is used.
        """
        with self._lock:
            self._looked = time.monotonic()
            stamp = self._look()
            if stamp == self._stamp:
                return False
            try:
                material = self._read()
            except InvalidArgumentError as error:
                _log.warning("going on with the last certificate: %s", error)
                self._stamp = stamp
                return False
            if self._look() != stamp:
                return False  # replaced meanwhile: the next look finds what it is now
            self._stamp = stamp
            if material == self._material:
                return False
            self._material = material
            self._generation += 1
            return True

    # -- TransportSecurity

    def server_context(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        """A server's context, of the files as they are."""
        self.reload()
        generation = self._generation
        known = self._contexts.get(alpn)
        if known is not None and known[0] == generation:
            return known[1]
        ca = self.ca if self.require_client_cert else None
        try:
            context = server_context(
                self.cert, self.key, ca, alpn, require_client_cert=self.require_client_cert
            )
        except InvalidArgumentError as error:
            # Between the two writes that replace a certificate and its key.
            if known is None:
                raise
            _log.warning("going on with the last certificate: %s", error)
            return known[1]
        self._contexts[alpn] = generation, context
        return context

    def connection_age(self) -> tuple[float, float] | None:
        """Seconds after which a client is asked for another connection, and seconds that calls have then."""
        return None if self.max_age is None else (self.max_age, GRACE)

    def channel_credentials(self) -> Any:
        """Credentials of a client, as the files were last found."""
        self.generation()
        material = self._material
        return data_plane.client_tls(material.ca, material.key, material.cert)

    def channel_options(self) -> list[tuple[str, Any]]:
        """What channels need besides."""
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]

    # -- files

    def _look(self) -> tuple[Any, ...]:
        stamp: list[Any] = []
        for path in (self.cert, self.key, self.ca):
            try:
                found = None if path is None else os.stat(path)  # noqa: PTH116 - a third of the cost of pathlib's
            except OSError:
                stamp.append(None)
            else:
                stamp.append(found and (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev))
        return tuple(stamp)

    def _read(self) -> _Material:
        check_key_pair(self.cert, self.key, self.ca)
        return _Material(_bytes(self.key), _bytes(self.cert), None if self.ca is None else _bytes(self.ca))


def as_security(given: Any) -> CollectorSecurity | None:
    """What `tls=` of a collector means: a `TLS`, a mapping of its arguments, or None.

    Raises:
        InvalidArgumentError: it is none of these, or see `TLS`.
    """
    if isinstance(given, Mapping):
        unknown = set(given) - {"cert", "key", "ca", "require_client_cert", "server_name", "max_age"}
        if unknown:
            raise InvalidArgumentError(f"tls has no {', '.join(sorted(map(repr, unknown)))}")
        missing = {"cert", "key"} - set(given)
        if missing:
            raise InvalidArgumentError(f"tls lacks {' and '.join(sorted(missing))}")
        return TLS(**given)
    if given is None or isinstance(given, CollectorSecurity):
        return given
    raise InvalidArgumentError(f"tls must be a TLS or a mapping, not {type(given).__name__}")


def authenticates(security: TransportSecurity) -> bool:
    """Whether clients have to show a certificate, so that there are identities."""
    return bool(getattr(security, "require_client_cert", True))


def _path(name: str, given: Any) -> str:
    try:
        path = os.fspath(given)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise InvalidArgumentError(f"{name} must be the path of a PEM file, not {given!r}")
    return path


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - paths are texts here
            return file.read()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from error
