"""What the connections of both protocols share: their settings, and what they and their owner ask of each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..core.controller import Exchange
from ..core.errors import BodyTimeoutError, DodiciError, HeadersTimeoutError
from ..core.options import DispatchOptions
from ..wire.h1.head import HeadCache
from ..wire.h2.sections import SharedSections
from ..wire.h2.settings import LocalSettings

Failure: TypeAlias = tuple[Exchange, BaseException]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may take, in seconds, where an exchange's options do not say; 0 disables."""

    headers_timeout: float
    body_timeout: float

    def headers_seconds(self, options: DispatchOptions) -> float:
        """How long the head of a response to this may take."""
        return self.headers_timeout if options.headers_timeout is None else options.headers_timeout

    def body_seconds(self, options: DispatchOptions) -> float:
        """How long the body of a response to this may stall."""
        return self.body_timeout if options.body_timeout is None else options.body_timeout

    def timeout_error(self, exchange: Exchange) -> DodiciError:
        """What an exchange fails with that has waited for too long."""
        if exchange.status_code >= 200:
            seconds = self.body_seconds(exchange.options)
            return BodyTimeoutError(f"no data of the response body for {seconds:g} s (body_timeout)")
        seconds = self.headers_seconds(exchange.options)
        return HeadersTimeoutError(f"no response head within {seconds:g} s (headers_timeout)")


@dataclass(frozen=True, slots=True)
class ConnectionSettings(Patience):
    """What all connections of a client share. Seconds and bytes; 0 or less disables a timeout or limit."""

    scheme: bytes
    host: bytes
    heads: HeadCache
    keep_alive_timeout: float
    keep_alive_max_timeout: float
    keep_alive_threshold: float
    max_header_size: int
    max_response_size: int
    max_requests: int
    strict_content_length: bool
    retry_stale: bool

    h2: LocalSettings
    h2_origin: tuple[bytes, bytes]
    """Scheme and host once more: what encoded heads are remembered for, by identity."""
    sections: SharedSections
    max_streams: int
    ping_interval: float
    ping_timeout: float


class Owner(Protocol):
    """Who assigns exchanges to a connection."""

    limit: int
    """Exchanges on the connection at a time."""
    single_use: bool
    """Whether a connection carries one exchange only."""

    def release(self, exchange: Exchange, *, left: bool = False) -> None:
        """The exchange is over; its terminal callback is about to be made. `left` if its connection was
        reported gone before, and only finished what it had begun.
        """

    def refill(self) -> None:
        """The connection may be able to take more."""

    def requeue(self, exchanges: list[Exchange], *, retries: int = 0, left: bool = False) -> None:
        """These are to be sent again, in order and before all others. `retries` of them had been written;
        `left` as for `release`.
        """

    def needs_http1(self, exchange: Exchange) -> None:
        """The server does not do over HTTP/2 what this one asks for. Nothing of it was written."""

    def limit_changed(self, connection: Connection) -> None:
        """The peer has said how many exchanges the connection may carry."""

    def starved(self, error: DodiciError) -> None:
        """The peer accepts no exchange at all, and has not for too long."""

    def connection_gone(
        self,
        connection: Connection,
        reason: DodiciError,
        again: list[Exchange],
        failed: list[Failure],
        *,
        retries: int = 0,
        left: int = 0,
    ) -> None:
        """The connection takes nothing more. `again` are to be sent on another one, in order, `retries` of
        them for the second time; `failed` are over. `left` is how many more go on where they are, to their
        end; negative where some of those are now among `again` and `failed`.
        """


class Connection(Protocol):
    """What an owner sees of a connection."""

    transport: asyncio.Transport
    closed: asyncio.Future[None]
    dead: bool
    served: int
    """How many responses it has completed."""
    server_name: str | None

    @property
    def multiplexed(self) -> bool:
        """Whether exchanges on it do not wait for one another."""

    @property
    def limit(self) -> int | None:
        """How many exchanges the peer lets it carry; None where the peer has not said."""

    @property
    def idle(self) -> bool:
        """Whether it carries nothing."""

    def offer(self, exchange: Exchange) -> bool:
        """Take an exchange; False if that cannot be now."""

    def rest(self) -> None:
        """There is nothing to do: begin to count the idle time."""

    def kill(self, reason: DodiciError) -> None:
        """Close it, because of `reason`. What it carries goes back to the owner."""

    def give_up(self, reason: DodiciError) -> None:
        """Close a connection that was not completely made, of whose end no loop may ever tell."""

    def connection_made(self, transport: Any) -> None: ...
