"""The fields of a request as the service gets them: hop-by-hop ones gone, and who it came from added.

What a client says of itself in `X-Forwarded-*` and `Forwarded` (RFC 7239) is believed only where the client is a
proxy that the configuration trusts; from others these fields are dropped, so that an app may believe what it gets.
Fields that belong to one connection (RFC 9110 7.6.1) end here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from ..core.headers import Headers

Pairs: TypeAlias = "list[tuple[bytes, bytes]]"

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_FORWARDED: Final = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-proto"}
)
_HANDSHAKE: Final = frozenset(
    {
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)
_SPECIAL: Final = HOP_BY_HOP | _FORWARDED | {b"host"}
_OF_ONE_HOP: Final = HOP_BY_HOP | {b"host"}
_PEERS_KEPT: Final = 4096


class Forwarding:
    """Makes the fields of requests.

    Args:
        trusted: the proxies whose word counts: networks, ``"unix"`` for clients at a unix socket, ``"*"`` for all.
    """

    def __init__(self, trusted: Iterable[Any] = ()) -> None:
        trusted = tuple(trusted)
        self._everybody = "*" in trusted
        self._unix = "unix" in trusted or self._everybody
        self._networks = [network for network in trusted if not isinstance(network, str)]
        self._known: dict[str, bool] = {}

    def trusts(self, client: str | None) -> bool:
        """Whether the peer at this address (None: at a unix socket) is a proxy that is believed."""
        if client is None:
            return self._unix
        if not self._networks:
            return self._everybody
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= _PEERS_KEPT:
                self._known.clear()
            known = self._known[client] = self._everybody or self._listed(client)
        return known

    def _listed(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def fields(
        self, scope: dict[str, Any], prefix: str = "", *, handshake: bool = False
    ) -> tuple[Headers, int | None]:
        """The fields to send on, and the body's length where the client has said one, or -1 for a chunked one.

        Args:
            scope: the ASGI scope, as a server that has checked the fields made it.
            prefix: what was taken off the path.
            handshake: the request opens a WebSocket, whose handshake is made anew.
        """
        client = scope.get("client")
        address = client[0] if client and client[0] else None
        trusted = self.trusts(address)
        pairs: Pairs = []
        special: dict[bytes, bytes] = {}
        length: int | None = None
        for pair in scope["headers"]:
            name = pair[0]
            if name not in _SPECIAL:
                if not trusted and name.startswith(b"x-forwarded-"):
                    continue
                if name == b"content-length":
                    length = int(pair[1])
                pairs.append(pair)
            else:
                value = special.get(name)
                special[name] = pair[1] if value is None else value + b", " + pair[1]
        if b"transfer-encoding" in special:
            length = -1
        named = special.get(b"connection")
        if named is not None and (named := named.lower()) not in {b"keep-alive", b"close"}:
            # A length that is not sent on would let the body be read as another's.
            gone = {token.strip() for token in named.split(b",")} - {b"content-length"}
            pairs = [pair for pair in pairs if pair[0] not in gone]
        if handshake:
            pairs = [pair for pair in pairs if pair[0] not in _HANDSHAKE and pair[0] != b"content-length"]
        if length == -1:
            pairs = [pair for pair in pairs if pair[0] != b"content-length"]
        self._add(pairs, special, scope, address, prefix, trusted=trusted)
        return Headers.from_raw(tuple(pairs)), length

    @staticmethod
    def _add(
        pairs: Pairs,
        special: dict[bytes, bytes],
        scope: dict[str, Any],
        address: str | None,
        prefix: str,
        *,
        trusted: bool,
    ) -> None:
        said = special if trusted else {}
        before = said.get(b"x-forwarded-for")
        if address is not None:
            here = address.encode("latin-1", "replace")
            pairs.append((b"x-forwarded-for", here if before is None else before + b", " + here))
        elif before is not None:
            pairs.append((b"x-forwarded-for", before))
        scheme = {"ws": b"http", "wss": b"https"}.get(scope["scheme"]) or scope["scheme"].encode("ascii")
        pairs.append((b"x-forwarded-proto", said.get(b"x-forwarded-proto", scheme)))
        host = special.get(b"host", b"")
        if stated := said.get(b"x-forwarded-host", host):
            pairs.append((b"x-forwarded-host", stated))
        mount = said.get(b"x-forwarded-prefix", b"").rstrip(b"/") + prefix.encode("latin-1", "replace")
        if mount:
            pairs.append((b"x-forwarded-prefix", mount))
        # RFC 7239 is only spoken where somebody before has begun to: an app that trusts one of the two must not find
        # the other saying something else.
        if b"forwarded" in said:
            node = "unknown" if address is None else f'"[{address}]"' if ":" in address else address
            element = f"for={node};proto={scheme.decode()}".encode("latin-1", "replace")
            pairs.append((b"forwarded", said[b"forwarded"] + b", " + element))


def of_the_request(fields: Iterable[tuple[bytes, bytes]], *, handshake: bool = False) -> Pairs:
    """The fields of a request without those of one hop, `host` among them; of a `handshake` without its own."""
    gone = _OF_ONE_HOP | _HANDSHAKE if handshake else _OF_ONE_HOP
    return [pair for pair in fields if pair[0] not in gone]


def response_fields(headers: Headers) -> Pairs:
    """The fields of a response for an ASGI server: lower-case, hop-by-hop ones gone."""
    pairs = []
    named: bytes | None = None
    for name, value in headers.raw:
        name = name.lower()
        if name not in HOP_BY_HOP:
            pairs.append((name, value))
        elif name == b"connection":
            named = value if named is None else named + b"," + value
    if named is not None and named.lower() not in {b"keep-alive", b"close"}:
        gone = {token.strip().lower() for token in named.split(b",")} - {b"content-length"}
        pairs = [pair for pair in pairs if pair[0] not in gone]
    return pairs
