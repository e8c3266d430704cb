"""dodici: one dispatcher for HTTP/1 and HTTP/2 origins, workers and collectives of machines.

Names are loaded on first use (PEP 562), so that `import dodici` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "dodici.core.dispatcher": ("Dispatcher", "ComposedDispatcher", "Interceptor", "DispatchFunction"),
    "dodici.core.options": ("DispatchOptions",),
    "dodici.core.handler": ("Handler", "DispatchHandler", "DecoratorHandler"),
    "dodici.core.controller": ("DispatchController",),
    "dodici.core.headers": ("Headers",),
    "dodici.core.errors": (
        "AbortError",
        "BalancedPoolMissingUpstreamError",
        "BodyTimeoutError",
        "BodyUnusableError",
        "ClientClosedError",
        "ClientDestroyedError",
        "ConnectError",
        "ConnectTimeoutError",
        "ConnectionRefused",
        "DecompressionError",
        "DodiciError",
        "HTTPParserError",
        "HeadersOverflowError",
        "HeadersTimeoutError",
        "InformationalError",
        "InvalidArgumentError",
        "InvalidReturnValueError",
        "LoopMismatchError",
        "MaxOriginsReachedError",
        "NameResolutionError",
        "NotSupportedError",
        "ProxyConnectionError",
        "RequestAbortedError",
        "RequestContentLengthMismatchError",
        "RequestRetryError",
        "RequestTimeoutError",
        "ResponseContentLengthMismatchError",
        "ResponseError",
        "ResponseExceededMaxSizeError",
        "SecureProxyConnectionError",
        "SocketError",
        "TLSError",
    ),
    "dodici.net.upgraded": ("UpgradedSocket",),
    "dodici.net.connector": ("Connector",),
    "dodici.pool.client": ("Client",),
    "dodici.pool.pool": ("Pool",),
    "dodici.pool.round_robin": ("RoundRobinPool",),
    "dodici.pool.balanced": ("BalancedPool",),
    "dodici.pool.agent": ("Agent",),
    "dodici.pool.default": ("get_global_dispatcher", "set_global_dispatcher"),
    "dodici.api.response": ("Response", "ResponseBody"),
    "dodici.api.verbs": (
        "connect",
        "delete",
        "get",
        "head",
        "options",
        "patch",
        "pipeline",
        "post",
        "put",
        "request",
        "stream",
        "upgrade",
    ),
}
_MODULES = ("interceptors", "diagnostics", "testing", "errors")
_MODULE_HOMES = {"diagnostics": "dodici.core.diagnostics", "errors": "dodici.core.errors"}
_home = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_home), *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _home:
        value = getattr(importlib.import_module(_home[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULE_HOMES.get(name, f"dodici.{name}"))
    else:
        raise AttributeError(f"module 'dodici' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
