"""`-v` and `-i`: what goes over the wire, as the diagnostics channels tell it.

Nothing here is reconstructed: request heads are the bytes that were handed to the socket, response heads the
fields as they were received, before any interceptor changed them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from ..core import diagnostics
from ..core.diagnostics import Channel
from ..core.headers import Headers

_STYLES = {">": "cyan", "<": "green", "*": "dim"}


def head_lines(http_version: str, status_code: int, reason: str, headers: Headers) -> list[str]:
    """A response's head, line by line, in the casing of the wire."""
    status = f"HTTP/{http_version} {status_code} {reason}".rstrip()
    fields = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in headers.raw]
    return [status, *fields]


class Watcher:
    """Watches the exchange from subscribing to unsubscribing (`with`).

    `heads` are the response heads so far, each as text with its line ends, redirects and retries included.

    Args:
        verbose: whether to tell on standard error, too.
    """

    def __init__(self, *, verbose: bool) -> None:
        self.heads: list[str] = []
        self._say = _teller() if verbose else None
        self._sockets: set[int] = set()
        self._began = time.perf_counter()
        self._connecting = self._began
        self._sent = 0
        self._received = 0
        self._marks: dict[str, float] = {}
        self._subscriptions: list[tuple[Channel, Callable[[dict[str, Any], str], None]]] = [
            (diagnostics.REQUEST_HEADERS, self._response_head)
        ]
        if verbose:
            self._subscriptions += [
                (diagnostics.CLIENT_BEFORE_CONNECT, self._before_connect),
                (diagnostics.CLIENT_CONNECTED, self._connected),
                (diagnostics.CLIENT_CONNECT_ERROR, self._connect_error),
                (diagnostics.CLIENT_SEND_HEADERS, self._request_head),
                (diagnostics.REQUEST_BODY_CHUNK_SENT, self._chunk_sent),
                (diagnostics.REQUEST_BODY_SENT, self._body_sent),
                (diagnostics.REQUEST_BODY_CHUNK_RECEIVED, self._chunk_received),
                (diagnostics.REQUEST_TRAILERS, self._trailers),
            ]

    def __enter__(self) -> Self:
        for channel, subscriber in self._subscriptions:
            channel.subscribe(subscriber)
        return self

    def __exit__(self, *_: object) -> None:
        for channel, subscriber in self._subscriptions:
            channel.unsubscribe(subscriber)

    def on_info(self, status_code: int, headers: Headers) -> None:
        """A 1xx head, which the channels do not tell of."""
        self._head(head_lines("1.1", status_code, "", headers))

    def finish(self) -> None:
        """Tell how long it took; only when verbose."""
        if self._say is None:
            return
        times = [f"{name} {_milliseconds(at - self._began)}" for name, at in self._marks.items()]
        times.append(f"total {_milliseconds(time.perf_counter() - self._began)}")
        self._say("*", f"{self._received} bytes of body received; {', '.join(times)}")

    # ------------------------------------------------------------------------------------- subscribers

    def _head(self, lines: list[str]) -> None:
        self.heads.append("".join(f"{line}\r\n" for line in [*lines, ""]))
        if self._say is not None:
            for line in [*lines, ""]:
                self._say("<", line)

    def _response_head(self, message: dict[str, Any], _: str) -> None:
        response = message["response"]
        self._marks.setdefault("first byte", time.perf_counter())
        version = message["request"].http_version
        self._head(head_lines(version, response["status_code"], response["status_text"], response["headers"]))

    def _before_connect(self, message: dict[str, Any], _: str) -> None:
        self._connecting = time.perf_counter()
        target = message["connect_params"]
        where = getattr(message["connector"], "socket_path", None) or f"{target.host} port {target.port}"
        self._note(f"connecting to {where}")

    def _connected(self, message: dict[str, Any], _: str) -> None:
        now = time.perf_counter()
        self._marks.setdefault("connected", now)
        target, transport = message["connect_params"], message["socket"]
        path = getattr(message["connector"], "socket_path", None)
        peer = transport.get_extra_info("peername")
        if path is not None:
            where = path
        elif isinstance(peer, tuple) and len(peer) >= 2:
            where = f"{target.host} ({peer[0]}) port {peer[1]}"
        else:
            where = f"{target.host} port {target.port}"
        self._note(f"connected to {where} in {_milliseconds(now - self._connecting)}")
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._tls(tls)

    def _tls(self, tls: Any) -> None:
        cipher = tls.cipher()
        resumed = ", resumed session" if tls.session_reused else ""
        self._note(
            f"{tls.version()} with {cipher[0] if cipher else 'no cipher'}, "
            f"ALPN {tls.selected_alpn_protocol() or 'not answered'}{resumed}"
        )
        certificate = tls.getpeercert()
        if not certificate:
            self._note("the server's certificate was not verified")
            return
        for field in ("subject", "issuer"):
            names = [f"{key}={value}" for part in certificate.get(field, ()) for key, value in part]
            self._note(f"certificate {field}: {', '.join(names) or 'empty'}")
        alternatives = [value for _, value in certificate.get("subjectAltName", ())]
        self._note(f"certificate is for {', '.join(alternatives)} until {certificate.get('notAfter')}")

    def _connect_error(self, message: dict[str, Any], _: str) -> None:
        self._note(str(message["error"]))

    def _request_head(self, message: dict[str, Any], _: str) -> None:
        socket = id(message["socket"])
        if socket in self._sockets:
            self._note("the connection is used again")
        self._sockets.add(socket)
        self._sent = 0
        if self._say is not None:
            for line in message["headers"].removesuffix("\r\n").split("\r\n"):
                self._say(">", line)

    def _chunk_sent(self, message: dict[str, Any], _: str) -> None:
        self._sent += len(message["chunk"])

    def _body_sent(self, _: dict[str, Any], __: str) -> None:
        if self._sent:
            self._note(f"{self._sent} bytes of body sent")

    def _chunk_received(self, message: dict[str, Any], _: str) -> None:
        self._received += len(message["chunk"])

    def _trailers(self, message: dict[str, Any], _: str) -> None:
        if self._say is not None:
            for name, value in message["trailers"].raw:
                self._say("<", f"{name.decode('latin-1')}: {value.decode('latin-1')}")

    def _note(self, text: str) -> None:
        if self._say is not None:
            self._say("*", text)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _teller() -> Callable[[str, str], None]:
    """Writes marked lines to standard error, in colour where that is a terminal."""
    stderr = sys.stderr
    if not stderr.isatty():
        return lambda mark, text: print(f"{mark} {text}", file=stderr)
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)

    def say(mark: str, text: str) -> None:
        # Text drops the control characters that a server may have sent to play with the terminal.
        console.print(Text(f"{mark} {text}", style=_STYLES[mark]), soft_wrap=True)

    return say
