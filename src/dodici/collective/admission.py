"""Whether a call may be made at all: what the validator says of the method, and the authorizer of the caller.

Asked before anything runs or is forwarded, and again by the collector that runs it. Both fail closed: an answer that
is not a clear yes is a no.

A whole HTTP exchange can be anything that its service does: the validator is asked about the method ``*``, and the
authorizer about ``~http``, which the globs of a policy match as any other name.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .contracts import AllowAll, Authorizer, Call
from .deadline import Expired, Until
from .errors import CollectiveError, call_error
from .http.framing import HTTP
from .names import ANY, OWN

log = logging.getLogger("dodici.collective")


class Admission:
    """The validator, which may be exchanged at any time, and the authorizer.

    `free`: there is neither, so that nothing need be asked.
    """

    def __init__(self, authorizer: Authorizer | None = None) -> None:
        self._authorizer = authorizer
        self._validate: Callable[..., Any] | None = None
        self.free = self._authorizer is None or isinstance(authorizer, AllowAll)

    @property
    def validating(self) -> bool:
        """Whether there is a validator."""
        return self._validate is not None

    def set_validator(self, validator: Any) -> None:
        """Use an object with `validate_service_method`, or a callable, from the next call on; None for none.

        Raises:
            InvalidArgumentError: it is neither.
        """
        validate = getattr(validator, "validate_service_method", validator)
        if validate is not None and not callable(validate):
            raise InvalidArgumentError(
                "a validator has validate_service_method(namespace, service, method), or is a callable with these "
                f"arguments; not {type(validator).__name__}"
            )
        self._validate = validate
        self.free = validate is None and (self._authorizer is None or isinstance(self._authorizer, AllowAll))

    async def check(self, call: Call) -> None:
        """Return if the call may be made.

        Raises:
            CollectiveError: NOT_FOUND (the validator), PERMISSION_DENIED or UNAUTHENTICATED (the authorizer), or what
                the validator itself names.
        """
        asked = permitted = call.key
        if asked.method.startswith(OWN):
            # A whole HTTP exchange, however it is carried: all that the service does.
            asked, permitted = asked._replace(method=ANY), asked._replace(method=HTTP)
        # What the process itself calls, outside of a handler, has no caller but the process.
        if self._authorizer is not None and (call.peer or call.from_collector or call.caller):
            self._authorizer.check(call.caller, *permitted)
        validate = self._validate
        if validate is None:
            return
        try:
            with Until(call.deadline):
                answer = validate(*asked)
                if inspect.isawaitable(answer):
                    answer = await answer
        except Expired as error:
            raise call_error(
                GrpcStatus.DEADLINE_EXCEEDED, f"{call.key} was not validated before its deadline"
            ) from error
        except CollectiveError as error:
            # UNAVAILABLE from a validator that could not ask its registry is not the same as a no.
            status = GrpcStatus.NOT_FOUND if error.grpc_status is GrpcStatus.INTERNAL else error.grpc_status
            raise call_error(status, f"{call.key} is refused by the validator: {error.message}") from error
        except Exception as error:
            log.warning("the validator failed, %s is refused", call.key, exc_info=True)
            raise call_error(GrpcStatus.NOT_FOUND, f"{call.key} is refused by the validator") from error
        if answer is not None and answer is not True:
            if answer is not False:
                log.warning("the validator's answer is neither a bool nor None: %s is refused", call.key)
            raise call_error(GrpcStatus.NOT_FOUND, f"{call.key} is refused by the validator")
