"""The options that clients, pools and agents share, checked once."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from ..core.errors import InvalidArgumentError
from ..core.options import check_count, check_seconds
from ..net.connector import Connect, as_connect
from ..net.h1_conn import ConnectionSettings
from ..wire.h1.head import HeadCache


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
        ):
            check_seconds(name, getattr(self, name))
        check_count("max_header_size", self.max_header_size, minimum=1)
        check_count("max_response_size", self.max_response_size, minimum=-1)
        if self.max_requests_per_client is not None:
            check_count("max_requests_per_client", self.max_requests_per_client, minimum=1)
        for name in ("strict_content_length", "retry_stale"):
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

    def settings(self, host: str) -> ConnectionSettings:
        """What the connections to `host` need to know."""
        return ConnectionSettings(
            host=host.encode("ascii"),
            heads=HeadCache(self.max_header_size),
            headers_timeout=float(self.headers_timeout),
            body_timeout=float(self.body_timeout),
            keep_alive_timeout=float(self.keep_alive_timeout),
            keep_alive_max_timeout=float(self.keep_alive_max_timeout),
            keep_alive_threshold=float(self.keep_alive_timeout_threshold),
            max_response_size=self.max_response_size,
            max_requests=self.max_requests_per_client or 0,
            strict_content_length=self.strict_content_length,
            retry_stale=self.retry_stale,
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
