"""What `dodici call` and `dodici collectors` need to speak with a collector: a channel, its security, its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..collective.addresses import split_address
from ..collective.data_plane import Channel, client_tls
from ..collective.errors import CollectiveError
from ..core.errors import InvalidArgumentError
from ..net.tls import tls_context
from .console import clean

FAILED: Final = 64
"""What is added to the number of a gRPC status to make an exit status, as grpcurl does."""


class ClientSecurity:
    """TLS of a client: authorities, and a certificate of its own where one is asked for."""

    def __init__(
        self, cacert: str | None, cert: str | None, key: str | None, server_name: str | None
    ) -> None:
        if (cert is None) != (key is None):
            raise click.UsageError("--cert and --key go together")
        for path in (cacert, key, cert):
            if path is not None:
                _read(path)
        # Made to be forgotten: grpc would tell of a bad file late, and as a collector that cannot be reached.
        tls_context(ca=cacert, cert=None if cert is None or key is None else (cert, key))
        self._parts = [None if path is None else _read(path) for path in (cacert, key, cert)]
        self._server_name = server_name

    def channel_credentials(self) -> Any:
        """See `TransportSecurity`."""
        return client_tls(*self._parts)

    def channel_options(self) -> list[tuple[str, Any]]:
        """See `TransportSecurity`."""
        return [] if self._server_name is None else [("grpc.ssl_target_name_override", self._server_name)]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error


def security_of(
    cacert: str | None, cert: str | None, key: str | None, server_name: str | None
) -> ClientSecurity | None:
    """The security that options mean; None for plaintext."""
    if cacert is None and cert is None and key is None:
        if server_name is not None:
            raise click.UsageError("--server-name goes with --cacert")
        return None
    try:
        return ClientSecurity(cacert, cert, key, server_name)
    except InvalidArgumentError as error:
        raise click.UsageError(error.message) from error


def channel_to(address: str, security: ClientSecurity | None) -> Channel:
    """A channel, which connects with its first call."""
    try:
        _, port = split_address(address)
    except InvalidArgumentError as error:
        raise click.UsageError(error.message) from error
    if not port and not address.startswith("unix:"):
        raise click.UsageError(f"{address} has port 0: name the one that the collector listens at")
    # Pings would be no use to a call of some seconds, and a stock server dislikes them.
    return Channel(address, security=security, message=64 * 1024 * 1024, keepalive=(360.0, 20.0))


def exit_status(error: CollectiveError) -> int:
    """The exit status of a failed call."""
    return FAILED + int(error.grpc_status)


def tell(error: CollectiveError) -> str:
    """A failure, in one line."""
    text = clean(" ".join(error.message.split()))
    return f"{error.grpc_status.name}: {text}" if text else error.grpc_status.name
