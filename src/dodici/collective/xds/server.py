"""The xDS server: aggregated discovery (ADS) of what an `EndpointSource` tells, in both of its protocols.

The server owns one `Snapshot`, made anew after each change, and wakes the streams, each of which knows what its
client has been told. Hosts that are names are looked up here, for xDS wants numbers, and again from time to time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Final, Self, TypeAlias

from ...core.errors import ClientClosedError, InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..addresses import is_loopback, split_address
from ..contracts import ServerSecurity
from ..errors import CollectiveError, call_error
from ..grpc_server import Handler, Server, ServerCall, stream_stream
from ..grpc_server.head import RequestHead
from .resources import Snapshot, messages
from .source import EndpointSource
from .streams import DeltaStream, WorldStream

_log = logging.getLogger("dodici.collective.xds")
_SERVICE: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
_LOOK_UP_AGAIN: Final = 30.0
_MOST_STREAMS: Final = 1000
_Stream: TypeAlias = WorldStream | DeltaStream


class XdsServer:
    """Tells clients with `xds:///` targets, and Envoy, who serves which namespace.

    Args:
        source: what there is to tell.
        address: where it listens: ``"host:port"``, port 0 for any.
        security: credentials of the server; None: plaintext.
        insecure: allow plaintext on an address that other machines can reach.

    Raises:
        InvalidArgumentError: the address is not one, or is not loopback and there is neither `security` nor `insecure`.
        NotSupportedError: xds-protos is not installed.
    """

    def __init__(
        self,
        source: EndpointSource,
        address: str = "127.0.0.1:0",
        *,
        security: ServerSecurity | None = None,
        insecure: bool = False,
    ) -> None:
        if security is None and not insecure and not is_loopback(address):
            raise InvalidArgumentError(
                f"{address} can be reached by other machines: give the collector tls=, or spell out insecure=True"
            )
        split_address(address)
        discovery = messages().discovery
        self._source = source
        self._asked_address = address
        self._security = security
        self._server: Server | None = None
        self._snapshot = Snapshot({}, {})
        self._streams: set[asyncio.Event] = set()
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._forget: Callable[[], None] | None = None
        self._numbers: dict[str, str | None] = {}
        self._methods = {
            f"{_SERVICE}/StreamAggregatedResources": stream_stream(
                partial(self._serve, WorldStream),
                discovery.DiscoveryRequest.FromString,
                discovery.DiscoveryResponse.SerializeToString,
                lasting=True,
            ),
            f"{_SERVICE}/DeltaAggregatedResources": stream_stream(
                partial(self._serve, DeltaStream),
                discovery.DeltaDiscoveryRequest.FromString,
                discovery.DeltaDiscoveryResponse.SerializeToString,
                lasting=True,
            ),
        }

    @property
    def address(self) -> str:
        """Where it listens: after `start()` with the real port."""
        return self._asked_address if self._server is None else self._server.address

    @property
    def clients(self) -> int:
        """Streams that are open now."""
        return len(self._streams)

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            SocketError: the address cannot be listened on.
            ClientClosedError: it is started already.
        """
        if self._server is not None:
            raise ClientClosedError("this xDS server is started already")
        self._server = server = Server(
            self, self._asked_address, security=self._security, message=16 * 1024 * 1024
        )
        self._forget = self._source.on_change(self._changed.set)
        try:
            await self._look()
            await server.start()
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="dodici xds")

    async def stop(self) -> None:
        """End it. Clients go on with what they were told last. Harmless when it is not started."""
        server, self._server = self._server, None
        keeper, self._keeper = self._keeper, None
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if server is not None:
            await server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def method(self, head: RequestHead) -> Handler | None:
        """See `ServerFace.method`."""
        return self._methods.get(head.path)

    # -- what there is

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_UP_AGAIN if self._numbers else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
            try:
                await self._look()
            except Exception:
                _log.exception("the xDS server goes on with what it had")

    async def _look(self) -> None:
        self._changed.clear()
        offers = self._source.offers()
        hosts = {
            host
            for offer in offers.values()
            for endpoint in offer.endpoints
            if (host := split_address(endpoint.address)[0]) is not None
        }
        self._snapshot = Snapshot(offers, await self._in_numbers(hosts))
        for wake in self._streams:
            wake.set()

    async def _in_numbers(self, hosts: Iterable[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        names: list[str] = []
        for host in hosts:
            try:
                number = ipaddress.ip_address(host.strip("[]"))
            except ValueError:
                names.append(host)
            else:
                # Listening everywhere is nowhere that others could connect to.
                found[host] = None if number.is_unspecified else str(number)
        before = self._numbers
        looked_up = await asyncio.gather(*(_look_up(name) for name in names))
        # A name that is not found for once still stands for what it stood for.
        self._numbers = {name: now or before.get(name) for name, now in zip(names, looked_up, strict=True)}
        return found | self._numbers

    # -- who is told

    async def _serve(
        self, protocol: Callable[[str], _Stream], requests: AsyncIterator[Any], server_call: ServerCall
    ) -> None:
        if len(self._streams) >= _MOST_STREAMS:
            await server_call.fail(
                call_error(GrpcStatus.RESOURCE_EXHAUSTED, f"there are {_MOST_STREAMS} clients already")
            )
        stream = protocol(server_call.peer)
        wake = asyncio.Event()
        reader = asyncio.create_task(_read(stream, requests, wake), name="dodici xds reader")
        self._streams.add(wake)
        try:
            while not reader.done():
                wake.clear()
                # All at once: the reader must not change what is being gone through.
                for response in list(stream.due(self._snapshot)):
                    await server_call.write(response)
                await wake.wait()
            reader.result()
        except CollectiveError as error:
            await server_call.fail(error)
        finally:
            self._streams.discard(wake)
            reader.cancel()
            await asyncio.wait([reader])


async def _read(stream: _Stream, requests: AsyncIterator[Any], wake: asyncio.Event) -> None:
    try:
        async for request in requests:
            stream.request(request)
            wake.set()
    finally:
        wake.set()


async def _look_up(name: str) -> str | None:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        _log.warning("%s is not told to xDS clients: it has no address (%s)", name, error)
        return None
    return str(found[0][4][0])
