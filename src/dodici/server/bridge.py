"""WebSockets through the gateway: the client's, which the ASGI server speaks, and one of ours to the service.

Messages go from one to the other, one at a time in each direction, so that back pressure passes through; what one
side says when it closes is said to the other. The handshake is made anew on our side: extensions (compression) are
the affair of each connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..core.dispatcher import Dispatcher
from ..core.errors import DodiciError, WebSocketClosedError
from ..core.headers import Headers
from .failures import explain
from .forwarded import Forwarding, Pairs, response_fields
from .routing import Route

_NO_STATUS, _ABNORMAL, _NORMAL, _GOING_AWAY, _BAD_GATEWAY = 1005, 1006, 1000, 1001, 1014
_OWN_FIELDS: Final = frozenset(
    {
        b"content-length",
        b"date",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
    }
)


class Bridge:
    """Runs WebSockets between clients and services.

    Args:
        dispatcher: reaches the services.
        forwarding: makes the fields of the handshake.
        max_size: bytes of a message from a service that are allowed; the ASGI server limits those of clients.
    """

    def __init__(self, dispatcher: Dispatcher, forwarding: Forwarding, max_size: int) -> None:
        self._dispatcher = dispatcher
        self._forwarding = forwarding
        self._max_size = max_size

    async def run(self, scope: dict[str, Any], receive: Any, send: Any, route: Route | None) -> int:
        """Serve one client to the end. Returns the status of its handshake: 101, or what it was refused with."""
        if (await receive())["type"] != "websocket.connect":
            return 499
        if route is None:
            await _refuse(scope, send, 404, [], b"404: no service is at this address\n")
            return 404
        try:
            socket = await self._open(scope, route)
        except DodiciError as error:
            return await _refuse_because(scope, send, error)
        accept = {
            "type": "websocket.accept",
            "subprotocol": socket.subprotocol,
            "headers": _without_own(response_fields(socket.headers)),
        }
        try:
            await send(accept)
            await _both_ways(receive, send, socket)
        except OSError:
            pass  # the client has gone
        finally:
            socket.abort()
        return 101

    async def _open(self, scope: dict[str, Any], route: Route) -> Any:
        from ..api.websocket import websocket

        headers, _ = self._forwarding.fields(scope, route.prefix if route.strip else "", handshake=True)
        path = scope["raw_path"].decode("latin-1")[route.strip :] or "/"
        if scope["query_string"]:
            path = f"{path}?{scope['query_string'].decode('latin-1')}"
        return await websocket(
            route.origin + path,
            dispatcher=self._dispatcher,
            subprotocols=tuple(scope.get("subprotocols") or ()),
            headers=headers,
            timeout=route.request_timeout or None,
            max_message_size=self._max_size,
            compression=None,
            ping_interval=None,
        )


async def _both_ways(receive: Any, send: Any, socket: Any) -> None:
    tasks = (asyncio.ensure_future(_up(receive, socket)), asyncio.ensure_future(_down(send, socket)))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, OSError):
            raise end


async def _up(receive: Any, socket: Any) -> None:
    """From the client to the service."""
    while True:
        message = await receive()
        if message["type"] != "websocket.receive":
            code = message.get("code", _NO_STATUS)
            if code == _NO_STATUS and "reason" not in message:
                code = _ABNORMAL  # uvicorn's word for a connection that was lost
            code = {_NO_STATUS: _NORMAL, _ABNORMAL: _GOING_AWAY}.get(code, code)
            await socket.close(code, message.get("reason") or "")
            return
        text = message.get("text")
        await socket.send(message["bytes"] if text is None else text)


async def _down(send: Any, socket: Any) -> None:
    """From the service to the client."""
    while True:
        try:
            message = await socket.receive()
        except WebSocketClosedError as error:
            code = {_NO_STATUS: _NORMAL, _ABNORMAL: _BAD_GATEWAY}.get(error.close_code, error.close_code)
            await send({"type": "websocket.close", "code": code, "reason": error.close_reason})
            return
        if isinstance(message, str):
            await send({"type": "websocket.send", "text": message})
        else:
            await send({"type": "websocket.send", "bytes": message})


async def _refuse_because(scope: dict[str, Any], send: Any, error: DodiciError) -> int:
    status = error.status_code
    if status is not None and status >= 300:
        # The service's own refusal, with what it said.
        body = getattr(error, "body", b"") or b""
        headers = getattr(error, "headers", None)
        fields = response_fields(headers) if isinstance(headers, Headers) else []
        body = body if isinstance(body, bytes) else str(body).encode()
    else:
        status, text = explain(error)
        fields, body = [], f"{status}: {text}\n".encode()
    await _refuse(scope, send, status, fields, body)
    return status


async def _refuse(scope: dict[str, Any], send: Any, status: int, fields: Pairs, body: bytes) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    headers = [*_without_own(fields), (b"content-length", str(len(body)).encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


def _without_own(fields: Pairs) -> Pairs:
    return [pair for pair in fields if pair[0] not in _OWN_FIELDS]
