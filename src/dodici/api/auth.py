"""Credentials for `auth=`: callables that put an authorization field on a request.

Any callable from `DispatchOptions` to `DispatchOptions` will do; these are the two that everybody needs.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import TypeAlias

from ..core.errors import InvalidArgumentError, InvalidReturnValueError
from ..core.options import DispatchOptions

AuthFunction: TypeAlias = Callable[[DispatchOptions], DispatchOptions]
Auth: TypeAlias = tuple[str, str] | AuthFunction


def basic(user: str, password: str) -> AuthFunction:
    """HTTP Basic credentials, encoded as UTF-8.

    Raises:
        InvalidArgumentError: the user name has a colon.

    Source: RFC 7617.
    """
    return _Authorization(basic_value(user, password))


def bearer(token: str) -> AuthFunction:
    """A bearer token.

    Raises:
        InvalidArgumentError: the token is empty or not a `str`.

    Source: RFC 6750 section 2.1.
    """
    if not isinstance(token, str) or not token:
        raise InvalidArgumentError("a bearer token must be a str that is not empty")
    return _Authorization(f"Bearer {token}")


def basic_value(user: object, password: object) -> str:
    """The authorization field of Basic credentials."""
    if not isinstance(user, str) or not isinstance(password, str):
        raise InvalidArgumentError("auth must be (user, password), both str")
    if ":" in user:
        raise InvalidArgumentError("the user name of Basic credentials must not have a colon (RFC 7617)")
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


def apply(auth: AuthFunction, options: DispatchOptions) -> DispatchOptions:
    """Let a callable put its credentials on a request."""
    changed = auth(options)
    if not isinstance(changed, DispatchOptions):
        raise InvalidReturnValueError(
            f"auth {auth!r} must return DispatchOptions, not {type(changed).__name__}"
        )
    return changed


def check_auth(auth: object) -> None:
    """Refuse what can be no credentials.

    Raises:
        InvalidArgumentError: neither a pair nor a callable.
    """
    if isinstance(auth, str | bytes):
        raise InvalidArgumentError(
            "auth must not be a str: use auth=('user', 'password') or auth=dodici.api.auth.bearer('token')"
        )
    if not callable(auth) and not (isinstance(auth, tuple) and len(auth) == 2):
        raise InvalidArgumentError(
            f"auth must be (user, password) or a callable on DispatchOptions, not {type(auth).__name__}"
        )


class _Authorization:
    """Sets one authorization field. Its repr hides what it says."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, options: DispatchOptions) -> DispatchOptions:
        from ..core.headers import Headers

        return options.replace(headers=Headers(options.headers) | {"authorization": self._value})

    def __repr__(self) -> str:
        return f"<{self._value.partition(' ')[0]} credentials>"
