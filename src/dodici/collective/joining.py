"""The collective around a collector: the part of `Collector` that deals with namespaces, peers, and who asks about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .arguments import needed_seconds
from .contracts import Announcer, MemberRecord
from .names import LocalServices, checked_name
from .peer import Connection, ConnectResult

if TYPE_CHECKING:
    from .announce import RouteTable
    from .neighbours import Neighbours
    from .peers import Peers
    from .xds.members import Members
    from .xds.server import XdsServer


class Joining:
    """Enters and leaves namespaces, connects to other collectors, and tells meshes who the members are."""

    _services: LocalServices
    _table: RouteTable
    _peers: Peers
    _announcer: Announcer
    _neighbours: Neighbours | None
    _members: Members | None
    _xds_servers: list[XdsServer]
    _tls: Any
    _insecure: bool

    def _check_started(self) -> None:
        raise NotImplementedError

    def _reached(self) -> str | None:
        """Where others reach it; None while it is not started."""
        raise NotImplementedError

    async def join(self, namespace: str) -> None:
        """Enter a namespace; returns when the connected peers have applied it.

        Raises:
            InvalidArgumentError: it is no name.
            MeshTimeoutError: some peers have not answered within 5 s; it names them. The change stays.
        """
        if self._services.join(namespace):
            await self._announcer.announce()

    async def leave(self, namespace: str) -> None:
        """Leave a namespace: its methods are not found any more, until it is joined again. Calls that run go on.

        Raises:
            InvalidArgumentError: it is no name.
            MeshTimeoutError: see `join`.
        """
        checked_name("namespace", namespace)
        if self._services.leave(namespace):
            await self._announcer.announce()

    async def connect_to(
        self, address: str, namespaces: Iterable[str] | None = None, *, timeout: float = 10.0
    ) -> ConnectResult:
        """Connect to another collector. It dials back, and each of the two can send calls to the other.

        The connection is kept: it is made anew when it is lost, by whichever of the two finds the other first. To connect
        to a collector that is connected already changes its namespaces, and nothing else.

        Args:
            address: where it listens.
            namespaces: those to share with it, of the collector's own; None: all, also those that it joins later.
            timeout: seconds.

        Raises:
            InvalidArgumentError: not an address, or no names.
            CollectiveError: UNAVAILABLE: nobody has answered in time. What the other end says, if it refuses. In either case
                there is no connection.
        """
        seconds = needed_seconds("timeout", timeout)
        self._check_started()
        return await self._peers.connect_to(address, namespaces, seconds)

    async def disconnect(self, name: str) -> None:
        """Close a connection, at both ends. Calls on it fail. A member that discovery tells of is connected again.

        Args:
            name: id of the connection, or of the collector at the other end.

        Raises:
            CollectiveError: NOT_FOUND: there is none.
        """
        self._peers.disconnect(name)
        await self._peers.disposed()

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections to other collectors, those included that are lost and dialled again."""
        return self._peers.connections

    @property
    def members(self) -> tuple[MemberRecord, ...]:
        """The other collectors that discovery knows, connected or not, and how; none before `start()`."""
        return () if self._neighbours is None else self._neighbours.members

    async def xds_server(self, address: str = "127.0.0.1:0") -> XdsServer:
        """Tell service meshes who the members are: a server of xDS, for `xds:///` targets and Envoy.

        There is a listener, a route configuration and a cluster for each namespace that this collector is in, named after
        it. Its endpoints are those members that accept calls for it, as far as this collector is connected to them. It ends
        with the collector, and has the same credentials.

        Args:
            address: where it listens; its `address` has the real port.

        Raises:
            CollectiveError: the collector is not started.
            InvalidArgumentError: the address is not loopback, and the collector has neither `tls` nor `insecure`.
            NotSupportedError: xds-protos is not installed.
            SocketError: the address cannot be listened on.
        """
        from .xds.members import Members
        from .xds.server import XdsServer

        self._check_started()
        if self._members is None:
            self._members = Members(self._services, self._table, self._peers, self._reached)
        server = XdsServer(self._members, address, security=self._tls, insecure=self._insecure)
        await server.start()
        self._xds_servers.append(server)
        return server
