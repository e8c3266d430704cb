"""Diagnostics channels: what dodici does, for those who subscribe.

Names and messages are those of undici's diagnostics channels, so that one description serves both:

    undici:request:create            {"request"}            an exchange was accepted by a dispatcher
    undici:request:bodyChunkSent     {"request", "chunk"}
    undici:request:bodySent          {"request"}
    undici:request:headers           {"request", "response": {"status_code", "headers", "status_text"}}
    undici:request:bodyChunkReceived {"request", "chunk"}
    undici:request:trailers          {"request", "trailers"}
    undici:request:error             {"request", "error"}
    undici:client:beforeConnect      {"connect_params", "connector"}
    undici:client:connected          {"connect_params", "connector", "socket"}
    undici:client:connectError       {"connect_params", "connector", "error"}
    undici:client:sendHeaders        {"request", "headers", "socket"}

`request` is the exchange: `.options`, `.attempt`, `.bytes_read`, and the controller's own members.
Subscribers run on the event loop, inside the exchange: they must be quick. One that raises is reported to
the `dodici` logger and harms nothing. Without a subscriber a channel costs one truth test.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Subscriber: TypeAlias = Callable[[dict[str, Any], str], None]

_log = logging.getLogger("dodici")
_channels: dict[str, Channel] = {}


class Channel:
    """A named stream of messages. Use `channel(name)`."""

    __slots__ = ("name", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber(message, name)` for every message from now on."""
        self.subscribers = (*self.subscribers, subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """Stop calling `subscriber`; False if it was not subscribed."""
        if subscriber not in self.subscribers:
            return False
        left = list(self.subscribers)
        left.remove(subscriber)
        self.subscribers = tuple(left)
        return True

    def publish(self, message: dict[str, Any]) -> None:
        for subscriber in self.subscribers:
            try:
                subscriber(message, self.name)
            except Exception:
                _log.exception("subscriber of %s raised", self.name)


def channel(name: str) -> Channel:
    """The channel of that name, made on first use."""
    found = _channels.get(name)
    if found is None:
        found = _channels[name] = Channel(name)
    return found


REQUEST_CREATE: Final = channel("undici:request:create")
REQUEST_BODY_CHUNK_SENT: Final = channel("undici:request:bodyChunkSent")
REQUEST_BODY_SENT: Final = channel("undici:request:bodySent")
REQUEST_HEADERS: Final = channel("undici:request:headers")
REQUEST_BODY_CHUNK_RECEIVED: Final = channel("undici:request:bodyChunkReceived")
REQUEST_TRAILERS: Final = channel("undici:request:trailers")
REQUEST_ERROR: Final = channel("undici:request:error")
CLIENT_BEFORE_CONNECT: Final = channel("undici:client:beforeConnect")
CLIENT_CONNECTED: Final = channel("undici:client:connected")
CLIENT_CONNECT_ERROR: Final = channel("undici:client:connectError")
CLIENT_SEND_HEADERS: Final = channel("undici:client:sendHeaders")
