"""TLS contexts: made at first use, kept by their options, resuming sessions.

Loading a trust store takes tens of milliseconds, so contexts are shared by everybody who asks for the same
options. asyncio has no argument for a session to resume; it calls `wrap_bio` of the context it is given,
and that is where a context of ours hands the session in. Contexts made by callers are used untouched, and
do not resume.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from pathlib import Path
from typing import Any

import truststore

from ..core.errors import InvalidArgumentError

_CONTEXT_LIMIT = 64
_contexts: OrderedDict[tuple[Any, ...], ssl.SSLContext] = OrderedDict()


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

    def _session_for(self, server_name: str | None) -> ssl.SSLSession | None:
        return self._sessions.get(server_name) if server_name else None


class _SystemContext(_Sessions, truststore.SSLContext):
    """Trusts what the operating system trusts."""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
        server_hostname: str | None = None, session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:  # fmt: skip
        session = session or self._session_for(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


class _FileContext(_Sessions, ssl.SSLContext):
    """Trusts what a file or folder says."""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool = False,
        server_hostname: str | bytes | None = None, session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:  # fmt: skip
        name = server_hostname.decode() if isinstance(server_hostname, bytes) else server_hostname
        session = session or self._session_for(name)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def tls_context(
    *,
    verify: bool = True,
    ca: str | None = None,
    cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
    alpn: tuple[str, ...] = ("http/1.1",),
    max_cached_sessions: int = 100,
) -> ssl.SSLContext:
    """The shared client context for these options.

    Args:
        verify: whether the server's certificate must be trusted and must name the server.
        ca: a PEM file or folder of the authorities to trust, instead of the system's.
        cert: a client certificate: a PEM file with the key, or (certificate, key[, password]).
        alpn: protocols to offer, the preferred first (RFC 7301).
        max_cached_sessions: TLS sessions to keep for resumption; 0 for none.

    Raises:
        InvalidArgumentError: a file that cannot be read or is not PEM.
    """
    key = (verify, ca, cert, alpn, max_cached_sessions)
    context = _contexts.get(key)
    if context is None:
        context = _contexts[key] = _make(verify, ca, cert, alpn, max_cached_sessions)
        while len(_contexts) > _CONTEXT_LIMIT:
            _contexts.popitem(last=False)
    return context


def _make(
    verify: bool, ca: str | None, cert: Any, alpn: tuple[str, ...], max_sessions: int
) -> ssl.SSLContext:
    context: _SystemContext | _FileContext
    try:
        if ca is not None or not verify:
            context = _FileContext(ssl.PROTOCOL_TLS_CLIENT)
            if ca is not None:
                folder = Path(ca).is_dir()
                context.load_verify_locations(cafile=None if folder else ca, capath=ca if folder else None)
        else:
            context = _SystemContext(ssl.PROTOCOL_TLS_CLIENT)
        if cert is not None:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    except (OSError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"cannot load TLS certificates (ca={ca!r}, cert={_shown(cert)}): {error}"
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    context.max_sessions = max_sessions
    context._sessions = OrderedDict()
    return context


def _shown(cert: Any) -> str:
    return repr(cert if isinstance(cert, str) or cert is None else tuple(cert[:2]))


def remember_session(transport: Any, server_name: str | None) -> None:
    """Keep the session of a connection for the next one to the same server, if its context is ours.

    TLS 1.3 sends tickets after the handshake: call this once the server has answered something.
    """
    ssl_object = transport.get_extra_info("ssl_object")
    context = transport.get_extra_info("sslcontext")
    if server_name and isinstance(context, _Sessions) and ssl_object is not None:
        context.remember(server_name, getattr(ssl_object, "session", None))
