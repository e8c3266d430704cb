"""TLS contexts: made at first use, kept by their options, renewed when their files change, resuming sessions.

Loading a trust store takes tens of milliseconds, so contexts are shared by everybody who asks for the same
options. A context is what its files said when it was made; `tls_context` is asked for each connection, looks
at the files every few seconds, and makes another context once they have changed. Connections that exist keep
the one that they were made with.

Sessions (RFC 8446 2.2) belong to one context and are resumed through it alone: what one set of options has
verified is never taken for verified by another, nor by the same options with other files. There is no argument
for a session to resume where transports are made; all of them call `wrap_bio` of the context that they are
given, and that is where a context of ours hands the session in. Contexts made by callers are used untouched,
and do not resume.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ..core.errors import InvalidArgumentError

_CONTEXT_LIMIT = 64
_CHECK_SECONDS = 3.0
"""How long a context is used before its files are looked at again."""
_GRACE_SECONDS = 60.0
"""How long files that cannot be loaded are taken for files that are just being replaced."""
_SYSTEM_BUNDLES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where systems keep their authorities, for a Python whose OpenSSL was built to look elsewhere."""


class _Sessions:
    """A mixin for SSLContext: remembers the last session per server name, at most `max_sessions`."""

    max_sessions = 100
    _sessions: OrderedDict[str, ssl.SSLSession]

    def remember(self, server_name: str, session: ssl.SSLSession | None) -> None:
        if session is None or not self.max_sessions:
            return
        self._sessions[server_name] = session
        self._sessions.move_to_end(server_name)
        while len(self._sessions) > self.max_sessions:
            self._sessions.popitem(last=False)

    def _session_for(self, server_name: str | bytes | None) -> ssl.SSLSession | None:
        name = server_name.decode() if isinstance(server_name, bytes) else server_name
        return self._sessions.get(name) if name else None


