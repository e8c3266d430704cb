"""The options that clients, pools and agents share, checked once."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ..core.errors import InvalidArgumentError
from ..core.options import check_count, check_seconds
from ..net.connection import ConnectionSettings
from ..net.connector import Connect, as_connect
from ..wire.h1.head import HeadCache
from ..wire.h2.frames import DEFAULT_WINDOW, MAX_WINDOW
from ..wire.h2.settings import LocalSettings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How connections behave. Seconds and bytes.

    Args:
        pipelining: requests on one connection at a time; 0 closes it after each (RFC 9112 §9.3.2).
        headers_timeout: from the request written to the final response head; 0 disables.
        body_timeout: between two pieces of a response body; 0 disables.
        connect_timeout: DNS, TCP and TLS together; 0 disables.
        keep_alive_timeout: how long an idle connection is kept when the server gives no hint.
        keep_alive_max_timeout: the longest hint (`Keep-Alive: timeout=`) that is honoured.
        keep_alive_timeout_threshold: how much earlier than the hint a connection is given up, so that the
            server's close and a request do not cross.
        max_header_size: names and values of one head or trailer section; this many or more are refused.
        max_response_size: the longest response body, as received; -1 for no limit.
        max_requests_per_client: requests until a connection is replaced; None for no limit.
        strict_content_length: whether a request body that is not as long as its `content-length` fails.
        retry_stale: whether a repeatable request is sent again, once, when the reused connection turns out
            to have been closed before the response's first byte. Counted in `stats.retries`.
        socket_path: a unix socket to connect to; Host stays the origin's.
        local_address: the IP address to connect from.
        happy_eyeballs_delay: RFC 8305's connection attempt delay.
        max_cached_sessions: TLS sessions kept for resumption; 0 for none.
        allow_h2: offer HTTP/2 by ALPN to `https` origins; the server chooses.
        prefer_h2: name HTTP/2 first in the offer, for servers that follow the client's order.
        use_h2c: speak HTTP/2 to `http` origins, which must be known to understand it (RFC 9113 §3.3).
        max_concurrent_streams: requests on one HTTP/2 connection at a time, or fewer if the server says so
            (RFC 9113 §5.1.2).
        initial_window_size: what the server may send on one HTTP/2 stream ahead of what was consumed; bounds
            the memory of a paused response, and its speed: window / round-trip time.
        connection_window_size: the same for a whole HTTP/2 connection.
        ping_interval: silence on an HTTP/2 connection with running requests before PING is sent; 0 for none.
        ping_timeout: how long its answer may take before the connection is given up.
        connect: options for `Connector`, or an async callable of its shape.
    """

    pipelining: int = 1
    headers_timeout: float = 300.0
    body_timeout: float = 300.0
    connect_timeout: float = 10.0
    keep_alive_timeout: float = 4.0
    keep_alive_max_timeout: float = 600.0
    keep_alive_timeout_threshold: float = 2.0
    max_header_size: int = 16384
    max_response_size: int = -1
    max_requests_per_client: int | None = None
    strict_content_length: bool = True
    retry_stale: bool = True
    socket_path: str | os.PathLike[str] | None = None
    local_address: str | None = None
    happy_eyeballs_delay: float = 0.25
    max_cached_sessions: int = 100
    allow_h2: bool = True
    prefer_h2: bool = False
    use_h2c: bool = False
    max_concurrent_streams: int = 100
    initial_window_size: int = 524_288
    connection_window_size: int = 16_777_216
    ping_interval: float = 60.0
    ping_timeout: float = 20.0
    connect: Any = None

    def __post_init__(self) -> None:
        check_count("pipelining", self.pipelining)
        for name in (
            "headers_timeout",
            "body_timeout",
            "connect_timeout",
            "keep_alive_timeout",
            "keep_alive_max_timeout",
            "keep_alive_timeout_threshold",
            "ping_interval",
            "ping_timeout",
        ):
            check_seconds(name, getattr(self, name))
        check_count("max_header_size", self.max_header_size, minimum=1)
        check_count("max_response_size", self.max_response_size, minimum=-1)
        if self.max_requests_per_client is not None:
            check_count("max_requests_per_client", self.max_requests_per_client, minimum=1)
        check_count("max_concurrent_streams", self.max_concurrent_streams, minimum=1)
        for name, least in (("initial_window_size", 1), ("connection_window_size", DEFAULT_WINDOW)):
            if check_count(name, getattr(self, name), minimum=least) > MAX_WINDOW:
                raise InvalidArgumentError(f"{name} must be {MAX_WINDOW} at most (RFC 9113 6.9.1)")
        for name in ("strict_content_length", "retry_stale", "allow_h2", "prefer_h2", "use_h2c"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(f"{name} must be True or False, not {getattr(self, name)!r}")

    def connector(self) -> Connect:
        """The connector that these options describe."""
        return as_connect(
            self.connect,
            {
                "timeout": self.connect_timeout,
                "socket_path": self.socket_path,
                "local_address": self.local_address,
                "happy_eyeballs_delay": self.happy_eyeballs_delay,
                "max_cached_sessions": self.max_cached_sessions,
            },
        )

    def protocols(self, scheme: str) -> tuple[str, ...]:
        """What may be spoken to such an origin, as ALPN names it, in the order of the offer."""
        if scheme == "http":
            return ("h2",) if self.use_h2c else ("http/1.1",)
        if not self.allow_h2:
            return ("http/1.1",)
        return ("h2", "http/1.1") if self.prefer_h2 else ("http/1.1", "h2")

    def settings(self, scheme: str, host: str) -> ConnectionSettings:
        """What the connections to `host` need to know."""
        raw_scheme, raw_host = scheme.encode("ascii"), host.encode("ascii")
        return ConnectionSettings(
            scheme=raw_scheme,
            host=raw_host,
            heads=HeadCache(self.max_header_size),
            headers_timeout=float(self.headers_timeout),
            body_timeout=float(self.body_timeout),
            keep_alive_timeout=float(self.keep_alive_timeout),
            keep_alive_max_timeout=float(self.keep_alive_max_timeout),
            keep_alive_threshold=float(self.keep_alive_timeout_threshold),
            max_header_size=self.max_header_size,
            max_response_size=self.max_response_size,
            max_requests=self.max_requests_per_client or 0,
            strict_content_length=self.strict_content_length,
            retry_stale=self.retry_stale,
            h2=LocalSettings(
                stream_window=self.initial_window_size,
                connection_window=self.connection_window_size,
                max_header_list_size=self.max_header_size,
            ),
            h2_origin=(raw_scheme, raw_host),
            sections={},
            max_streams=self.max_concurrent_streams,
            ping_interval=float(self.ping_interval),
            ping_timeout=float(self.ping_timeout),
        )


def client_options(given: dict[str, Any]) -> ClientOptions:
    """`ClientOptions` of keyword arguments.

    Raises:
        InvalidArgumentError: an unknown name, or a bad value.
    """
    names = [field.name for field in dataclasses.fields(ClientOptions)]
    for name in given:
        if name not in names:
            raise InvalidArgumentError(f"unknown option {name!r}; there are: {', '.join(names)}")
    return ClientOptions(**given)
