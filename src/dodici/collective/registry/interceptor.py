"""Validation in front of gRPC services that know nothing of collectors."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ...core.errors import InvalidArgumentError
from ...core.grpc_status import GrpcStatus
from ..admission import Admission
from ..contracts import Call, TransportSecurity
from ..data_plane import ServerInterceptor, refusal
from ..errors import CollectiveError, call_error
from ..health import SERVICE as HEALTH
from ..names import RouteKey, checked_name
from .validators import RemoteValidator, validator_of


class ValidationInterceptor(ServerInterceptor):  # type: ignore[misc]
    """For ``grpc.aio.server(interceptors=[...])``: calls of methods that are not registered do not reach the server.

    Calls of all kinds are refused with NOT_FOUND, with INVALID_ARGUMENT where the path is not /SERVICE/METHOD, and
    with UNAVAILABLE, or what else kept the validator, where it cannot tell.

    Args:
        validator: a registry, its store or address, or a validator (see `validator_of`). None refuses everything: an
            interceptor without a validator is more likely a mistake than a wish.
        namespace: the namespace of the server's services.
        timeout: seconds that the validator has.
        exempt: services that pass unasked.
        security: for the connection to an address.

    Raises:
        InvalidArgumentError: no validator, or no namespace.
    """

    def __init__(
        self,
        validator: Any,
        namespace: str,
        *,
        timeout: float = 5.0,
        exempt: Iterable[str] = (HEALTH,),
        security: TransportSecurity | None = None,
    ) -> None:
        if timeout <= 0:
            raise InvalidArgumentError(f"timeout is a number of seconds above 0, not {timeout:g}")
        self.namespace = checked_name("namespace", namespace)
        self._timeout = timeout
        self._exempt = frozenset(exempt)
        self._security = security
        self._admission = Admission()
        self._made: list[RemoteValidator] = []
        self.set_validator(validator)

    def set_validator(self, validator: Any) -> None:
        """Use another validator, from the next call on.

        Raises:
            InvalidArgumentError: it is none.
        """
        chosen = None if validator is None else validator_of(validator, security=self._security)
        self._admission.set_validator(_refuse_all if chosen is None else chosen)
        if isinstance(chosen, RemoteValidator) and chosen is not validator:
            self._made.append(chosen)

    async def close(self) -> None:
        """Close the connections that were made here, of addresses. From then on everything is refused."""
        self._admission.set_validator(_refuse_all)
        while self._made:
            await self._made.pop().close()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        try:
            await self._check(handler_call_details.method)
        except CollectiveError as error:
            return refusal(error)
        return await continuation(handler_call_details)

    async def _check(self, path: Any) -> None:
        parts = path.split("/") if isinstance(path, str) else ()
        if len(parts) != 3 or parts[0] or not parts[1] or not parts[2]:
            raise call_error(
                GrpcStatus.INVALID_ARGUMENT, f"not the path of a method, /SERVICE/METHOD: {path!r}"
            )
        if parts[1] not in self._exempt:
            await self._admission.check(
                Call(RouteKey(self.namespace, parts[1], parts[2]), deadline=time.monotonic() + self._timeout)
            )


def _refuse_all(*_: str) -> bool:
    return False