class _Context(_Sessions, ssl.SSLContext):
    """Verifies with what was loaded into it."""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
        server_hostname: str | bytes | None = None, session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:  # fmt: skip
        session = session or self._session_for(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _system_context() -> tuple[Any, tuple[str, ...]]:
    """A context that trusts what the operating system trusts, and the files that this depends on.

    truststore asks the system itself where there is something to ask. Elsewhere the system's trust is a file or
    a folder, which truststore would load anew for each connection: 30 ms of the event loop for 140 authorities.
    """
    if sys.platform in {"darwin", "win32"}:
        return _platform_context(), ()
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.set_default_verify_paths()
    found = ssl.get_default_verify_paths()
    paths = tuple(path for path in (found.cafile, found.capath) if path)
    if not found.cafile and not (found.capath and any(Path(found.capath).iterdir())):
        for bundle in _SYSTEM_BUNDLES:
            if Path(bundle).is_file():
                context.load_verify_locations(bundle)
                return context, (*paths, bundle)
    return context, paths


def _platform_context() -> Any:
    import truststore

    class PlatformContext(_Sessions, truststore.SSLContext):
        def wrap_bio(
            self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
            server_hostname: str | None = None, session: ssl.SSLSession | None = None,
        ) -> ssl.SSLObject:  # fmt: skip
            session = session or self._session_for(server_hostname)
            return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    return PlatformContext(ssl.PROTOCOL_TLS_CLIENT)


class _Entry:
    """A shared context, and what its files were like when it was made."""

    __slots__ = ("checked", "context", "failing_since", "paths", "stamp")

    def __init__(self, context: ssl.SSLContext, paths: tuple[str, ...], stamp: tuple[Any, ...]) -> None:
        self.context = context
        self.paths = paths
        self.stamp = stamp
        self.checked = time.monotonic()
        self.failing_since: float | None = None


_entries: OrderedDict[tuple[Any, ...], _Entry] = OrderedDict()


def tls_context(
    *,
    verify: bool = True,
    ca: str | None = None,
    cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
    alpn: tuple[str, ...] = ("http/1.1",),
    max_cached_sessions: int = 100,
) -> ssl.SSLContext:
    """The shared client context for these options: TLS 1.2 at least, without compression and renegotiation.

    Files that have changed make another context within seconds. While what they say cannot be loaded, as between
    the two writes that replace a certificate and its key, the context before serves for another minute.

    Args:
        verify: whether the server's certificate must be trusted and must name the server.
        ca: a PEM file or folder of the authorities to trust, instead of the system's.
        cert: a client certificate: a PEM file with the key, or (certificate, key[, password]).
        alpn: protocols to offer, the preferred first (RFC 7301).
        max_cached_sessions: TLS sessions to keep for resumption; 0 for none.

    Raises:
        InvalidArgumentError: a file that cannot be read or is not PEM.
    """
    key = (verify, ca, tuple(cert) if isinstance(cert, list) else cert, alpn, max_cached_sessions)
    entry = _entries.get(key)
    now = time.monotonic()
    if entry is not None:
        if now - entry.checked < _CHECK_SECONDS:
            return entry.context
        if _stamp(entry.paths) == entry.stamp:
            entry.checked = now
            entry.failing_since = None
            return entry.context
    try:
        fresh = _make(verify, ca, cert, alpn, max_cached_sessions)
    except InvalidArgumentError:
        if entry is None:
            raise
        if entry.failing_since is None:
            entry.failing_since = now
        if now - entry.failing_since >= _GRACE_SECONDS:
            raise
        entry.checked = now
        return entry.context
    _entries[key] = fresh
    while len(_entries) > _CONTEXT_LIMIT:
        _entries.popitem(last=False)
    return fresh.context


def _stamp(paths: tuple[str, ...]) -> tuple[Any, ...]:
    """What tells one state of these files from another."""
    stamp: list[Any] = []
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116 - a third of the cost of pathlib's
        except OSError:
            stamp.append(None)
        else:
            stamp.append((found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev))
    return tuple(stamp)


def _make(verify: bool, ca: str | None, cert: Any, alpn: tuple[str, ...], max_sessions: int) -> _Entry:
    context: Any
    paths: tuple[str, ...] = () if ca is None else (ca,)
    certificate = (cert,) if isinstance(cert, str) else cert or ()
    # Stamped before anything is read: a change meanwhile is found at the next look.
    own = (*paths, *(path for path in certificate[:2] if isinstance(path, str)))
    stamp = _stamp(own)
    try:
        if ca is not None or not verify:
            context = _Context(ssl.PROTOCOL_TLS_CLIENT)
            if ca is not None:
                folder = Path(ca).is_dir()
                context.load_verify_locations(cafile=None if folder else ca, capath=ca if folder else None)
        else:
            context, paths = _system_context()
            own, stamp = (*own, *paths), (*stamp, *_stamp(paths))
        if certificate:
            context.load_cert_chain(*certificate)
    except (OSError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"cannot load TLS certificates (ca={ca!r}, cert={_shown(cert)}): {error}"
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # RFC 9113 9.2.1 asks these of TLS 1.2 under HTTP/2, and HTTP/1.1 loses nothing by them.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn))
    context.max_sessions = max_sessions
    context._sessions = OrderedDict()
    return _Entry(context, own, stamp)


def server_context(
    cert: str, key: str, ca: str | None, alpn: tuple[str, ...], *, require_client_cert: bool = True
) -> ssl.SSLContext:
    """A server's context: TLS 1.2 at least. Not shared, and what its files say now.

    Args:
        cert: a PEM file: the certificate, and those between it and its authority.
        key: a PEM file: its private key, without a password.
        ca: a PEM file: authorities for certificates of clients.
        alpn: protocols to choose from (RFC 7301); a client that offers others is refused where OpenSSL can do that,
            and has chosen none elsewhere.
        require_client_cert: refuse clients without a certificate of those authorities.

    Raises:
        InvalidArgumentError: the files do not fit together, or cannot be read.
    """
    check_key_pair(cert, key, ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if ca is not None:
        context.load_verify_locations(ca)
    if require_client_cert:
        context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(alpn))
    # Sessions would be resumed without a look at the client's certificate, which may be another by then.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


def check_key_pair(cert: str, key: str, ca: str | None = None) -> None:
    """Return if these PEM files hold a certificate, its key without a password, and authorities.

    For those who hand the files to another TLS library, which may tell of bad ones late and badly.

    Raises:
        InvalidArgumentError: they do not, or cannot be read.
    """

    def no_password() -> str:
        raise ValueError("the key is encrypted")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, no_password)
        if ca is not None:
            context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"cannot load TLS certificates (cert={cert!r}, key={key!r}, ca={ca!r}): {error}"
        ) from error


def _shown(cert: Any) -> str:
    return repr(cert if isinstance(cert, str) or cert is None else tuple(cert[:2]))


def remember_session(transport: Any, server_name: str | None) -> None:
    """Keep the session of a connection for the next one to the same server, if its context is ours.

    TLS 1.3 sends tickets after the handshake: call this once the server has answered something. A resumed
    handshake does not look at the certificate again (RFC 8446 4.6.1), so a session that was verified for a name
    other than `server_name`, which a connector may have chosen, is not kept.
    """
    ssl_object = transport.get_extra_info("ssl_object")
    context = transport.get_extra_info("sslcontext")
    verified = getattr(ssl_object, "server_hostname", None)
    if server_name and verified == server_name and isinstance(context, _Sessions):
        context.remember(server_name, getattr(ssl_object, "session", None))


def negotiated(transport: Any) -> str | None:
    """The protocol that ALPN chose for a connection, such as `"h2"`; None without TLS or without a choice."""
    ssl_object = transport.get_extra_info("ssl_object")
    return None if ssl_object is None else ssl_object.selected_alpn_protocol()
