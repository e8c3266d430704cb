"""grpc.health.v1: whether this collector serves, as a whole, in a namespace, or with one service.

Names are "" for the collector, NAMESPACE, and NAMESPACE/SERVICE. One that was there and is gone answers
SERVICE_UNKNOWN; one that never was, NOT_FOUND (a watcher gets SERVICE_UNKNOWN, and then what becomes of it).

A service of which nothing accepts calls now (the origins of all of its methods are paused, say) is NOT_SERVING, and so is
a namespace all of whose services here are. The collector itself serves all the same: it sends calls on.

Source: grpc/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2

from ..core.grpc_status import GrpcStatus
from .errors import call_error
from .grpc_server import ServerCall, stream_stream, unary_unary
from .names import LocalServices

SERVICE = "grpc.health.v1.Health"
UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVING: int = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Knows the status of every name, and tells the watchers.

    It is made when it is asked for: changes come by the thousand, and questions now and then.
    """

    def __init__(self, services: LocalServices) -> None:
        self._services = services
        self._made: dict[str, int] | None = None
        self._serving = False
        self._watchers: dict[asyncio.Event, None] = {}
        services.on_change(self._changed)

    def set_serving(self, serving: bool) -> None:
        """Say that the collector serves, or that it drains."""
        self._serving = serving
        self._changed()

    def status(self, name: str) -> int | None:
        """The status of a name; None if it was never one."""
        return self._statuses.get(name)

    def _changed(self) -> None:
        self._made = None
        for watcher in self._watchers:
            watcher.set()

    @property
    def _statuses(self) -> dict[str, int]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> dict[str, int]:
        serving = SERVING if self._serving else NOT_SERVING
        known = self._services.known
        statuses = {
            f"{namespace}/{service}" if service else namespace: UNKNOWN for namespace, service in known
        }
        statuses[""] = serving
        accepting: dict[tuple[str, str], bool] = {}
        for key, _, _ in self._services.routes():
            name = (key.namespace, key.service)
            accepting[name] = accepting.get(name, False) or self._services.share(key) > 0
        for namespace in self._services.namespaces:
            services = self._services.services(namespace)
            any_accepts = not services
            for service in services:
                accepts = accepting.get((namespace, service), True)
                any_accepts |= accepts
                statuses[f"{namespace}/{service}"] = serving if accepts else NOT_SERVING
            statuses[namespace] = serving if any_accepts else NOT_SERVING
        return statuses

    # -- the service ---------------------------------------------------------------------------------------

    def handlers(self) -> dict[str, Any]:
        """The handlers of its methods by path."""
        request = health_pb2.HealthCheckRequest
        write = health_pb2.HealthCheckResponse.SerializeToString
        return {
            f"/{SERVICE}/Check": unary_unary(self._check, request.FromString, write),
            f"/{SERVICE}/List": unary_unary(
                self._list,
                health_pb2.HealthListRequest.FromString,
                health_pb2.HealthListResponse.SerializeToString,
            ),
            f"/{SERVICE}/Watch": stream_stream(self._watch, request.FromString, write, lasting=True),
        }

    async def _check(self, request: Any, call: ServerCall) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            await call.fail(call_error(GrpcStatus.NOT_FOUND, f"nothing is known of {request.service!r}"))
        return health_pb2.HealthCheckResponse(status=status)

    async def _list(self, request: Any, call: ServerCall) -> Any:
        known = {
            name: health_pb2.HealthCheckResponse(status=status)
            for name, status in self._statuses.items()
            if status != UNKNOWN
        }
        return health_pb2.HealthListResponse(statuses=known)

    async def _watch(self, requests: AsyncIterator[Any], call: ServerCall) -> None:
        request = await anext(requests, None)
        if request is None:
            await call.fail(call_error(GrpcStatus.INVALID_ARGUMENT, "nothing was asked"))
            return
        changed = asyncio.Event()
        self._watchers[changed] = None
        told = None
        try:
            while True:
                status = self._statuses.get(request.service, UNKNOWN)
                if status != told:
                    told = status
                    await call.write(health_pb2.HealthCheckResponse(status=status))
                await changed.wait()
                changed.clear()
        finally:
            del self._watchers[changed]
