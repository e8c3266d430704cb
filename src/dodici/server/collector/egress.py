"""The app of a service that is somewhere in the collective: it passes requests on, and answers back.

It runs in a worker of the gateway's own loop, so that the other services reach it by its name as they reach each
other, and the gateway by host and path. What a gateway adds is there already, or was left out by a service that asks:
fields pass as they are, but those that belong to one hop.

The fields do not say whether a body follows, as they do at the gateway: the scope of the mesh does, by what has arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.errors import DodiciError
from ...core.headers import Headers
from ...core.options import DispatchOptions
from ..config import GatewayConfig, MeshConfig
from ..delivery import Upload
from ..forwarded import Forwarding, of_the_request
from ..gateway import Gateway
from ..routing import Route, Router

if TYPE_CHECKING:
    from ...core.dispatcher import Dispatcher
    from ..config import ServiceConfig


class _AsTheyAre(Forwarding):
    """Fields that pass as they are, but those that belong to one hop."""

    def fields(
        self, scope: dict[str, Any], prefix: str = "", *, handshake: bool = False
    ) -> tuple[Headers, int | None]:
        length: int | None = None
        pairs = of_the_request(scope["headers"], handshake=handshake)
        for name, value in pairs:
            if name == b"content-length":
                length = int(value)
        return Headers.from_raw(tuple(pairs)), length


class Egress(Gateway):
    """The ASGI app.

    Args:
        dispatcher: reaches the collective.
        service: the one that it stands for.
        gateway: has the limits that the service does not name.
    """

    def __init__(self, dispatcher: Dispatcher, service: ServiceConfig, gateway: GatewayConfig) -> None:
        super().__init__(
            dispatcher,
            Router(gateway, MeshConfig(), ()),
            _AsTheyAre(),
            websocket_size=gateway.websocket_size,
        )
        timeout = service.request_timeout
        self._route = Route(
            service=service.name,
            origin=service.app.rstrip("/"),
            prefix="",
            strip=0,
            request_size=0,
            request_timeout=gateway.request_timeout if timeout is None else timeout,
            body_timeout=gateway.body_timeout,
        )

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """ASGI 3."""
        try:
            await super().__call__(scope, receive, send)
        except DodiciError as error:
            # A response that broke off: the message says where, and how it came here is nobody's affair.
            raise error.with_traceback(None) from None

    def find(self, scope: dict[str, Any]) -> Route | None:
        """All requests are for the one service."""
        return self._route

    def _key(self, scope: dict[str, Any]) -> tuple[Any, ...] | None:
        return super()._key(scope) if _arrived(scope) == 0 else None

    async def _prepare(
        self, scope: dict[str, Any], receive: Any, route: Route, key: Any
    ) -> tuple[DispatchOptions, Upload | None]:
        headers, _ = self._forwarding.fields(scope)
        path = scope["raw_path"].decode("latin-1") or "/"
        if scope["query_string"]:
            path = f"{path}?{scope['query_string'].decode('latin-1')}"
        arrived = _arrived(scope)
        upload = None if arrived == 0 else Upload(receive, 0)
        body: Any = upload
        if arrived and upload is not None:
            body = await upload.whole()
        options = DispatchOptions(
            origin=route.origin,
            path=path,
            method=scope["method"],
            headers=headers,
            body=body,
            headers_timeout=route.request_timeout,
            body_timeout=route.body_timeout,
        )
        if upload is None:
            self._remember(key, route, options)
        return options, upload


def _arrived(scope: dict[str, Any]) -> int | None:
    """Bytes of a body that is here already, all of it; None if more is to come."""
    arrived: int | None = scope["extensions"]["dodici.mesh"]["arrived"]
    return arrived
